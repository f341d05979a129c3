"""Progress of a training, from the files in its run directory. Needs no jax."""

import json
import math
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from instructrl.config.yaml_file import read_yaml
from instructrl.errors import InputError
from instructrl.training.monitoring.metric_files import METRICS_FILE, SPEED_FILE
from launchers.job_table import tail

INTERVALS = 5  # last intervals of speed.jsonl that the time left is computed from


@dataclass(frozen=True)
class Progress:
    """Progress of a training; None for what its files do not say.

    Attributes:
        epoch: with a fraction within an epoch.
        epochs: that it is to be trained for.
        loss: the last one of training.
        seconds_left: at its rate so far, validation included and compilation not.
    """

    epoch: float | None = None
    epochs: int | None = None
    loss: float | None = None
    seconds_left: float | None = None


def read_progress(run: Path, *, now: float | None = None) -> Progress:
    """Read the progress of a run; what is missing, damaged or half written is left out.

    Args:
        run: its directory.
        now: seconds since 1970; None: the present.
    """
    epochs, lines = planned_epochs(run), list(last_lines(run / METRICS_FILE))
    if not lines:
        return Progress(epochs=epochs)
    losses = [line["loss"] for line in lines if line.get("split") in ("train", "step") and is_number(line.get("loss"))]
    last = lines[-1]
    left = None
    if epochs is not None and last["epoch"] > 0:
        remaining = max(0.0, epochs * last["step"] / last["epoch"] - last["step"])
        age = (time.time() if now is None else now) - last_change(run / METRICS_FILE)
        left = seconds_left(list(last_lines(run / SPEED_FILE))[-INTERVALS:], steps=remaining, age=age)
    return Progress(last["epoch"], epochs, losses[-1] if losses else None, left)


def seconds_left(intervals: list[dict[str, Any]], *, steps: float, age: float) -> float | None:
    """Return the seconds for some steps at the rate of measured intervals; None without any.

    Args:
        intervals: lines of speed.jsonl.
        steps: number of steps.
        age: seconds since the last step that is not among them.
    """
    measured = [
        (line["seconds"] * (1 - line.get("share_compiling", 0)), line["steps"])
        for line in intervals
        if is_number(line.get("seconds")) and is_number(line.get("steps")) and line["steps"] > 0
    ]
    if not measured:
        return None
    rate = sum(seconds for seconds, _ in measured) / sum(count for _, count in measured)
    return max(0.0, steps * rate - min(max(0.0, age), measured[-1][0]))  # no more: it may have been stopped meanwhile


def planned_epochs(run: Path) -> int | None:
    """Return the number of epochs in a run's config.yaml; None without one."""
    try:
        found = (read_yaml(run / "config.yaml").values or {}).get("training", {}).get("epochs")
    except (InputError, AttributeError):
        return None
    return found if type(found) is int and found > 0 else None


def last_lines(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the last entries of a file of metrics, with their step and epoch."""
    for line in tail(path):
        try:
            entry = json.loads(line)
        except (ValueError, RecursionError):  # cut at the beginning of what is read, or being written
            continue
        if isinstance(entry, dict) and is_number(entry.get("step")) and is_number(entry.get("epoch")):
            yield entry


def last_change(path: Path) -> float:
    """Return when a file changed, in seconds since 1970; 0 if it cannot be read."""
    try:
        return path.stat().st_mtime
    except OSError:
        return 0.0


def is_number(value: object) -> bool:
    """Return True for a finite number."""
    return type(value) in (int, float) and math.isfinite(value)  # type: ignore[arg-type]
