"""Computing a cache's missing rows at the encoder's own speed.

While the device computes one batch, a thread reads the images of the next and another fetches and writes the
last one's features.
"""

import shutil
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from tqdm import tqdm

from instructrl.batch import Features
from instructrl.data.episodes import Episodes
from instructrl.data.layout import Layout
from instructrl.data.rows import Rows
from instructrl.data.storage import Place
from instructrl.errors import InputError, RunError
from instructrl.interruption import stop_if_asked

# Images uint8 [N,K,H,W,3], tokens int32 [N,L] and padding float32 [N,L] to pooled [N,K,F], text [N,G] and patches
# [N,K,P,D] or None, of numpy or jax; always of the same N.
Encode = Callable[[np.ndarray, np.ndarray, np.ndarray], Features]
AHEAD = 3  # batches read or being read when the device takes the first of them
BEHIND = 1  # batches that the device may be ahead of the writing thread
ELSEWHERE = "set features_dir=... to a folder that can be written"


def fill(
    folder: Path,
    rows: Mapping[str, Rows],
    layout: Layout,
    missing: np.ndarray,
    episodes: Episodes,
    encode: Encode,
    *,
    batch_size: int,
) -> None:
    """Compute and write the batches in which items are `missing` [items]; what was written stays if one fails.

    Raises:
        InputError: the disk is full or fails.
        RunError: a feature is not finite.
        ValueError: `encode` returns other shapes or types than `rows` have.
    """
    begins = [int(begin) for begin in np.unique(np.flatnonzero(missing) // batch_size) * batch_size]
    ends = {begin: min(begin + batch_size, layout.items) for begin in begins}
    size = sum(bytes_of(rows, layout, begin, end) for begin, end in ends.items()) / 1e6
    count, started = sum(ends.values()) - sum(begins), time.monotonic()
    print(f"features: computing {count} of {layout.items} rows ({size:.1f} MB) into {folder}", flush=True)
    read = Reader(episodes, layout, batch_size=batch_size)
    write = Recorder(folder, rows, layout, batch_size=batch_size, demonstrations=episodes.path)
    waiting: deque[Future] = deque()
    written: deque[tuple[int, Future]] = deque()
    with (
        ThreadPoolExecutor(1, thread_name_prefix="features") as reading,
        ThreadPoolExecutor(1, thread_name_prefix="features") as writing,  # ends after what it was given is written
        tqdm(total=count, unit="row", desc="features", dynamic_ncols=True, mininterval=0.5, disable=None) as progress,
    ):
        for number, begin in enumerate(begins):
            stop_if_asked()
            waiting += [reading.submit(read, b, ends[b]) for b in begins[number + len(waiting) : number + AHEAD]]
            features = encode(*waiting.popleft().result())
            written.append((ends[begin] - begin, writing.submit(write, begin, ends[begin], features)))
            while len(written) > (BEHIND if number < len(begins) - 1 else 0):
                done, future = written.popleft()
                future.result()
                progress.update(done)
    with usable(folder):
        for part in rows.values():
            part.sync()
    seconds = time.monotonic() - started
    print(f"features: {count} rows written in {seconds:.1f} s, {count / seconds:.1f} rows/s", flush=True)


class Reader:
    """What `encode` is given for items: images and sentences, filled up to the batch size with the last one."""

    def __init__(self, episodes: Episodes, layout: Layout, *, batch_size: int) -> None:
        self.episodes, self.layout, self.batch_size = episodes, layout, batch_size
        size = episodes.image_size
        self.shape = (batch_size, layout.cameras, size, size, 3)
        self._episode, self._images = -1, np.empty(0, np.uint8)

    def __call__(self, begin: int, end: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Images [N,K,H,W,3], tokens [N,L] and padding [N,L]; black images where only the sentence counts."""
        images, views, count = np.empty(self.shape, np.uint8), min(end, self.layout.views), end - begin
        for item in range(begin, views):
            episode, _, step = self.layout.view(item)
            images[item - begin] = self._seen(episode)[step]
        images[max(views - begin, 0) : count] = 0
        images[count:] = images[count - 1]
        asked = [self.layout.sentence(item) for item in range(begin, end)]
        asked += asked[-1:] * (self.batch_size - len(asked))
        return images, self.layout.sentences.tokens[asked], self.layout.sentences.padding[asked]

    def _seen(self, episode: int) -> np.ndarray:
        """The images of an episode; those of the last one are kept, for its other sentences and the next batch."""
        if episode != self._episode:
            self._images = self.episodes.episode(episode).images
            self._episode = episode
        return self._images


class Recorder:
    """Writes what `encode` made of items."""

    def __init__(
        self, folder: Path, rows: Mapping[str, Rows], layout: Layout, *, batch_size: int, demonstrations: Place
    ) -> None:
        self.folder, self.rows, self.layout = folder, rows, layout
        self.batch_size, self.demonstrations = batch_size, demonstrations

    def __call__(self, begin: int, end: int, features: Features) -> None:
        """Fetch the features of items `begin` to `end` from the device, check and write them."""
        views, texts = self.layout.parts(begin, end)
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
                with usable(self.folder):
                    rows.write(part.start, values)

    def _check_finite(self, name: str, first: int, values: np.ndarray) -> None:
        finite = np.isfinite(values)
        if finite.all():
            return
        row = first + int(np.flatnonzero(~finite.reshape(len(values), -1).all(1))[0])
        if name == "text":
            where = repr(self.layout.sentences.distinct[row])
        else:
            episode, choice, step = self.layout.view(row)
            where = f"episode {episode}, step {step}"
            if self.layout.joint:
                where += f", {self.layout.sentences.distinct[self.layout.sentences.row(episode, choice)]!r}"
        raise RunError(
            f"{self.demonstrations}: {where}: the encoder's features ({name}) are not finite; "
            "check encoder.weights, or use hardware.precision=float32"
        )


def bytes_of(rows: Mapping[str, Rows], layout: Layout, begin: int, end: int) -> int:
    """Bytes that items `begin` to `end` take, with their checksums."""
    views, texts = layout.parts(begin, end)
    parts = {name: texts if name == "text" else views for name in rows}
    return sum((part.stop - part.start) * (rows[name].row_bytes + 4) for name, part in parts.items())


def check_space(folder: Path, rows: Mapping[str, Rows], layout: Layout, missing: np.ndarray) -> None:
    """Raise InputError where the missing items [items] do not fit on the disk."""
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
def usable(folder: Path) -> Iterator[None]:
    """One line for what the operating system says of the cache's folder."""
    try:
        yield
    except OSError as error:
        raise InputError(
            f"{folder}: features cannot be read or written there ({error.strerror}); free space there or {ELSEWHERE}; "
            "the same command goes on from what is written"
        ) from None
