"""Data loader: batches of episodes, or of windows of their steps, a pure function of (seed, step).

Not grain: the state of its iterators is bound to the number of processes, and its worker processes outlive a trainer
that is killed. A pure function of the step has no state to save, and a thread dies with its process.
"""

from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from functools import cached_property
from typing import Any, NamedTuple, Protocol, TypeVar, runtime_checkable

import numpy as np

from instructrl.array_types import Int32
from instructrl.data.demonstrations.dataset import DemonstrationDataset, check_alike
from instructrl.data.demonstrations.instructions import InstructionTable
from instructrl.data.feature_cache.cache import FeatureCache, first_rows
from instructrl.data.loading.lengths import batch_lengths, padded_length
from instructrl.data.loading.sampler import Sampler
from instructrl.data.text.tokenizer import Tokenizer
from instructrl.errors import InputError
from instructrl.types import Batch, BatchSizes, Features, action_size, empty_batch

T = TypeVar("T")
B = TypeVar("B")
BatchT = TypeVar("BatchT", covariant=True)


@runtime_checkable
class BatchSource(Protocol[BatchT]):
    """Protocol of loaders whose batch is a function of the step alone: `Loader` and `pairs.PairLoader`."""

    def batch(self, step: int) -> BatchT: ...


class FeatureRows(NamedTuple):
    """Rows of a batch in the feature caches of a loader, counted through its files; -1 where there are none.

    A batch with rows instead of features is one whose features are elsewhere, such as on a device.
    """

    views: Int32[Any, "B T"]
    texts: Int32[Any, " B"]


class Loader:
    """Batches of sequences from one or several files, each with one of its episode's instructions.

    A sequence is a whole episode or, with a `window`, one of its steps after as many of those before it as there are.
    A step is observed where its action was taken or, in a share of cases, on the way to the next keyframe, to which
    the same action leads.

    Attributes:
        sizes: the sizes that determine the shapes of a batch; of one that is padded to the longest of all sequences.
        lengths: the lengths T that batches have, in ascending order.
        sampler: order of the sequences of an epoch.
        steps_per_epoch: ceil(sequences / batch size); the last batch of an epoch is padded with empty sequences.
    """

    def __init__(
        self,
        files: Sequence[DemonstrationDataset],
        tokenizer: Tokenizer,
        *,
        batch_size: int,
        seed: int,
        steps: int | None = None,
        lengths: Sequence[int] | None = None,
        window: int | None = None,
        chunk: int | None = None,
        shuffle: bool = True,
        max_instructions: int | None = None,
        features: Sequence[FeatureCache] | None = None,
        weights: Sequence[float] | None = None,
        intermediate_share: float = 0.0,
        shard: tuple[int, int] = (0, 1),
    ) -> None:
        """Prepare files, sampler and shapes.

        Args:
            files: the datasets to sample from.
            tokenizer: the tokenizer of the encoder.
            batch_size: sequences of a batch, over all processes.
            seed: seed of the order and of the sampled instructions.
            steps: the largest length T of a batch; None: that of the longest sequence.
            lengths: further ones; a batch has the shortest into which its sequences fit. None: see `batch_lengths`.
            window: steps of a sequence at most; None: whole episodes.
            chunk: the number of dense actions that are predicted at each step; None: none but the step's own.
            shuffle: False: episodes in the files' order, with the same instructions in every epoch.
            max_instructions: number of instructions per episode in use; None: all.
            features: a cache for each file, of the same episodes and instructions; batches then have features instead
                of images, no pixels are read, and all else is equal.
            weights: mixture weight of each file, see `Sampler`.
            intermediate_share: probability with which a step is observed on the way, if its file has frames there.
            shard: (index, count): this process's part of each batch; the concatenated parts are the batch.

        Raises:
            InputError: an episode has more than `steps` steps, an instruction has too many tokens, files have different
                cameras, image sizes or renderers, or the batch size is no multiple of the number of processes.
            ValueError: `features` are of other episodes or instructions.
        """
        check_alike(files)
        index, count = shard
        if batch_size % count:
            raise InputError(
                f"training.batch_size: found {batch_size}; allowed: a multiple of the number of processes, {count}"
            )
        longest = max(files, key=lambda episodes: episodes.steps)
        needed = longest.steps if window is None else min(window, longest.steps)
        steps = needed if steps is None else steps
        if steps < needed:
            raise InputError(f"{longest.path}: an episode of {needed} steps does not fit into {steps}; allow more")
        texts = [InstructionTable(episodes, tokenizer, limit=max_instructions) for episodes in files]
        caches: Sequence[FeatureCache | None] = [None] * len(files) if features is None else features
        self.files = [
            LoaderSource(*parts, window=window, intermediate_share=intermediate_share)
            for parts in zip(files, texts, caches, strict=True)
        ]
        counts = [len(source) for source in self.files]
        self.sampler = Sampler(counts, seed=seed, shuffle=shuffle, weights=weights)
        self.steps_per_epoch = -(-self.sampler.length // batch_size)
        self._batch_size, self._begin = batch_size, index * (batch_size // count)
        self._firsts = np.cumsum([0, *counts[:-1]])
        self.sizes = BatchSizes(
            batch_size // count,
            steps,
            len(longest.cameras),
            longest.image_size,
            tokenizer.length,
            features=None if features is None else features[0].sizes,
            state=len(longest.state),
            chunk=chunk,
            actions=action_size(longest.header.actions),
        )
        self._latest: tuple[int, np.ndarray] | None = None  # epoch, and the steps of the longest sequences
        self.lengths = batch_lengths(self.longest(0), steps) if lengths is None else tuple(sorted({*lengths, steps}))

    def batch(self, step: int) -> Batch:
        """Return the batch of a training step, counted from 0; thread-safe."""
        batch = empty_batch(self.sizes_of(step))
        for row, (file, sequence, draw) in enumerate(self._sequences(step, batch)):
            self.files[file].fill(batch, row, sequence, draw=draw)
        return batch

    def batch_without_features(self, step: int) -> tuple[Batch, FeatureRows]:
        """Return the batch of a step, without its cached features, and the rows of these; thread-safe."""
        batch = empty_batch(self.sizes_of(step))._replace(features=None)
        rows = FeatureRows(np.full(batch.step_mask.shape, -1, np.int32), np.full(len(batch.step_mask), -1, np.int32))
        for row, (file, sequence, draw) in enumerate(self._sequences(step, batch)):
            self.files[file].fill(batch, row, sequence, draw=draw)
            views, text = self.files[file].feature_rows(sequence, draw=draw)
            first_view, first_text = self._first_rows[file]
            rows.views[row, : len(views)] = first_view + views
            rows.texts[row] = -1 if text is None else first_text + text
        return batch, rows

    def sizes_of(self, step: int) -> BatchSizes:
        """Return the sizes of the batch of a step: the same in all processes."""
        if len(self.lengths) == 1:
            return self.sizes
        epoch, position = divmod(step, self.steps_per_epoch)
        return replace(self.sizes, steps=int(padded_length(self.longest(epoch)[position], self.lengths)))

    def longest(self, epoch: int) -> np.ndarray:
        """Return the steps of the longest sequence of each batch of an epoch, over all processes."""
        latest = self._latest
        if latest is None or latest[0] != epoch:
            order, _ = self.sampler.epoch(epoch)
            longest = np.maximum.reduceat(self._steps[order], np.arange(0, len(order), self._batch_size))
            latest = self._latest = (epoch, longest)
        return latest[1]

    @cached_property
    def mean_length(self) -> float:
        """Mean length T of the batches of the first epoch."""
        return float(padded_length(self.longest(0), self.lengths).mean())

    @cached_property
    def _steps(self) -> np.ndarray:
        """Steps of each sequence, through all files."""
        return np.concatenate([source.steps for source in self.files])

    @cached_property
    def _first_rows(self) -> list[tuple[int, int]]:
        return first_rows([source.features for source in self.files if source.features is not None])

    def _sequences(self, step: int, batch: Batch) -> Iterator[tuple[int, int, int]]:
        """Yield file number, sequence and random bits of each row of a batch; mark other rows' texts as padding."""
        epoch, position = divmod(step, self.steps_per_epoch)
        order, draws = self.sampler.epoch(epoch)
        begin = position * self._batch_size + self._begin
        chosen = slice(begin, min(begin + self.sizes.batch, len(order)))
        batch.text_padding_mask[max(0, chosen.stop - begin) :] = 1
        for row, (file, sequence) in enumerate(zip(*self._locate(order[chosen]), strict=True)):
            yield int(file), int(sequence), int(draws[begin + row])

    def sentences(self) -> set[str]:
        """Return the distinct instructions of all episodes that batches are made of."""
        return {sentence for file in self.files for sentence in file.instructions.distinct}

    def episodes_in_batch(self, step: int) -> list[tuple[DemonstrationDataset, np.ndarray]]:
        """Return the files and episode numbers of the batch of a step, over all processes."""
        epoch, position = divmod(step, self.steps_per_epoch)
        begin = position * self._batch_size
        files, numbers = self._locate(self.sampler.epoch(epoch)[0][begin : begin + self._batch_size])
        sources = [(self.files[file], numbers[files == file]) for file in np.unique(files)]
        return [
            (source.episodes, np.array([source.locate(int(number))[0] for number in chosen]))
            for source, chosen in sources
        ]

    def _locate(self, sequences: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Map global numbers of sequences to file indices and numbers within the files."""
        files = np.searchsorted(self._firsts, sequences, side="right") - 1
        return files, sequences - self._firsts[files]


class LoaderSource:
    """Sequences of one file's episodes with their instructions and, in place of images, cached features of both."""

    def __init__(
        self,
        episodes: DemonstrationDataset,
        instructions: InstructionTable,
        features: FeatureCache | None,
        *,
        window: int | None,
        intermediate_share: float = 0.0,
    ) -> None:
        """Raise ValueError for features of other episodes or instructions; other arguments as for `Loader`."""
        if features is not None and not features.layout.matches(episodes, instructions):
            raise ValueError(f"{features.folder}: features of other episodes or instructions than {episodes.path}")
        self.episodes, self.instructions, self.features = episodes, instructions, features
        self._window, self._ends = window, np.cumsum(episodes.lengths)
        self._intermediate_share = intermediate_share

    def __len__(self) -> int:
        return len(self.episodes) if self._window is None else int(self._ends[-1])

    @property
    def steps(self) -> np.ndarray:
        """Steps of each sequence."""
        lengths = self.episodes.lengths
        if self._window is None:
            return lengths
        before = np.arange(len(self)) - np.repeat(self._ends - lengths, lengths)
        return np.minimum(before + 1, self._window)

    def locate(self, sequence: int) -> tuple[int, slice]:
        """Return the episode of a sequence in [0, len), and which of its steps are in it."""
        if self._window is None:
            return sequence, slice(0, int(self.episodes.lengths[sequence]))
        episode = int(np.searchsorted(self._ends, sequence, side="right"))
        stop = sequence + 1 - int(self._ends[episode] - self.episodes.lengths[episode])
        return episode, slice(max(0, stop - self._window), stop)

    def observed_frames(self, sequence: int, *, draw: int) -> np.ndarray:
        """Return the numbers [T], within the file, of the frames that are observed in a sequence."""
        episode, chosen = self.locate(sequence)
        frames = self.episodes.frames(episode)[chosen]
        if not self._intermediate_share:
            return frames
        between = self.episodes.frames_between(episode)[chosen]
        uniform = (np.random.Philox(key=draw).random_raw(2 * len(frames)) >> np.uint64(11)) * 2.0**-53
        on_the_way = (uniform[::2] < self._intermediate_share) & (between > 0)
        return frames + on_the_way * (1 + (uniform[1::2] * between).astype(np.int64))

    def feature_rows(self, sequence: int, *, draw: int) -> tuple[np.ndarray, int | None]:
        """Return the rows of a sequence in the cache of this file: of views [T], and of its text if there is one."""
        assert self.features is not None
        episode, _ = self.locate(sequence)
        choice, layout = draw % int(self.instructions.counts[episode]), self.features.layout
        views = self._observed_views(episode, self.observed_frames(sequence, draw=draw))
        text = layout.instructions.row(episode, choice) if layout.texts else None
        return layout.rows(episode, choice).start + views, text

    def _observed_views(self, episode: int, frames: np.ndarray) -> np.ndarray:
        """Return which of an episode's views these frames are [T]."""
        return np.searchsorted(self.episodes.views(episode), frames)

    def fill(self, batch: Batch, row: int, sequence: int, *, draw: int) -> None:
        """Write a sequence of this file into one row, with the instruction that `draw` selects."""
        episode, chosen = self.locate(sequence)
        choice = draw % int(self.instructions.counts[episode])
        pixels = None if batch.images is None else batch.images[row]
        frames = self.observed_frames(sequence, draw=draw)
        steps = self.episodes.episode(episode, steps=chosen, frames=frames, pixels=pixels is not None, out=pixels)
        if self.features is not None and batch.features is not None:
            parts = Features(*(None if part is None else part[row] for part in batch.features))
            self.features.read(episode, choice, out=parts, views=self._observed_views(episode, frames))
        length = len(steps.actions)
        for key in ("state", "intrinsics", "extrinsics", "actions"):
            getattr(batch, key)[row, :length] = getattr(steps, key)
        batch.step_mask[row, :length] = 1
        if batch.chunks is not None and batch.chunk_mask is not None:
            actions = self.episodes.actions(episode)
            numbers = np.arange(chosen.start, chosen.stop)[:, None] + np.arange(batch.chunks.shape[2])
            batch.chunks[row, :length] = actions[np.minimum(numbers, len(actions) - 1)]
            batch.chunk_mask[row, :length] = numbers < len(actions)
        if batch.seeds is not None:
            batch.seeds[row] = draw >> 32, draw & 0xFFFFFFFF
        text = self.instructions.row(episode, choice)
        batch.tokens[row] = self.instructions.tokens[text]
        batch.text_padding_mask[row] = self.instructions.padding[text]


def prefetch(loader: BatchSource[B], start: int, stop: int, *, depth: int, put: Callable[[B], T]) -> Generator[T]:
    """Yield `put(loader.batch(step))` for start <= step < stop; a thread prepares up to `depth` batches ahead.

    An exception is raised at its batch. Closing the generator (contextlib.closing) ends the thread.
    """

    def prepare(step: int) -> T:
        return put(loader.batch(step))

    waiting: deque[Future[T]] = deque()
    # One thread: HDF5 serializes reads, and a second thread was measured to slow down the first.
    with ThreadPoolExecutor(max_workers=1, thread_name_prefix="prefetch") as thread:
        try:
            for step in range(start, stop):
                waiting.append(thread.submit(prepare, step))
                if len(waiting) > depth:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()
