"""Take the named meat, chicken or steak, off the grill and put it on the plate beside it."""

from collections.abc import Mapping

import numpy as np

from instructrl.sim.env import Outcome
from instructrl.sim.tabletop.scene import HIDDEN_GROUP, TABLE_Z
from instructrl.sim.tabletop.task import CLOSED, OPEN, Task, downward, pick, wrap_angle
from instructrl.sim.tabletop.world import World

_MEAT = {"chicken": 0.019, "steak": 0.0115}  # half the thickness, metres
_WIDTH, _DEPTH, _GRATE = 0.105, 0.085, 0.078  # half sizes of the grill, and the height of its bars
_SPOTS = np.array([[-0.052, 0.0], [0.052, 0.0]])  # on the grate
_PLATE = np.array([0.205, 0.0, 0.014])  # middle of the plate's top, in the grill's frame
_ON_PLATE = 0.055  # metres from there, within which it counts as on the plate
_LOW, _HIGH = np.array([0.10, -0.20]), np.array([0.30, 0.20])  # of the centre of grill and plate
_ABOVE = 0.14


class MeatOffGrill(Task):
    """A grill at a random yaw with a plate beside it; chicken and steak are on it in random order."""

    variations = len(_MEAT)
    max_steps = 7
    graspable = tuple(_MEAT)
    templates = (
        "take the {meat} off the grill",
        "remove the {meat} from the grill and put it on the plate",
        "pick up the {meat} and place it on the plate beside the grill",
        "the {meat} is ready, lay it on the plate",
        "move the {meat} from the grill to the plate",
    )
    held_out_templates = (
        "pick the {meat} up from the grill and lay it on the plate beside it",
        "remove the {meat} from the grill",
    )

    def bodies(self) -> str:
        return _grill_xml() + _steak_xml() + _chicken_xml()

    def place(self, world: World, variation: int, rng: np.random.Generator) -> Mapping[int, str] | None:
        yaw = rng.uniform(-np.pi, np.pi)
        turn = np.array([[np.cos(yaw), -np.sin(yaw)], [np.sin(yaw), np.cos(yaw)]])
        grill = rng.uniform(_LOW, _HIGH) - turn @ _PLATE[:2] / 2
        world.place("grill", np.array([*grill, TABLE_Z]), yaw=yaw)
        for (name, half), spot in zip(_MEAT.items(), rng.permutation(_SPOTS), strict=True):
            x, y = grill + turn @ (spot + rng.uniform((-0.006, -0.025), (0.006, 0.025)))
            across = yaw + np.pi / 2 + rng.uniform(-0.35, 0.35) + np.pi * rng.integers(2)
            world.place(name, np.array([x, y, TABLE_Z + _GRATE + half]), yaw=across)
        return dict(enumerate(_MEAT))

    def waypoints(self, world: World, goal_object: str) -> list[np.ndarray]:
        grill, plate = world.rotation("grill"), world.position("grill")
        meat, rests = world.position(goal_object) + (0.0, 0.0, 0.002), plate + grill @ _PLATE
        rests[2] += _MEAT[goal_object] + 0.004
        turned = wrap_angle(world.yaw(goal_object), np.pi)
        turn = wrap_angle(world.yaw("grill"), np.pi)
        return [
            *pick(meat, above=_ABOVE, lift=_ABOVE, yaw=turned),
            downward(rests + (0.0, 0.0, _ABOVE), yaw=turn, gripper=CLOSED),
            downward(rests, yaw=turn, gripper=OPEN),
        ]

    def outcome(self, world: World, goal_object: str, distractors: tuple[str, ...]) -> Outcome | None:
        served = [name for name in (goal_object, *distractors) if world.held() is None and _on_plate(world, name)]
        if not served:
            return None
        return Outcome.SUCCESS if served == [goal_object] else Outcome.FAILURE

    def describe(self, variation: int) -> dict[str, str]:
        return {"meat": tuple(_MEAT)[variation]}


def _on_plate(world: World, name: str) -> bool:
    off = (world.position(name) - world.position("grill")) @ world.rotation("grill") - _PLATE
    return bool(np.hypot(*off[:2]) < _ON_PLATE and off[2] < _MEAT[name] + 0.015)


def _grill_xml() -> str:
    """An iron box on legs with coals under a grate, and a plate on a side shelf."""
    iron, bars = ".15 .15 .17 1", ".52 .52 .55 1"
    low = 0.022
    middle, half = (_GRATE - 0.004 + low) / 2, (_GRATE - 0.004 - low) / 2
    legs = "".join(
        f'<geom class="prop" type="box" pos="{x} {y} {low / 2}" size=".009 .009 {low / 2}" rgba="{iron}"/>'
        for x in (0.02 - _WIDTH, _WIDTH - 0.02)
        for y in (0.02 - _DEPTH, _DEPTH - 0.02)
    )
    grate = "".join(
        f'<geom class="marker" type="box" pos="0 {y} {_GRATE - 0.002}" size="{_WIDTH} .003 .002" rgba="{bars}"/>'
        for y in np.linspace(-_DEPTH + 0.003, _DEPTH - 0.003, 9)
    )
    edges = "".join(
        f'<geom class="marker" type="box" pos="{x} 0 {_GRATE - 0.002}" size=".004 {_DEPTH} .002" rgba="{bars}"/>'
        for x in (0.004 - _WIDTH, _WIDTH - 0.004)
    )
    x, y, top = _PLATE
    return f"""
    <body name="grill" mocap="true">{legs}{grate}{edges}
      <geom class="prop" type="box" pos="0 0 {middle}" size="{_WIDTH} {_DEPTH} {half}" rgba="{iron}"/>
      <geom class="marker" type="box" pos="0 0 {_GRATE - 0.004}" size="{_WIDTH - 0.006} {_DEPTH - 0.006} .0008"
        rgba=".09 .08 .08 1"/>
      <geom class="prop" type="box" pos="0 0 {_GRATE - 0.004}" size="{_WIDTH} {_DEPTH} .004" group="{HIDDEN_GROUP}"/>
      <geom class="prop" type="cylinder" pos="{x} {y} {top / 2}" size=".080 {top / 2}" rgba=".96 .96 .94 1"/>
      <geom class="marker" type="cylinder" pos="{x} {y} {top}" size=".060 .0008" rgba=".80 .84 .90 1"/>
    </body>"""


def _steak_xml() -> str:
    """A flat piece with a rim of fat and a bone; its collision shape is a box."""
    return f"""
    <body name="steak"><freejoint/>
      <geom class="object" type="box" size=".036 .024 {_MEAT["steak"]}" group="{HIDDEN_GROUP}"/>
      <geom class="marker" type="ellipsoid" pos="0 0 -.002" size=".044 .0265 .0095" rgba=".95 .86 .72 1"/>
      <geom class="marker" type="ellipsoid" pos="0 -.001 0" size=".0425 .0248 {_MEAT["steak"]}" rgba=".46 .13 .10 1"/>
      <geom class="marker" type="capsule" fromto="-.022 .002 .010 .012 .001 .011" size=".0035" rgba=".97 .94 .86 1"/>
      <geom class="marker" type="capsule" fromto="-.023 -.012 .009 -.023 .014 .009" size=".0035" rgba=".97 .94 .86 1"/>
    </body>"""


def _chicken_xml() -> str:
    """A drumstick with a bone; its collision shape is a box, so that it does not roll."""
    brown, bone = ".90 .60 .24 1", ".97 .94 .86 1"
    half = _MEAT["chicken"]
    return f"""
    <body name="chicken"><freejoint/>
      <geom class="object" type="box" size=".026 .021 {half}" group="{HIDDEN_GROUP}"/>
      <geom class="marker" type="ellipsoid" pos="-.008 0 0" size=".034 .0235 {half}" rgba="{brown}"/>
      <geom class="marker" type="ellipsoid" pos=".016 0 0" size=".030 .0135 .013" rgba="{brown}"/>
      <geom class="marker" type="capsule" fromto=".030 0 0 .058 0 0" size=".005" rgba="{bone}"/>
      <geom class="marker" type="sphere" pos=".061 .005 0" size=".007" rgba="{bone}"/>
      <geom class="marker" type="sphere" pos=".061 -.005 0" size=".007" rgba="{bone}"/>
    </body>"""
