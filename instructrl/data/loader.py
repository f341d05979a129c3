"""Whole keyframe episodes as batches, in an order that is a pure function of (seed, step)."""

from collections import deque
from collections.abc import Callable, Generator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

import numpy as np

from instructrl.batch import Batch, BatchSizes, Features, empty_batch
from instructrl.data.episodes import Episodes
from instructrl.data.features import FeatureCache
from instructrl.data.sentences import Sentences
from instructrl.data.tokenizer import Tokenizer
from instructrl.errors import InputError

T = TypeVar("T")


class Loader:
    """Batches of sequences: every episode once per epoch, each with one of its sentences.

    Attributes:
        sizes: what fixes the shapes of a batch.
        steps_per_epoch: ceil(episodes / batch size); the last batch of an epoch is filled with empty sequences.
    """

    def __init__(
        self,
        episodes: Episodes,
        tokenizer: Tokenizer,
        *,
        batch_size: int,
        seed: int,
        steps: int | None = None,
        shuffle: bool = True,
        sentences: int | None = None,
        features: FeatureCache | None = None,
    ) -> None:
        """`steps` is the length T of a sequence (default: the longest episode's).

        Without `shuffle` the episodes come in the file's order, with the same sentences in every epoch.
        `sentences` keeps the first ones of each episode only. With `features`, made of the same episodes and
        sentences, no pixel is read: batches have features in place of images, and all else is the same.

        Raises:
            InputError: an episode has more than `steps` steps, or a sentence too many tokens.
            ValueError: `features` are of other episodes or sentences.
        """
        self.episodes, self.seed, self.shuffle = episodes, seed, shuffle
        steps = episodes.steps if steps is None else steps
        if steps < episodes.steps:
            raise InputError(
                f"{episodes.path}: an episode of {episodes.steps} steps does not fit into {steps}; allow more"
            )
        self.steps_per_epoch = -(-len(episodes) // batch_size)
        self.sentences, self.features = Sentences(episodes, tokenizer, limit=sentences), features
        self._last: tuple[int, np.ndarray, np.ndarray] | None = None
        if features is not None and not features.layout.fits(episodes, self.sentences):
            raise ValueError(f"{features.folder}: features of other episodes or sentences than {episodes.path}")
        self.sizes = BatchSizes(
            batch_size,
            steps,
            len(episodes.cameras),
            episodes.image_size,
            tokenizer.length,
            features=None if features is None else features.sizes,
        )

    def batch(self, step: int) -> Batch:
        """Batch number `step` since the beginning of training, from 0; safe to call from several threads."""
        epoch, place = divmod(step, self.steps_per_epoch)
        order, draws = self._epoch(epoch)
        chosen = order[place * self.sizes.batch :][: self.sizes.batch]
        batch = empty_batch(self.sizes)
        batch.text_padding_mask[len(chosen) :] = 1
        for row, episode in enumerate(chosen):
            self._fill(batch, row, int(episode), int(draws[episode]) % int(self.sentences.counts[episode]))
        return batch

    def _fill(self, batch: Batch, row: int, episode: int, choice: int) -> None:
        """Put an episode into one row, with its sentence number `choice`."""
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

    def _epoch(self, epoch: int) -> tuple[np.ndarray, np.ndarray]:
        """The order of the episodes and a draw for each episode's sentence; those of the last epoch asked are kept."""
        kept, number = self._last, epoch if self.shuffle else 0
        if kept is None or kept[0] != number:
            self._last = kept = (number, *self._drawn(number))
        return kept[1:]

    def _drawn(self, epoch: int) -> tuple[np.ndarray, np.ndarray]:
        """The same, from raw bits: equal in any numpy."""
        numbers = np.random.Philox(np.random.SeedSequence([self.seed, epoch]))
        keys, draws = numbers.random_raw(len(self.episodes)), numbers.random_raw(len(self.episodes))
        return np.argsort(keys, kind="stable") if self.shuffle else np.arange(len(self.episodes)), draws


def prefetched(loader: Loader, start: int, stop: int, *, depth: int, put: Callable[[Batch], T]) -> Generator[T]:
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
