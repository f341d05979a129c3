"""Poses of robots that are described in MJCF or URDF."""

from pathlib import Path

import numpy as np
import pytest

from instructrl.errors import InputError
from instructrl.sim.mujoco.robot_model import RobotModel

URDF = """<robot name="r"><link name="base"/>
<link name="arm"><visual><geometry><mesh filename="missing.stl"/></geometry></visual></link><link name="hand"/>
<joint name="lift" type="prismatic"><parent link="base"/><child link="arm"/><origin xyz="0 0 0.5"/><axis xyz="0 0 1"/>
<limit lower="0" upper="1" effort="1" velocity="1"/></joint>
<joint name="turn" type="revolute"><parent link="arm"/><child link="hand"/><origin xyz="0.1 0 0"/><axis xyz="0 0 1"/>
<limit lower="-3" upper="3" effort="1" velocity="1"/></joint>
<link name="tip"/>
<joint name="fixed" type="fixed"><parent link="hand"/><child link="tip"/><origin xyz="0.2 0 0"/></joint>
</robot>"""


@pytest.fixture
def urdf(tmp_path: Path) -> Path:
    path = tmp_path / "robot.urdf"
    path.write_text(URDF)
    return path


def test_a_link_behind_a_fixed_joint_moves_with_the_others(urdf: Path) -> None:
    model = RobotModel(urdf, "tip", None)
    assert model.joints == ("lift", "turn")
    for position, quaternion in (
        model.pose(np.array([0.25, np.pi / 2])),
        model.pose(np.array([0.25, 90.0]), degrees=True),
        RobotModel(urdf, "tip", ["turn", "lift"]).pose(np.array([np.pi / 2, 0.25])),
    ):
        np.testing.assert_allclose(position, [0.1, 0.2, 0.75], atol=1e-9)
        np.testing.assert_allclose(quaternion, [0, 0, np.sqrt(0.5), np.sqrt(0.5)], atol=1e-9)


def test_what_is_missing_is_one_line(urdf: Path, tmp_path: Path) -> None:
    for found, arguments in (
        ("frame: found top; ", (urdf, "top", None)),
        ("names: found bend; ", (urdf, "tip", ["bend"])),
        ("none.xml: cannot be read as MJCF or URDF", (tmp_path / "none.xml", "tip", None)),
    ):
        with pytest.raises(InputError) as error:
            RobotModel(*arguments)
        assert found in str(error.value) and "\n" not in str(error.value)
    for values in (np.zeros(3), np.array([0, np.nan])):
        with pytest.raises(InputError, match="expected 2 finite ones: lift, turn"):
            RobotModel(urdf, "tip", None).pose(values)
