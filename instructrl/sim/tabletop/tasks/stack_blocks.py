"""Stack two, three or four blocks of the named colour on the mat; four blocks of another colour lie about."""

from collections.abc import Mapping

import numpy as np

from instructrl.sim.env import Outcome
from instructrl.sim.tabletop.colors import COLOR_NAMES, COLORS
from instructrl.sim.tabletop.scene import TABLE_Z
from instructrl.sim.tabletop.shapes import box, cubes
from instructrl.sim.tabletop.task import CLOSED, OPEN, Task, downward, folded
from instructrl.sim.tabletop.world import World

_COUNTS = {2: "two", 3: "three", 4: "four"}
_EACH = 4  # blocks of each of the two colours
_GROUPS = {"asked": 0, "other": _EACH}  # the first of their blocks
_BLOCKS = tuple(f"block{number}" for number in range(2 * _EACH))
_HALF, _MAT = 0.025, 0.045  # metres, half an edge of a block and of the mat
_MAT_TOP = 0.003
_LOW, _HIGH = np.array([0.02, -0.32]), np.array([0.42, 0.32])
_APART, _ROOM, _MARGIN = 0.105, 0.16, 0.08
_CLEAR = 0.11  # over whatever lies below, on the way
_STRAIGHT, _LEVEL = 0.022, 0.010  # how far a block in the tower may be off, sideways and in height


class StackBlocks(Task):
    """Eight blocks on the table and a mat for the tower."""

    variations = len(COLOR_NAMES) * len(_COUNTS)
    max_steps = 26
    graspable = _BLOCKS
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
        things = {variation: "asked", other * len(_COUNTS) + count: "other"}
        return {one: f"{list(_COUNTS)[count]} {group}" for one, group in things.items()}

    def waypoints(self, world: World, thing: str) -> list[np.ndarray]:
        count, blocks = _read(thing)
        base, actions = world.position("mat") + (0.0, 0.0, _MAT_TOP + _HALF), list[np.ndarray]()
        for level, name in enumerate(blocks[:count]):
            block, yaw = world.position(name), folded(world.yaw(name), np.pi / 2)
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

    def judge(self, world: World, thing: str, others: tuple[str, ...]) -> Outcome | None:
        if world.held() is not None:
            return None
        if any(_stands(world, other) for other in others):
            return Outcome.FAILURE
        return Outcome.SUCCESS if _stands(world, thing) else None

    def describe(self, variation: int) -> dict[str, str]:
        color, count = divmod(variation, len(_COUNTS))
        return {"color": COLOR_NAMES[color], "count": tuple(_COUNTS.values())[count]}


def _read(thing: str) -> tuple[int, tuple[str, ...]]:
    """How many blocks to stack, and those of the colour."""
    count, group = thing.split()
    return int(count), _BLOCKS[_GROUPS[group] :][:_EACH]


def _stands(world: World, thing: str) -> bool:
    """Whether so many blocks of the colour lie on the mat, each on the one before."""
    count, blocks = _read(thing)
    for level in range(count):
        spot = world.position("mat") + (0.0, 0.0, _MAT_TOP + _HALF * (2 * level + 1))
        off = np.abs([world.position(name) - spot for name in blocks])
        if not ((off[:, :2].max(axis=1) < _STRAIGHT) & (off[:, 2] < _LEVEL)).any():
            return False
    return True


def _spread(rng: np.random.Generator, count: int) -> np.ndarray | None:
    """Points [count 2] on the table, set one after the other where there is room; None if it runs out.

    The first, the mat's, is not at the edge, and further from the others, which a hand must reach beside the tower.
    """
    points = rng.uniform(_LOW + _MARGIN, _HIGH - _MARGIN, size=(1, 2))
    for candidate in rng.uniform(_LOW, _HIGH, size=(20 * count, 2)):
        gaps = np.linalg.norm(points - candidate, axis=1)
        if gaps[0] >= _ROOM and gaps.min() >= _APART:
            points = np.concatenate([points, candidate[None]])
        if len(points) == count:
            return points
    return None
