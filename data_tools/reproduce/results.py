"""Results of the runs of a sweep of the paper's experiments, by experiment."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data_tools.reproduce.comparisons import FOLDER
from instructrl.evaluation.compare.grouping import over_seeds
from instructrl.evaluation.compare.pairing import PairedDifference, paired_differences
from instructrl.evaluation.compare.sweep_runs import Run, load_sweep
from instructrl.evaluation.results.summary import HEADLINE


@dataclass(frozen=True)
class Results:
    """The runs of each experiment that can be compared, and the others, which say why."""

    by_experiment: Mapping[str, Sequence[Run]]
    left_out: Sequence[Run]

    @property
    def runs(self) -> list[Run]:
        """All runs that can be compared."""
        return [run for runs in self.by_experiment.values() for run in runs]

    def conditions(self, experiment: str) -> Mapping[str, Mapping[str, Any]]:
        """Success of an experiment in each evaluation condition, over its seeds; empty if it was not evaluated."""
        return over_seeds(self.by_experiment.get(experiment, []))

    def difference(self, experiment: str, baseline: str, condition: str = HEADLINE) -> PairedDifference | None:
        """Success of an experiment minus that of a baseline in the same scenes; None if one was not evaluated so."""
        groups = [(name, self.by_experiment.get(name, [])) for name in (experiment, baseline)]
        return next(iter(paired_differences(groups, condition=condition)), None)


def load_results(folder: Path) -> Results:
    """Load the runs of a sweep of trainings.

    Raises:
        InputError: there is no such sweep, or its table is damaged.
    """
    sweep = load_sweep(folder, protocol=None)
    grouped: dict[str, list[Run]] = {}
    for run in sweep.runs:
        if not run.reason:
            grouped.setdefault(experiment_of(run.overrides), []).append(run)
    return Results(grouped, [run for run in sweep.runs if run.reason])


def experiment_of(overrides: Sequence[str]) -> str:
    """The experiment that a job's overrides choose, without the folder."""
    chosen = [word.removeprefix("experiment=") for word in overrides if word.startswith("experiment=")]
    return chosen[-1].removeprefix(FOLDER) if chosen else ""
