"""Metrics: JSON lines, and the trackers that are configured."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import TracebackType

from instructrl.config.training import TrainConfig
from instructrl.storage.json_lines import LineFile
from instructrl.training.distributed.multihost import is_leader
from instructrl.training.monitoring.metric_files import (
    IMAGES_FILE,
    METRICS_FILE,
    SPEED_FILE,
    Line,
    read_image_lines,
    read_lines,
)
from instructrl.training.monitoring.trackers import open_trackers
from instructrl.training.monitoring.trackers.base import Logged, Tracker


class Metrics:
    """Append {"step", "epoch", "split", ...} to metrics.jsonl, throughput to speed.jsonl, and both to the trackers."""

    def __init__(self, run: Path, *, from_step: int, unfinished: bool = False) -> None:
        """Open the files; lines after `from_step` are dropped, since those steps will be repeated.

        `unfinished`: the lines written at the end of the epoch at `from_step` will be repeated as well.

        Raises:
            InputError: one of the files is damaged; none has changed then.
        """

        def is_final(line: Line) -> bool:
            repeated = unfinished and line["split"] not in ("step", "speed")
            return line["step"] < from_step or (line["step"] == from_step and not repeated)

        self._run, self._trackers = run, list[Tracker]()
        readers = {METRICS_FILE: read_lines, SPEED_FILE: read_lines, IMAGES_FILE: read_image_lines}
        kept = {name: [line for line in read(run / name) if is_final(line)] for name, read in readers.items()}
        self._stack, self._files = ExitStack(), dict[str, LineFile]()
        for name, lines in kept.items():
            if lines or name != IMAGES_FILE:
                self._open(name, lines)
        self._earlier = sorted((line for lines in kept.values() for line in lines), key=lambda line: line["step"])

    def _open(self, name: str, lines: Sequence[Line]) -> None:
        self._files[name] = self._stack.enter_context(LineFile(self._run / name, lines))

    def show_in(self, trackers: Sequence[Tracker]) -> None:
        """Send what is written from now on to trackers too, and what was written before to those that lack it."""
        self._trackers.extend(trackers)
        for tracker in trackers:
            if tracker.incomplete:
                tracker.replay(self._logged(line) for line in self._earlier)

    def write(self, split: str, values: Mapping[str, float], *, step: int, epoch: float) -> None:
        """Write a line to metrics.jsonl; numbers become plain floats."""
        self._write(METRICS_FILE, split, values, step=step, epoch=epoch)

    def write_speed(self, values: Mapping[str, float], *, step: int, epoch: float) -> None:
        """Write a line to speed.jsonl."""
        self._write(SPEED_FILE, "speed", values, step=step, epoch=epoch)

    def _write(self, name: str, split: str, values: Mapping[str, float], *, step: int, epoch: float) -> None:
        numbers = {key: float(value) for key, value in values.items()}
        self._append(name, {"step": step, "epoch": epoch, "split": split, **numbers})

    def write_images(self, images: Mapping[str, Path], *, step: int) -> None:
        """Write a line with image files of the run directory, by name, to images.jsonl."""
        if images:
            files = {name: str(path.relative_to(self._run)) for name, path in images.items()}
            self._append(IMAGES_FILE, {"step": step, "split": "images", **files})

    def _append(self, name: str, line: Line) -> None:
        if name not in self._files:
            self._open(name, ())  # images, which most runs have none of
        self._files[name].append(line)
        for tracker in self._trackers:
            tracker.log(self._logged(line))

    def _logged(self, line: Line) -> Logged:
        """A line as trackers get it, without images that are no longer there."""
        step, epoch, split = line["step"], line.get("epoch"), line["split"]
        found = {key: value for key, value in line.items() if key not in ("step", "epoch", "split")}
        if split == "images":
            paths = {name: self._run / file for name, file in found.items()}
            return Logged(step, epoch, {}, {name: path for name, path in paths.items() if path.is_file()})
        return Logged(step, epoch, {f"{split}/{key}": value for key, value in found.items()}, {})

    def __enter__(self) -> "Metrics":
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._stack.__exit__(kind, error, trace)


class NoMetrics(Metrics):
    """Metrics of processes other than the leader: nothing is written."""

    def __init__(self) -> None:
        pass

    def write(self, split: str, values: Mapping[str, float], *, step: int, epoch: float) -> None:
        """Do nothing."""

    def write_speed(self, values: Mapping[str, float], *, step: int, epoch: float) -> None:
        """Do nothing."""

    def write_images(self, images: Mapping[str, Path], *, step: int) -> None:
        """Do nothing."""


@contextmanager
def open_metrics(config: TrainConfig, run: Path, *, from_step: int, unfinished: bool = False) -> Iterator[Metrics]:
    """Open a run's `Metrics`, with the configured trackers.

    Raises:
        InputError: a file of metrics is damaged, or a tracker cannot start.
    """
    if not is_leader():
        yield NoMetrics()
        return
    with (
        Metrics(run, from_step=from_step, unfinished=unfinished) as metrics,
        open_trackers(config, run) as trackers,
    ):
        metrics.show_in(trackers)
        yield metrics
