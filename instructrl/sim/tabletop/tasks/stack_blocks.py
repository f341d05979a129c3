"""Stack two, three or four blocks of the named colour on the mat; four blocks of another colour are distractors."""

from collections.abc import Mapping

import numpy as np

from instructrl.sim.env import Outcome
from instructrl.sim.tabletop.colors import COLOR_NAMES, COLORS
from instructrl.sim.tabletop.scene import TABLE_Z
from instructrl.sim.tabletop.shapes import box, cubes
from instructrl.sim.tabletop.task import CLOSED, OPEN, Task, downward, wrap_angle
from instructrl.sim.tabletop.world import World

_COUNTS = {2: "two", 3: "three", 4: "four"}
_EACH = 4  # blocks of each of the two colours
_GROUPS = {"requested": 0, "other": _EACH}  # index of their first blocks
_BLOCKS = tuple(f"block{number}" for number in range(2 * _EACH))
_HALF, _MAT = 0.025, 0.045  # metres, half the edge lengths of a block and of the mat
_MAT_TOP = 0.003
_LOW, _HIGH = np.array([0.02, -0.32]), np.array([0.42, 0.32])
_APART, _ROOM, _MARGIN = 0.105, 0.16, 0.08
_CLEAR = 0.11  # height over other blocks during transport
_STRAIGHT, _LEVEL = 0.022, 0.010  # maximum offset of a block in the tower, horizontally and vertically


class StackBlocks(Task):
    """Eight blocks on the table and a mat for the tower."""

    variations = len(COLOR_NAMES) * len(_COUNTS)
    max_steps = 26
    graspable = _BLOCKS
    symmetry = 4
    templates = (
        "stack {count} {color} blocks on the mat",
        "build a tower of {count} {color} blocks",
        "pile up {count} {color} blocks on the mat",
        "put {count} of the {color} cubes on top of each other",
        "make a stack of {count} {color} cubes",
    )
    held_out_templates = (
        "build a stack of {count} {color} blocks on the mat",
        "put {count} {color} cubes on top of each other on the mat",
    )

    def bodies(self) -> str:
        dark, line, top = ".15 .16 .18", ".95 .95 .90", _MAT_TOP / 2
        mat = (
            box((0, 0, top), (_MAT, _MAT, top), dark),
            box((0, 0, top), (_MAT - 0.006, _MAT - 0.006, top + 0.0004), line, kind="marker"),
            box((0, 0, top), (_MAT - 0.011, _MAT - 0.011, top + 0.0008), dark, kind="marker"),
        )
        return f'{cubes(_BLOCKS, _HALF)}<body name="mat" mocap="true">{"".join(mat)}</body>'

    def place(self, world: World, variation: int, rng: np.random.Generator) -> Mapping[int, str] | None:
        points = _spread(rng, len(_BLOCKS) + 1)
        if points is None:
            return None
        color, count = divmod(variation, len(_COUNTS))
        other = (color + int(rng.integers(1, len(COLOR_NAMES)))) % len(COLOR_NAMES)
        for number, (name, point) in enumerate(zip(_BLOCKS, points[1:], strict=True)):
            world.color(name, COLORS[COLOR_NAMES[color if number < _EACH else other]])
            world.place(name, np.array([*point, TABLE_Z + _HALF]), yaw=rng.uniform(-np.pi / 4, np.pi / 4))
        world.place("mat", np.array([*points[0], TABLE_Z]))
        goals = {variation: "requested", other * len(_COUNTS) + count: "other"}
        return {one: f"{list(_COUNTS)[count]} {group}" for one, group in goals.items()}

    def waypoints(self, world: World, goal_object: str) -> list[np.ndarray]:
        count, blocks = _read(goal_object)
        base, actions = world.position("mat") + (0.0, 0.0, _MAT_TOP + _HALF), list[np.ndarray]()
        for level, name in enumerate(blocks[:count]):
            block, yaw = world.position(name), wrap_angle(world.yaw(name), np.pi / 2)
            place = base + (0.0, 0.0, 2 * _HALF * level + 0.001)
            above, over = block + (0.0, 0.0, _CLEAR), place + (0.0, 0.0, _CLEAR)
            actions += [
                downward(above, yaw=yaw, gripper=OPEN),
                downward(block, yaw=yaw, gripper=CLOSED),
                downward(np.array([*block[:2], over[2]]), yaw=yaw, gripper=CLOSED),
                downward(over, gripper=CLOSED),
                downward(place, gripper=OPEN),
                downward(over, gripper=OPEN),
            ]
        return actions[:-1]

    def outcome(self, world: World, goal_object: str, distractors: tuple[str, ...]) -> Outcome | None:
        if world.held() is not None:
            return None
        if any(_stands(world, other) for other in distractors):
            return Outcome.FAILURE
        return Outcome.SUCCESS if _stands(world, goal_object) else None

    def describe(self, variation: int) -> dict[str, str]:
        color, count = divmod(variation, len(_COUNTS))
        return {"color": COLOR_NAMES[color], "count": tuple(_COUNTS.values())[count]}


def _read(goal_object: str) -> tuple[int, tuple[str, ...]]:
    """The number of blocks to stack, and the blocks of the colour."""
    count, group = goal_object.split()
    return int(count), _BLOCKS[_GROUPS[group] :][:_EACH]


def _stands(world: World, goal_object: str) -> bool:
    """Return True if that number of blocks of the colour is stacked on the mat."""
    count, blocks = _read(goal_object)
    for level in range(count):
        spot = world.position("mat") + (0.0, 0.0, _MAT_TOP + _HALF * (2 * level + 1))
        off = np.abs([world.position(name) - spot for name in blocks])
        if not ((off[:, :2].max(axis=1) < _STRAIGHT) & (off[:, 2] < _LEVEL)).any():
            return False
    return True


def _spread(rng: np.random.Generator, count: int) -> np.ndarray | None:
    """Points [count 2] on the table, placed one by one with minimum distances; None if there is no room left.

    The first one, the mat's, is away from the edge and farther from the others, so that the hand fits beside the tower.
    """
    points = rng.uniform(_LOW + _MARGIN, _HIGH - _MARGIN, size=(1, 2))
    for candidate in rng.uniform(_LOW, _HIGH, size=(20 * count, 2)):
        gaps = np.linalg.norm(points - candidate, axis=1)
        if gaps[0] >= _ROOM and gaps.min() >= _APART:
            points = np.concatenate([points, candidate[None]])
        if len(points) == count:
            return points
    return None
