"""Inverse kinematics: damped least squares with an active set on the joint limits."""

import mujoco
import numpy as np

from instructrl.sim.tabletop.robot import JOINT_HIGH, JOINT_LOW, JOINTS, START_JOINTS

_MARGIN = 0.01  # radians kept from the joint limits
_DAMPING = 1e-4
_STEP = 0.6  # largest change of a joint in one iteration, radians
_ITERATIONS = 60
POSITION_TOLERANCE = 2e-4  # metres
ROTATION_TOLERANCE = 2e-3  # radians
_RESTARTS = (  # start configurations tried in this order if the current one does not converge
    START_JOINTS,
    np.array([0.0, 0.3, 0.0, -2.0, 0.0, 2.3, 0.7854]),
    np.array([0.9, 0.4, 0.0, -1.9, 0.0, 2.3, 1.6]),
    np.array([-0.9, 0.4, 0.0, -1.9, 0.0, 2.3, -0.1]),
)


class Kinematics:
    """Forward and inverse kinematics of the arm, on a separate state so that the simulation is not changed."""

    def __init__(self, model: mujoco.MjModel):
        self._model = model
        self._data = mujoco.MjData(model)
        self._joints = np.array([model.joint(name).qposadr[0] for name in JOINTS])
        self._columns = np.array([model.joint(name).dofadr[0] for name in JOINTS])
        self._tip = model.site("tip").id
        self._jacobian = np.zeros((6, model.nv))
        self._low, self._high = JOINT_LOW + _MARGIN, JOINT_HIGH - _MARGIN

    def forward(self, joints: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Position [3] and quaternion xyzw [4] of the tip."""
        self._move(joints)
        quaternion = np.empty(4)
        mujoco.mju_mat2Quat(quaternion, self._data.site_xmat[self._tip])
        return self._data.site_xpos[self._tip].copy(), quaternion[[1, 2, 3, 0]]

    def inverse(self, position: np.ndarray, quaternion: np.ndarray, start: np.ndarray) -> np.ndarray | None:
        """Joint angles [7] for a tip pose (quaternion xyzw), near `start`; None if no solution is found."""
        for seed in (start, *_RESTARTS):
            joints = self.near(position, quaternion, seed)
            if joints is not None:
                return joints
        return None

    def near(self, position: np.ndarray, quaternion: np.ndarray, start: np.ndarray) -> np.ndarray | None:
        """The same as `inverse`, from this start only."""
        target = np.empty(9)
        mujoco.mju_quat2Mat(target, np.asarray(quaternion)[[3, 0, 1, 2]])
        joints = np.clip(start, self._low, self._high)
        error = self._error(joints, position, target)
        best, stalled = np.inf, 0
        for _ in range(_ITERATIONS):
            size = float(error @ error)
            if error[:3] @ error[:3] < POSITION_TOLERANCE**2 and error[3:] @ error[3:] < ROTATION_TOLERANCE**2:
                return joints
            stalled = 0 if size < 0.98 * best else stalled + 1
            if stalled >= 8:
                return None
            best = min(best, size)
            joints = self._improve(joints, error)
            error = self._error(joints, position, target)
        return None

    def _improve(self, joints: np.ndarray, error: np.ndarray) -> np.ndarray:
        """One damped step; joints that would pass a limit are fixed there while the others compensate."""
        mujoco.mj_comPos(self._model, self._data)
        mujoco.mj_jacSite(self._model, self._data, self._jacobian[:3], self._jacobian[3:], self._tip)
        jacobian = self._jacobian[:, self._columns]
        free = np.ones(7)
        change = np.zeros(7)
        for _ in range(3):
            active = jacobian * free
            change = active.T @ np.linalg.solve(active @ active.T + _DAMPING * np.eye(6), error)
            change *= min(1.0, _STEP / (np.abs(change).max() + 1e-12))
            after = joints + change
            blocked = ((after < self._low) | (after > self._high)) & (free > 0)
            if not blocked.any():
                break
            free[blocked] = 0.0
            joints = np.where(blocked, np.clip(after, self._low, self._high), joints)
        return np.clip(joints + change * free, self._low, self._high)

    def _error(self, joints: np.ndarray, position: np.ndarray, target: np.ndarray) -> np.ndarray:
        """Remaining pose error [6]: metres along x y z, then radians about x y z."""
        self._move(joints)
        found = self._data.site_xmat[self._tip].reshape(3, 3)
        relative = target.reshape(3, 3) @ found.T
        axis = np.array(
            [relative[2, 1] - relative[1, 2], relative[0, 2] - relative[2, 0], relative[1, 0] - relative[0, 1]]
        )
        sine, cosine = np.sqrt(axis @ axis) / 2, (np.trace(relative) - 1) / 2
        if sine < 1e-6 and cosine < 0:  # 180 degrees: any axis works
            rotation = np.array([np.pi, 0.0, 0.0])
        else:
            rotation = axis * (0.5 if sine < 1e-6 else np.arctan2(sine, cosine) / (2 * sine))
        return np.concatenate([position - self._data.site_xpos[self._tip], rotation])

    def _move(self, joints: np.ndarray) -> None:
        self._data.qpos[self._joints] = joints
        mujoco.mj_kinematics(self._model, self._data)
