"""What is asked of a policy in one task: the rows of an evaluation, and the fixed start of every episode."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any

import numpy as np
from tqdm import tqdm

from instructrl.batch import ACTION_SIZE
from instructrl.errors import SimulatorError
from instructrl.evaluation.ledger import Ledger
from instructrl.evaluation.rollout import Actor, Episode, Plan, rollouts
from instructrl.evaluation.stage import TaskFacts
from instructrl.sim import Outcome, Start
from instructrl.sim.workers import WorkerFailure, Workers

# Seeds of demonstrations lie below the first; all fit into 53 bits, which every reader of JSON keeps.
EVALUATION_SEEDS = 2_000_000_000
TRAINING_ROLLOUT_SEEDS = 4_000_000_000_000_000
_SEEDS_EACH = 1_000_000  # room for the episodes of one evaluation

ROW_MEANINGS = MappingProxyType(
    {
        "trained": ("Trained sentences", "as in the training data, in scenes never seen"),
        "held_out": ("Held-out sentences", "the same scenes, in words kept out of training"),
        "removed": ("No instruction", "the same scenes: what the picture alone gives away"),
        "swapped": ("Swapped instruction", "names another thing in the same scene; success means the arm went there"),
        "oracle": ("Expert", "the script behind the demonstrations, which knows where everything is"),
    }
)


OnEpisode = Callable[[int, Episode], None]


@dataclass(frozen=True)
class Row:
    """The episodes of one row by their numbers, or the reason why there are none."""

    name: str
    episodes: Mapping[int, Episode]
    seconds: float = 0.0  # of wall time, over all sessions that played them
    absent: str = ""
    lost: str = ""  # why some could not be played: they are simulator errors, and not in the ledger


@dataclass(frozen=True)
class Evaluation:
    """What one evaluation plays with."""

    workers: Workers
    actor: Actor
    facts: TaskFacts
    ledger: Ledger
    sentence: str = "seed"  # which of several is told: the first, or one chosen by the episode's seed
    patient: bool = False  # count what a lost simulator leaves unplayed instead of raising

    def play(self, rows: Sequence[str], *, episodes: int, seed: int) -> list[Row]:
        """Play what the ledger does not have, under one progress bar; the rows in the order asked.

        Raises:
            SimulatorError: a simulator cannot be kept alive, and we are not patient.
        """
        starts = fixed_starts(episodes, self.facts.variations, first_seed=EVALUATION_SEEDS, seed=seed)
        with tqdm(
            total=len(rows) * episodes, unit="episode", dynamic_ncols=True, smoothing=0.05, disable=None
        ) as progress:
            played: list[Row] = []
            for name in rows:
                lost = played[-1].lost if played else ""
                played.append(self._row(name, starts, progress, lost))
            return played

    def _row(self, name: str, starts: Mapping[int, Start], progress: Any, lost: str) -> Row:
        if name == "held_out" and not all(self.facts.held_out[one] for one in self.facts.variations):
            progress.update(len(starts))
            return Row(name, {}, absent=f"{self.facts.task} keeps no sentences out of training", lost=lost)
        done = {index: episode for index, episode in self.ledger.episodes(name).items() if index in starts}
        progress.set_description(f"{self.facts.task} {name}")
        progress.update(len(done))

        def on_episode(index: int, episode: Episode) -> None:
            self.ledger.append(name, index, episode)
            done[index] = episode
            rate = sum(played.success for played in done.values()) / len(done)
            progress.set_postfix_str(f"success {rate:.0%}", refresh=False)
            progress.update()

        waiting = {index: start for index, start in starts.items() if index not in done}
        self.ledger.start_clock()
        try:
            if not lost:
                self._play(name, waiting, on_episode)
        except SimulatorError as error:
            if not self.patient:
                raise
            lost = str(error)
        seconds = sum(self.ledger.seconds(name, index) for index in done)
        if lost:
            done |= {index: unplayed(start) for index, start in starts.items() if index not in done}
        progress.update(len(starts) - len(done))  # scenes in which nothing can be swapped
        absent = "" if done else f"nothing else can be asked for in the scenes of {self.facts.task}"
        return Row(name, {index: done[index] for index in sorted(done)}, seconds, absent, lost)

    def _play(self, name: str, starts: Mapping[int, Start], on_episode: OnEpisode) -> None:
        """Play these episodes of a row."""
        if name == "oracle":
            demonstrate(self.workers, starts, self.facts, on_episode=on_episode)
            return
        if name == "swapped":
            plans = swapped_plans(self.workers, starts, self.facts, tell=self._tell, on_episode=on_episode)
        elif name == "removed":
            plans = {index: Plan(start, "") for index, start in starts.items()}
        elif name == "trained" and self.sentence == "seed":
            plans = {index: Plan(start) for index, start in starts.items()}  # the simulator's own choice
        else:
            sentences = self.facts.held_out if name == "held_out" else self.facts.sentences
            told = {index: self._tell(sentences[start.variation], start.seed) for index, start in starts.items()}
            plans = {index: Plan(start, told[index]) for index, start in starts.items()}
        rollouts(self.workers, self.actor, plans=plans, on_episode=on_episode)

    def _tell(self, sentences: Sequence[str], seed: int) -> str:
        return sentences[0] if self.sentence == "first" else choose(sentences, seed)


def fixed_starts(episodes: int, variations: Sequence[int], *, first_seed: int, seed: int) -> dict[int, Start]:
    """The starts of a row: the variations in turn, with seeds that no demonstration has."""
    first = first_seed + seed * _SEEDS_EACH
    return {index: Start(variations[index % len(variations)], first + index) for index in range(episodes)}


def choose(options: Sequence[Any], seed: int) -> Any:
    """One of the options, decided by the episode's seed."""
    return options[int(np.random.default_rng(seed).integers(len(options)))]


def unplayed(start: Start) -> Episode:
    """An episode that no simulator lived to play, or not to its end."""
    return Episode(start, "", Outcome.SIMULATOR_ERROR, np.zeros((0, ACTION_SIZE)))


def swapped_plans(
    workers: Workers,
    starts: Mapping[int, Start],
    facts: TaskFacts,
    *,
    tell: Callable[[Sequence[str], int], str],
    on_episode: OnEpisode,
) -> dict[int, Plan]:
    """Ask for a rival in each scene, in its training words, and judge by it; scenes without one are left out.

    A scene that kills the simulator is reported as an episode at once.
    """
    plans = {}
    for index, rivals in _answers(workers, "rivals", starts):
        start = starts[index]
        if isinstance(rivals, WorkerFailure):
            on_episode(index, unplayed(start))
        elif rivals:
            goal = choose(sorted(rivals), start.seed)
            plans[index] = Plan(replace(start, goal=goal), tell(facts.sentences[goal], start.seed))
    return plans


def demonstrate(workers: Workers, starts: Mapping[int, Start], facts: TaskFacts, *, on_episode: OnEpisode) -> None:
    """Let the expert play, and report each episode."""
    for index, answer in _answers(workers, "expert", starts):
        start = starts[index]
        failed = isinstance(answer, WorkerFailure)
        actions, outcome = (np.zeros((0, ACTION_SIZE)), Outcome.SIMULATOR_ERROR) if failed else answer
        sentence = facts.sentences[start.variation][0]
        on_episode(index, Episode(start, sentence, outcome, np.asarray(actions, np.float64)))


def _answers(workers: Workers, method: str, starts: Mapping[int, Start]) -> Iterator[tuple[int, Any]]:
    """Call a method for every start, on whichever worker is free."""
    numbers = list(starts)
    for place, answer in workers.map(method, [(start,) for start in starts.values()]):
        yield numbers[place], answer
