"""Forward kinematics of any robot model in MJCF or URDF."""

from collections.abc import Sequence
from pathlib import Path

import mujoco
import numpy as np

from instructrl.actions import canonical_quaternion
from instructrl.errors import InputError, format_value, short_message

HINGE = int(mujoco.mjtJoint.mjJNT_HINGE)
SINGLE = (HINGE, int(mujoco.mjtJoint.mjJNT_SLIDE))  # joints of one number


class RobotModel:
    """A robot whose joints are set and of which one frame's pose is asked for.

    Attributes:
        joints: names of the joints that are set, in their order.
    """

    def __init__(self, path: Path, frame: str, joints: Sequence[str] | None) -> None:
        """Read a model; shapes and meshes are left out, since poses do not depend on them.

        Args:
            path: MJCF or URDF file.
            frame: site or body (link) whose pose is asked for.
            joints: names of the joints that are set; None: all hinges and slides, in the order of the model.

        Raises:
            InputError: the file cannot be read, or has no such frame or joint.
        """
        try:
            spec = mujoco.MjSpec.from_file(str(path))
            spec.compiler.fusestatic = False  # links behind fixed joints keep their names
            spec.compiler.boundmass, spec.compiler.boundinertia = 1e-3, 1e-6  # bodies without shapes have none
            for part in (*spec.geoms, *spec.meshes):
                spec.delete(part)
            self._model = spec.compile()
        except (ValueError, OSError, mujoco.FatalError) as error:
            raise InputError(f"model: {path}: cannot be read as MJCF or URDF ({short_message(error)})") from None
        self._data = mujoco.MjData(self._model)
        self._frame = self._find_frame(path, frame)
        found = [self._model.joint(index) for index in range(self._model.njnt)]
        single = {one.name: int(one.qposadr[0]) for one in found if int(one.type[0]) in SINGLE}
        self.joints = tuple(single if joints is None else joints)
        unknown = [name for name in self.joints if name not in single]
        if unknown or not single:
            named = format_value(unknown[0]) if unknown else "no hinge or slide"
            raise InputError(f"names: found {named}; {path} has {', '.join(single)}")
        self._places = [single[name] for name in self.joints]
        hinges = {one.name for one in found if int(one.type[0]) == HINGE}
        self._turns = np.array([name in hinges for name in self.joints])

    def _find_frame(self, path: Path, name: str) -> tuple[np.ndarray, np.ndarray]:
        """Views of a frame's position and rotation matrix, which change with the joints."""
        sites = {self._model.site(index).name: index for index in range(self._model.nsite)}
        bodies = {self._model.body(index).name: index for index in range(self._model.nbody)}
        if name in sites:
            return self._data.site_xpos[sites[name]], self._data.site_xmat[sites[name]]
        if name in bodies:
            return self._data.xpos[bodies[name]], self._data.xmat[bodies[name]]
        there = ", ".join([*sites, *bodies])
        raise InputError(f"frame: found {format_value(name)}; {path} has {there}")

    def pose(self, values: np.ndarray, *, degrees: bool = False) -> tuple[np.ndarray, np.ndarray]:
        """Position [3] in metres and quaternion [4] x y z w of the frame, in the world frame of the model.

        Args:
            values: of the joints [J], radians or metres.
            degrees: hinges are in degrees.

        Raises:
            InputError: there is another number of values, or one is not finite.
        """
        if len(values) != len(self.joints) or not np.isfinite(values).all():
            expected = f"expected {len(self.joints)} finite ones: {', '.join(self.joints)}"
            raise InputError(f"joints: found {len(values)} numbers, {expected}")
        self._data.qpos[self._places] = np.radians(values) * self._turns + values * ~self._turns if degrees else values
        mujoco.mj_kinematics(self._model, self._data)
        quaternion = np.empty(4)
        mujoco.mju_mat2Quat(quaternion, self._frame[1])
        return self._frame[0].copy(), canonical_quaternion(quaternion[[1, 2, 3, 0]])
