"""Rollouts while training: handed to the training loop, which knows no simulator."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from instructrl.config import TrainConfig
from instructrl.data.tokenizer import make_tokenizer
from instructrl.evaluation.actor import AgentActor
from instructrl.evaluation.protocol import TRAINING_ROLLOUT_SEEDS, fixed_starts
from instructrl.evaluation.rollout import Plan, rollouts
from instructrl.evaluation.run import choose_renderer, recorded_renderer
from instructrl.evaluation.stage import stage_workers, task_facts
from instructrl.sim.workers import Workers
from instructrl.training.state import make_agent


class RolloutHook:
    """(parameters, epoch) -> metrics of the same few episodes each time; workers are kept from call to call."""

    def __init__(self, config: TrainConfig, run: Path):
        self._config, self._run = config, run
        self._workers: Workers | None = None
        self._actor: AgentActor | None = None
        self._plans: dict[int, Plan] = {}

    def __call__(self, params: Any, epoch: int) -> dict[str, float]:
        if self._workers is None or self._actor is None:
            self._workers, self._actor = self._open()
        self._actor.params = params
        episodes = list(rollouts(self._workers, self._actor, plans=self._plans).values())
        return {
            "success_rate": sum(episode.success for episode in episodes) / len(episodes),
            "mean_steps": sum(episode.steps for episode in episodes) / len(episodes),
        }

    def _open(self) -> tuple[Workers, AgentActor]:
        config = self._config
        renderer = choose_renderer(recorded_renderer(self._run), None)
        workers = stage_workers(config.sim, config.task.name, renderer=renderer, count=config.sim.workers)
        facts = task_facts(workers, config.task.name, config.task.variations)
        episodes, first = config.training.rollout_episodes, TRAINING_ROLLOUT_SEEDS
        starts = fixed_starts(episodes, facts.variations, first_seed=first, seed=config.seed)
        self._plans = {index: Plan(start) for index, start in starts.items()}
        tokenizer = make_tokenizer(config.encoder)
        agent = make_agent(config, vocabulary_size=tokenizer.vocabulary_size)
        return workers, AgentActor(agent, None, tokenizer, slots=len(workers), steps=facts.max_steps)

    def close(self) -> None:
        """End the worker processes."""
        if self._workers is not None:
            self._workers.close()


@contextmanager
def rollout_hook(config: TrainConfig, run: Path) -> Iterator[RolloutHook]:
    """The hook for `training.loop.train`; it opens simulators at the first rollout."""
    hook = RolloutHook(config, run)
    try:
        yield hook
    finally:
        hook.close()
