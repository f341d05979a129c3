"""Data of report sections shared by single tasks and sets of tasks: conditions, outcomes, variations and videos."""

import base64
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from instructrl.evaluation.evaluator import CONDITION_DESCRIPTIONS
from instructrl.evaluation.results.causes import keyframes_text
from instructrl.evaluation.results.summary import bounds
from instructrl.sim import Outcome

_WORDS = 8  # shown of those that are counted together


class Rate(NamedTuple):
    """A success rate and its 95 % interval, in percent."""

    percent: float
    low: float
    high: float
    episodes: int
    mean_steps: float | None


class ConditionRow(NamedTuple):
    """A condition in a table; without a rate, `absent` says why it was not run."""

    name: str
    rate: Rate | None
    notes: Sequence[str] = ()
    absent: str = ""


class OutcomeCount(NamedTuple):
    """The number of a condition's episodes that ended in an outcome."""

    name: str
    episodes: int
    percent: float


class OutcomeRow(NamedTuple):
    """The outcomes of a condition's episodes."""

    name: str
    outcomes: Sequence[OutcomeCount]


class CauseRow(NamedTuple):
    """The causes of a condition's failures; `keyframes` says where each begins."""

    name: str
    failures: int
    causes: Sequence[OutcomeCount]
    keyframes: Sequence[str]


class VariationRow(NamedTuple):
    """Successes in a requested variation: the rate of the training instructions, and each condition's counts."""

    variation: int
    instruction: str
    rate: Rate | None
    counts: Sequence[str]


class VariationTable(NamedTuple):
    """Successes by requested variation, for every condition of one task."""

    conditions: Sequence[str]
    rows: Sequence[VariationRow]


class PairsRow(NamedTuple):
    """Comparison of a condition, or of sentences without a word, with the training instructions in the same scenes."""

    name: str
    notes: Sequence[str]
    rate: Rate
    paired: Mapping[str, Any]


class Video(NamedTuple):
    """A video as base64, with what is read aloud for it."""

    label: str
    data: str


class Sections(NamedTuple):
    """The sections about a task, or about the means over several."""

    conditions: Sequence[ConditionRow]
    outcomes: Sequence[OutcomeRow]
    causes: Sequence[CauseRow]
    pairs: Sequence[PairsRow]
    words: Sequence[PairsRow]
    variations: VariationTable | None
    videos: Sequence[Video]


def of_task(entry: Mapping[str, Any], folder: Path, *, meanings: bool) -> Sections:
    """The sections of one task, with or without the meanings of the conditions; videos are read from `folder`."""
    return Sections(
        conditions(entry, meanings=meanings),
        outcomes(entry),
        causes(entry),
        pairs(entry),
        words(entry),
        variations(entry),
        videos(entry, folder),
    )


def of_means(results: Mapping[str, Any], *, tasks: int) -> Sections:
    """The sections of the means over several tasks."""
    shared = outcomes(results), causes(results), pairs(results), words(results)
    return Sections(conditions(results, tasks=tasks), *shared, None, [])


def rate(condition: Mapping[str, Any]) -> Rate:
    """The success rate of a condition."""
    low, high = (100 * end for end in bounds(condition))
    return Rate(100 * condition["success_rate"], low, high, condition["episodes"], condition.get("mean_steps"))


def conditions(results: Mapping[str, Any], *, tasks: int = 1, meanings: bool = True) -> list[ConditionRow]:
    """Table of the conditions; for a set of `tasks`, notes conditions that only some tasks have."""
    rows = []
    for key, condition in results["conditions"].items():
        notes = [CONDITION_DESCRIPTIONS[key][1]] if meanings else []
        if condition.get("averaged_tasks", tasks) < tasks:
            notes.append(f"mean of the {condition['averaged_tasks']} tasks that have this condition")
        rows.append(ConditionRow(condition_name(key), rate(condition), notes))
    return rows + [
        ConditionRow(condition_name(key), None, absent=reason) for key, reason in results["absent_conditions"].items()
    ]


def outcomes(results: Mapping[str, Any]) -> list[OutcomeRow]:
    """The outcomes of each condition's episodes."""
    rows = []
    for key, condition in results["conditions"].items():
        counts = {name: count for name, count in condition["outcomes"].items() if count}
        shares = [OutcomeCount(name, count, 100 * count / condition["episodes"]) for name, count in counts.items()]
        rows.append(OutcomeRow(condition_name(key), shares))
    return rows


def causes(results: Mapping[str, Any]) -> list[CauseRow]:
    """The causes of each condition's failures; nothing for conditions without failures or diagnosis."""
    rows = []
    for key, condition in results["conditions"].items():
        counts = condition.get("diagnosis", {"failures": 0, "causes": {}})
        if counts["failures"]:
            found = counts["causes"]
            shares = [
                OutcomeCount(name, cause["episodes"], 100 * cause["episodes"] / counts["failures"])
                for name, cause in found.items()
            ]
            places = [keyframes_text(cause) for cause in found.values()]
            rows.append(CauseRow(condition_name(key), counts["failures"], shares, places))
    return rows


def pairs(results: Mapping[str, Any]) -> list[PairsRow]:
    """The paired difference of each condition to the training instructions."""
    return [
        PairsRow(condition_name(key), [], rate(condition), condition["paired"])
        for key, condition in results["conditions"].items()
        if "paired" in condition
    ]


def words(results: Mapping[str, Any]) -> list[PairsRow]:
    """The same for each word that was left out; long lists of words are shortened."""
    rows = results["conditions"].get("dropped_word", {}).get("words", [])
    return [PairsRow(row["word"], _words(row), rate(row), row["paired"]) for row in rows]


def _words(row: Mapping[str, Any]) -> list[str]:
    if row["words"] == [row["word"]]:
        return []
    more = ", ..." if len(row["words"]) > _WORDS else ""
    return [", ".join(row["words"][:_WORDS]) + more]


def videos(entry: Mapping[str, Any], folder: Path) -> list[Video]:
    """The videos, read from `folder`: successes first."""
    found = []
    for video in sorted(entry["videos"], key=lambda video: video["outcome"] != Outcome.SUCCESS):
        data = base64.b64encode((folder / video["file"]).read_bytes()).decode()
        label = f"{video['instruction']} ({video['outcome'].replace('_', ' ')})"
        found.append(Video(label, data))
    return found


def variations(entry: Mapping[str, Any]) -> VariationTable:
    """Successes by requested variation, for every condition of one task."""
    cells: dict[int, dict[str, Mapping[str, Any]]] = {}
    for key, condition in entry["conditions"].items():
        for one in condition["variations"]:
            cells.setdefault(one["variation"], {})[key] = one
    keys = list(entry["conditions"])
    names = [condition_name(key) for key in keys]
    return VariationTable(names, [_variation(variation, cells[variation], keys) for variation in sorted(cells)])


def _variation(variation: int, found: Mapping[str, Mapping[str, Any]], keys: Sequence[str]) -> VariationRow:
    counts = [f"{found[key]['successes']}/{found[key]['episodes']}" if key in found else "" for key in keys]
    trained = rate(found["trained"]) if "trained" in found else None
    return VariationRow(variation, next(iter(found.values()))["sentence"], trained, counts)


def condition_name(key: str) -> str:
    """Display name of a condition."""
    return CONDITION_DESCRIPTIONS[key][0]
