"""Evaluation of a policy in one task: the evaluation conditions, and the fixed initial state of every episode."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any

import numpy as np

from instructrl.cli.progress import ProgressBar
from instructrl.errors import SimulatorError
from instructrl.evaluation.episode_log import EpisodeLog
from instructrl.evaluation.rollout import Episode, EpisodeSpec, Policy, run_rollouts
from instructrl.evaluation.worker_env import TaskInfo
from instructrl.sim import EpisodeStart, Outcome
from instructrl.sim.vector.pool import WorkerFailure, Workers
from instructrl.types import ACTION_SIZE

# Demonstrations use seeds below the first; all seeds fit into 53 bits, which every JSON reader represents exactly.
EVALUATION_SEEDS = 2_000_000_000
TRAINING_ROLLOUT_SEEDS = 4_000_000_000_000_000
_SEEDS_EACH = 1_000_000  # reserved for the episodes of one evaluation

CONDITION_DESCRIPTIONS = MappingProxyType(
    {
        "trained": ("Training instructions", "as in the training data, in unseen scenes"),
        "held_out_instructions": ("Held-out instructions", "the same scenes, in phrasings never used in training"),
        "no_instruction": ("No instruction", "the same scenes; success means that the image alone gives the goal away"),
        "swapped_instruction": (
            "Swapped instruction",
            "names another object in the same scene; success means the arm went to that one",
        ),
        "dropped_word": (
            "One word left out",
            "the same scenes and instructions without one word, chosen by the seed; below, which word decides",
        ),
        "oracle": ("Expert", "the scripted expert of the demonstrations, which knows the true state"),
    }
)


OnEpisode = Callable[[int, Episode], None]


@dataclass(frozen=True)
class Condition:
    """The episodes of one evaluation condition by index, or the reason why there are none."""

    name: str
    episodes: Mapping[int, Episode]
    seconds: float = 0.0  # wall time, summed over all sessions that ran them
    absent: str = ""  # why there are none
    lost: str = ""  # why some could not be run: they count as simulator errors and are not in the episode log


@dataclass(frozen=True)
class TaskEvaluator:
    """Evaluates a policy in one task, resuming from the episode log."""

    workers: Workers
    policy: Policy
    info: TaskInfo
    episode_log: EpisodeLog
    sentence: str = "seed"  # which of several instructions is given: the first, or one chosen by the episode's seed
    scenes: tuple[EpisodeStart, ...] = ()  # stored ones, at least one for each episode; empty: the seed draws scenes
    keep_going: bool = False  # count the missing episodes of a lost simulator as failed instead of raising
    own: range | None = None  # the only episodes to run; None: all

    def evaluate(self, names: Sequence[str], *, episodes: int, seed: int) -> list[Condition]:
        """Run the episodes missing from the log under one progress bar; return the conditions in the requested order.

        Raises:
            SimulatorError: a simulator cannot be kept alive and `keep_going` is false.
        """
        starts = dict(enumerate(self.scenes[:episodes])) or fixed_starts(
            episodes, self.info.variations, first_seed=EVALUATION_SEEDS, seed=seed
        )
        if self.own is not None:
            starts = {index: starts[index] for index in self.own}
        with ProgressBar(description=self.info.task, total=len(names) * len(starts), unit="episodes") as progress:
            conditions: list[Condition] = []
            for name in names:
                lost = conditions[-1].lost if conditions else ""
                conditions.append(self._evaluate_condition(name, starts, progress, lost))
                starts = with_scenes(starts, conditions[-1].episodes)
            return conditions

    def _evaluate_condition(
        self, name: str, starts: Mapping[int, EpisodeStart], progress: ProgressBar, lost: str
    ) -> Condition:
        if name == "held_out_instructions" and not all(
            self.info.held_out_instructions[one] for one in self.info.variations
        ):
            progress.update(len(starts))
            return Condition(name, {}, absent=f"{self.info.task} has no held-out instructions", lost=lost)
        done = {index: episode for index, episode in self.episode_log.episodes(name).items() if index in starts}
        if self.own is None and len(done) == len(starts) and all_crashed(done.values()):
            self.episode_log.remove(name)  # the simulator may be mended by now
            done = {}
        progress.set_description_str(f"{self.info.task} {name}")
        progress.update(len(done))

        def on_episode(index: int, episode: Episode) -> None:
            self.episode_log.append(name, index, episode)
            done[index] = episode
            rate = sum(finished.success for finished in done.values()) / len(done)
            progress.set_postfix_str(f"success {rate:.0%}", refresh=False)
            progress.update()

        missing = {index: start for index, start in starts.items() if index not in done}
        self.episode_log.start_clock()
        try:
            if not lost:
                self._run(name, missing, on_episode)
        except SimulatorError as error:
            if not self.keep_going:
                raise
            lost = str(error)
        seconds = sum(self.episode_log.seconds(name, index) for index in done)
        if lost:
            done |= {index: failed_episode(start) for index, start in starts.items() if index not in done}
        progress.update(len(starts) - len(done))  # scenes without an alternative goal
        absent = "" if done else f"the scenes of {self.info.task} have no alternative goal"
        return Condition(name, {index: done[index] for index in sorted(done)}, seconds, absent, lost)

    def _run(self, name: str, starts: Mapping[int, EpisodeStart], on_episode: OnEpisode) -> None:
        """Run these episodes of a condition."""
        if name == "oracle":
            demonstrate(self.workers, starts, self.info, on_episode=on_episode)
            return
        if name == "swapped_instruction":
            specs = swapped_instruction_specs(
                self.workers, starts, self.info, choose_instruction=self._choose_instruction, on_episode=on_episode
            )
        elif name == "no_instruction":
            specs = {index: EpisodeSpec(start, "") for index, start in starts.items()}
        elif name in ("trained", "dropped_word") and self.sentence == "seed":  # the simulator chooses by seed
            specs = {index: EpisodeSpec(start, drop_word=name == "dropped_word") for index, start in starts.items()}
        else:
            pool = self.info.held_out_instructions if name == "held_out_instructions" else self.info.instructions
            specs = {
                index: EpisodeSpec(
                    start,
                    self._choose_instruction(pool[start.variation], start.seed),
                    drop_word=name == "dropped_word",
                )
                for index, start in starts.items()
            }
        run_rollouts(self.workers, self.policy, specs=specs, on_episode=on_episode)

    def _choose_instruction(self, instructions: Sequence[str], seed: int) -> str:
        return instructions[0] if self.sentence == "first" else choose(instructions, seed)


def fixed_starts(episodes: int, variations: Sequence[int], *, first_seed: int, seed: int) -> dict[int, EpisodeStart]:
    """The initial states of a condition: the variations in turn, with seeds that no demonstration has."""
    first = first_seed + seed * _SEEDS_EACH
    return {index: EpisodeStart(variations[index % len(variations)], first + index) for index in range(episodes)}


def with_scenes(starts: Mapping[int, EpisodeStart], episodes: Mapping[int, Episode]) -> dict[int, EpisodeStart]:
    """Starts that restore the scenes of episodes that ran, so that every condition sees the same ones."""
    scenes = {index: episode.start.rejected_placements for index, episode in episodes.items()}
    return {
        index: start if scenes.get(index) is None else replace(start, rejected_placements=scenes[index])
        for index, start in starts.items()
    }


def choose(options: Sequence[Any], seed: int) -> Any:
    """One of the options, chosen by the episode's seed."""
    return options[int(np.random.default_rng(seed).integers(len(options)))]


def all_crashed(episodes: Iterable[Episode]) -> bool:
    """Return True if the simulator crashed in every episode, which says nothing about what was evaluated."""
    return all(episode.outcome is Outcome.SIMULATOR_ERROR for episode in episodes)


def failed_episode(start: EpisodeStart) -> Episode:
    """An episode that no simulator could run to its end."""
    return Episode(start, "", Outcome.SIMULATOR_ERROR, np.zeros((0, ACTION_SIZE)))


def swapped_instruction_specs(
    workers: Workers,
    starts: Mapping[int, EpisodeStart],
    info: TaskInfo,
    *,
    choose_instruction: Callable[[Sequence[str], int], str],
    on_episode: OnEpisode,
) -> dict[int, EpisodeSpec]:
    """Specs with an alternative goal of each scene, its training instruction and its success check.

    Scenes without an alternative goal are left out. A scene that crashes the simulator is reported at once as a failed
    episode.
    """
    specs = {}
    for index, goals in _results(workers, "alternative_goals", starts):
        start = starts[index]
        if isinstance(goals, WorkerFailure):
            on_episode(index, failed_episode(start))
        elif goals:
            goal = choose(sorted(goals), start.seed)
            specs[index] = EpisodeSpec(
                replace(start, goal=goal), choose_instruction(info.instructions[goal], start.seed)
            )
    return specs


def demonstrate(workers: Workers, starts: Mapping[int, EpisodeStart], info: TaskInfo, *, on_episode: OnEpisode) -> None:
    """Run the expert and report each episode."""
    for index, result in _results(workers, "expert", starts):
        start = starts[index]
        failed = isinstance(result, WorkerFailure)
        actions, outcome = (np.zeros((0, ACTION_SIZE)), Outcome.SIMULATOR_ERROR) if failed else result
        instruction = info.instructions[start.variation][0]
        on_episode(index, Episode(start, instruction, outcome, np.asarray(actions, np.float64)))


def _results(workers: Workers, method: str, starts: Mapping[int, EpisodeStart]) -> Iterator[tuple[int, Any]]:
    """Call a method for every start on whichever worker is free; yield (index, result) as they complete."""
    indices = list(starts)
    for position, result in workers.map(method, [(start,) for start in starts.values()]):
        yield indices[position], result
