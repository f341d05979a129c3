import faults
import numpy as np

from rlbench.backend.exceptions import BoundaryError, TaskEnvironmentError, WaypointError

_MAX_RESET_ATTEMPTS = 40
_MAX_DEMO_ATTEMPTS = 10


class TaskEnvironment:
    def __init__(
        self,
        pyrep,
        robot,
        scene,
        task,
        action_mode,
        dataset_root,
        obs_config,
        static_positions=False,
        attach_grasped_objects=True,
    ):
        self._scene, self._task, self._action_mode = scene, task, action_mode
        self._variation_number, self._reset_called = 0, False
        self._scene.load(task)

    def get_name(self) -> str:
        return self._task.get_name()

    def variation_count(self) -> int:
        return self._task.variation_count()

    def set_variation(self, v) -> None:
        if v >= self.variation_count():
            raise TaskEnvironmentError(
                f"Requested variation {v}, but there are only {self.variation_count()} variations."
            )
        self._variation_number = v

    def reset(self):
        self._scene.reset()
        try:
            descriptions = self._scene.init_episode(self._variation_number, max_attempts=_MAX_RESET_ATTEMPTS)
        except (BoundaryError, WaypointError) as error:
            raise TaskEnvironmentError("Could not place the task in the scene.") from error
        self._reset_called = True
        return descriptions, self._scene.get_observation()

    def get_observation(self):
        faults.strike("observe", self._variation_number)
        return self._scene.get_observation()

    def step(self, action):
        if not self._reset_called:
            raise RuntimeError("Call 'reset' before calling 'step' on a task.")
        self._action_mode.action(self._scene, action)
        self._task.look(self._scene.world.tip, self._scene.world.opened)
        success, terminate = self._task.success()
        reward = self._task.reward()
        return self._scene.get_observation(), float(success) if reward is None else reward, terminate

    def get_demos(
        self,
        amount,
        live_demos=False,
        image_paths=False,
        callable_each_step=None,
        max_attempts=_MAX_DEMO_ATTEMPTS,
        random_selection=True,
        from_episode_number=0,
    ):
        assert live_demos
        return [self._live_demo(max_attempts) for _ in range(amount)]

    def _live_demo(self, attempts: int):
        for _ in range(attempts):
            before = np.random.get_state()
            self.reset()
            try:
                demo = self._scene.get_demo()
            except Exception:
                continue
            demo.random_seed = before
            return demo
        raise RuntimeError("Could not collect demos. Maybe a problem with the task?")

    def reset_to_demo(self, demo):
        demo.restore_state()
        return self.reset()
