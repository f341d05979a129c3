"""What there is to see in a scene: each thing's name, colour and place, in the world and in a camera's picture."""

from typing import NamedTuple

import mujoco
import numpy as np

from instructrl.sim.tabletop.colors import COLORS
from instructrl.sim.tabletop.scene import HIDDEN_GROUP
from instructrl.sim.tabletop.world import World

_NEAR = 0.06  # metres by which a thing's own parts may lie before its middle
_EDGE = 0.04  # of the picture: what lies nearer to its border is not counted as seen
_NAMES: dict[tuple[float, ...], str] = {
    tuple(np.asarray(rgb, np.float32).tolist()): name  # as MuJoCo keeps them
    for name, rgb in COLORS.items()
}


class Kind(NamedTuple):
    """What a body is called, and its colour: a geom that episodes paint, or a word that always holds, or neither."""

    names: tuple[str, ...]
    paint: str | None = None
    color: str | None = None


class Thing(NamedTuple):
    """Something in the scene."""

    body: str
    names: tuple[str, ...]  # all mean it
    color: str | None  # one of COLORS; None where a thing has several, or no name fits
    position: np.ndarray  # [3] of its middle, metres in the world
    pixel: np.ndarray  # [2] of its middle, right and down, as shares of the picture: in [0, 1] if in view
    distance: float  # metres along the optical axis; negative behind the camera
    seen: bool  # whether its middle is in the picture and nothing stands before it


class Gripper(NamedTuple):
    """The gripper at one moment."""

    tip: np.ndarray  # [3], metres: the point between the finger pads
    opened: bool  # whether it was last told to open
    held: str | None  # the body in it


_CUBES = ("block", "cube")
_MONEY = Kind(("money", "bundle of notes"))
KINDS: dict[str, dict[str, Kind]] = {
    "meat_off_grill": {"grill": Kind(("grill",)), "steak": Kind(("steak",)), "chicken": Kind(("chicken",))},
    "open_drawer": {"cabinet": Kind(("cabinet",))},
    "phone_on_base": {"cradle": Kind(("phone base",)), "phone": Kind(("phone", "handset"))},
    "pick_and_lift": {
        **{f"block{number}": Kind(_CUBES, f"block{number}") for number in range(3)},
        "target": Kind(("glass ball",)),
    },
    "pick_up_cup": {f"cup{number}": Kind(("cup", "mug"), f"cup{number}_wall") for number in range(2)},
    "push_button": {"button": Kind(("button",), "base")},
    "push_buttons": {f"button{n}_base": Kind(("button",), f"button{n}_base") for n in range(3)},
    "put_knife_on_chopping_board": {
        "block": Kind(("knife block",)),
        "knife": Kind(("knife",)),
        "board": Kind(("chopping board", "cutting board")),
    },
    "put_money_in_safe": {"safe": Kind(("safe",)), "money": _MONEY},
    "put_rubbish_in_bin": {
        "rubbish": Kind(("crumpled paper", "rubbish")),
        "tomato0": Kind(("tomato",), color="red"),
        "tomato1": Kind(("tomato",), color="red"),
        "bin": Kind(("bin",)),
    },
    "reach_target": {f"ball{number}": Kind(("ball", "sphere"), f"ball{number}") for number in range(3)},
    "slide_block_to_target": {
        "block": Kind(("block", "cube"), color="orange"),
        "target": Kind(("square",), color="blue"),
    },
    "stack_blocks": {
        **{f"block{number}": Kind(_CUBES, f"block{number}") for number in range(8)},
        "mat": Kind(("mat",), color="black"),
    },
    "stack_wine": {"bottle": Kind(("bottle", "wine bottle"), color="green"), "rack": Kind(("wine rack",))},
    "take_lid_off_saucepan": {"saucepan": Kind(("saucepan", "pan")), "lid": Kind(("lid",), color="blue")},
    "take_money_out_safe": {
        "safe": Kind(("safe",)),
        **dict.fromkeys(("bottom", "middle", "top"), _MONEY),
    },
    "take_umbrella_out_of_umbrella_stand": {"stand": Kind(("umbrella stand",)), "umbrella": Kind(("umbrella",))},
    "turn_tap": {"tap": Kind(("tap",))},
}


def things_in(world: World, task: str, camera: int) -> list[Thing]:
    """Everything that a task brings with it, as it lies now and as a camera sees it."""
    model, data = world.model, world.data
    eye, axes = data.cam_xpos[camera], data.cam_xmat[camera].reshape(3, 3)
    slope = np.tan(np.radians(model.cam_fovy[camera]) / 2)
    found = []
    for body, kind in KINDS[task].items():
        number = model.body(body).id
        own = np.flatnonzero(model.geom_bodyid == number)
        position = data.geom_xpos[own].mean(axis=0)
        right, up, back = (position - eye) @ axes
        pixel = np.array([right, -up]) / (max(-back, 1e-6) * slope) / 2 + 0.5
        within = -back > 0 and bool((np.abs(pixel - 0.5) < 0.5 - _EDGE).all())
        seen = within and _in_sight(world, eye, position, number)
        color = _NAMES.get(tuple(model.geom(kind.paint).rgba[:3].tolist())) if kind.paint else kind.color
        found.append(Thing(body, kind.names, color, position, pixel, float(-back), seen))
    return found


def _in_sight(world: World, eye: np.ndarray, position: np.ndarray, body: int) -> bool:
    """Whether the first thing on the way from a camera is the body itself, or lies right before its middle."""
    groups = np.ones(6, np.uint8)
    groups[HIDDEN_GROUP] = 0
    way, hit = position - eye, np.full(1, -1, np.int32)
    share = mujoco.mj_ray(world.model, world.data, eye, way, groups, True, -1, hit)
    if share < 0 or share * np.linalg.norm(way) > np.linalg.norm(way) - _NEAR:
        return True
    owner = int(world.model.geom_bodyid[hit[0]])
    while owner:
        if owner == body:
            return True
        owner = int(world.model.body_parentid[owner])
    return False
