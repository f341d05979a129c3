"""Append-only episode log (JSONL) that makes evaluations resumable."""

import json
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import Any

from instructrl.actions import stack_actions
from instructrl.config.evaluation import EVALUATION_CONDITIONS
from instructrl.config.fields import RENAMED_CONDITIONS
from instructrl.config.share import Share
from instructrl.evaluation.diagnosis import Cause, Deviation
from instructrl.evaluation.rollout import Episode
from instructrl.sim import EpisodeStart, Outcome
from instructrl.storage.json_lines import (
    FINITE,
    FLAG,
    INTEGER,
    NUMBER,
    TEXT,
    Entry,
    Kind,
    LineError,
    LineFile,
    check_keys,
    read_json_lines,
)
from instructrl.types import ACTION_SIZES

EPISODES = "episodes.jsonl"  # name of the file
_CONDITION = Kind(
    lambda value: isinstance(value, str) and RENAMED_CONDITIONS.get(value, value) in EVALUATION_CONDITIONS,
    ", ".join(EVALUATION_CONDITIONS),
)
_OBJECT = Kind(lambda value: isinstance(value, dict), "an object")
_EPISODE = {  # what every line of an episode has, beside its condition
    "index": INTEGER,
    "variation": INTEGER,
    "seed": INTEGER,
    "goal": Kind(lambda value: value is None or INTEGER.accepts(value), "null, or an integer"),
    "instruction": TEXT,
    "outcome": Kind(lambda value: value in list(Outcome), ", ".join(Outcome)),
    "actions": Kind(
        lambda value: isinstance(value, list) and all(map(is_action, value)),
        f"a list of lists of {' or '.join(map(str, ACTION_SIZES))} numbers",
    ),
    "seconds": FINITE,
}
_ADDITIONS = {
    "rejected_placements": INTEGER,
    "stored": TEXT,
    "dropped_word": TEXT,
    "deviations": Kind(
        lambda value: isinstance(value, list) and all(isinstance(one, dict) for one in value), "a list of objects"
    ),
    "cause": Kind(lambda value: value in list(Cause), ", ".join(Cause)),
    "cause_keyframe": Kind(lambda value: value is None or INTEGER.accepts(value), "null, or an integer"),
}
_DEVIATION = {
    "position_cm": NUMBER,
    "rotation_deg": NUMBER,
    "gripper_wrong": FLAG,
    "gripper_acts": FLAG,
    "other_cm": Kind(lambda value: value is None or NUMBER.accepts(value), "null, or a number"),
}


def is_action(value: Any) -> bool:
    """Return True for a list of an action's numbers; they need not be finite if the action was invalid."""
    return isinstance(value, list) and len(value) in ACTION_SIZES and all(map(NUMBER.accepts, value))


class EpisodeLog:
    """A JSONL file: a header with an evaluation's identity, then one finished episode per line, then other headers.

    Episodes under a header equal to `identity` are loaded; those of other evaluations stay in the file for later.
    """

    def __init__(self, path: Path, identity: dict[str, Any], share: Share | None = None):
        """Read the file, and open it for appending.

        A job with a share of the episodes writes a file of its own beside it, which a log without a share takes over.

        Raises:
            InputError: a file is damaged; none has changed then.
        """
        self._episodes: dict[str, dict[int, Episode]] = {}
        self._seconds: dict[tuple[str, int], float] = {}
        self._clock = time.perf_counter()
        self._header = header = json.loads(json.dumps({"evaluation": identity}, sort_keys=True))
        folder = path.with_suffix(".parts")
        parts = sorted(folder.glob("*.jsonl"))
        entries = joined([read_log(one) for one in (path, *parts)])
        current: Entry = {}
        for entry in entries:
            if "evaluation" in entry:
                current = entry
            elif current == header:
                self._add(entry)
        if share is None:
            self._file = LineFile(path, entries if current == header else [*entries, header])
            for part in parts:
                part.unlink(missing_ok=True)
            with suppress(OSError):  # none, or not empty: a job writes there
                folder.rmdir()
            return
        own = folder / f"{share.job:04}-of-{share.jobs:04}.jsonl"
        entries = read_log(own)
        headers = [entry for entry in entries if "evaluation" in entry]
        self._file = LineFile(own, entries if headers[-1:] == [header] else [*entries, header])

    def __enter__(self) -> "EpisodeLog":
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._file.__exit__(kind, error, trace)

    def episodes(self, condition: str) -> dict[int, Episode]:
        """The finished episodes of a condition, by index."""
        return dict(self._episodes.get(condition, {}))

    def seconds(self, condition: str, index: int) -> float:
        """Wall seconds between this episode's end and the previous end; they sum to the duration of the condition."""
        return self._seconds[condition, index]

    def remove(self, condition: str) -> None:
        """Remove the episodes of a condition of this evaluation from the file."""
        self._episodes.pop(condition, None)
        kept: list[Entry] = []
        current: Entry = {}
        for entry in read_log(self._file.path):
            if "evaluation" in entry:
                current = entry
            elif current == self._header and entry_condition(entry) == condition:
                continue
            kept.append(entry)
        self._file.__exit__(None, None, None)
        self._file = LineFile(self._file.path, kept)

    def start_clock(self) -> None:
        """Restart the clock: the time until now counts for no episode."""
        self._clock = time.perf_counter()

    def append(self, condition: str, index: int, episode: Episode) -> None:
        """Write one finished episode to the file immediately."""
        now = time.perf_counter()
        entry = {
            "condition": condition,
            "index": index,
            "variation": episode.start.variation,
            "seed": episode.start.seed,
            "goal": episode.start.goal,
            "instruction": episode.instruction,
            "outcome": str(episode.outcome),
            "actions": episode.actions.tolist(),
            "seconds": round(now - self._clock, 4),
        }
        if episode.start.rejected_placements is not None:
            entry["rejected_placements"] = episode.start.rejected_placements
        if episode.start.stored:
            entry["stored"] = episode.start.stored
        if episode.dropped_word:
            entry["dropped_word"] = episode.dropped_word
        if episode.deviations:
            entry["deviations"] = [asdict(deviation) for deviation in episode.deviations]
        if episode.diagnosis is not None:
            entry["cause"], entry["cause_keyframe"] = str(episode.diagnosis.cause), episode.diagnosis.keyframe
        self._clock = now
        self._file.append(entry)
        self._add(entry)

    def _add(self, entry: dict[str, Any]) -> None:
        condition, index = entry_condition(entry), entry["index"]
        start = EpisodeStart(
            entry["variation"],
            entry["seed"],
            entry["goal"],
            rejected_placements=entry.get("rejected_placements"),
            stored=entry.get("stored", ""),
        )
        actions = stack_actions(entry["actions"])
        deviations = tuple(Deviation(**one) for one in entry.get("deviations", ()))
        outcome, dropped = Outcome(entry["outcome"]), entry.get("dropped_word", "")
        episode = Episode(start, entry["instruction"], outcome, actions, deviations, dropped)
        self._episodes.setdefault(condition, {})[index] = episode
        self._seconds[condition, index] = entry["seconds"]


def joined(logs: Sequence[Sequence[Entry]]) -> list[Entry]:
    """The lines of several logs as one, without the episodes that an earlier one has: the first as it is, then others.

    What the others add is in order of the condition and the index of the episodes.
    """
    first, *others = logs
    known, added = {key for key, _ in keyed(first)}, dict[str, dict[tuple[str, int], Entry]]()
    for log in others:
        for (evaluation, condition, index), entry in keyed(log):
            if (evaluation, condition, index) not in known:
                added.setdefault(evaluation, {}).setdefault((condition, index), entry)
    order = {name: place for place, name in enumerate(EVALUATION_CONDITIONS)}
    lines = list(first)
    for evaluation, episodes in added.items():
        lines.append(json.loads(evaluation))
        lines += [episodes[key] for key in sorted(episodes, key=lambda key: (order[key[0]], key[1]))]
    return lines


def keyed(entries: Sequence[Entry]) -> Iterator[tuple[tuple[str, str, int], Entry]]:
    """Yield (evaluation, condition, index) and the line of each episode of a log."""
    evaluation = ""
    for entry in entries:
        if "evaluation" in entry:
            evaluation = json.dumps(entry)
        else:
            yield (evaluation, entry_condition(entry), entry["index"]), entry


def entry_condition(entry: dict[str, Any]) -> str:
    """The condition of an episode line; earlier versions wrote it as `row`, under other names."""
    return entry["condition"] if "condition" in entry else RENAMED_CONDITIONS.get(entry["row"], entry["row"])


def read_log(path: Path) -> list[Entry]:
    """The lines of an episode log, headers among them; [] if there is no file.

    Raises:
        InputError: the file is damaged.
    """
    evaluation = ""
    seen: set[tuple[str, str, int]] = set()

    def check(entry: Entry) -> None:
        nonlocal evaluation
        if "evaluation" in entry:
            check_keys(entry, {"evaluation": _OBJECT}, {})
            evaluation = json.dumps(entry)
            return
        if not evaluation:
            raise LineError('found no evaluation; allowed: {"evaluation": ...} in the first line')
        check_episode(entry)
        condition, index = entry_condition(entry), entry["index"]
        if (evaluation, condition, index) in seen:
            raise LineError(f"found episode {index} of {condition} a second time; allowed: once")
        seen.add((evaluation, condition, index))

    return read_json_lines(path, check, advice="restore the file, or move it away to run its episodes again")


def check_episode(entry: Entry) -> None:
    """Raise LineError for the line of an episode that lacks something or has a value of a wrong kind."""
    name = "row" if "row" in entry and "condition" not in entry else "condition"
    check_keys(entry, {name: _CONDITION, **_EPISODE}, _ADDITIONS)
    for deviation in entry.get("deviations", ()):
        check_keys(deviation, _DEVIATION, {})
