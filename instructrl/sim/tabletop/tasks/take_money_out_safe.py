"""Take the bundle of money out of the named shelf of a safe and put it on the table."""

from collections.abc import Mapping

import numpy as np

from instructrl.sim.env import Outcome
from instructrl.sim.tabletop.safe import (
    HIGHER,
    MONEY,
    REAR,
    SHELVES,
    TILT,
    inside,
    lying,
    money_xml,
    outside,
    place_safe,
    safe_xml,
)
from instructrl.sim.tabletop.task import CLOSED, OPEN, Task, downward
from instructrl.sim.tabletop.world import World

_DEPTH, _ASIDE, _SKEW = (0.046, 0.050), 0.015, 0.10  # where in the safe the bundles lie: metres, radians
_OUT = 0.10  # metres before the safe from which something counts as taken out
_BEFORE, _AWAY = 0.12, 0.20
_LOW, _HIGH = np.array([0.14, -0.26]), np.array([0.42, 0.26])


class TakeMoneyOutSafe(Task):
    """An open safe with a bundle of money on each shelf."""

    variations = len(SHELVES)
    max_steps = 6
    graspable = SHELVES
    templates = (
        "take the money out of the {shelf} shelf of the safe",
        "get the bundle of notes from the {shelf} shelf and put it on the table",
        "take the bundle on the {shelf} shelf out of the safe and lay it on the table",
        "empty the {shelf} shelf of the safe",
        "move the money from the {shelf} shelf to the table",
    )
    held_out_templates = (
        "take the notes out of the safe from the {shelf} shelf",
        "lay the money from the {shelf} shelf of the safe on the table",
    )

    def bodies(self) -> str:
        return safe_xml() + "".join(map(money_xml, SHELVES))

    def place(self, world: World, variation: int, rng: np.random.Generator) -> Mapping[int, str] | None:
        yaw = rng.uniform(-np.pi / 2, np.pi / 2)
        if not place_safe(world, rng.uniform(_LOW, _HIGH), yaw):
            return None
        world.refresh()
        for shelf in SHELVES:
            where = outside(world, depth=rng.uniform(*_DEPTH), height=lying(shelf), aside=rng.uniform(-_ASIDE, _ASIDE))
            world.place(shelf, where, yaw=yaw + rng.uniform(-_SKEW, _SKEW))
        return dict(enumerate(SHELVES))

    def waypoints(self, world: World, thing: str) -> list[np.ndarray]:
        yaw = world.yaw(thing)
        forward = np.array([np.cos(yaw), np.sin(yaw), 0.0])
        grasp = world.position(thing) - REAR * forward + (0.0, 0.0, HIGHER)
        table = grasp - _AWAY * forward
        table[2] = world.position("safe")[2] + MONEY[2] + HIGHER + 0.002
        return [
            downward(grasp - _BEFORE * forward + (0.0, 0.0, 0.03), yaw=yaw, tilt=TILT, gripper=OPEN),
            downward(grasp, yaw=yaw, tilt=TILT, gripper=CLOSED),
            downward(grasp - _BEFORE * forward + (0.0, 0.0, 0.03), yaw=yaw, tilt=TILT, gripper=CLOSED),
            downward(table, yaw=yaw, tilt=TILT, gripper=OPEN),
        ]

    def judge(self, world: World, thing: str, others: tuple[str, ...]) -> Outcome | None:
        if world.held() is not None:
            return None
        taken = [name for name in SHELVES if inside(world, world.position(name))[0] < -_OUT]
        if not taken:
            return None
        return Outcome.SUCCESS if taken == [thing] else Outcome.FAILURE

    def describe(self, variation: int) -> dict[str, str]:
        return {"shelf": SHELVES[variation]}
