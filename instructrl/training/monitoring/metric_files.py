"""A run's files of metrics, as they are read. Needs no jax."""

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

from instructrl.errors import format_value
from instructrl.storage.json_lines import FINITE, INTEGER, NUMBER, TEXT, LineError, check_keys, read_json_lines

Line = dict[str, Any]  # a line of a metrics file: step, epoch, split, and numbers by name
METRICS_FILE = "metrics.jsonl"  # the same however often a run is resumed
SPEED_FILE = "speed.jsonl"  # depends on the machine
IMAGES_FILE = "images.jsonl"  # files of images by name, relative to the run directory


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


def read_image_lines(path: Path) -> list[Line]:
    """The lines of a file of images: step, split "images", and file names by name; [] if there is no file.

    Raises:
        InputError: the file is damaged.
    """

    def check(line: Line) -> None:
        check_keys(line, {"step": INTEGER, "split": TEXT}, dict.fromkeys(line, TEXT))

    return read_json_lines(path, check, advice="remove it to go on; the images themselves stay")


def missing_lines(lines: Sequence[Line], *, validate_every: int) -> str:
    """Sentence on lines that must have been removed or lost from metrics.jsonl; empty if none are known to be missing.

    There is a line `train` of every epoch and a line `val` of every `validate_every`-th. Other lines are written at
    intervals that may change when a run resumes: one is missing where an interval is a multiple of equal ones around
    it.

    Args:
        lines: of the file.
        validate_every: `training.validate_every` of the run.
    """
    found: dict[str, list[Line]] = {}
    for line in lines:
        found.setdefault(line["split"], []).append(line)
    epochs = {
        split: {int(line["epoch"]) for line in found.get(split, ()) if "epoch" in line} for split in ("train", "val")
    }
    last = max(epochs["train"], default=0)
    expected = {"train": range(1, last), "val": range(validate_every, last, validate_every)}
    missing = {split: sorted({*expected[split]} - epochs[split]) for split in expected}
    parts = [f"{split} of epoch {', '.join(map(str, some))}" for split, some in missing.items() if some]
    for split in found.keys() - expected.keys():
        steps = gaps([line["step"] for line in found[split]])
        parts += [f"{split} of step {', '.join(map(str, steps))}"] if steps else []
    return (
        f"{METRICS_FILE} lacks lines: {'; '.join(parts)}. Curves and lowest losses are those of the others."
        if parts
        else ""
    )


def gaps(steps: Sequence[int]) -> list[int]:
    """The steps that are missing in a sequence of equal intervals around a longer one that is a multiple of them."""
    lengths = [after - before for before, after in pairwise(steps)]
    return [
        step
        for index in range(1, len(lengths) - 1)
        if lengths[index - 1] == lengths[index + 1] < lengths[index] and lengths[index] % lengths[index - 1] == 0
        for step in range(steps[index] + lengths[index - 1], steps[index + 1], lengths[index - 1])
    ]


def best_value(run: Path, objective: str) -> float | None:
    """The best value of a training in a run's metrics.jsonl; None if there is none yet.

    Args:
        run: local copy of the run directory, or a folder with this file.
        objective: split and number: `val/loss`, of which the lowest is best, or `rollout/success_rate`, the highest.

    Raises:
        InputError: the file is damaged.
    """
    split, _, name = objective.partition("/")
    values = [line[name] for line in read_lines(run / METRICS_FILE) if line["split"] == split and name in line]
    return (min if name == "loss" else max)(values, default=None)
