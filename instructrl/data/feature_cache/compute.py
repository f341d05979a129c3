"""Pipelined computation of the missing rows of a feature cache, by one process or several.

While the devices encode one batch, one thread reads the images of the next and another transfers and writes the
features of the previous one. A batch has a part for each device; parts are what processes claim, so that they share
the work, and another process computes the parts of one that dies.
"""

import shutil
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import numpy as np

from instructrl.cli.progress import ProgressBar
from instructrl.data.demonstrations.dataset import DemonstrationDataset
from instructrl.data.feature_cache.row_file import RowFile
from instructrl.data.feature_cache.row_layout import RowLayout
from instructrl.errors import InputError, RunError
from instructrl.preemption import POLL_INTERVAL, raise_if_preempted, sleep
from instructrl.storage.claims import Claims
from instructrl.storage.paths import StoragePath
from instructrl.types import FrameFeatures

# Images uint8 [N,K,H,W,3], tokens int32 [N,L] and padding float32 [N,L] to numpy or jax arrays; N is constant.
Encode = Callable[[np.ndarray, np.ndarray, np.ndarray], FrameFeatures]
READ_AHEAD = 3  # batches read or being read when the device starts on the first of them
MAX_UNWRITTEN = 1  # batches encoded but not yet written
CLAIMS = ".claims"  # in the folder: the items that processes are computing
WRITE_HINT = "set features_dir=... to a writable folder"


class Part(NamedTuple):
    """Items `begin` to `end` (excluded), which one device encodes at a time; `begin` is a multiple of their number."""

    begin: int
    end: int


@dataclass(frozen=True)
class EncodePlan:
    """The `devices` of this process that encode, each `batch_size` steps (of K images) at a time.

    `shard`: index and number of the processes that begin together, each with its own share of the parts. Others may
    join them.
    """

    batch_size: int
    devices: int = 1
    shard: tuple[int, int] = (0, 1)

    def parts(self, missing: np.ndarray) -> list[Part]:
        """Return the parts with `missing` items [items], those of this process's share first."""
        begins = np.unique(np.flatnonzero(missing) // self.batch_size) * self.batch_size
        parts = [Part(int(begin), min(int(begin) + self.batch_size, len(missing))) for begin in begins]
        index, count = self.shard
        first = index * len(parts) // count
        return parts[first:] + parts[:first]


def compute_items(
    folder: Path,
    rows: Mapping[str, RowFile],
    layout: RowLayout,
    episodes: DemonstrationDataset,
    encode: Encode,
    missing: np.ndarray,
    *,
    plan: EncodePlan,
) -> None:
    """Compute and write the parts that contain `missing` items [items]; written ones survive a failure.

    Returns when all are written, by this process or by others that compute the same.

    Raises:
        InputError: the file system is full or fails.
        RunError: a feature is not finite.
        ValueError: the shapes or dtypes that `encode` returns are not those of `rows`.
    """
    if not missing.any():
        return
    parts = plan.parts(missing)
    size = sum(bytes_of(rows, layout, *part) for part in parts) / 1e6
    count, started = sum(end - begin for begin, end in parts), time.monotonic()
    print(f"features: computing {count} of {layout.items} rows ({size:.1f} MB) into {folder}", flush=True)
    read = InputReader(episodes, layout, batch_size=plan.batch_size, devices=plan.devices)
    write = FeatureWriter(folder, rows, layout, plan=plan, demonstrations=episodes.path)
    with report_folder_errors(folder):
        claims = Claims(folder / CLAIMS)
    with claims, ProgressBar(description="features", total=count, unit="rows") as progress:
        share, waits = WorkShare(claims, folder, rows, layout, progress), False
        while parts:
            run_pipeline(share, parts, read, encode, write, devices=plan.devices)
            parts = share.of_others
            if parts:
                if not waits:
                    print(f"{folder}: another process computes the same features here; waiting for it", flush=True)
                    waits = True
                sleep(POLL_INTERVAL)
    with report_folder_errors(folder):
        for file in rows.values():
            file.sync()
    if share.written:
        seconds = time.monotonic() - started
        rate = share.written / seconds
        print(f"features: {share.written} rows written in {seconds:.1f} s, {rate:.1f} rows/s", flush=True)


def run_pipeline(
    share: "WorkShare",
    parts: Sequence[Part],
    read: "InputReader",
    encode: Encode,
    write: "FeatureWriter",
    *,
    devices: int,
) -> None:
    """Compute those of `parts` that no other process computes, a batch of one for each device at a time."""
    mine = share.take(parts)
    batches = iter(lambda: tuple(islice(mine, devices)), ())
    being_read: deque[tuple[Sequence[Part], Future]] = deque()
    being_written: deque[tuple[Sequence[Part], Future]] = deque()

    def finish(*, unwritten: int) -> None:
        while len(being_written) > unwritten:
            batch, future = being_written.popleft()
            future.result()
            share.finish(batch)

    with (
        ThreadPoolExecutor(1, thread_name_prefix="features") as reading,
        ThreadPoolExecutor(1, thread_name_prefix="features") as writing,  # on exit, waits for all submitted batches
    ):
        while True:
            raise_if_preempted()
            being_read += [
                (batch, reading.submit(read, batch)) for batch in islice(batches, READ_AHEAD - len(being_read))
            ]
            if not being_read:
                break
            batch, inputs = being_read.popleft()
            being_written.append((batch, writing.submit(write, batch, encode(*inputs.result()))))
            finish(unwritten=MAX_UNWRITTEN)
        finish(unwritten=0)


class WorkShare:
    """This process's share of the work, claimed part by part as it gets to them.

    Attributes:
        of_others: parts that other processes were computing when they were last asked for.
        written: items that this process has computed.
    """

    def __init__(
        self, claims: Claims, folder: Path, rows: Mapping[str, RowFile], layout: RowLayout, progress: ProgressBar
    ) -> None:
        self._claims, self._folder, self._rows, self._layout = claims, folder, rows, layout
        self._progress = progress
        self.of_others: list[Part] = []
        self.written = 0

    def take(self, parts: Sequence[Part]) -> Iterator[Part]:
        """Claim and yield those of `parts` that are missing; never waits, so that no two wait for each other."""
        self.of_others = []
        for part in parts:
            with report_folder_errors(self._folder):
                claimed = self._claims.take(*part)
                missing = claimed and self._is_missing(part)
            if missing:
                yield part
            elif claimed:
                self._end(part)
            else:
                self.of_others.append(part)

    def finish(self, parts: Sequence[Part]) -> None:
        """End the claims of parts that are written."""
        for part in parts:
            self.written += part.end - part.begin
            self._end(part)

    def _is_missing(self, part: Part) -> bool:
        views, texts = self._layout.row_ranges(*part)
        return any(rows.lacks(texts if name == "text" else views) for name, rows in self._rows.items())

    def _end(self, part: Part) -> None:
        self._claims.release(*part)
        self._progress.update(part.end - part.begin)


class InputReader:
    """Reads the inputs of `encode`: images and instructions, padded to the batch size by repeating the last item."""

    def __init__(self, episodes: DemonstrationDataset, layout: RowLayout, *, batch_size: int, devices: int = 1) -> None:
        self.episodes, self.layout, self.batch_size = episodes, layout, batch_size
        size = episodes.image_size
        self.shape = (batch_size * devices, layout.cameras, size, size, 3)
        self._episode, self._images = -1, np.empty(0, np.uint8)

    def __call__(self, parts: Sequence[Part]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return images [N,K,H,W,3], tokens [N,L] and padding [N,L]; images are black for items of text only."""
        items = [min(part.begin + offset, part.end - 1) for part in parts for offset in range(self.batch_size)]
        items += items[-1:] * (self.shape[0] - len(items))
        images = np.empty(self.shape, np.uint8)
        for row, item in enumerate(items):
            if item < self.layout.views:
                episode, _, view = self.layout.view(item)
                images[row] = self._episode_images(episode)[view]
            else:
                images[row] = 0
        chosen = [self.layout.instruction(item) for item in items]
        return images, self.layout.instructions.tokens[chosen], self.layout.instructions.padding[chosen]

    def _episode_images(self, episode: int) -> np.ndarray:
        """Return the images of an episode; the last ones are cached for its other instructions and the next batch."""
        if episode != self._episode:
            self._images = self.episodes.view_images(episode)
            self._episode = episode
        return self._images


class FeatureWriter:
    """Checks and writes the features that `encode` returns."""

    def __init__(
        self,
        folder: Path,
        rows: Mapping[str, RowFile],
        layout: RowLayout,
        *,
        plan: EncodePlan,
        demonstrations: StoragePath,
    ) -> None:
        self.folder, self.rows, self.layout = folder, rows, layout
        self.plan, self.demonstrations = plan, demonstrations

    def __call__(self, parts: Sequence[Part], features: FrameFeatures) -> None:
        """Transfer the features of parts, in the order of the devices, to the host; check and write them."""
        for name, rows in self.rows.items():
            values = np.asarray(getattr(features, name))
            shape = (self.plan.batch_size * self.plan.devices, *rows.shape)
            if values.shape != shape or values.dtype != rows.dtype:
                found = f"{values.dtype}{values.shape}"
                raise ValueError(f"encode returned {name} {found}, expected {rows.dtype}{shape}")
            for number, part in enumerate(parts):
                self._write(name, part, values[number * self.plan.batch_size :])

    def _write(self, name: str, part: Part, values: np.ndarray) -> None:
        """Check and write the rows of a part, which are the first of `values`."""
        views, texts = self.layout.row_ranges(*part)
        chosen, first = (texts, part.begin - self.layout.first_text) if name == "text" else (views, part.begin)
        if chosen.stop > chosen.start:
            values = values[max(chosen.start - first, 0) : chosen.stop - first]
            self._check_finite(name, chosen.start, values)
            with report_folder_errors(self.folder):
                self.rows[name].write(chosen.start, values)

    def _check_finite(self, name: str, first: int, values: np.ndarray) -> None:
        finite = np.isfinite(values)
        if finite.all():
            return
        row = first + int(np.flatnonzero(~finite.reshape(len(values), -1).all(1))[0])
        if name == "text":
            where = repr(self.layout.instructions.distinct[row])
        else:
            episode, choice, view = self.layout.view(row)
            where = f"episode {episode}, step {view}"
            if self.layout.joint:
                where += f", {self.layout.instructions.distinct[self.layout.instructions.row(episode, choice)]!r}"
        raise RunError(
            f"{self.demonstrations}: {where}: the encoder's features ({name}) are not finite; "
            "check encoder.weights, or use hardware.precision=float32"
        )


def bytes_of(rows: Mapping[str, RowFile], layout: RowLayout, begin: int, end: int) -> int:
    """Return the bytes that items `begin` to `end` take, with their checksums."""
    views, texts = layout.row_ranges(begin, end)
    parts = {name: texts if name == "text" else views for name in rows}
    return sum((part.stop - part.start) * (rows[name].row_bytes + 4) for name, part in parts.items())


def check_space(folder: Path, rows: Mapping[str, RowFile], layout: RowLayout, missing: np.ndarray) -> None:
    """Raise InputError if the missing items [items] do not fit into the free disk space."""
    needed = 0
    for name, part in rows.items():
        begin = layout.first_text if name == "text" else 0
        needed += int(missing[begin : begin + part.count].sum()) * (part.row_bytes + 4)
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise InputError(
            f"{folder}: features need {needed / 1e6:.1f} MB, the disk has {free / 1e6:.1f} MB free; "
            "free space there, set features_dir=... to another disk, or features=live"
        )


@contextmanager
def report_folder_errors(folder: Path) -> Iterator[None]:
    """Turn an OSError on the cache's folder into a one-line InputError."""
    try:
        yield
    except OSError as error:
        raise InputError(
            f"{folder}: features cannot be read or written there ({error.strerror}); free space there or {WRITE_HINT}; "
            "the same command resumes from the rows that are written"
        ) from None
