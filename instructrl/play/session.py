"""A scene of the embedded simulator, and the agent that obeys sentences in it."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from instructrl.actions import check_action
from instructrl.config.simulators import TabletopConfig
from instructrl.errors import InputError
from instructrl.inference.batched_agent import BatchedAgent
from instructrl.play.sentences import Goal, Sentences
from instructrl.sim import EpisodeStart, Outcome
from instructrl.sim.tabletop.env import Tabletop
from instructrl.sim.tabletop.render import View
from instructrl.sim.tabletop.task import load_task
from instructrl.tasks import TASKS
from instructrl.training.parameters.load_agent import LoadedAgent
from instructrl.types import Observation


@dataclass(frozen=True)
class Sight:
    """The camera images at a keyframe, and the head's heatmaps of the next one.

    Attributes:
        images: uint8 [cameras, H, W, 3].
        heatmaps: float32 [cameras, side, side], shares of the images' patches; None: none.
    """

    images: np.ndarray
    heatmaps: np.ndarray | None = None


class Session:
    """One scene at a time, with one agent. It draws, so that all calls have to come from one thread.

    Attributes:
        tasks: those that the agent has learned.
        cameras: whose images it sees.
        sentences: that it understands.
        task: of the scene.
        start: the variation and the seed of the scene.
        goals: what can be asked for in the scene.
    """

    def __init__(self, trained: LoadedAgent) -> None:
        """Prepare an agent.

        Raises:
            InputError: the agent was trained in another simulator.
        """
        self._sim, task = trained.config.sim, trained.config.task
        self.tasks = tuple(name for name in task.tasks or [task.name] if name in TASKS)
        if not isinstance(self._sim, TabletopConfig) or not self.tasks:
            raise InputError(f"run: found an agent of {self._sim.kind}; allowed: one of the embedded tasks")
        self.cameras = tuple(self._sim.cameras)
        self.sentences = Sentences(self.tasks, trained.tokenizer, trained.words)
        # of all tasks, so that the agent is compiled once
        steps = max(load_task(name).max_steps for name in self.tasks)
        self._agent = BatchedAgent.from_trained(trained, slots=1, steps=steps)
        self._env: Tabletop | None = None
        self._view: View | None = None
        self.start = EpisodeStart(0, 0)
        self.task, self.goals = "", tuple[Goal, ...]()

    def open(self, goal: Goal, seed: int) -> None:
        """Make the scene in which an episode of this goal and seed begins.

        Raises:
            InputError: it is no goal of the agent's tasks, or the seed is negative.
        """
        if goal not in self.sentences.by_goal:
            raise InputError(f"scene: found {goal.task} {goal.variation}; allowed: {', '.join(self.tasks)}")
        if self._env is None or self.task != goal.task:
            self.close()
            self._env, self.task = Tabletop.from_config(self._sim, goal.task), goal.task
            self._env.view = self._view
        self.start = EpisodeStart(goal.variation, seed)
        self._env.reset(self.start)
        variations = sorted((goal.variation, *self._env.alternative_goals()))
        self.goals = tuple(Goal(goal.task, variation) for variation in variations)

    def restart(self) -> None:
        """Bring the arm and all things back to the scene's beginning."""
        self._scene().reset(self.start)

    def sight(self) -> Sight:
        """The images of the agent's cameras now."""
        return Sight(np.stack([self._scene().camera_image(name) for name in self.cameras]))

    def image(self, *, size: int) -> np.ndarray:
        """The scene now, uint8 [size, size, 3]."""
        return self._scene().scene_image(size=size)

    def look(self, view: View) -> None:
        """Draw later images from there, those of a film that is being made too; from any thread."""
        self._view = view
        if self._env is not None:
            self._env.view = view

    def obey(
        self, text: str, goal: Goal, *, size: int, see: Callable[[Sight], None], film: Callable[[np.ndarray], None]
    ) -> Outcome:
        """Let the agent act by a sentence, from the scene's beginning on, as in its training.

        Args:
            text: the sentence.
            goal: one of `goals`, of which the success is checked.
            size: side of the film's images in pixels.
            see: is given what the agent sees at each keyframe, before the arm moves.
            film: is given the images of the scene, uint8 [size, size, 3], ten for a second of its time.

        Raises:
            InputError: the sentence has more tokens than the agent reads.
        """
        env = self._scene()
        self._agent.start_episode(0, text)
        observation = env.reset(EpisodeStart(self.start.variation, self.start.seed, goal=goal.variation))
        action, outcome = self._act(observation, see), None
        with env.filming(film, size=size):
            while outcome is None:
                observation, outcome = env.step(action)
                if outcome is None:
                    action = self._act(observation, see)
        return outcome

    def close(self) -> None:
        """Release the simulator."""
        if self._env is not None:
            self._env.close()
        self._env = None

    def _act(self, observation: Observation, see: Callable[[Sight], None]) -> np.ndarray:
        action = check_action(self._agent.act({0: observation})[0])
        heatmaps = self._agent.heatmaps
        see(Sight(observation.images, None if heatmaps is None else np.asarray(heatmaps[0])))
        return action

    def _scene(self) -> Tabletop:
        if self._env is None:
            raise RuntimeError("no scene is open")
        return self._env
