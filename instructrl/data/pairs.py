"""Pictures with captions as batches, in an order that is a pure function of (seed, step).

Shapes: B rows, C pixels along the canvas, L tokens. Each batch is of one kind: pairs, pictures alone or text alone.
"""

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from instructrl.data.order import Order, apportioned
from instructrl.data.pair_sets import PairSet, open_pairs
from instructrl.data.pictures import BadPictureError, decoded
from instructrl.data.tokenizer import Tokenizer
from instructrl.errors import InputError

KINDS = ("pair", "image", "text")
BLOCK = 1000  # steps, in each of which the kinds have their exact rates
MOST_BAD = 1000  # pictures behind one another
WIDEST = 40  # characters to a token that are looked at: texts may be books

__all__ = ["KINDS", "PairBatch", "PairLoader", "PairSet", "PairSizes", "empty_pair_batch", "open_pairs"]


class PairBatch(NamedTuple):
    """B pictures with their captions; of kind "image" without captions, of kind "text" without pictures."""

    images: np.ndarray  # B C C 3, uint8; zeros for kind "text"
    tokens: np.ndarray  # B L, int32; zeros for kind "image"
    text_padding_mask: np.ndarray  # B L, float32, 1 where a token is padding: everywhere for kind "image"


class PairSizes(NamedTuple):
    """What fixes the shapes of a PairBatch."""

    batch: int
    canvas: int
    tokens: int


def empty_pair_batch(sizes: PairSizes) -> PairBatch:
    """Black pictures without a word."""
    return PairBatch(
        np.zeros((sizes.batch, sizes.canvas, sizes.canvas, 3), np.uint8),
        np.zeros((sizes.batch, sizes.tokens), np.int32),
        np.ones((sizes.batch, sizes.tokens), np.float32),
    )


class PairLoader:
    """Batches of one or several sets, each in proportion to its size.

    Pictures alone come from sets without captions, text alone from sets without pictures; where there are none, from
    the pairs. The entries of a kind are shown in epochs of their own, one behind the other: every batch is full.

    Attributes:
        sizes: what fixes the shapes of a batch, of this process's part of it.
        steps_per_epoch: how many steps show each entry of the first kind that has a rate (pair, image, text) once.
    """

    def __init__(
        self,
        sets: Sequence[PairSet],
        tokenizer: Tokenizer,
        *,
        batch_size: int,
        canvas: int,
        seed: int,
        rates: Mapping[str, float],
        shard: tuple[int, int] = (0, 1),
        shuffle: bool = True,
        threads: int = 1,
    ) -> None:
        """`rates` of the kinds (>= 0) are shares of the steps, exact in every 1000 of them.

        Without `shuffle` the entries come in the sets' order, the same in every epoch. `shard` (index, count) is
        this process's part of each batch of `batch_size`: the parts behind one another are the batch. Pictures are
        decoded by so many threads.

        Raises:
            InputError: there is nothing of a kind that has a rate, or the shards are not of equal size.
        """
        index, count = shard
        if batch_size % count:
            raise InputError(
                f"training.batch_size: found {batch_size}; allowed: a multiple of the number of processes, {count}"
            )
        self.sizes = PairSizes(batch_size // count, canvas, tokenizer.length)
        self._tokenizer, self._batch_size, self._begin = tokenizer, batch_size, index * self.sizes.batch
        self._schedule = Schedule(rates, seed=seed)
        self._streams = {kind: Stream(kind, sets, seed=seed, shuffle=shuffle) for kind in self._schedule.kinds}
        first = self._schedule.kinds[0]
        self.steps_per_epoch = -(
            -self._streams[first].order.length * BLOCK // (batch_size * self._schedule.share(first))
        )
        self._bad: set[tuple[int, int]] = set()
        self._threads = ThreadPoolExecutor(threads, thread_name_prefix="decode") if threads > 1 else None

    @property
    def skipped(self) -> int:
        """How many bad pictures this process has met so far; each was replaced by the next good one of its set."""
        return len(self._bad)

    def close(self) -> None:
        """End the threads."""
        if self._threads is not None:
            self._threads.shutdown()

    def kind(self, step: int) -> str:
        """Of what kind batch number `step` is: pair, image or text."""
        return self._schedule.kind(step)

    def batch(self, step: int) -> PairBatch:
        """Batch number `step` since the beginning of training, from 0; safe to call from several threads.

        Raises:
            InputError: a file is damaged, or no picture of a set can be read.
        """
        kind = self.kind(step)
        first = self._schedule.before(step) * self._batch_size + self._begin
        chosen = [self._streams[kind].entry(first + row) for row in range(self.sizes.batch)]
        batch = empty_pair_batch(self.sizes)
        if kind != "text":
            if self._threads is None:
                chosen = [self._draw(entry, batch.images[row]) for row, entry in enumerate(chosen)]
            else:
                chosen = list(self._threads.map(self._draw, chosen, batch.images))
        if kind != "image":
            longest = WIDEST * self.sizes.tokens
            texts = [entry.set.text(entry.place, entry.draw) or "" for entry in chosen]
            batch.tokens[:], batch.text_padding_mask[:] = self._tokenizer([text[:longest] for text in texts], cut=True)
        return batch

    def _draw(self, entry: "Entry", out: np.ndarray) -> "Entry":
        """Put an entry's picture, or the next good one of its set, into `out`; returns the entry that it is of."""
        reason, size = "", len(entry.set)
        for ahead in range(min(size, MOST_BAD)):
            index = (entry.place + ahead) % size
            if (entry.number, index) in self._bad:
                continue
            try:
                out[:] = decoded(entry.set.image(index) or b"", self.sizes.canvas)
            except BadPictureError as error:
                reason = str(error)
                self._bad.add((entry.number, index))
            else:
                return entry._replace(place=index)
        raise InputError(
            f"{entry.set.path}: {min(size, MOST_BAD)} pictures behind one another cannot be read "
            f"({reason or 'as before'}); is it a set of JPEG or PNG pictures?"
        )


class Entry(NamedTuple):
    """One entry of a set, and a draw for what is to be chosen of it."""

    number: int  # of the set
    set: PairSet
    place: int  # in the set
    draw: int


class Stream:
    """All entries of one kind, epoch after epoch.

    Attributes:
        order: that of their epochs.
    """

    def __init__(self, kind: str, sets: Sequence[PairSet], *, seed: int, shuffle: bool) -> None:
        """Raises InputError if the sets have nothing of the kind."""
        having = {
            "pair": [one for one in sets if one.has_images and one.has_texts],
            "image": [one for one in sets if one.has_images and not one.has_texts],
            "text": [one for one in sets if one.has_texts and not one.has_images],
        }
        self._sets = having[kind] or having["pair"]
        if not self._sets:
            wanted = {"pair": "both pictures and captions", "image": "pictures", "text": "captions or text"}[kind]
            paths = ", ".join(one.path for one in sets)
            raise InputError(f"rates.{kind}: above 0, but no set has {wanted}: {paths}; set it to 0 or add one")
        self._numbers = [next(n for n, other in enumerate(sets) if other is one) for one in self._sets]
        self._firsts = np.cumsum([0, *map(len, self._sets[:-1])])
        # Kinds that share sets must not go through them in the same order.
        self.order = Order(
            [len(one) for one in self._sets], seed=seed * len(KINDS) + KINDS.index(kind), shuffle=shuffle
        )

    def entry(self, position: int) -> Entry:
        """Entry number `position` of all epochs behind one another."""
        epoch, place = divmod(position, self.order.length)
        order, draws = self.order.epoch(epoch)
        found = int(np.searchsorted(self._firsts, order[place], side="right")) - 1
        index = int(order[place] - self._firsts[found])
        return Entry(self._numbers[found], self._sets[found], index, int(draws[place]))


class Schedule:
    """Which kind a step is of, and how many steps before it were of the same: exact rates in every block of steps.

    Attributes:
        kinds: those that have a rate, in the order of KINDS.
    """

    def __init__(self, rates: Mapping[str, float], *, seed: int) -> None:
        """Raises InputError for rates of which no kind has one."""
        self.kinds = [kind for kind in KINDS if rates.get(kind, 0) > 0]
        if not self.kinds or set(rates) - set(KINDS) or any(not rate >= 0 for rate in rates.values()):
            raise InputError(f"rates: found {dict(rates)}; allowed: pair, image and text, from 0, at least one above 0")
        self._shares = dict(zip(self.kinds, apportioned(BLOCK, [rates[kind] for kind in self.kinds]), strict=True))
        if not all(self._shares.values()):
            raise InputError(
                f"rates: found {dict(rates)}; a rate above 0 is at least 1/{BLOCK} of all; raise it or set 0"
            )
        self._seed = seed
        self._block = lru_cache(4)(self._drawn)

    def share(self, kind: str) -> int:
        """Of 1000 steps, how many are of this kind."""
        return self._shares[kind]

    def kind(self, step: int) -> str:
        """The kind of a step."""
        return self.kinds[self._block(step // BLOCK)[0][step % BLOCK]]

    def before(self, step: int) -> int:
        """How many steps before this one are of its kind."""
        block, place = divmod(step, BLOCK)
        kinds, before = self._block(block)
        return block * self._shares[self.kinds[kinds[place]]] + int(before[place])

    def _drawn(self, block: int) -> tuple[np.ndarray, np.ndarray]:
        """The kinds of a block's steps, and how many of the same were before each within the block."""
        kinds = np.repeat(np.arange(len(self.kinds)), [self._shares[kind] for kind in self.kinds])
        bits = np.random.Philox(np.random.SeedSequence([self._seed, block, 1 << 20]))  # not those of an Order
        kinds = kinds[np.argsort(bits.random_raw(BLOCK), kind="stable")]
        before = np.zeros(BLOCK, np.int64)
        for number in range(len(self.kinds)):
            before[kinds == number] = np.arange((kinds == number).sum())
        return kinds, before
