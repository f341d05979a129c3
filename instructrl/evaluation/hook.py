"""Rollouts while training: handed to the training loop, which knows no simulator."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from instructrl.config import TrainConfig, task_names
from instructrl.data.tokenizer import make_tokenizer
from instructrl.evaluation.actor import AgentActor
from instructrl.evaluation.protocol import TRAINING_ROLLOUT_SEEDS, fixed_starts
from instructrl.evaluation.rollout import Episode, Plan, rollouts
from instructrl.evaluation.run import choose_renderer, recorded_renderer
from instructrl.evaluation.stage import stage_workers, task_facts
from instructrl.sim.workers import Workers
from instructrl.training.state import make_agent


class RolloutHook:
    """(parameters, epoch) -> metrics of the same few episodes of each task each time.

    The workers of a single task are kept from call to call. Those of several would be too many processes at once:
    each task's end before the next one's start.
    """

    def __init__(self, config: TrainConfig, run: Path):
        self._config, self._run = config, run
        self._workers: Workers | None = None
        self._actors: dict[int, AgentActor] = {}  # by the most steps of an episode: each is compiled once

    def __call__(self, params: Any, epoch: int) -> dict[str, float]:
        played = {task: self._play(task, params) for task in task_names(self._config.task)}
        episodes = [episode for some in played.values() for episode in some]
        rates = {f"success_rate/{task}": success_rate(some) for task, some in played.items()}
        return {
            "success_rate": success_rate(episodes),  # each task has as many episodes
            "mean_steps": sum(episode.steps for episode in episodes) / len(episodes),
            **(rates if len(rates) > 1 else {}),
        }

    def _play(self, task: str, params: Any) -> list[Episode]:
        config = self._config
        if self._workers is None:
            renderer = choose_renderer(recorded_renderer(self._run), None)
            self._workers = stage_workers(config.sim, task, renderer=renderer, count=config.sim.workers)
        try:
            facts = task_facts(self._workers, task, config.task.variations)
            count, first = config.training.rollout_episodes, TRAINING_ROLLOUT_SEEDS
            starts = fixed_starts(count, facts.variations, first_seed=first, seed=config.seed)
            plans = {index: Plan(start) for index, start in starts.items()}
            actor = self._actor(slots=len(self._workers), steps=facts.max_steps)
            actor.params = params
            return list(rollouts(self._workers, actor, plans=plans).values())
        finally:
            if len(task_names(config.task)) > 1:
                self.close()

    def _actor(self, *, slots: int, steps: int) -> AgentActor:
        if steps not in self._actors:
            tokenizer = make_tokenizer(self._config.encoder)
            agent = make_agent(self._config, vocabulary_size=tokenizer.vocabulary_size)
            self._actors[steps] = AgentActor(agent, None, tokenizer, slots=slots, steps=steps)
        return self._actors[steps]

    def close(self) -> None:
        """End the worker processes."""
        if self._workers is not None:
            self._workers.close()
            self._workers = None


def success_rate(episodes: Sequence[Episode]) -> float:
    """The share of episodes in which the task was done."""
    return sum(episode.success for episode in episodes) / len(episodes)


@contextmanager
def rollout_hook(config: TrainConfig, run: Path) -> Iterator[RolloutHook]:
    """The hook for `training.loop.train`; it opens simulators at the first rollout."""
    hook = RolloutHook(config, run)
    try:
        yield hook
    finally:
        hook.close()
