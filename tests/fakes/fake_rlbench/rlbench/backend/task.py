"""Base class of the tasks: points to visit in order, each with a gripper state."""

import random
import re

import numpy as np
from world import plan

NEAR_ENOUGH = 0.02  # metres


class Task:
    variations = 1
    gripper = (1.0,)  # at each point
    stops_wrong = False  # True if visiting a later point first ends the episode
    hopeless = False  # True if its expert is taken for successful although it is not

    def __init__(self, pyrep, robot, name=None):
        self.pyrep, self.robot = pyrep, robot
        self.name = name or re.sub("(?<!^)(?=[A-Z])", "_", type(self).__name__).lower()
        self.places, self.turned = np.zeros((0, 3)), 0.0
        self._waypoints, self._index = None, 0
        self.visited, self.terminates = 0, False

    def init_task(self) -> None:
        pass

    def get_name(self) -> str:
        return self.name

    def variation_count(self) -> int:
        return self.variations

    def init_episode(self, index) -> list[str]:
        """Random points, from both global random number generators, turned from where they are by a random angle."""
        count, self._index = len(self.gripper), index
        self.places = np.random.uniform([0.15, -0.05, 0.85], [0.3, 0.05, 1.0], size=(count, 3))
        self.places[:, 1] += np.arange(count) * 0.3 - 0.15
        self.turned += random.uniform(-0.5, 0.5)  # relative to the last placement, unless its state was restored
        self.places[:, 2] += 0.05 * np.sin(self.turned)
        self.visited, self.terminates = 0, False
        return [f"{verb} point {index}" for verb in ("touch", "visit", "go to")]

    def validate(self) -> None:
        self._waypoints = self._get_waypoints()

    def get_waypoints(self) -> list:
        if self._waypoints is None:
            self._waypoints = self._get_waypoints()
        return self._waypoints

    def _get_waypoints(self) -> list:
        plan(self._index, self)
        return list(self.places)

    def cleanup_(self) -> None:
        self._waypoints = None

    def get_state(self):
        return b"", 0

    def restore_state(self, state) -> None:
        self.turned = 0.0

    def reward(self) -> float | None:
        return None

    def look(self, tip: np.ndarray, opened: float) -> None:
        """Record which point has been reached."""
        near = np.linalg.norm(self.places - tip[:3], axis=1) < NEAR_ENOUGH
        if self.visited < len(near) and near[self.visited] and opened == self.gripper[self.visited]:
            self.visited += 1
        elif self.stops_wrong and near[self.visited + 1 :].any():
            self.terminates = True

    def success(self) -> tuple[bool, bool]:
        done = self.visited == len(self.gripper)
        return done, done or self.terminates
