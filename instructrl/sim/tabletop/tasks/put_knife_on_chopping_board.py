"""Pull the knife out of its slanted block and put it flat on the chopping board."""

from collections.abc import Mapping

import numpy as np

from instructrl.sim.env import Outcome
from instructrl.sim.tabletop.scene import TABLE_Z
from instructrl.sim.tabletop.task import CLOSED, OPEN, Task, downward, wrap_angle
from instructrl.sim.tabletop.world import World

_SLOPE = np.radians(22.0)  # of the knife in the block, handle up; the frames of knife and block are horizontal
_ALONG = np.array([np.cos(_SLOPE), 0.0, np.sin(_SLOPE)])  # in the knife's frame, from blade to handle
_OVER = np.array([-np.sin(_SLOPE), 0.0, np.cos(_SLOPE)])  # and normal to its flat side
_HANDLE, _BLADE = 0.100, 0.125  # metres, lengths
_MIDDLE = (_HANDLE - _BLADE) / 2 - _HANDLE / 2  # centre of the knife, along it from the centre of its handle
_STEEL = ".86 .88 .90 1"
_THICK = 0.008  # half of the handle's thickness
_LENGTH = 0.17  # of the block along the knife
_FACE = _LENGTH * np.sin(_SLOPE) + 0.037 * np.cos(_SLOPE) + 0.0005  # height at which the knife enters the block
_BEHIND = 0.030  # from there back to the centre of block and knife
_BOARD = np.array([0.13, 0.085, 0.011])  # half sizes
_BLOCK_LOW, _BLOCK_HIGH = np.array([0.12, -0.26]), np.array([0.30, 0.26])
_BOARD_LOW, _BOARD_HIGH = np.array([0.08, -0.26]), np.array([0.36, 0.26])
_APART = 0.28
_ABOVE, _OUT = 0.09, 0.17
_LYING = 0.03  # maximum height of the ends of a knife lying on the board above its top


class PutKnifeOnChoppingBoard(Task):
    """A knife in a wooden block whose slanted face points away from the robot, and a board beside it."""

    variations = 1
    max_steps = 6
    graspable = ("knife",)
    templates = (
        "put the knife on the chopping board",
        "take the knife out of the block and lay it on the board",
        "pull the knife from its block and place it on the chopping board",
        "lay the knife down on the cutting board",
        "move the knife from the block onto the chopping board",
    )
    held_out_templates = (
        "take the knife from its block and put it on the cutting board",
        "place the knife on the board",
    )

    def bodies(self) -> str:
        x, y, z = _BOARD
        return f"""
        {_block_xml()}
        <body name="knife"><freejoint/><frame euler="0 {-_SLOPE} 0">
          <geom class="object" type="box" size="{_HANDLE / 2} .0125 {_THICK}" rgba=".12 .12 .13 1"/>
          <geom class="object" type="box" pos="{-(_HANDLE + _BLADE - 0.017) / 2} 0 0"
            size="{(_BLADE - 0.017) / 2} .017 .002" rgba="{_STEEL}" mass=".03"/>
          <geom class="marker" type="box" pos="{0.017 - _HANDLE / 2 - _BLADE} 0 0" size=".012 .012 .002"
            euler="0 0 .7854" rgba="{_STEEL}"/>
          <geom class="marker" type="box" pos="{-_HANDLE / 2} 0 0" size=".005 .014 .0085" rgba=".62 .63 .66 1"/>
          <geom class="marker" type="cylinder" pos=".028 0 0" size=".004 .0086" rgba=".75 .76 .78 1"/>
          <geom class="marker" type="cylinder" pos="-.022 0 0" size=".004 .0086" rgba=".75 .76 .78 1"/>
        </frame></body>
        <body name="board" mocap="true">
          <geom class="prop" type="box" pos="0 0 {z}" size="{x} {y} {z}" rgba=".90 .78 .56 1"/>
          <geom class="marker" type="box" pos="0 0 {2 * z}" size="{x - 0.012} {y - 0.012} .0006" rgba=".84 .70 .47 1"/>
          <geom class="marker" type="box" pos="0 0 {2 * z}" size="{x - 0.017} {y - 0.017} .0012" rgba=".90 .78 .56 1"/>
          <geom class="marker" type="cylinder" pos="{x - 0.03} 0 {2 * z}" size=".010 .0018" rgba=".35 .28 .20 1"/>
        </body>"""

    def place(self, world: World, variation: int, rng: np.random.Generator) -> Mapping[int, str] | None:
        middle, board = rng.uniform(_BLOCK_LOW, _BLOCK_HIGH), rng.uniform(_BOARD_LOW, _BOARD_HIGH)
        yaw = rng.uniform(-np.pi / 4, np.pi / 4)
        if np.linalg.norm(board - middle) < _APART:
            return None
        ahead = np.array([np.cos(yaw), np.sin(yaw)])
        face = np.array([*(middle + _BEHIND * ahead), TABLE_Z + _FACE])
        along = np.array([*(np.cos(_SLOPE) * ahead), np.sin(_SLOPE)])
        world.place("block", face, yaw=yaw)
        world.place("knife", face + (_HANDLE / 2 + 0.006) * along, yaw=yaw)
        world.place("board", np.array([*board, TABLE_Z]), yaw=rng.uniform(-np.pi, np.pi))
        return {variation: "knife"}

    def waypoints(self, world: World, goal_object: str) -> list[np.ndarray]:
        handle, rotation = world.position(goal_object), world.rotation(goal_object)
        along, over = rotation @ _ALONG, rotation @ _OVER
        drawing = {"yaw": world.yaw(goal_object), "tilt": _SLOPE}  # perpendicular to the knife
        yaw = wrap_angle(world.yaw("board"), np.pi)
        direction = np.array([np.cos(yaw), np.sin(yaw), 0.0])
        resting = world.position("board") + (0.0, 0.0, 2 * _BOARD[2] + _THICK + 0.004) - _MIDDLE * direction
        return [
            downward(handle + _ABOVE * over, **drawing, gripper=OPEN),
            downward(handle, **drawing, gripper=CLOSED),
            downward(handle + _OUT * along, **drawing, gripper=CLOSED),
            downward(resting, yaw=yaw, gripper=OPEN),
        ]

    def outcome(self, world: World, goal_object: str, distractors: tuple[str, ...]) -> Outcome | None:
        along = world.rotation(goal_object) @ _ALONG
        spots = world.position(goal_object) + np.outer([_HANDLE / 2, _MIDDLE, -_HANDLE / 2 - _BLADE], along)
        local = (spots - world.position("board")) @ world.rotation("board")
        over = (np.abs(local[1, :2]) < _BOARD[:2]).all()
        lying = (np.abs(local[:, 2] - 2 * _BOARD[2]) < _LYING).all()
        return Outcome.SUCCESS if world.held() is None and over and lying else None

    def describe(self, variation: int) -> dict[str, str]:
        return {}


def _block_xml() -> str:
    """Two slanted plates with a slot between them, side plates and a base; the origin is where the knife enters."""
    wood, dark, length = ".50 .31 .16 1", ".30 .18 .09 1", _LENGTH / 2
    reach = length * np.cos(_SLOPE)
    return f"""
    <body name="block" mocap="true"><frame euler="0 {-_SLOPE} 0">
      <geom class="prop" type="box" pos="{-length} 0 -.0195" size="{length} .036 .0175" rgba="{wood}"/>
      <geom class="prop" type="box" pos="{-length} 0 .0160" size="{length} .036 .0125" rgba="{wood}"/>
      <geom class="marker" type="box" pos="{-length} .028 0" size="{length} .008 .0035" rgba="{wood}"/>
      <geom class="marker" type="box" pos="{-length} -.028 0" size="{length} .008 .0035" rgba="{wood}"/>
      <geom class="marker" type="box" pos="{-2 * length + 0.004} 0 0" size=".004 .036 .0035" rgba="{dark}"/>
    </frame>
      <geom class="prop" type="box" pos="{-0.75 * reach} 0 {-0.72 * _FACE}" size="{0.3 * reach} .030 {0.28 * _FACE}"
        rgba="{dark}"/>
    </body>"""
