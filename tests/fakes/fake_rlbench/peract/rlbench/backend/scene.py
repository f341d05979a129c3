import faults
import numpy as np
from rlbench.observation_config import ObservationConfig
from world import HIGH, LOW, World


class Scene:
    def __init__(self, pyrep, robot, obs_config=ObservationConfig(), robot_setup="panda"):  # noqa: B008
        self.pyrep, self.robot, self.robot_setup = pyrep, robot, robot_setup
        self.world = World(obs_config)
        self._workspace_minx = LOW[0]
        self._workspace_miny = LOW[1]
        self._workspace_minz = LOW[2]
        self._workspace_maxx = HIGH[0]
        self._workspace_maxy = HIGH[1]
        self._workspace_maxz = HIGH[2]

    @property
    def task(self):
        return self.world.task

    def load(self, task) -> None:
        self.world.task = task
        task.init_task()

    def reset(self) -> None:
        self.world.home()
        self.task.cleanup_()
        self.task.restore_state(None)

    def init_episode(self, index, randomly_place=True, max_attempts=5) -> list[str]:
        descriptions = self.world.place(index, max_attempts, validate=True)
        faults.strike("reset", index)
        return descriptions

    def get_demo(self, record=True, callable_each_step=None, randomly_place=True):
        return self.world.demonstrate(self.get_observation)

    def get_observation(self):
        ignored = np.array(self.world.opened) if self.world.config.record_ignore_collisions else None
        return self.world.observe(self.world.misc(), ignore_collisions=ignored)
