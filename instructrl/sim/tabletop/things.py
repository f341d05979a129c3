"""Objects in a scene: name, colour and position of each, in the world and in a camera image."""

from typing import NamedTuple

import mujoco
import numpy as np

from instructrl.sim.tabletop.colors import COLORS
from instructrl.sim.tabletop.scene import HIDDEN_GROUP
from instructrl.sim.tabletop.world import World

_NEAR = 0.06  # metres by which an object's own parts may be in front of its centre
_EDGE = 0.04  # fraction of the image; objects closer to its border do not count as visible
_NAMES: dict[tuple[float, ...], str] = {
    tuple(np.asarray(rgb, np.float32).tolist()): name  # in MuJoCo's precision
    for name, rgb in COLORS.items()
}


class ObjectKind(NamedTuple):
    """Names of a body, and its colour: that of a geom coloured per episode, a fixed word, or neither."""

    names: tuple[str, ...]
    paint: str | None = None
    color: str | None = None


class SceneObject(NamedTuple):
    """An object in the scene."""

    body: str
    names: tuple[str, ...]  # synonyms
    color: str | None  # one of COLORS; None if it has several colours or none of them
    position: np.ndarray  # [3] of its centre, metres in the world
    pixel: np.ndarray  # [2] of its centre, right and down, as fractions of the image: in [0, 1] if in view
    distance: float  # metres along the optical axis; negative behind the camera
    visible: bool  # True if its centre is in the image and not occluded


class GripperState(NamedTuple):
    """State of the gripper."""

    tip: np.ndarray  # [3], metres: the point between the finger pads
    opened: bool  # True if the last command was to open
    held: str | None  # the grasped body


_CUBES = ("block", "cube")
_MONEY = ObjectKind(("money", "bundle of notes"))
OBJECT_KINDS: dict[str, dict[str, ObjectKind]] = {
    "meat_off_grill": {
        "grill": ObjectKind(("grill",)),
        "steak": ObjectKind(("steak",)),
        "chicken": ObjectKind(("chicken",)),
    },
    "open_drawer": {"cabinet": ObjectKind(("cabinet",))},
    "phone_on_base": {"cradle": ObjectKind(("phone base",)), "phone": ObjectKind(("phone", "handset"))},
    "pick_and_lift": {
        **{f"block{number}": ObjectKind(_CUBES, f"block{number}") for number in range(3)},
        "target": ObjectKind(("glass ball",)),
    },
    "pick_up_cup": {f"cup{number}": ObjectKind(("cup", "mug"), f"cup{number}_wall") for number in range(2)},
    "push_button": {"button": ObjectKind(("button",), "base")},
    "push_buttons": {f"button{n}_base": ObjectKind(("button",), f"button{n}_base") for n in range(3)},
    "put_knife_on_chopping_board": {
        "block": ObjectKind(("knife block",)),
        "knife": ObjectKind(("knife",)),
        "board": ObjectKind(("chopping board", "cutting board")),
    },
    "put_money_in_safe": {"safe": ObjectKind(("safe",)), "money": _MONEY},
    "put_rubbish_in_bin": {
        "rubbish": ObjectKind(("crumpled paper", "rubbish")),
        "tomato0": ObjectKind(("tomato",), color="red"),
        "tomato1": ObjectKind(("tomato",), color="red"),
        "bin": ObjectKind(("bin",)),
    },
    "reach_target": {f"ball{number}": ObjectKind(("ball", "sphere"), f"ball{number}") for number in range(3)},
    "slide_block_to_target": {
        "block": ObjectKind(("block", "cube"), color="orange"),
        "target": ObjectKind(("square",), color="blue"),
    },
    "stack_blocks": {
        **{f"block{number}": ObjectKind(_CUBES, f"block{number}") for number in range(8)},
        "mat": ObjectKind(("mat",), color="black"),
    },
    "stack_wine": {"bottle": ObjectKind(("bottle", "wine bottle"), color="green"), "rack": ObjectKind(("wine rack",))},
    "take_lid_off_saucepan": {"saucepan": ObjectKind(("saucepan", "pan")), "lid": ObjectKind(("lid",), color="blue")},
    "take_money_out_safe": {
        "safe": ObjectKind(("safe",)),
        **dict.fromkeys(("bottom", "middle", "top"), _MONEY),
    },
    "take_umbrella_out_of_umbrella_stand": {
        "stand": ObjectKind(("umbrella stand",)),
        "umbrella": ObjectKind(("umbrella",)),
    },
    "turn_tap": {"tap": ObjectKind(("tap",))},
}


def find_scene_objects(world: World, task: str, camera: int) -> list[SceneObject]:
    """The objects of a task in the current state, as seen by a camera."""
    model, data = world.model, world.data
    camera_position, axes = data.cam_xpos[camera], data.cam_xmat[camera].reshape(3, 3)
    slope = np.tan(np.radians(model.cam_fovy[camera]) / 2)
    found = []
    for body, kind in OBJECT_KINDS[task].items():
        number = model.body(body).id
        own = np.flatnonzero(model.geom_bodyid == number)
        position = data.geom_xpos[own].mean(axis=0)
        right, up, back = (position - camera_position) @ axes
        pixel = np.array([right, -up]) / (max(-back, 1e-6) * slope) / 2 + 0.5
        within = -back > 0 and bool((np.abs(pixel - 0.5) < 0.5 - _EDGE).all())
        visible = within and _is_visible(world, camera_position, position, number)
        color = _NAMES.get(tuple(model.geom(kind.paint).rgba[:3].tolist())) if kind.paint else kind.color
        found.append(SceneObject(body, kind.names, color, position, pixel, float(-back), visible))
    return found


def _is_visible(world: World, camera_position: np.ndarray, position: np.ndarray, body: int) -> bool:
    """Return True if the first hit of the ray from the camera is the body, or lies just in front of its centre."""
    groups = np.ones(6, np.uint8)
    groups[HIDDEN_GROUP] = 0
    ray, hit = position - camera_position, np.full(1, -1, np.int32)
    share = mujoco.mj_ray(world.model, world.data, camera_position, ray, groups, True, -1, hit)
    if share < 0 or share * np.linalg.norm(ray) > np.linalg.norm(ray) - _NEAR:
        return True
    owner = int(world.model.geom_bodyid[hit[0]])
    while owner:
        if owner == body:
            return True
        owner = int(world.model.body_parentid[owner])
    return False
