"""Data loader: batches of whole keyframe episodes, a pure function of (seed, step).

Not grain: the state of its iterators is bound to the number of processes, and its worker processes outlive a trainer
that is killed. A pure function of the step has no state to save, and a thread dies with its process.
"""

from collections import deque
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Protocol, TypeVar, runtime_checkable

import numpy as np

from instructrl.data.demonstrations.dataset import DemonstrationDataset, check_alike
from instructrl.data.demonstrations.instructions import InstructionTable
from instructrl.data.feature_cache.cache import FeatureCache
from instructrl.data.loading.sampler import Sampler
from instructrl.data.text.tokenizer import Tokenizer
from instructrl.errors import InputError
from instructrl.types import Batch, BatchSizes, Features, empty_batch

T = TypeVar("T")
B = TypeVar("B")
BatchT = TypeVar("BatchT", covariant=True)


@runtime_checkable
class BatchSource(Protocol[BatchT]):
    """Protocol of loaders whose batch is a function of the step alone: `Loader` and `pairs.PairLoader`."""

    def batch(self, step: int) -> BatchT: ...


class Loader:
    """Batches of sequences: whole episodes of one or several files, each with one of its instructions.

    Attributes:
        sizes: the sizes that determine the shapes of a batch.
        sampler: order of the episodes of an epoch.
        steps_per_epoch: ceil(episodes / batch size); the last batch of an epoch is padded with empty sequences.
    """

    def __init__(
        self,
        files: Sequence[DemonstrationDataset],
        tokenizer: Tokenizer,
        *,
        batch_size: int,
        seed: int,
        steps: int | None = None,
        shuffle: bool = True,
        max_instructions: int | None = None,
        features: Sequence[FeatureCache] | None = None,
        weights: Sequence[float] | None = None,
        shard: tuple[int, int] = (0, 1),
    ) -> None:
        """Prepare files, sampler and shapes.

        Args:
            files: the datasets to sample from.
            tokenizer: the tokenizer of the encoder.
            batch_size: sequences of a batch, over all processes.
            seed: seed of the order and of the sampled instructions.
            steps: length T of a sequence; None: that of the longest episode.
            shuffle: False: episodes in the files' order, with the same instructions in every epoch.
            max_instructions: number of instructions per episode in use; None: all.
            features: a cache for each file, of the same episodes and instructions; batches then have features instead
                of images, no pixels are read, and all else is equal.
            weights: mixture weight of each file, see `Sampler`.
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
        steps = longest.steps if steps is None else steps
        if steps < longest.steps:
            raise InputError(
                f"{longest.path}: an episode of {longest.steps} steps does not fit into {steps}; allow more"
            )
        texts = [InstructionTable(episodes, tokenizer, limit=max_instructions) for episodes in files]
        caches: Sequence[FeatureCache | None] = [None] * len(files) if features is None else features
        self.files = [LoaderSource(*parts) for parts in zip(files, texts, caches, strict=True)]
        self.sampler = Sampler([len(episodes) for episodes in files], seed=seed, shuffle=shuffle, weights=weights)
        self.steps_per_epoch = -(-self.sampler.length // batch_size)
        self._batch_size, self._begin = batch_size, index * (batch_size // count)
        self._firsts = np.cumsum([0, *map(len, files[:-1])])
        self.sizes = BatchSizes(
            batch_size // count,
            steps,
            len(longest.cameras),
            longest.image_size,
            tokenizer.length,
            features=None if features is None else features[0].sizes,
            state=len(longest.state),
        )

    def batch(self, step: int) -> Batch:
        """Return the batch of a training step, counted from 0; thread-safe."""
        epoch, position = divmod(step, self.steps_per_epoch)
        order, draws = self.sampler.epoch(epoch)
        begin = position * self._batch_size + self._begin
        chosen = slice(begin, min(begin + self.sizes.batch, len(order)))
        batch = empty_batch(self.sizes)
        batch.text_padding_mask[max(0, chosen.stop - begin) :] = 1
        for row, (file, episode) in enumerate(zip(*self._locate(order[chosen]), strict=True)):
            self.files[file].fill(batch, row, int(episode), draw=int(draws[begin + row]))
        return batch

    def sentences(self) -> set[str]:
        """Return the distinct instructions of all episodes that batches are made of."""
        return {sentence for file in self.files for sentence in file.instructions.distinct}

    def episodes_in_batch(self, step: int) -> list[tuple[DemonstrationDataset, np.ndarray]]:
        """Return the files and episode numbers of the batch of a step, over all processes."""
        epoch, position = divmod(step, self.steps_per_epoch)
        begin = position * self._batch_size
        files, numbers = self._locate(self.sampler.epoch(epoch)[0][begin : begin + self._batch_size])
        return [(self.files[file].episodes, numbers[files == file]) for file in np.unique(files)]

    def _locate(self, sequences: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Map global episode numbers to file indices and numbers within the files."""
        files = np.searchsorted(self._firsts, sequences, side="right") - 1
        return files, sequences - self._firsts[files]


class LoaderSource:
    """One file of episodes with its instructions and, in place of its images, cached features of both."""

    def __init__(
        self, episodes: DemonstrationDataset, instructions: InstructionTable, features: FeatureCache | None
    ) -> None:
        """Raise ValueError for features of other episodes or instructions."""
        if features is not None and not features.layout.matches(episodes, instructions):
            raise ValueError(f"{features.folder}: features of other episodes or instructions than {episodes.path}")
        self.episodes, self.instructions, self.features = episodes, instructions, features

    def fill(self, batch: Batch, row: int, episode: int, *, draw: int) -> None:
        """Write an episode of this file into one row, with the instruction that `draw` selects."""
        choice = draw % int(self.instructions.counts[episode])
        pixels = None if batch.images is None else batch.images[row]
        steps = self.episodes.episode(episode, pixels=pixels is not None, out=pixels)
        if self.features is not None:
            parts = Features(*(None if part is None else part[row] for part in batch.features or ()))
            self.features.read(episode, choice, out=parts)
        length = len(steps.actions)
        for key in ("state", "intrinsics", "extrinsics", "actions"):
            getattr(batch, key)[row, :length] = getattr(steps, key)
        batch.step_mask[row, :length] = 1
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
