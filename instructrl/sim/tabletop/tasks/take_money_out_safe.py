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
    bundle_height,
    from_safe_frame,
    money_xml,
    place_safe,
    safe_xml,
    to_safe_frame,
)
from instructrl.sim.tabletop.task import CLOSED, OPEN, Task, downward
from instructrl.sim.tabletop.world import World

_DEPTH, _ASIDE, _SKEW = (0.046, 0.050), 0.015, 0.10  # positions of the bundles in the safe: metres, radians
_OUT = 0.10  # metres in front of the safe beyond which a bundle counts as taken out
_CLEARANCE, _AWAY = 0.12, 0.20
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
            position = from_safe_frame(
                world, depth=rng.uniform(*_DEPTH), height=bundle_height(shelf), aside=rng.uniform(-_ASIDE, _ASIDE)
            )
            world.place(shelf, position, yaw=yaw + rng.uniform(-_SKEW, _SKEW))
        return dict(enumerate(SHELVES))

    def waypoints(self, world: World, goal_object: str) -> list[np.ndarray]:
        yaw = world.yaw(goal_object)
        forward = np.array([np.cos(yaw), np.sin(yaw), 0.0])
        grasp = world.position(goal_object) - REAR * forward + (0.0, 0.0, HIGHER)
        pulled = _CLEARANCE if world.held() == goal_object else 0.0  # before it is laid down, it is that far out
        table = grasp - (_AWAY - pulled) * forward
        table[2] = world.position("safe")[2] + MONEY[2] + HIGHER + 0.002
        return [
            downward(grasp - _CLEARANCE * forward + (0.0, 0.0, 0.03), yaw=yaw, tilt=TILT, gripper=OPEN),
            downward(grasp, yaw=yaw, tilt=TILT, gripper=CLOSED),
            downward(grasp - _CLEARANCE * forward + (0.0, 0.0, 0.03), yaw=yaw, tilt=TILT, gripper=CLOSED),
            downward(table, yaw=yaw, tilt=TILT, gripper=OPEN),
        ]

    def outcome(self, world: World, goal_object: str, distractors: tuple[str, ...]) -> Outcome | None:
        if world.held() is not None:
            return None
        taken = [name for name in SHELVES if to_safe_frame(world, world.position(name))[0] < -_OUT]
        if not taken:
            return None
        return Outcome.SUCCESS if taken == [goal_object] else Outcome.FAILURE

    def describe(self, variation: int) -> dict[str, str]:
        return {"shelf": SHELVES[variation]}
