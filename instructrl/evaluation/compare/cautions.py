"""Differences between the evaluations of a sweep's runs that are not of the agents."""

from collections.abc import Mapping, Sequence
from typing import Any

from instructrl.evaluation.compare.sweep_runs import Run
from instructrl.evaluation.results.comparability import cautions, compared_keys, name_of

_MOST = 5  # names of runs in a sentence


def sweep_cautions(runs: Sequence[Run]) -> list[str]:
    """Sentences on runs that were evaluated in other ways than others, and the cautions of each run's results."""
    folders = [run.path.name for run in runs]
    names = [run.path.name if folders.count(run.path.name) == 1 else run.name for run in runs]
    evaluated = [(name, run.results) for name, run in zip(names, runs, strict=True) if run.results is not None]
    simulators = [(name, simulator_of(results)) for name, results in evaluated]
    keys = dict.fromkeys(key for _, simulator in simulators for key in compared_keys(simulator))
    differing = [sentence for key in keys if (sentence := _difference(key, simulators))]
    own: dict[str, list[str]] = {}
    for name, results in evaluated:
        for sentence in cautions(results):
            own.setdefault(sentence, []).append(name)
    for name, run in zip(names, runs, strict=True):
        if run.missing and name not in own.get(run.missing, ()):
            own.setdefault(run.missing, []).append(name)
    return [*differing, *(f"{_listed(some)}: {sentence}" for sentence, some in own.items())]


def simulator_of(results: Mapping[str, Any]) -> Mapping[str, str]:
    """The simulator with which episodes were played; empty if an earlier version wrote the results."""
    renderer = results.get("renderer", {})
    return results.get("simulator") or ({"renderer": renderer["evaluation"]} if renderer else {})


def _difference(key: str, simulators: Sequence[tuple[str, Mapping[str, str]]]) -> str:
    """The sentence on a part of the simulators that is not the same for all runs; empty if it is, as far as known."""
    by_value: dict[str, list[str]] = {}
    for name, simulator in simulators:
        if value := simulator.get(key, "not recorded"):  # without OpenGL there is no backend of it
            by_value.setdefault(value, []).append(name)
    if len(by_value.keys() - {"not recorded"}) < 2:
        return ""
    values = ", ".join(f"{value} ({_listed(names)})" for value, names in by_value.items())
    return f"The runs were not evaluated with the same {name_of(key)}: {values}."


def _listed(names: Sequence[str]) -> str:
    """Names of runs; only the first ones of many."""
    more = f" and {len(names) - _MOST} more" if len(names) > _MOST else ""
    return ", ".join(names[:_MOST]) + more
