import os
from pathlib import Path

import faults

from rlbench.backend.scene import Scene
from rlbench.observation_config import ObservationConfig
from rlbench.task_environment import TaskEnvironment


class Environment:
    def __init__(
        self,
        action_mode,
        dataset_root="",
        obs_config=ObservationConfig(),  # noqa: B008  (one for all)
        headless=False,
        static_positions=False,
        robot_setup="panda",
        randomize_every=None,
        frequency=1,
        visual_randomization_config=None,
        dynamics_randomization_config=None,
        attach_grasped_objects=True,
        shaped_rewards=False,
        arm_max_velocity=1.0,
        arm_max_acceleration=4.0,
    ):
        assert headless, "there is no screen here"
        self._action_mode, self._obs_config, self._scene = action_mode, obs_config, None

    def launch(self):
        assert self._scene is None
        print("[CoppeliaSim:loadinfo]   done.", flush=True)
        before = Path.cwd()
        os.chdir(os.environ["COPPELIASIM_ROOT"])
        faults.strike("launch", -1)
        self._scene = Scene(None, None, self._obs_config)
        os.chdir(before)  # unless it failed

    def get_task(self, task_class) -> TaskEnvironment:
        task = task_class(None, None)
        return TaskEnvironment(None, None, self._scene, task, self._action_mode, "", self._obs_config)

    def shutdown(self):
        faults.strike("shutdown", -1)
