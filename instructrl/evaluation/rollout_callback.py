"""Rollout callback for the training loop, which itself does not depend on any simulator."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from instructrl.config.environment import task_names
from instructrl.config.training import TrainConfig
from instructrl.data.text.tokenizer import make_tokenizer
from instructrl.evaluation.evaluator import TRAINING_ROLLOUT_SEEDS, fixed_starts
from instructrl.evaluation.rollout import Episode, EpisodeSpec, print_warning, run_rollouts
from instructrl.evaluation.run_checks import choose_renderer, recorded_renderer
from instructrl.evaluation.workers import start_eval_workers, task_info
from instructrl.inference.batched_agent import BatchedAgent
from instructrl.inference.instruction_check import InstructionCheck
from instructrl.sim import check_tasks
from instructrl.sim.vector.pool import Workers
from instructrl.training.model_factory import make_agent
from instructrl.training.parameters.training_words import read_words


class RolloutCallback:
    """Callable (parameters, epoch) -> metrics, which evaluates the same few episodes of each task every time.

    With a single task, its workers are kept between calls. With several, that would be too many processes at once:
    each task's workers end before those of the next one start.
    """

    def __init__(self, config: TrainConfig, run: Path):
        if config.training.rollout_every:  # else no simulator is needed, as for the demonstrations of others
            config.sim.check_playable()
            check_tasks(config.sim, task_names(config.task))
        self._config, self._run = config, run
        self._workers: Workers | None = None
        self._agent: BatchedAgent | None = None  # one for all tasks, which share its compiled programs

    def __call__(self, params: Any, epoch: int) -> dict[str, float]:
        by_task = {task: self._run_task(task, params) for task in task_names(self._config.task)}
        episodes = [episode for some in by_task.values() for episode in some]
        rates = {f"success_rate/{task}": success_rate(some) for task, some in by_task.items()}
        return {
            "success_rate": success_rate(episodes),  # every task has the same number of episodes
            "mean_steps": sum(episode.steps for episode in episodes) / len(episodes),
            **(rates if len(rates) > 1 else {}),
        }

    def _run_task(self, task: str, params: Any) -> list[Episode]:
        config = self._config
        if self._workers is None:
            renderer = choose_renderer(config.sim, recorded_renderer(self._run), None)
            self._workers = start_eval_workers(config.sim, task, renderer=renderer, count=config.sim.workers)
        try:
            info = task_info(self._workers, task, config.task.variations)
            count, first = config.training.rollout_episodes, TRAINING_ROLLOUT_SEEDS
            starts = fixed_starts(count, info.variations, first_seed=first, seed=config.seed)
            specs = {index: EpisodeSpec(start) for index, start in starts.items()}
            policy = self._batched_agent(slots=len(self._workers))
            policy.params, policy.steps = params, info.max_steps
            return list(run_rollouts(self._workers, policy, specs=specs).values())
        finally:
            if len(task_names(config.task)) > 1:
                self.close()

    def _batched_agent(self, *, slots: int) -> BatchedAgent:
        if self._agent is None:
            tokenizer = make_tokenizer(self._config.encoder)
            agent = make_agent(self._config, vocabulary_size=tokenizer.vocabulary_size)
            words = read_words(self._run)
            check = InstructionCheck(self._config.encoder, tokenizer, words, report=print_warning)
            self._agent = BatchedAgent(agent, None, tokenizer, slots=slots, steps=1, check=check)
        return self._agent

    def close(self) -> None:
        """Stop the worker processes."""
        if self._workers is not None:
            self._workers.close()
            self._workers = None


def success_rate(episodes: Sequence[Episode]) -> float:
    """Fraction of successful episodes."""
    return sum(episode.success for episode in episodes) / len(episodes)


@contextmanager
def rollout_callback(config: TrainConfig, run: Path) -> Iterator[RolloutCallback]:
    """The callback for `training.loop.train`; simulators start at the first rollout."""
    callback = RolloutCallback(config, run)
    try:
        yield callback
    finally:
        callback.close()
