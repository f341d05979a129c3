"""A run's files of metrics, as they are read. Needs no jax."""

from pathlib import Path
from typing import Any

from instructrl.errors import format_value
from instructrl.storage.json_lines import FINITE, INTEGER, NUMBER, TEXT, LineError, check_keys, read_json_lines

Line = dict[str, Any]  # a line of a metrics file: step, epoch, split, and numbers by name
METRICS_FILE = "metrics.jsonl"  # the same however often a run is resumed
SPEED_FILE = "speed.jsonl"  # depends on the machine


def read_lines(path: Path) -> list[Line]:
    """The lines of a metrics file; [] if there is no file. A last line that was cut short by a crash is left out.

    Raises:
        InputError: the file is damaged.
    """
    seen: set[tuple[int, str]] = set()
    last = 0

    def check(line: Line) -> None:
        nonlocal last
        needed = {"steps": NUMBER} if "steps_per_second" in line else {}
        check_keys(line, {"step": INTEGER, "split": TEXT, **needed}, {**dict.fromkeys(line, NUMBER), "epoch": FINITE})
        step, split = line["step"], line["split"]
        if step < last:
            raise LineError(f"found step {step} after step {last}; allowed: steps that do not decrease")
        if (step, split) in seen:
            raise LineError(f"found {format_value(split)} of step {step} a second time; allowed: once")
        last = step
        seen.add((step, split))

    return read_json_lines(path, check, advice="restore the file, or remove this line to go on without its numbers")


def lowest_validation_loss(run: Path) -> float | None:
    """The lowest validation loss in a run's metrics.jsonl; None if there is none yet.

    Raises:
        InputError: the file is damaged.
    """
    lines = read_lines(run / METRICS_FILE)
    return min((line["loss"] for line in lines if line["split"] == "val" and "loss" in line), default=None)
