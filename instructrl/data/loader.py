"""Whole keyframe episodes as batches, in an order that is a pure function of (seed, step).

This is not grain: its iterators carry a state that fits one number of processes only, and its worker processes outlive
a trainer that is killed. A pure function of the step has no state to carry, and a thread dies with its process.
"""

from collections import deque
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Protocol, TypeVar

import numpy as np

from instructrl.batch import Batch, BatchSizes, Features, empty_batch
from instructrl.data.episodes import Episodes, check_alike
from instructrl.data.features import FeatureCache
from instructrl.data.order import Order
from instructrl.data.sentences import Sentences
from instructrl.data.tokenizer import Tokenizer
from instructrl.errors import InputError

T = TypeVar("T")
B = TypeVar("B")
Made = TypeVar("Made", covariant=True)


class Batches(Protocol[Made]):
    """What makes a batch of a step's number alone: `Loader`, and `pairs.PairLoader`."""

    def batch(self, step: int) -> Made: ...


class Loader:
    """Batches of sequences: whole episodes of one or several files, each with one of its sentences.

    Attributes:
        sizes: what fixes the shapes of a batch.
        order: which episodes an epoch shows.
        steps_per_epoch: ceil(episodes / batch size); the last batch of an epoch is filled with empty sequences.
    """

    def __init__(
        self,
        files: Sequence[Episodes],
        tokenizer: Tokenizer,
        *,
        batch_size: int,
        seed: int,
        steps: int | None = None,
        shuffle: bool = True,
        sentences: int | None = None,
        features: Sequence[FeatureCache] | None = None,
        weights: Sequence[float] | None = None,
        shard: tuple[int, int] = (0, 1),
    ) -> None:
        """`steps` is the length T of a sequence (default: the longest episode's).

        Without `shuffle` the episodes come in the files' order, with the same sentences in every epoch.
        `sentences` keeps the first ones of each episode only. With `features`, one for each file, made of the same
        episodes and sentences, no pixel is read: batches have features in place of images, and all else is the
        same. `weights`, one for each file, mix them (see `Order`). `shard` (index, count) is this process's part of
        each batch of `batch_size`: the parts behind one another are the batch.

        Raises:
            InputError: an episode has more than `steps` steps, a sentence too many tokens, files do not go
                together, or the shards are not of equal size.
            ValueError: `features` are of other episodes or sentences.
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
        texts = [Sentences(episodes, tokenizer, limit=sentences) for episodes in files]
        caches: Sequence[FeatureCache | None] = [None] * len(files) if features is None else features
        self.files = [File(*parts) for parts in zip(files, texts, caches, strict=True)]
        self.order = Order([len(episodes) for episodes in files], seed=seed, shuffle=shuffle, weights=weights)
        self.steps_per_epoch = -(-self.order.length // batch_size)
        self._batch_size, self._begin = batch_size, index * (batch_size // count)
        self._firsts = np.cumsum([0, *map(len, files[:-1])])
        self.sizes = BatchSizes(
            batch_size // count,
            steps,
            len(longest.cameras),
            longest.image_size,
            tokenizer.length,
            features=None if features is None else features[0].sizes,
        )

    def batch(self, step: int) -> Batch:
        """Batch number `step` since the beginning of training, from 0; safe to call from several threads."""
        epoch, place = divmod(step, self.steps_per_epoch)
        order, draws = self.order.epoch(epoch)
        begin = place * self._batch_size + self._begin
        chosen = slice(begin, min(begin + self.sizes.batch, len(order)))
        batch = empty_batch(self.sizes)
        batch.text_padding_mask[max(0, chosen.stop - begin) :] = 1
        for row, (file, episode) in enumerate(zip(*self._located(order[chosen]), strict=True)):
            self.files[file].fill(batch, row, int(episode), draw=int(draws[begin + row]))
        return batch

    def shown(self, step: int) -> list[tuple[Episodes, np.ndarray]]:
        """The files and numbers of the episodes in batch number `step`, those of all processes together."""
        epoch, place = divmod(step, self.steps_per_epoch)
        begin = place * self._batch_size
        files, numbers = self._located(self.order.epoch(epoch)[0][begin : begin + self._batch_size])
        return [(self.files[file].episodes, numbers[files == file]) for file in np.unique(files)]

    def _located(self, sequences: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Episodes that are numbered through as their files, and their numbers there."""
        files = np.searchsorted(self._firsts, sequences, side="right") - 1
        return files, sequences - self._firsts[files]


class File:
    """One file of episodes with its sentences and, in place of its images, the features made of both."""

    def __init__(self, episodes: Episodes, sentences: Sentences, features: FeatureCache | None) -> None:
        """Raises ValueError for features of other episodes or sentences."""
        if features is not None and not features.layout.fits(episodes, sentences):
            raise ValueError(f"{features.folder}: features of other episodes or sentences than {episodes.path}")
        self.episodes, self.sentences, self.features = episodes, sentences, features

    def fill(self, batch: Batch, row: int, episode: int, *, draw: int) -> None:
        """Put an episode of this file into one row, with the one of its sentences that is drawn."""
        choice = draw % int(self.sentences.counts[episode])
        if self.features is None:
            taken = self.episodes.episode(episode, out=batch.images[row])
        else:
            taken = self.episodes.episode(episode, pixels=False)
            parts = Features(*(None if part is None else part[row] for part in batch.features or ()))
            self.features.read(episode, choice, out=parts)
        length = len(taken.actions)
        for key in ("state", "intrinsics", "extrinsics", "actions"):
            getattr(batch, key)[row, :length] = getattr(taken, key)
        batch.step_mask[row, :length] = 1
        sentence = self.sentences.row(episode, choice)
        batch.tokens[row] = self.sentences.tokens[sentence]
        batch.text_padding_mask[row] = self.sentences.padding[sentence]


def prefetched(loader: Batches[B], start: int, stop: int, *, depth: int, put: Callable[[B], T]) -> Generator[T]:
    """`put(loader.batch(step))` for start <= step < stop, in order, at most `depth` prepared ahead by a thread.

    An exception reaches the consumer at its batch. Closing the iterator (contextlib.closing) ends the thread.
    """

    def prepare(step: int) -> T:
        return put(loader.batch(step))

    waiting: deque[Future[T]] = deque()
    # One thread: HDF5 lets only one read at a time, and a second one was measured to slow the first.
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
