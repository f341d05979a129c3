"""Pipelined computation of the missing rows of a feature cache.

While the device encodes one batch, one thread reads the images of the next and another transfers and writes the
features of the previous one.
"""

import shutil
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from instructrl.cli.progress import ProgressBar
from instructrl.data.demonstrations.dataset import DemonstrationDataset
from instructrl.data.feature_cache.row_file import RowFile
from instructrl.data.feature_cache.row_layout import RowLayout
from instructrl.errors import InputError, RunError
from instructrl.preemption import raise_if_preempted
from instructrl.storage.paths import StoragePath
from instructrl.types import FrameFeatures

# Images uint8 [N,K,H,W,3], tokens int32 [N,L] and padding float32 [N,L] to numpy or jax arrays; N is constant.
Encode = Callable[[np.ndarray, np.ndarray, np.ndarray], FrameFeatures]
READ_AHEAD = 3  # batches read or being read when the device starts on the first of them
MAX_UNWRITTEN = 1  # batches encoded but not yet written
WRITE_HINT = "set features_dir=... to a writable folder"


def compute_items(
    folder: Path,
    rows: Mapping[str, RowFile],
    layout: RowLayout,
    missing: np.ndarray,
    episodes: DemonstrationDataset,
    encode: Encode,
    *,
    batch_size: int,
) -> None:
    """Compute and write the batches that contain `missing` items [items]; written batches survive a failure.

    Raises:
        InputError: the file system is full or fails.
        RunError: a feature is not finite.
        ValueError: the shapes or dtypes that `encode` returns are not those of `rows`.
    """
    begins = [int(begin) for begin in np.unique(np.flatnonzero(missing) // batch_size) * batch_size]
    ends = {begin: min(begin + batch_size, layout.items) for begin in begins}
    size = sum(bytes_of(rows, layout, begin, end) for begin, end in ends.items()) / 1e6
    count, started = sum(ends.values()) - sum(begins), time.monotonic()
    print(f"features: computing {count} of {layout.items} rows ({size:.1f} MB) into {folder}", flush=True)
    read = InputReader(episodes, layout, batch_size=batch_size)
    write = FeatureWriter(folder, rows, layout, batch_size=batch_size, demonstrations=episodes.path)
    being_read: deque[Future] = deque()
    being_written: deque[tuple[int, Future]] = deque()
    with (
        ThreadPoolExecutor(1, thread_name_prefix="features") as reading,
        ThreadPoolExecutor(1, thread_name_prefix="features") as writing,  # on exit, waits for all submitted batches
        ProgressBar(description="features", total=count, unit="rows") as progress,
    ):
        for number, begin in enumerate(begins):
            raise_if_preempted()
            being_read += [
                reading.submit(read, b, ends[b]) for b in begins[number + len(being_read) : number + READ_AHEAD]
            ]
            features = encode(*being_read.popleft().result())
            being_written.append((ends[begin] - begin, writing.submit(write, begin, ends[begin], features)))
            while len(being_written) > (MAX_UNWRITTEN if number < len(begins) - 1 else 0):
                done, future = being_written.popleft()
                future.result()
                progress.update(done)
    with report_folder_errors(folder):
        for part in rows.values():
            part.sync()
    seconds = time.monotonic() - started
    print(f"features: {count} rows written in {seconds:.1f} s, {count / seconds:.1f} rows/s", flush=True)


class InputReader:
    """Reads the inputs of `encode`: images and instructions, padded to the batch size by repeating the last item."""

    def __init__(self, episodes: DemonstrationDataset, layout: RowLayout, *, batch_size: int) -> None:
        self.episodes, self.layout, self.batch_size = episodes, layout, batch_size
        size = episodes.image_size
        self.shape = (batch_size, layout.cameras, size, size, 3)
        self._episode, self._images = -1, np.empty(0, np.uint8)

    def __call__(self, begin: int, end: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return images [N,K,H,W,3], tokens [N,L] and padding [N,L]; images are black for items of text only."""
        images, views, count = np.empty(self.shape, np.uint8), min(end, self.layout.views), end - begin
        for item in range(begin, views):
            episode, _, step = self.layout.view(item)
            images[item - begin] = self._episode_images(episode)[step]
        images[max(views - begin, 0) : count] = 0
        images[count:] = images[count - 1]
        chosen = [self.layout.instruction(item) for item in range(begin, end)]
        chosen += chosen[-1:] * (self.batch_size - len(chosen))
        return images, self.layout.instructions.tokens[chosen], self.layout.instructions.padding[chosen]

    def _episode_images(self, episode: int) -> np.ndarray:
        """Return the images of an episode; the last ones are cached for its other instructions and the next batch."""
        if episode != self._episode:
            self._images = self.episodes.episode(episode).images
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
        batch_size: int,
        demonstrations: StoragePath,
    ) -> None:
        self.folder, self.rows, self.layout = folder, rows, layout
        self.batch_size, self.demonstrations = batch_size, demonstrations

    def __call__(self, begin: int, end: int, features: FrameFeatures) -> None:
        """Transfer the features of items `begin` to `end` from the device, check and write them."""
        views, texts = self.layout.row_ranges(begin, end)
        for name, rows in self.rows.items():
            values = np.asarray(getattr(features, name))
            shape = (self.batch_size, *rows.shape)
            if values.shape != shape or values.dtype != rows.dtype:
                found = f"{values.dtype}{values.shape}"
                raise ValueError(f"encode returned {name} {found}, expected {rows.dtype}{shape}")
            part, first = (texts, begin - self.layout.first_text) if name == "text" else (views, begin)
            if part.stop > part.start:
                values = values[max(part.start - first, 0) : part.stop - first]
                self._check_finite(name, part.start, values)
                with report_folder_errors(self.folder):
                    rows.write(part.start, values)

    def _check_finite(self, name: str, first: int, values: np.ndarray) -> None:
        finite = np.isfinite(values)
        if finite.all():
            return
        row = first + int(np.flatnonzero(~finite.reshape(len(values), -1).all(1))[0])
        if name == "text":
            where = repr(self.layout.instructions.distinct[row])
        else:
            episode, choice, step = self.layout.view(row)
            where = f"episode {episode}, step {step}"
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
