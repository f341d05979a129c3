import os

import faults
import numpy as np

from rlbench.backend.exceptions import TaskEnvironmentError
from rlbench.backend.scene import DOWN
from rlbench.demo import Demo


class TaskEnvironment:
    def __init__(self, scene, task, action_mode):
        self._scene, self._task, self._action_mode = scene, task, action_mode
        self._variation_number, self._reset_called = 0, False
        scene.task = task

    def get_name(self) -> str:
        return self._task.get_name()

    def variation_count(self) -> int:
        return self._task.variation_count()

    def set_variation(self, v: int) -> None:
        if v >= self.variation_count():
            raise TaskEnvironmentError(
                f"Requested variation {v}, but there are only {self.variation_count()} variations."
            )
        self._variation_number = v

    def reset(self):
        scene = self._scene
        scene.reset()
        scene.variation = self._variation_number
        descriptions = self._task.init_episode(scene, self._variation_number)
        faults.strike("reset", self._variation_number)
        if self._task.places[0, 0] > float(os.environ.get("FAKE_RLBENCH_CROWDED", "inf")):
            raise TaskEnvironmentError("Could not place the task in the scene.")
        self._reset_called = True
        return descriptions, scene.get_observation()

    def get_observation(self):
        faults.strike("observe", self._variation_number)
        return self._scene.get_observation()

    def step(self, action):
        if not self._reset_called:
            raise RuntimeError("Call 'reset' before calling 'step' on a task.")
        self._action_mode.action(self._scene, action)
        self._task.look(self._scene.tip, self._scene.opened)
        success, terminate = self._task.success()
        return self._scene.get_observation(), float(success), terminate

    def get_demos(
        self,
        amount: int,
        live_demos: bool = False,
        image_paths: bool = False,
        callable_each_step=None,
        max_attempts: int = 10,
        random_selection: bool = True,
        from_episode_number: int = 0,
    ) -> list[Demo]:
        assert live_demos
        return [self._live_demo(max_attempts) for _ in range(amount)]

    def _live_demo(self, attempts: int) -> Demo:
        for _ in range(attempts):
            before = np.random.get_state()
            self.reset()
            try:
                faults.strike("demo", self._variation_number)
                return Demo(self._play(), before)
            except Exception:
                continue
        raise RuntimeError("Could not collect demos. Maybe a problem with the task?")

    def _play(self) -> list:
        """Fast moves to above each point and down to it, with gripper changes where needed."""
        scene, seen = self._scene, [self._scene.get_observation()]
        ways = [
            (place + [0, 0, height], opened if not height else None)
            for place, opened in zip(self._task.places, self._task.gripper, strict=True)
            for height in (0.1, 0.0)
        ]
        for place, opened in ways:
            begin, end = scene.tip, np.concatenate([place, DOWN])
            for share, speed in zip(np.linspace(0, 1, 8)[1:], (0.3, 0.8, 0.9, 0.9, 0.8, 0.3, 0.001), strict=True):
                scene.tip = begin * (1 - share) + end * share
                scene.tip[3:] /= np.linalg.norm(scene.tip[3:])
                scene.velocities = np.array([speed, -speed / 2, 0, 0, 0, 0, speed / 3])
                seen.append(scene.get_observation())
            if opened not in (None, scene.opened):
                scene.opened = opened
                seen.append(scene.get_observation())
        return seen
