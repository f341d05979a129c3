"""Keyframe actions carried out: a straight path or one through joint space, then settle, then the gripper."""

from collections.abc import Callable, Iterable
from enum import Enum

import mujoco
import numpy as np

from instructrl.sim.tabletop.kinematics import Kinematics
from instructrl.sim.tabletop.robot import BASE, FINGER_OPEN
from instructrl.sim.tabletop.scene import ROBOT, TIMESTEP
from instructrl.sim.tabletop.world import World

_REACH = 1.2  # metres along any axis from the base; nothing further off can be reached
_JOINT_SPEED = 2.2  # rad/s at the fastest moment
_STRAIGHT_WITHIN = 0.30  # metres; longer moves go through joint space
_LOOKS = 12  # at a long path, for what might be in its way
_SPACING = 0.03  # metres between the points of a straight path
_JUMP = 0.5  # radians; a straight path whose joints jump further between two points is no path
_SHORTEST = 0.12  # seconds
_SETTLE = 0.20  # seconds at most
_SETTLED_ERROR, _SETTLED_SPEED = 2e-4, 5e-3  # radians, rad/s
_FINGER_SPEED = 0.2  # m/s
_GRIPPER_SETTLE = 0.20  # seconds at most
_BLOCKED = 0.03  # metres off the commanded point: something solid is in the way

Watcher = Callable[[], None]


class Arrival(Enum):
    """How a keyframe ended."""

    REACHED = "reached"
    BLOCKED = "blocked"  # something solid was in the way
    UNREACHABLE = "unreachable"  # there is no way; nothing moved


class Motion:
    """Moves the robot of one world. `watcher`, if set, is called after every time step."""

    def __init__(self, world: World):
        self._world = world
        self._kinematics = Kinematics(world.model)
        self._imagined = mujoco.MjData(world.model)
        self.watcher: Watcher | None = None

    def reachable(self, actions: Iterable[np.ndarray]) -> bool:
        """Whether the arm can go through these keyframes, each [8], in turn, from where it is.

        Near ones must be reached in a straight line, and on the way to far ones nothing may stand as things are now.
        """
        joints = self._world.data.qpos[self._world.arm]
        self._world.copy_pose(self._imagined)
        for action in actions:
            far = self._far(joints, action)
            path = self._bent(joints, action) if far else self._straight(joints, action)
            if path is None or (far and not self._free(path)):
                return False
            joints = path[-1]
        return True

    def execute(self, action: np.ndarray) -> Arrival:
        """Carry out one checked action [8]: go there, then open or close the gripper."""
        world = self._world
        path = self._path(world.data.qpos[world.arm], action)
        if path is None:
            return Arrival.UNREACHABLE
        self._follow(path)
        blocked = np.linalg.norm(world.tip() - action[:3]) > _BLOCKED
        self._grip(opened=bool(action[7]))
        world.refresh()
        return Arrival.BLOCKED if blocked else Arrival.REACHED

    def _path(self, start: np.ndarray, action: np.ndarray) -> np.ndarray | None:
        """Joint angles [P 7] from `start` to the pose: a straight line where short and possible."""
        if np.abs(action[:3] - BASE).max() > _REACH:
            return None
        path = None if self._far(start, action) else self._straight(start, action)
        return self._bent(start, action) if path is None else path

    def _far(self, start: np.ndarray, action: np.ndarray) -> bool:
        return bool(np.linalg.norm(action[:3] - self._kinematics.forward(start)[0]) >= _STRAIGHT_WITHIN)

    def _bent(self, start: np.ndarray, action: np.ndarray) -> np.ndarray | None:
        goal = self._kinematics.inverse(action[:3], action[3:7], start)
        return None if goal is None else np.stack([start, goal])

    def _free(self, path: np.ndarray) -> bool:
        """Whether the arm touches nothing between the ends of a path [2 7] through joint space."""
        model, data = self._world.model, self._imagined
        for share in np.linspace(0.0, 1.0, _LOOKS + 2)[1:-1]:
            data.qpos[self._world.arm] = path[0] + share * (path[1] - path[0])
            mujoco.mj_kinematics(model, data)
            mujoco.mj_collision(model, data)
            if (model.geom_contype[data.contact.geom] == ROBOT).any():
                return False
        return True

    def _straight(self, start: np.ndarray, action: np.ndarray) -> np.ndarray | None:
        position, quaternion = self._kinematics.forward(start)
        goal = action[3:7] if quaternion @ action[3:7] >= 0 else -action[3:7]
        turn = 2 * np.arccos(np.clip(quaternion @ goal, -1.0, 1.0))
        count = max(int(np.ceil(max(np.linalg.norm(action[:3] - position) / _SPACING, turn / 0.3))), 1)
        path = [start]
        for share in np.arange(1, count + 1) / count:
            between = quaternion * (1 - share) + goal * share  # steps are small: as good as slerp
            joints = self._kinematics.near(
                position + share * (action[:3] - position), between / np.linalg.norm(between), path[-1]
            )
            if joints is None or np.abs(joints - path[-1]).max() > _JUMP:
                return None
            path.append(joints)
        return np.stack(path)

    def _follow(self, path: np.ndarray) -> None:
        """Drive along the path [P 7], slow at both ends, and wait until the arm stands still."""
        world, data = self._world, self._world.data
        lengths = np.abs(np.diff(path, axis=0)).max(axis=1)
        at = np.concatenate([[0.0], np.cumsum(lengths)])
        steps = int(np.ceil(max(_SHORTEST, 1.5 * at[-1] / _JOINT_SPEED) / TIMESTEP))
        time = np.arange(1, steps + 1) / steps
        along = time * time * (3 - 2 * time) * at[-1]
        if at[-1] > 0:
            wanted = np.stack([np.interp(along, at, joint) for joint in path.T], axis=1)
        else:
            wanted = np.repeat(path[-1:], steps, axis=0)
        for command in wanted:
            data.ctrl[:7] = command
            self._tick()
        for _ in range(int(_SETTLE / TIMESTEP)):
            self._tick()
            off = np.abs(data.qpos[world.arm] - path[-1]).max()
            if off < _SETTLED_ERROR and np.abs(data.qvel[world.arm_speeds]).max() < _SETTLED_SPEED:
                break
        world.refresh()

    def _grip(self, *, opened: bool) -> None:
        """Open or close the fingers; an object between both is held from then on."""
        world, data = self._world, self._world.data
        if world.opened() == opened:
            return
        if opened:
            world.release()
        begin, end = data.ctrl[7], FINGER_OPEN if opened else 0.0
        for command in np.linspace(begin, end, int(abs(end - begin) / _FINGER_SPEED / TIMESTEP) + 1):
            data.ctrl[7:] = command  # gently: fingers at full force throw a block out
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
        if self.watcher is not None:
            self.watcher()
