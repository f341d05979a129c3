"""Execution of actions. A keyframe: a straight or joint-space path, then settling, then the gripper.

A dense action is a pose on such a path: the arm is drawn towards it for a fixed time, then the gripper acts.
"""

import copy
import math
from collections.abc import Callable, Iterable
from enum import Enum

import mujoco
import numpy as np

from instructrl.sim.tabletop.kinematics import Kinematics
from instructrl.sim.tabletop.robot import BASE, FINGER_OPEN
from instructrl.sim.tabletop.scene import ROBOT, TIMESTEP
from instructrl.sim.tabletop.world import World

_REACH = 1.2  # metres along any axis from the base; nothing farther is reachable
_JOINT_SPEED = 2.2  # rad/s at the peak
_STRAIGHT_WITHIN = 0.30  # metres; longer moves go through joint space
_CHECKED = np.linspace(0.0, 1.0, 14)[1:-1, None]  # shares of a long path at which it is checked for collisions
_SPACING = 0.03  # metres between the points of a straight path
_JUMP = 0.5  # radians; a straight path with a larger joint change between two points is rejected
_SHORTEST = 0.12  # seconds
_SETTLE = 0.20  # seconds at most
_SETTLED_ERROR, _SETTLED_SPEED = 2e-4, 5e-3  # radians, rad/s
_FINGER_SPEED = 0.2  # m/s
_GRIPPER_SETTLE = 0.20  # seconds at most
_BLOCKED = 0.03  # metres from the commanded position beyond which the arm counts as blocked
_DENSE_TICKS = round(0.1 / TIMESTEP)  # of a dense action
_DENSE_CHANGE = 0.3  # radians at most by which a dense action moves a joint; the expert's largest is 0.22
_DENSE_SETTLE = 2  # dense actions at a keyframe's pose, the last of which works the gripper

StepCallback = Callable[[], None]


class MotionResult(Enum):
    """Result of executing a keyframe action."""

    REACHED = "reached"
    BLOCKED = "blocked"  # something solid was in the way
    UNREACHABLE = "unreachable"  # there is no path; nothing moved


class Motion:
    """Moves the robot of one world; `on_step`, if set, is called after every time step."""

    def __init__(self, world: World):
        self._world = world
        self._kinematics = Kinematics(world.model)
        self._planning_model = _with_contacts_of_robot_only(world.model)
        self._planning_data = mujoco.MjData(self._planning_model)
        self.on_step: StepCallback | None = None

    def reachable(self, actions: Iterable[np.ndarray]) -> bool:
        """Return True if the arm can execute these keyframe actions, each [8], in turn from its current pose.

        Short moves must be straight; long ones must be free of collisions with the current scene.
        """
        joints = self._world.data.qpos[self._world.arm]
        self._world.copy_pose(self._planning_data)
        for action in actions:
            is_long = self._is_long(joints, action)
            path = self._joint_space_path(joints, action) if is_long else self._straight_path(joints, action)
            if path is None or (is_long and not self._is_collision_free(path)):
                return False
            joints = path[-1]
        return True

    def execute(self, action: np.ndarray) -> MotionResult:
        """Execute one validated action [8]: move to its pose, then open or close the gripper."""
        world = self._world
        path = self._path(world.data.qpos[world.arm], action)
        if path is None:
            return MotionResult.UNREACHABLE
        self._follow(path)
        blocked = np.linalg.norm(world.tip() - action[:3]) > _BLOCKED
        self._grip(opened=bool(action[7]))
        world.refresh()
        return MotionResult.BLOCKED if blocked else MotionResult.REACHED

    def trajectory(self, actions: Iterable[np.ndarray]) -> list[np.ndarray]:
        """The dense actions [8] that lead from the current pose through keyframe actions, which are reachable."""
        joints, opened = self._world.data.ctrl[:7].copy(), float(self._world.opened())
        found: list[np.ndarray] = []
        for action in actions:
            path = self._path(joints, action)
            if path is None:
                raise ValueError(f"no path leads to the keyframe {action.tolist()}")
            commands = _commands(path)
            chosen = [*commands[_DENSE_TICKS - 1 : -1 : _DENSE_TICKS], *[path[-1]] * _DENSE_SETTLE]
            found += [np.array([*np.concatenate(self._kinematics.forward(one)), opened]) for one in chosen]
            found[-1][7] = opened = action[7]
            joints = path[-1]
        return found

    def servo(self, action: np.ndarray) -> MotionResult:
        """Execute one validated dense action [8]: draw the arm towards its pose, then open or close the gripper."""
        data = self._world.data
        if np.abs(action[:3] - BASE).max() > _REACH:
            return MotionResult.UNREACHABLE
        start = data.ctrl[:7].copy()
        goal = self._kinematics.inverse(action[:3], action[3:7], start)
        if goal is None:
            return MotionResult.UNREACHABLE
        change = (goal - start) * min(1.0, _DENSE_CHANGE / max(float(np.abs(goal - start).max()), 1e-9))
        for share in np.arange(1, _DENSE_TICKS + 1) / _DENSE_TICKS:
            data.ctrl[:7] = start + share * change
            self._tick()
        self._grip(opened=bool(action[7]))
        self._world.refresh()
        return MotionResult.REACHED

    def _path(self, start: np.ndarray, action: np.ndarray) -> np.ndarray | None:
        """Joint angles [P 7] from `start` to the pose: a straight line if short and possible."""
        if np.abs(action[:3] - BASE).max() > _REACH:
            return None
        path = None if self._is_long(start, action) else self._straight_path(start, action)
        return self._joint_space_path(start, action) if path is None else path

    def _is_long(self, start: np.ndarray, action: np.ndarray) -> bool:
        return _length(action[:3] - self._kinematics.forward(start)[0]) >= _STRAIGHT_WITHIN

    def _joint_space_path(self, start: np.ndarray, action: np.ndarray) -> np.ndarray | None:
        goal = self._kinematics.inverse(action[:3], action[3:7], start)
        return None if goal is None else np.stack([start, goal])

    def _is_collision_free(self, path: np.ndarray) -> bool:
        """Return True if a joint-space path [2 7] has no collisions between its ends."""
        model, data = self._planning_model, self._planning_data
        for joints in path[0] + _CHECKED * (path[1] - path[0]):
            data.qpos[self._world.arm] = joints
            mujoco.mj_kinematics(model, data)
            mujoco.mj_collision(model, data)
            if data.ncon:
                return False
        return True

    def _straight_path(self, start: np.ndarray, action: np.ndarray) -> np.ndarray | None:
        position, quaternion = self._kinematics.forward(start)
        goal = action[3:7] if quaternion @ action[3:7] >= 0 else -action[3:7]
        turn = 2 * np.arccos(min(max(quaternion @ goal, -1.0), 1.0))
        count = max(math.ceil(max(_length(action[:3] - position) / _SPACING, turn / 0.3)), 1)
        path = [start]
        for share in np.arange(1, count + 1) / count:
            blended = quaternion * (1 - share) + goal * share  # steps are small, so this approximates slerp
            point = position + share * (action[:3] - position)
            joints = self._kinematics.near(point, blended / _length(blended), path[-1])
            if joints is None or max(map(abs, (joints - path[-1]).tolist())) > _JUMP:
                return None
            path.append(joints)
        return np.array(path)

    def _follow(self, path: np.ndarray) -> None:
        """Follow the path [P 7], slowly at both ends, and wait until the arm is at rest."""
        world, data = self._world, self._world.data
        for command in _commands(path):
            data.ctrl[:7] = command
            self._tick()
        for _ in range(int(_SETTLE / TIMESTEP)):
            self._tick()
            off = np.abs(data.qpos[world.arm] - path[-1]).max()
            if off < _SETTLED_ERROR and np.abs(data.qvel[world.arm_speeds]).max() < _SETTLED_SPEED:
                break
        world.refresh()

    def _grip(self, *, opened: bool) -> None:
        """Open or close the fingers; an object between them is then attached to the hand."""
        world, data = self._world, self._world.data
        if world.opened() == opened:
            return
        if opened:
            world.release()
        begin, end = data.ctrl[7], FINGER_OPEN if opened else 0.0
        for command in np.linspace(begin, end, int(abs(end - begin) / _FINGER_SPEED / TIMESTEP) + 1):
            data.ctrl[7:] = command  # slowly, since fingers at full force would eject a block
            self._tick()
        for _ in range(int(_GRIPPER_SETTLE / TIMESTEP)):
            if np.abs(data.qvel[world.finger_speeds]).max() < 2e-3:
                break
            self._tick()
        world.refresh()
        if not opened:
            touched = world.touched()
            if touched is not None:
                world.hold(touched)

    def _tick(self) -> None:
        self._world.advance()
        if self.on_step is not None:
            self.on_step()


def _commands(path: np.ndarray) -> np.ndarray:
    """Joint angles [N 7] at each time step along a path [P 7], slowly at both ends."""
    lengths = np.abs(np.diff(path, axis=0)).max(axis=1)
    at = np.concatenate([[0.0], np.cumsum(lengths)])
    steps = int(np.ceil(max(_SHORTEST, 1.5 * at[-1] / _JOINT_SPEED) / TIMESTEP))
    if at[-1] == 0:
        return np.repeat(path[-1:], steps, axis=0)
    time = np.arange(1, steps + 1) / steps
    along = time * time * (3 - 2 * time) * at[-1]
    return np.stack([np.interp(along, at, joint) for joint in path.T], axis=1)


def _length(vector: np.ndarray) -> float:
    """Length of a short vector, in a tenth of the time of `np.linalg.norm`."""
    return math.sqrt(vector @ vector)


def _with_contacts_of_robot_only(model: mujoco.MjModel) -> mujoco.MjModel:
    """A copy in which things of the scene collide with the robot, as in the model, and not with each other."""
    planning = copy.copy(model)
    for types, affinities in (
        (planning.geom_contype, planning.geom_conaffinity),
        (planning.body_contype, planning.body_conaffinity),
    ):
        scene = (types > 0) & (types != ROBOT)
        types[scene], affinities[scene] = 1, 0
    return planning
