"""Put the bundle of money from the table onto the named shelf of a safe."""

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
    shelf_of,
    to_safe_frame,
)
from instructrl.sim.tabletop.scene import TABLE_Z
from instructrl.sim.tabletop.task import CLOSED, OPEN, Task, downward, pick
from instructrl.sim.tabletop.world import World

_DEPTH = 0.048  # metres into the safe at which the bundle is put
_CLEARANCE, _ABOVE, _LIFT = 0.16, 0.10, 0.14
_LOW, _HIGH = np.array([0.14, -0.10]), np.array([0.42, 0.26])  # of the safe's front
_MONEY_LOW, _MONEY_HIGH = np.array([0.06, -0.30]), np.array([0.40, 0.30])
_CLEAR = 0.15  # from the safe's front to the bundle


class PutMoneyInSafe(Task):
    """An open, empty safe and a bundle of money in front of it."""

    variations = len(SHELVES)
    max_steps = 7
    graspable = ("money",)
    templates = (
        "put the money on the {shelf} shelf of the safe",
        "place the bundle of notes in the safe, on the {shelf} shelf",
        "store the money away on the {shelf} shelf",
        "pick up the bundle and lay it on the {shelf} shelf of the safe",
        "move the money from the table to the {shelf} shelf",
    )
    held_out_templates = (
        "place the money in the safe on the {shelf} shelf",
        "lay the bundle of notes on the {shelf} shelf",
    )

    def bodies(self) -> str:
        return safe_xml() + money_xml("money")

    def place(self, world: World, variation: int, rng: np.random.Generator) -> Mapping[int, str] | None:
        yaw = rng.uniform(0.0, np.pi / 2)
        spot = np.array([*rng.uniform(_MONEY_LOW, _MONEY_HIGH), TABLE_Z + MONEY[2]])
        if not place_safe(world, rng.uniform(_LOW, _HIGH), yaw):
            return None
        world.refresh()
        if to_safe_frame(world, spot)[0] > -_CLEAR:
            return None
        world.place("money", spot, yaw=yaw + rng.uniform(-np.pi / 4, np.pi / 4))
        return dict(enumerate(SHELVES))

    def waypoints(self, world: World, goal_object: str) -> list[np.ndarray]:
        yaw, turned = world.yaw("safe"), world.yaw("money")
        grasp = world.position("money") - REAR * np.array([np.cos(turned), np.sin(turned), 0.0]) + (0.0, 0.0, HIGHER)
        height = bundle_height(goal_object) + HIGHER + 0.004
        return [
            *pick(grasp, above=_ABOVE, lift=_LIFT, yaw=turned, tilt=TILT),
            downward(
                from_safe_frame(world, depth=-_CLEARANCE, height=height + 0.02), yaw=yaw, tilt=TILT, gripper=CLOSED
            ),
            downward(from_safe_frame(world, depth=_DEPTH - REAR, height=height), yaw=yaw, tilt=TILT, gripper=OPEN),
        ]

    def outcome(self, world: World, goal_object: str, distractors: tuple[str, ...]) -> Outcome | None:
        shelf = shelf_of(world, "money")
        if shelf is None or world.held() is not None:
            return None
        return Outcome.SUCCESS if shelf == goal_object else Outcome.FAILURE

    def describe(self, variation: int) -> dict[str, str]:
        return {"shelf": SHELVES[variation]}
