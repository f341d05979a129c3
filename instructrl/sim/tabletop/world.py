"""The simulated world of one task: compiled once, then recoloured and rearranged for every episode."""

from collections.abc import Mapping
from types import MappingProxyType

import mujoco
import numpy as np

from instructrl.sim.tabletop.robot import FINGER_OPEN, FINGERS, JOINTS, START_JOINTS
from instructrl.sim.tabletop.scene import scene_xml


class World:
    """MuJoCo model and state, accessed by the names that tasks use; positions in metres, world frame."""

    def __init__(
        self,
        bodies: str,
        *,
        extras: str = "",
        graspable: tuple[str, ...] = (),
        joint_thresholds: Mapping[str, float] = MappingProxyType({}),
    ):
        """Compile the scene with a task's bodies; those in `graspable` can be grasped.

        `joint_thresholds` maps joint names to positions; joints that have exceeded theirs are listed in `crossed`.
        """
        welds = "".join(
            f'<weld name="hold_{name}" body1="hand" body2="{name}" active="false" solref="0.01 1"/>'
            for name in graspable
        )
        self.model = mujoco.MjModel.from_xml_string(scene_xml(bodies, extras=f"<equality>{welds}</equality>{extras}"))
        self.data = mujoco.MjData(self.model)
        self.graspable = graspable
        self.crossed: list[str] = []  # joints in the order in which they first exceeded their thresholds
        self._thresholds = [
            (name, int(self.model.joint(name).qposadr[0]), limit) for name, limit in joint_thresholds.items()
        ]
        self._pads = tuple(self.model.geom(f"{name}_pad").id for name in FINGERS)
        self._bodies = {self.model.body(name).id: name for name in graspable}
        self._tip = self.model.site("tip").id
        self._hand = self.model.body("hand").id
        self.arm = np.array([self.model.joint(name).qposadr[0] for name in JOINTS])
        self.fingers = np.array([self.model.joint(name).qposadr[0] for name in FINGERS])
        self.arm_speeds = np.array([self.model.joint(name).dofadr[0] for name in JOINTS])
        self.finger_speeds = np.array([self.model.joint(name).dofadr[0] for name in FINGERS])

    def reset(self) -> None:
        """Reset to the compiled state, with the arm at its start pose and the gripper open."""
        mujoco.mj_resetData(self.model, self.data)
        self.data.qpos[self.arm] = START_JOINTS
        self.data.qpos[self.fingers] = FINGER_OPEN
        self.data.ctrl[:7] = START_JOINTS
        self.data.ctrl[7:] = FINGER_OPEN
        self.crossed.clear()

    def advance(self) -> None:
        """Simulate one time step."""
        mujoco.mj_step(self.model, self.data)
        for name, address, limit in self._thresholds:
            if self.data.qpos[address] > limit and name not in self.crossed:
                self.crossed.append(name)

    def refresh(self) -> None:
        """Recompute all quantities derived from positions and velocities."""
        mujoco.mj_forward(self.model, self.data)

    def color(self, name: str, rgb: tuple[float, float, float]) -> None:
        """Set the colour of the geom `name`."""
        self.model.geom(name).rgba[:3] = rgb

    def place(self, name: str, position: np.ndarray, *, yaw: float = 0.0) -> None:
        """Place the body `name` (mocap or free) at a position, rotated about the vertical by `yaw` radians."""
        body = self.model.body(name)
        quaternion = np.array([np.cos(yaw / 2), 0.0, 0.0, np.sin(yaw / 2)])
        mocap = int(body.mocapid[0])
        if mocap >= 0:
            self.data.mocap_pos[mocap], self.data.mocap_quat[mocap] = position, quaternion
            return
        start = int(self.model.jnt_qposadr[body.jntadr[0]])
        self.data.qpos[start : start + 3] = position
        self.data.qpos[start + 3 : start + 7] = quaternion

    def position(self, name: str) -> np.ndarray:
        """Position [3] of the body `name`."""
        return self.data.body(name).xpos.copy()

    def rotation(self, name: str) -> np.ndarray:
        """Rotation matrix [3 3] of the body `name`: its axes in the world, as columns."""
        return self.data.body(name).xmat.reshape(3, 3).copy()

    def yaw(self, name: str) -> float:
        """Rotation of the body `name` about the vertical, radians in (-pi, pi]."""
        matrix = self.data.body(name).xmat
        return float(np.arctan2(matrix[3], matrix[0]))

    def joint(self, name: str) -> float:
        """Position of a slide (metres) or hinge (radians) joint."""
        return float(self.data.joint(name).qpos[0])

    def tip(self) -> np.ndarray:
        """Position [3] of the point between the finger pads."""
        return self.data.site_xpos[self._tip].copy()

    def opened(self) -> bool:
        """Return True if the last command of the gripper was to open."""
        return bool(self.data.ctrl[7] == FINGER_OPEN)

    def copy_pose(self, other: mujoco.MjData) -> None:
        """Copy the current pose to another state of this model and prepare that for rendering."""
        other.qpos[:] = self.data.qpos
        other.mocap_pos[:], other.mocap_quat[:] = self.data.mocap_pos, self.data.mocap_quat
        mujoco.mj_kinematics(self.model, other)
        mujoco.mj_camlight(self.model, other)

    def held(self) -> str | None:
        """The grasped object, if any."""
        active = self.data.eq_active
        return next((name for name in self.graspable if active[self.model.equality(f"hold_{name}").id]), None)

    def touched(self) -> str | None:
        """The graspable object that both finger pads touch, if any."""
        contact = self.data.contact
        owner = self.model.geom_bodyid
        touching: dict[int, set[int]] = {}
        for first, second in contact.geom:
            for pad, other in ((first, second), (second, first)):
                if pad in self._pads:
                    touching.setdefault(int(owner[other]), set()).add(int(pad))
        return next(
            (self._bodies[body] for body, pads in touching.items() if len(pads) == 2 and body in self._bodies), None
        )

    def hold(self, name: str) -> None:
        """Attach the object to the hand at its current relative pose."""
        equality = self.model.equality(f"hold_{name}").id
        hand, thing = self.data.body(self._hand), self.data.body(name)
        inverse, relative, rotation = np.empty(4), np.empty(3), np.empty(4)
        mujoco.mju_negQuat(inverse, hand.xquat)
        mujoco.mju_rotVecQuat(relative, thing.xpos - hand.xpos, inverse)
        mujoco.mju_mulQuat(rotation, inverse, thing.xquat)
        # weld data: anchor in body 2, then the pose of body 2 in body 1, then the torque scale
        self.model.eq_data[equality, :3] = 0.0
        self.model.eq_data[equality, 3:6] = relative
        self.model.eq_data[equality, 6:10] = rotation
        self.data.eq_active[equality] = 1
        self.data.ctrl[7:] = self.data.qpos[
            self.fingers
        ]  # the weld carries it; fingers that keep closing would pull at it

    def release(self) -> None:
        """Release the grasped object."""
        for name in self.graspable:
            self.data.eq_active[self.model.equality(f"hold_{name}").id] = 0
