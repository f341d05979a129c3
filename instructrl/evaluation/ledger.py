"""Episodes on disk as they end, so that an evaluation that was interrupted goes on."""

import json
import time
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from instructrl.batch import ACTION_SIZE
from instructrl.errors import RunError
from instructrl.evaluation.rollout import Episode
from instructrl.sim import Outcome, Start
from instructrl.training.run_directory import write_atomically

_HEADER = '{"evaluation": '  # how such a line begins, and no episode's


class Ledger:
    """A file of JSON lines: what is evaluated, then one finished episode a line, then perhaps what is evaluated next.

    Episodes of the same evaluation (`identity`) are taken over; those of others stay in the file until their turn.
    """

    def __init__(self, path: Path, identity: dict[str, Any]):
        self._episodes: dict[str, dict[int, Episode]] = {}
        self._seconds: dict[tuple[str, int], float] = {}
        self._clock = time.perf_counter()
        header = json.dumps({"evaluation": identity}, sort_keys=True)
        lines, under = whole_lines(path), ""
        for line in lines:
            if line.startswith(_HEADER):
                under = line
            elif under == header:
                self._take(json.loads(line))
        if under != header:
            lines.append(header)
        write_atomically(path, "".join(line + "\n" for line in lines))
        self._file = path.open("a", encoding="utf-8")

    def __enter__(self) -> "Ledger":
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._file.close()

    def episodes(self, row: str) -> dict[int, Episode]:
        """The finished episodes of a row, by number."""
        return dict(self._episodes.get(row, {}))

    def seconds(self, row: str, index: int) -> float:
        """Wall seconds between this episode's end and the end before it: their sum is what the row took."""
        return self._seconds[row, index]

    def start_clock(self) -> None:
        """What passed until now belongs to no episode."""
        self._clock = time.perf_counter()

    def append(self, row: str, index: int, episode: Episode) -> None:
        """Store one finished episode at once."""
        now = time.perf_counter()
        entry = {
            "row": row,
            "index": index,
            "variation": episode.start.variation,
            "seed": episode.start.seed,
            "goal": episode.start.goal,
            "instruction": episode.instruction,
            "outcome": str(episode.outcome),
            "actions": episode.actions.tolist(),
            "seconds": round(now - self._clock, 4),
        }
        self._clock = now
        try:
            self._file.write(json.dumps(entry) + "\n")
            self._file.flush()
        except OSError as error:
            raise RunError(
                f"{self._file.name}: {error.strerror}; make room and start again to go on from here"
            ) from None
        self._take(entry)

    def _take(self, entry: dict[str, Any]) -> None:
        start = Start(entry["variation"], entry["seed"], entry["goal"])
        actions = np.array(entry["actions"], np.float64).reshape(-1, ACTION_SIZE)
        episode = Episode(start, entry["instruction"], Outcome(entry["outcome"]), actions)
        self._episodes.setdefault(entry["row"], {})[entry["index"]] = episode
        self._seconds[entry["row"], entry["index"]] = entry["seconds"]


def whole_lines(path: Path) -> list[str]:
    """The file's lines; one that a kill cut short is left out."""
    if not path.is_file():
        return []
    return [line.removesuffix("\n") for line in path.open(encoding="utf-8", newline="\n") if line.endswith("\n")]
