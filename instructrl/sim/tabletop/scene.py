"""Table, floor, lights and cameras shared by all tasks, as MJCF.

Axes: x away from the robot, y to its left, z up, metres. Geom groups control rendering: 0 never moves, 1 moves, 2 is
translucent, 4 is never rendered.
"""

import numpy as np

from instructrl.sim.tabletop.robot import actuators_xml, robot_xml

TABLE_Z = 0.752
WORKSPACE_LOW = np.array([-0.05, -0.42, TABLE_Z])  # volume in which tasks place objects
WORKSPACE_HIGH = np.array([0.55, 0.42, 1.35])
TIMESTEP = 0.004  # seconds
ROBOT = 2  # contact type of the robot's solid geoms
CAMERAS = ("front", "left_shoulder", "right_shoulder", "wrist")
FILM_CAMERA = "film"
FIXED_GROUP, MOVING_GROUP, GLASS_GROUP, HIDDEN_GROUP = 0, 1, 2, 4
SKY = (0.80, 0.84, 0.88)
AMBIENT = 0.50  # fraction of a colour visible without lamps
LAMPS = (  # direction of travel, strength
    ((-0.45, 0.35, -0.82), 0.40),
    ((0.60, -0.45, -0.66), 0.24),
)
FRONT = (1.350, 0.0, 1.580)
_VIEWS = {  # position, point looked at, vertical field of view in degrees
    "front": (FRONT, (0.360, 0.0, 1.030), 40.0),
    "left_shoulder": ((-0.175, 0.200, 1.980), (0.360, 0.160, 0.820), 40.0),
    "right_shoulder": ((-0.175, -0.200, 1.980), (0.360, -0.160, 0.820), 40.0),
    FILM_CAMERA: ((1.500, -0.900, 1.560), (0.100, 0.0, 1.090), 42.0),
}


def scene_xml(bodies: str, *, extras: str = "") -> str:
    """MJCF of the complete model: the shared scene with a task's bodies and extra sections."""
    return f"""
<mujoco model="tabletop">
  <compiler angle="radian" autolimits="true"/>
  <option timestep="{TIMESTEP}" integrator="implicitfast" cone="elliptic" impratio="10" iterations="20"/>
  <visual>
    <global offwidth="1024" offheight="1024"/>
    <quality shadowsize="0" offsamples="0"/>
    <headlight ambient="{AMBIENT} {AMBIENT} {AMBIENT}" diffuse="0 0 0" specular="0 0 0"/>
    <map znear="0.01" zfar="12"/>
  </visual>
  <statistic extent="1" center="0.2 0 1"/>
  <default>
    <material specular="0" shininess="0"/>
    <default class="fixed"><geom group="{FIXED_GROUP}" contype="1" conaffinity="2"/></default>
    <default class="arm"><geom group="{MOVING_GROUP}" contype="0" conaffinity="0"/></default>
    <default class="solid"><geom group="{MOVING_GROUP}" contype="{ROBOT}" conaffinity="1" friction="0.5"/></default>
    <default class="pad">
      <geom group="{MOVING_GROUP}" contype="{ROBOT}" conaffinity="1" condim="4" friction="1.5 0.05 0.0001"
        solref="0.008 1" solimp="0.95 0.99 0.001"/>
    </default>
    <default class="object">
      <geom group="{MOVING_GROUP}" contype="3" conaffinity="3" friction="0.8 0.01 0.0001" density="400"/>
    </default>
    <default class="prop"><geom group="{MOVING_GROUP}" contype="1" conaffinity="2"/></default>
    <default class="marker"><geom group="{MOVING_GROUP}" contype="0" conaffinity="0" mass="0"/></default>
    <default class="glass"><geom group="{GLASS_GROUP}" contype="0" conaffinity="0"/></default>
  </default>
  <asset>
    <texture name="sky" type="skybox" builtin="flat" rgb1="{_numbers(SKY)}" width="16" height="16"/>
  </asset>
  <worldbody>
    {_lamps_xml()}
    <geom class="fixed" name="floor" type="box" pos="0 0 -.05" size="3.5 3.5 .05" rgba=".46 .48 .51 1"/>
    {_table_xml()}
    {_cameras_xml()}
    {robot_xml()}
    {bodies}
  </worldbody>
  <actuator>{actuators_xml()}</actuator>
  <contact><exclude body1="finger_left" body2="finger_right"/></contact>
  <equality><joint joint1="finger_left" joint2="finger_right" solref="0.008 1"/></equality>
  {extras}
</mujoco>"""


def _numbers(values: tuple[float, ...] | np.ndarray) -> str:
    return " ".join(f"{value:.9g}" for value in values)


def _lamps_xml() -> str:
    lines = ""
    for direction, strength in LAMPS:
        color = _numbers((strength,) * 3)
        lines += (
            f'<light type="directional" dir="{_numbers(direction)}" diffuse="{color}" ambient="0 0 0" '
            'specular="0 0 0" castshadow="false"/>'
        )
    return lines


def _table_xml() -> str:
    top = (
        f'<geom class="fixed" name="table" type="box" pos=".16 0 {TABLE_Z - 0.02}" size=".58 .68 .02" '
        'rgba=".66 .55 .45 1"/>'
    )
    legs = "".join(
        f'<geom class="fixed" type="box" pos="{x} {y} {TABLE_Z / 2 - 0.02}" size=".03 .03 {TABLE_Z / 2 - 0.02}" '
        'rgba=".38 .30 .24 1"/>'
        for x in (-0.36, 0.68)
        for y in (-0.62, 0.62)
    )
    return top + legs


def _cameras_xml() -> str:
    lines = ""
    for name, (position, target, fov) in _VIEWS.items():
        backward = np.subtract(position, target)
        right = np.cross((0.0, 0.0, 1.0), backward)
        up = np.cross(backward, right)
        axes = _numbers((*(right / np.linalg.norm(right)), *(up / np.linalg.norm(up))))
        lines += f'<camera name="{name}" pos="{_numbers(position)}" xyaxes="{axes}" fovy="{fov}"/>'
    return lines
