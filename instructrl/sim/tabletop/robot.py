"""A Panda arm built from primitives: published kinematics, capsules and boxes, strong position servos.

Joint frames follow the published modified Denavit-Hartenberg table (d1 .333, d3 .316, a4 .0825, a5 -.0825,
d5 .384, a7 .088, flange .107). The tip lies .1034 m past the flange, between the finger pads; its frame has z
along the approach and y across the fingers, as RLBench's has.
"""

import numpy as np

JOINTS = tuple(f"joint{i}" for i in range(1, 8))
FINGERS = ("finger_left", "finger_right")
JOINT_LOW = np.array([-2.8973, -1.7628, -2.8973, -3.0718, -2.8973, -0.0175, -2.8973])  # radians
JOINT_HIGH = np.array([2.8973, 1.7628, 2.8973, -0.0698, 2.8973, 3.7525, 2.8973])
START_JOINTS = np.array([0.0, 0.1745, 0.0, -0.8726, 0.0, 1.2217, 0.7854])
BASE = (-0.2721, -0.0082, 0.7706)  # metres; puts the tip at RLBench's start, .2785 -.0082 1.472
STIFFNESS = np.array([9000.0, 9000.0, 7000.0, 7000.0, 4000.0, 4000.0, 4000.0])  # N m / rad
DAMPING = 0.04 * STIFFNESS  # N m s / rad
FINGER_OPEN = 0.04  # metres that each finger travels
FINGER_BEYOND_TIP = 0.009  # metres from the tip to the end of the fingers
WRIST_FOV = 60.0  # degrees

_WHITE, _GREY, _DARK = ".93 .94 .95 1", ".62 .64 .67 1", ".16 .17 .19 1"
_X90, _X_90 = "0.70710678 0.70710678 0 0", "0.70710678 -0.70710678 0 0"
_LINKS = (  # parent to child: position, rotation (quaternion wxyz), then capsules (from-to, radius, colour)
    ("0 0 .333", "1 0 0 0", (("0 0 -.18 0 0 -.05", 0.062, _WHITE), ("0 -.062 0 0 .062 0", 0.064, _GREY))),
    ("0 0 0", _X_90, (("0 -.04 0 0 -.19 0", 0.060, _WHITE),)),
    ("0 -.316 0", _X90, (("0 0 -.11 0 0 -.03", 0.056, _WHITE), ("0 0 -.02 .0825 0 0", 0.050, _WHITE))),
    (".0825 0 0", _X90, (("0 0 -.058 0 0 .058", 0.056, _GREY), ("-.02 .03 0 -.0825 .09 0", 0.050, _WHITE))),
    ("-.0825 .384 0", _X_90, (("0 0 -.29 0 0 -.19", 0.056, _WHITE), ("0 0 -.18 0 0 -.03", 0.047, _WHITE))),
    ("0 0 0", _X90, (("0 0 -.05 0 0 .05", 0.050, _GREY), (".02 0 0 .075 0 0", 0.045, _WHITE))),
    (".088 0 0", _X90, (("0 0 -.05 0 0 .045", 0.047, _WHITE),)),
)
_SOLID_FROM = 4  # links from this one on collide with the scene; those before cannot reach it


def robot_xml() -> str:
    """The robot's body tree as MJCF."""
    x, y, z = BASE
    opening, closing = "", ""
    for number, (position, rotation, capsules) in enumerate(_LINKS, start=1):
        low, high = JOINT_LOW[number - 1], JOINT_HIGH[number - 1]
        opening += (
            f'<body name="link{number}" pos="{position}" quat="{rotation}" gravcomp="1">'
            f'<joint name="joint{number}" axis="0 0 1" range="{low} {high}" armature="0.3"/>'
        )
        solid = ' class="solid"' if number >= _SOLID_FROM else ' class="arm"'
        for ends, radius, color in capsules:
            opening += f'<geom{solid} type="capsule" fromto="{ends}" size="{radius}" rgba="{color}"/>'
        closing += "</body>"
    return (
        f'<body name="base" pos="{x} {y} {z}">'
        f'<geom class="fixed" type="box" pos="-.03 0 -.0093" size=".13 .11 .0093" rgba="{_DARK}"/>'
        f'<geom class="fixed" type="capsule" fromto="-.07 0 .05 0 0 .05" size=".06" rgba="{_WHITE}"/>'
        f'<geom class="fixed" type="cylinder" fromto="0 0 0 0 0 .13" size=".068" rgba="{_WHITE}"/>'
        f"{opening}{_hand_xml()}{closing}</body>"
    )


def _hand_xml() -> str:
    """Flange, hand, camera, fingers and tip, in the frame of the last link."""
    fingers = ""
    for name, side in zip(FINGERS, (1, -1), strict=True):
        fingers += (
            f'<body name="{name}" pos="0 0 .0584" gravcomp="1">'
            f'<joint name="{name}" type="slide" axis="0 {side} 0" range="0 {FINGER_OPEN}" armature=".05"/>'
            f'<geom class="solid" type="box" pos="0 {side * 0.0085} .014" size=".0105 .0085 .014" rgba="{_GREY}"/>'
            f'<geom name="{name}_pad" class="pad" type="box" pos="0 {side * 0.006} .040" size=".0095 .006 .014"'
            f' rgba="{_DARK}"/></body>'
        )
    return (
        '<body name="hand" pos="0 0 .107" quat="0.92387953 0 0 -0.38268343" gravcomp="1">'
        f'<geom class="solid" type="cylinder" fromto="0 0 -.02 0 0 .004" size=".040" rgba="{_DARK}"/>'
        f'<geom class="solid" type="box" pos="0 0 .031" size=".030 .100 .027" rgba="{_WHITE}"/>'
        f'<geom class="arm" type="box" pos="0 0 .0565" size=".022 .085 .003" rgba="{_DARK}"/>'
        f'<geom class="arm" type="box" pos=".060 0 -.004" size=".030 .022 .008" rgba="{_DARK}"/>'
        f'<camera name="wrist" pos=".075 0 .008" fovy="{WRIST_FOV}" xyaxes="0 1 0 .966 0 .259"/>'
        # rotated by 180 degrees about the approach axis: RLBench's tip frame
        '<site name="tip" pos="0 0 .1034" quat="0 0 0 1" group="4"/>'
        f"{fingers}</body>"
    )


def actuators_xml() -> str:
    """One position servo per joint and finger, in the order of `JOINTS` and `FINGERS`."""
    lines = ""
    for name, stiffness, damping in zip(JOINTS, STIFFNESS, DAMPING, strict=True):
        lines += f'<position name="{name}" joint="{name}" kp="{stiffness}" kv="{damping}" forcerange="-400 400"/>'
    for name in FINGERS:
        lines += f'<position name="{name}" joint="{name}" kp="2000" kv="60" forcerange="-20 20"/>'
    return lines
