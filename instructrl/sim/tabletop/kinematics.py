"""Inverse kinematics: damped least squares with an active set on the joint limits."""

import math
from collections.abc import Callable
from operator import le

import mujoco
import numpy as np

from instructrl.sim.tabletop.robot import JOINT_HIGH, JOINT_LOW, JOINTS, START_JOINTS

_MARGIN = 0.01  # radians kept from the joint limits
_DAMPED = 1e-4 * np.eye(6)
_ALL_FREE = np.ones(len(JOINTS))
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
# what `np.linalg.solve` calls, without its checks, which take longer than six equations
_solve: Callable[[np.ndarray, np.ndarray], np.ndarray] = getattr(
    getattr(np.linalg, "_umath_linalg", None), "solve1", np.linalg.solve
)


class Kinematics:
    """Forward and inverse kinematics of the arm, on a separate state so that the simulation is not changed."""

    def __init__(self, model: mujoco.MjModel):
        self._model = model
        self._data = mujoco.MjData(model)
        first = model.joint(JOINTS[0])  # the others follow it
        self._joints = self._data.qpos[first.qposadr[0] :][: len(JOINTS)]
        self._tip = model.site("tip").id
        self._position = self._data.site_xpos[self._tip]
        self._axes = self._data.site_xmat[self._tip].reshape(3, 3)
        jacobian = np.zeros((6, model.nv))
        self._jacobian = jacobian[:3], jacobian[3:]
        self._columns = jacobian.T[first.dofadr[0] :][: len(JOINTS)]
        self._low, self._high = JOINT_LOW + _MARGIN, JOINT_HIGH - _MARGIN
        self._lowest, self._highest = self._low.tolist(), self._high.tolist()

    def forward(self, joints: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Position [3] and quaternion xyzw [4] of the tip."""
        self._move(joints)
        quaternion = np.empty(4)
        mujoco.mju_mat2Quat(quaternion, self._data.site_xmat[self._tip])
        return self._position.copy(), quaternion[[1, 2, 3, 0]]

    def inverse(self, position: np.ndarray, quaternion: np.ndarray, start: np.ndarray) -> np.ndarray | None:
        """Joint angles [7] for a tip pose (quaternion xyzw), near `start`; None if no solution is found."""
        for seed in (start, *_RESTARTS):
            joints = self.near(position, quaternion, seed)
            if joints is not None:
                return joints
        return None

    def near(self, position: np.ndarray, quaternion: np.ndarray, start: np.ndarray) -> np.ndarray | None:
        """The same as `inverse`, from this start only."""
        rotation = np.empty((3, 3))
        mujoco.mju_quat2Mat(rotation.reshape(9), np.asarray(quaternion)[[3, 0, 1, 2]])
        goal = position.tolist()
        joints = start if self._is_allowed(start) else np.clip(start, self._low, self._high)
        error = self._error(joints, goal, rotation)
        best, stalled = np.inf, 0
        for _ in range(_ITERATIONS):
            off, turned = error[:3], error[3:]
            if off @ off < POSITION_TOLERANCE**2 and turned @ turned < ROTATION_TOLERANCE**2:
                return joints
            size = float(error @ error)
            stalled = 0 if size < 0.98 * best else stalled + 1
            if stalled >= 8:
                return None
            best = min(best, size)
            joints = self._improve(joints, error)
            error = self._error(joints, goal, rotation)
        return None

    def _improve(self, joints: np.ndarray, error: np.ndarray) -> np.ndarray:
        """One damped step; joints that would pass a limit are fixed there while the others compensate."""
        mujoco.mj_comPos(self._model, self._data)
        mujoco.mj_jacSite(self._model, self._data, *self._jacobian, self._tip)
        active = jacobian = self._columns.copy().T  # column by column: another order changes the last bits of the steps
        free = change = _ALL_FREE
        for _ in range(3):
            change = active.T @ _solve(active @ active.T + _DAMPED, error)
            change *= min(1.0, _STEP / (max(map(abs, change.tolist())) + 1e-12))
            after = joints + change
            if self._is_allowed(after):
                return after
            blocked = (after < self._low) | (after > self._high)
            free = np.where(blocked, 0.0, free)
            joints = np.where(blocked, np.clip(after, self._low, self._high), joints)
            active = jacobian * free
        return np.clip(joints + change * free, self._low, self._high)

    def _is_allowed(self, joints: np.ndarray) -> bool:
        """Return True if all joints are within their limits."""
        values = joints.tolist()  # faster than numpy on seven numbers
        return all(map(le, self._lowest, values)) and all(map(le, values, self._highest))

    def _error(self, joints: np.ndarray, goal: list[float], rotation: np.ndarray) -> np.ndarray:
        """Remaining pose error [6]: metres along x y z, then radians about x y z."""
        self._move(joints)
        (xx, xy, xz), (yx, yy, yz), (zx, zy, zz) = (rotation @ self._axes.T).tolist()
        axis = np.array([zy - yz, xz - zx, yx - xy])
        sine, cosine = math.sqrt(axis @ axis) / 2, (xx + yy + zz - 1) / 2
        if sine < 1e-6 and cosine < 0:  # 180 degrees: any axis works
            turn = [np.pi, 0.0, 0.0]
        else:
            scale = 0.5 if sine < 1e-6 else float(np.arctan2(sine, cosine)) / (2 * sine)
            turn = [part * scale for part in axis.tolist()]
        x, y, z = self._position.tolist()
        return np.array([goal[0] - x, goal[1] - y, goal[2] - z, *turn])

    def _move(self, joints: np.ndarray) -> None:
        self._joints[:] = joints
        mujoco.mj_kinematics(self._model, self._data)
