"""Base class of the tasks: points to visit in order, each with a gripper state."""

import numpy as np

NEAR_ENOUGH = 0.02  # metres


class Task:
    variations = 1
    gripper = (1.0,)  # at each point
    stops_wrong = False  # True if visiting a later point first ends the episode

    def __init__(self):
        self.places = np.zeros((0, 3))
        self.visited, self.terminates = 0, False

    def get_name(self) -> str:
        return type(self).__name__

    def variation_count(self) -> int:
        return self.variations

    def init_episode(self, scene, index: int) -> list[str]:
        self.places = scene.draw_places(len(self.gripper))
        self.visited, self.terminates = 0, False
        return [f"{verb} point {index}" for verb in ("touch", "visit", "go to")]

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
