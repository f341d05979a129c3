"""Causes of failed episodes: their counts in results.json, and what to improve next."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from instructrl.evaluation.diagnosis import POSITION_TOLERANCE, ROTATION_TOLERANCE, Cause
from instructrl.evaluation.rollout import Episode

ADVICE = {
    Cause.WRONG_OBJECT: "improve how the instruction selects the object",
    Cause.POSITION: "improve how exactly positions are predicted",
    Cause.ROTATION: "improve how exactly rotations are predicted",
    Cause.GRIPPER: "improve when the gripper opens and closes",
    Cause.UNREACHABLE: "keep predicted poses within reach of the arm",
    Cause.OUT_OF_STEPS: f"predict actions that are closer than {POSITION_TOLERANCE:g} cm and {ROTATION_TOLERANCE:g} "
    "degrees to the expert's",
    Cause.OTHER: "look at the outcomes and the videos",
}


def count_causes(episodes: Iterable[Episode]) -> dict[str, Any]:
    """The causes of the failed episodes: how many, and how many by the number of the action that they begin at."""
    failed = [episode.diagnosis for episode in episodes if not episode.success]
    found: dict[Cause, Counter[str]] = {}
    for diagnosis in failed:
        if diagnosis is not None:
            counts = found.setdefault(diagnosis.cause, Counter())
            counts["" if diagnosis.keyframe is None else str(diagnosis.keyframe)] += 1
    return _record(found, failures=len(failed))


def add_causes(entries: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The sum of several counts."""
    found: dict[Cause, Counter[str]] = {}
    for entry in entries:
        for name, cause in entry["causes"].items():
            others = cause["episodes"] - sum(cause["keyframes"].values())
            found.setdefault(Cause(name), Counter()).update({**cause["keyframes"], "": others})
    return _record(found, failures=sum(entry["failures"] for entry in entries))


def improve_next(counts: Mapping[str, Any], condition: str) -> str:
    """One sentence on the most common cause of failure, and what to improve; empty without a diagnosed failure."""
    if not counts["causes"]:
        return ""
    name, cause = max(counts["causes"].items(), key=lambda item: item[1]["episodes"])
    where = ""
    if cause["keyframes"]:
        keyframe, count = max(cause["keyframes"].items(), key=lambda item: item[1])
        where = f", {'all' if count == cause['episodes'] else count} of them from keyframe {keyframe} on"
    failures = f"{cause['episodes']} of {counts['failures']} failures with {condition} instructions{where}"
    return f"Most common cause: {name.replace('_', ' ')} ({failures}); {ADVICE[Cause(name)]}."


def causes_text(counts: Mapping[str, Any]) -> str:
    """The causes in one line, the most common first."""
    ordered = sorted(counts["causes"].items(), key=lambda item: -item[1]["episodes"])
    parts = [f"{name.replace('_', ' ')} {cause['episodes']}{keyframes_text(cause)}" for name, cause in ordered]
    unknown = counts["failures"] - sum(cause["episodes"] for _, cause in ordered)
    return ", ".join(parts + ([f"not diagnosed {unknown}"] if unknown else []))


def keyframes_text(cause: Mapping[str, Any]) -> str:
    """The keyframes at which a cause begins, with their counts, in brackets; empty if it has none."""
    parts = [f"{count} at keyframe {number}" for number, count in cause["keyframes"].items()]
    return f" ({', '.join(parts)})" if parts else ""


def _record(found: Mapping[Cause, Counter[str]], *, failures: int) -> dict[str, Any]:
    causes = {}
    for cause in Cause:
        if counts := found.get(cause):
            keyframes = {
                key: counts[key] for key in sorted(counts, key=lambda key: (len(key), key)) if key and counts[key]
            }
            causes[str(cause)] = {"episodes": counts.total(), "keyframes": keyframes}
    return {"failures": failures, "causes": causes}
