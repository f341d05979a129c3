"""Append-only episode log (JSONL) that makes evaluations resumable."""

import json
import time
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from instructrl.config.fields import RENAMED_CONDITIONS
from instructrl.errors import RunError
from instructrl.evaluation.diagnosis import Deviation
from instructrl.evaluation.rollout import Episode
from instructrl.sim import EpisodeStart, Outcome
from instructrl.storage.atomic import write_atomically
from instructrl.types import ACTION_SIZE

_HEADER = '{"evaluation": '  # prefix of a header line; no episode line begins so


class EpisodeLog:
    """A JSONL file: a header with an evaluation's identity, then one finished episode per line, then other headers.

    Episodes under a header equal to `identity` are loaded; those of other evaluations stay in the file for later.
    """

    def __init__(self, path: Path, identity: dict[str, Any]):
        self._episodes: dict[str, dict[int, Episode]] = {}
        self._seconds: dict[tuple[str, int], float] = {}
        self._clock = time.perf_counter()
        header = json.dumps({"evaluation": identity}, sort_keys=True)
        lines, current = complete_lines(path), ""
        for line in lines:
            if line.startswith(_HEADER):
                current = line
            elif current == header:
                self._add(json.loads(line))
        if current != header:
            lines.append(header)
        write_atomically(path, "".join(line + "\n" for line in lines))
        self._file = path.open("a", encoding="utf-8")

    def __enter__(self) -> "EpisodeLog":
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._file.close()

    def episodes(self, condition: str) -> dict[int, Episode]:
        """The finished episodes of a condition, by index."""
        return dict(self._episodes.get(condition, {}))

    def seconds(self, condition: str, index: int) -> float:
        """Wall seconds between this episode's end and the previous end; they sum to the duration of the condition."""
        return self._seconds[condition, index]

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
        if episode.dropped_word:
            entry["dropped_word"] = episode.dropped_word
        if episode.deviations:
            entry["deviations"] = [asdict(deviation) for deviation in episode.deviations]
        if episode.diagnosis is not None:
            entry["cause"], entry["cause_keyframe"] = str(episode.diagnosis.cause), episode.diagnosis.keyframe
        self._clock = now
        try:
            self._file.write(json.dumps(entry) + "\n")
            self._file.flush()
        except OSError as error:
            raise RunError(
                f"{self._file.name}: {error.strerror}; free disk space and run the same command again to resume"
            ) from None
        self._add(entry)

    def _add(self, entry: dict[str, Any]) -> None:
        condition, index = entry_condition(entry), entry["index"]
        start = EpisodeStart(entry["variation"], entry["seed"], entry["goal"])
        actions = np.array(entry["actions"], np.float64).reshape(-1, ACTION_SIZE)
        deviations = tuple(Deviation(**one) for one in entry.get("deviations", ()))
        outcome, dropped = Outcome(entry["outcome"]), entry.get("dropped_word", "")
        episode = Episode(start, entry["instruction"], outcome, actions, deviations, dropped)
        self._episodes.setdefault(condition, {})[index] = episode
        self._seconds[condition, index] = entry["seconds"]


def entry_condition(entry: dict[str, Any]) -> str:
    """The condition of an episode line; earlier versions wrote it as `row`, under other names."""
    return entry["condition"] if "condition" in entry else RENAMED_CONDITIONS.get(entry["row"], entry["row"])


def complete_lines(path: Path) -> list[str]:
    """The file's lines without a truncated last one (the process was killed while writing)."""
    if not path.is_file():
        return []
    return [line.removesuffix("\n") for line in path.open(encoding="utf-8", newline="\n") if line.endswith("\n")]
