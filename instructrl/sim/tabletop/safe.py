"""An open safe with three shelves, and bundles of money; shared by the two tasks with a safe.

The origin of the safe's frame is the middle of the lower front edge; x points into the safe, z up.
"""

import numpy as np

from instructrl.sim.tabletop.robot import BASE
from instructrl.sim.tabletop.scene import TABLE_Z
from instructrl.sim.tabletop.shapes import box, rod
from instructrl.sim.tabletop.world import World

SHELVES = ("bottom", "middle", "top")
MONEY = np.array([0.045, 0.024, 0.013])  # metres, half sizes of a bundle; x along it
REAR = 0.030  # from the middle of a bundle back to the grasp point
HIGHER = 0.004  # and up, so that the fingers do not touch the support
_WIDTH, _DEPTH, _WALL, _PITCH = 0.125, 0.16, 0.008, 0.098  # half the width; from shelf to shelf
_HEIGHT = 3 * _PITCH + 2 * _WALL
TILT = np.radians(55.0)  # of the gripper, outward
_HOME = np.array([0.2785, -0.0082])  # initial hand position: the safe must not be below it
_CLEARANCE = 0.05  # metres
_EDGE = 0.71  # metres along x, well within the table
_MIN_ANGLE = np.radians(20.0)  # a safe that faces the arm more directly cannot be reached with a tilted hand


def safe_xml() -> str:
    """MJCF of the bodies `safe` (walls and shelves) and `door`."""
    steel, board, metal = ".34 .38 .44", ".52 .56 .62", ".85 .86 .88"
    middle, half, thin = _DEPTH / 2, _HEIGHT / 2, _WALL / 2
    panels = [
        box((middle, _WIDTH - thin, half), (middle, thin, half), steel),
        box((middle, thin - _WIDTH, half), (middle, thin, half), steel),
        box((_DEPTH - thin, 0, half), (thin, _WIDTH, half), steel),
        box((middle, 0, _HEIGHT - thin), (middle, _WIDTH, thin), steel),
        *(
            box((middle, 0, number * _PITCH + thin), (middle, _WIDTH - 0.001, thin), board)
            for number in range(len(SHELVES))
        ),
    ]
    door = [
        box((0, 0, 0), (0.008, _WIDTH, half), steel),
        box((-0.008, 0, 0), (0.001, _WIDTH - 0.02, half - 0.02), board, kind="marker"),
        rod((0.008, 0, 0), (0.020, 0, 0), 0.045, metal, kind="marker"),
        rod((0.020, 0, 0), (0.030, 0, 0), 0.022, ".10 .10 .11", kind="marker"),
        box((0.014, -0.7 * _WIDTH, 0), (0.007, 0.008, 0.05), metal, kind="marker"),
        box((0.014, 0.7 * _WIDTH, 0), (0.007, 0.008, 0.05), metal, kind="marker"),
    ]
    return (
        f'<body name="safe" mocap="true">{"".join(panels)}</body><body name="door" mocap="true">{"".join(door)}</body>'
    )


def money_xml(name: str) -> str:
    """MJCF of a bundle of notes with a paper band."""
    x, y, z = MONEY
    notes = box((0, 0, 0), (x, y, z), ".10 .62 .20", kind="object")
    band = box((0, 0, 0), (0.011, y + 0.0008, z + 0.0008), ".97 .95 .85", kind="marker")
    return f'<body name="{name}"><freejoint/>{notes}{band}</body>'


def place_safe(world: World, position: np.ndarray, yaw: float) -> bool:
    """Put the open safe on the table with its front at a position [2]; False if the arm could not reach into it."""
    arm = np.arctan2(*(position - BASE[:2])[::-1])
    inward = np.array([np.cos(yaw), np.sin(yaw)])
    world.place("safe", np.array([*position, TABLE_Z]), yaw=yaw)
    side = -1.0 if yaw > 0 else 1.0  # the door is swung away from the robot, in line with the front
    hinge = position + 2 * _WIDTH * side * np.array([-inward[1], inward[0]]) + 0.008 * inward
    world.place("door", np.array([*hinge, TABLE_Z + _HEIGHT / 2]), yaw=yaw)
    end = position[0] + 3 * _WIDTH * abs(inward[1])  # of the door: it must not hang over the edge of the table
    return abs(yaw - arm) > _MIN_ANGLE and float((_HOME - position) @ inward) < -_CLEARANCE and end < _EDGE


def to_safe_frame(world: World, point: np.ndarray) -> np.ndarray:
    """Transform a world point [3] into the safe's frame."""
    return (point - world.position("safe")) @ world.rotation("safe")


def from_safe_frame(world: World, *, depth: float, height: float, aside: float = 0.0) -> np.ndarray:
    """Transform a point of the safe's frame (depth into it, height above its base) into the world."""
    return world.position("safe") + world.rotation("safe") @ (depth, aside, height)


def bundle_height(shelf: str) -> float:
    """Height of the middle of a bundle on a shelf, in the safe's frame."""
    return float(SHELVES.index(shelf) * _PITCH + _WALL + MONEY[2])


def shelf_of(world: World, money: str) -> str | None:
    """The shelf that a bundle is on, or None if its middle is not in the safe."""
    x, y, z = to_safe_frame(world, world.position(money))
    if not (0.0 < x < _DEPTH and abs(y) < _WIDTH):
        return None
    return next((shelf for shelf in SHELVES if abs(z - bundle_height(shelf)) < _PITCH / 3), None)
