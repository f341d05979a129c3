import os

import faults

from rlbench.backend.scene import Scene
from rlbench.observation_config import ObservationConfig
from rlbench.task_environment import TaskEnvironment


class Environment:
    def __init__(
        self,
        action_mode,
        dataset_root: str = "",
        obs_config=ObservationConfig(),  # noqa: B008  (one for all: as the original has it)
        headless: bool = False,
        static_positions: bool = False,
        robot_setup: str = "panda",
    ):
        assert headless, "there is no screen here"
        self._action_mode, self._obs_config, self._scene = action_mode, obs_config, None

    def launch(self):
        assert self._scene is None
        print("[CoppeliaSim:loadinfo]   done.", flush=True)
        os.chdir(os.environ["COPPELIASIM_ROOT"])
        faults.strike("launch", -1)
        self._scene = Scene(self._obs_config)

    def get_task(self, task_class) -> TaskEnvironment:
        return TaskEnvironment(self._scene, task_class(), self._action_mode)

    def shutdown(self):
        faults.strike("shutdown", -1)
