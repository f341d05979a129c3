"""Paired differences between the settings of a sweep, over the scenes in which the runs of both were evaluated."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

from instructrl.errors import InputError
from instructrl.evaluation.compare.sweep_runs import Run
from instructrl.evaluation.results.pairs import add_pairs, compare_pairs, pairs_text
from instructrl.evaluation.results.summary import HEADLINE


@dataclass(frozen=True)
class PairedDifference:
    """The success of one setting minus that of another in the same scenes; `refused` is the reason if there is none."""

    first: str
    second: str
    runs: int = 0  # pairs of runs with the same training seed
    numbers: Mapping[str, Any] | None = None
    refused: str = ""

    def record(self) -> dict[str, Any]:
        """The entry in comparison.json."""
        about = {"settings": self.first, "minus": self.second}
        if self.numbers is None:
            return {**about, "refused": self.refused}
        return {**about, "paired_runs": self.runs, **self.numbers}

    def text(self) -> str:
        """One line."""
        if self.numbers is None:
            return f"not paired: {self.refused}"
        pairs = f"{self.numbers['pairs']} pairs" + (f" of {self.runs} runs each" if self.runs > 1 else "")
        return f"paired: {self.first} minus {self.second}: {pairs_text(self.numbers)} ({pairs})"


def paired_differences(
    groups: Sequence[tuple[str, Sequence[Run]]], *, condition: str = HEADLINE
) -> list[PairedDifference]:
    """The paired difference of every two settings, each given as its label and its runs.

    Only runs that were evaluated in this condition count.
    """
    evaluated = [(label, {run.seed: run for run in runs if _evaluated(run, condition)}) for label, runs in groups]
    found = []
    for (first, runs), (second, others) in combinations([group for group in evaluated if group[1]], 2):
        try:
            numbers = [_compare(runs[seed], others[seed], condition) for seed in sorted(runs.keys() & others.keys())]
            if not numbers:
                raise InputError(
                    f"{first} has training seeds {_listed(runs)}, {second} has {_listed(others)}, expected one in "
                    "common; train one of them with a seed of the other"
                )
            found.append(PairedDifference(first, second, len(numbers), add_pairs(numbers)))
        except InputError as error:
            found.append(PairedDifference(first, second, refused=str(error)))
    return found


def _evaluated(run: Run, condition: str) -> bool:
    return run.results is not None and condition in run.results["conditions"]


def _compare(first: Run, second: Run, condition: str) -> dict[str, Any]:
    """Compare two runs of the same training seed.

    Raises:
        InputError: they were not evaluated in the same scenes.
    """
    scenes, others = _scenes(first, condition), _scenes(second, condition)
    if scenes.keys() != others.keys():
        common = len(scenes.keys() & others.keys())
        raise InputError(
            f"{first.path.name} has {len(scenes)} scenes, {second.path.name} {len(others)}, of which {common} are the "
            "same, expected the same in both; evaluate them with equal tasks, protocol, seed and episodes"
        )
    return compare_pairs(scenes, others)


def _scenes(run: Run, condition: str) -> dict[str, str]:
    """The outcomes of a run by task, variation and seed.

    Raises:
        InputError: an earlier version wrote the results, which did not record the scenes.
    """
    assert run.results is not None
    tasks = run.results.get("tasks", {run.results.get("task", ""): run.results})
    found = {
        f"{task}/{scene}": outcome
        for task, entry in tasks.items()
        for scene, outcome in entry["conditions"].get(condition, {}).get("scenes", {}).items()
    }
    if not found:
        raise InputError(
            f"{run.path.name}: its results have no scenes; evaluate it again, which plays no episode twice"
        )
    return found


def _listed(runs: Mapping[int, Run]) -> str:
    return ", ".join(map(str, sorted(runs)))
