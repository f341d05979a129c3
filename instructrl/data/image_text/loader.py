"""Data loader of image-text pairs: batches are a pure function of (seed, step).

Shape suffixes: B batch, C image size in pixels, L tokens. Each batch is of one kind: pairs, images only or text only.
"""

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from jaxtyping import Float32, Int32, UInt8

from instructrl.data.image_text.images import BadImageError, decode_image
from instructrl.data.image_text.sources import PairSet, open_pairs
from instructrl.data.loading.sampler import Sampler, apportion
from instructrl.data.text.tokenizer import Tokenizer
from instructrl.errors import InputError

KINDS = ("pair", "image", "text")
BLOCK = 1000  # steps, within each of which the rates of the kinds are exact
MAX_CONSECUTIVE_BAD = 1000  # images
MAX_CHARS_PER_TOKEN = 40  # longer texts are truncated before tokenization: they may be books

__all__ = ["KINDS", "PairBatch", "PairLoader", "PairSet", "PairSizes", "empty_pair_batch", "open_pairs"]


class PairBatch(NamedTuple):
    """B images with their captions; no captions if the kind is "image", no images if it is "text"."""

    images: UInt8[np.ndarray, "B C C 3"]  # zeros for kind "text"
    tokens: Int32[np.ndarray, "B L"]  # zeros for kind "image"
    text_padding_mask: Float32[np.ndarray, "B L"]  # 1 where a token is padding; all ones for kind "image"


class PairSizes(NamedTuple):
    """Sizes that determine the shapes of a PairBatch."""

    batch: int
    image_size: int
    tokens: int


def empty_pair_batch(sizes: PairSizes) -> PairBatch:
    """Return a batch of black images and empty captions."""
    return PairBatch(
        np.zeros((sizes.batch, sizes.image_size, sizes.image_size, 3), np.uint8),
        np.zeros((sizes.batch, sizes.tokens), np.int32),
        np.ones((sizes.batch, sizes.tokens), np.float32),
    )


class PairLoader:
    """Batches from one or several sets, each in proportion to its size.

    Batches of images only come from sets without captions, batches of text only from sets without images; if there are
    none, from the pairs. The entries of a kind are iterated in consecutive epochs of their own: every batch is full.

    Attributes:
        sizes: the sizes that determine the shapes of this process's part of a batch.
        steps_per_epoch: steps for one epoch of the first kind that has a rate (pair, image, text).
    """

    def __init__(
        self,
        sets: Sequence[PairSet],
        tokenizer: Tokenizer,
        *,
        batch_size: int,
        image_size: int,
        seed: int,
        rates: Mapping[str, float],
        shard: tuple[int, int] = (0, 1),
        shuffle: bool = True,
        threads: int = 1,
    ) -> None:
        """Prepare samplers and shapes.

        Args:
            sets: the sets to sample from.
            tokenizer: the tokenizer of the encoder.
            batch_size: entries of a batch, over all processes.
            image_size: image size in pixels.
            seed: seed of the order, the kinds and the sampled captions.
            rates: share of steps of each kind (>= 0), exact within every 1000 steps.
            shard: (index, count): this process's part of each batch; the concatenated parts are the batch.
            shuffle: False: entries in the sets' order, the same in every epoch.
            threads: number of threads that decode images.

        Raises:
            InputError: no set has entries of a kind with a rate, or the batch size is no multiple of the number of
                processes.
        """
        index, count = shard
        if batch_size % count:
            raise InputError(
                f"training.batch_size: found {batch_size}; allowed: a multiple of the number of processes, {count}"
            )
        self.sizes = PairSizes(batch_size // count, image_size, tokenizer.length)
        self._tokenizer, self._batch_size, self._begin = tokenizer, batch_size, index * self.sizes.batch
        self._schedule = KindSchedule(rates, seed=seed)
        self._samplers = {kind: KindSampler(kind, sets, seed=seed, shuffle=shuffle) for kind in self._schedule.kinds}
        first = self._schedule.kinds[0]
        self.steps_per_epoch = -(
            -self._samplers[first].sampler.length * BLOCK // (batch_size * self._schedule.share(first))
        )
        self._bad: set[tuple[int, int]] = set()
        self._threads = ThreadPoolExecutor(threads, thread_name_prefix="decode") if threads > 1 else None

    @property
    def skipped(self) -> int:
        """Number of damaged images this process found so far; each was replaced by the next valid one of its set."""
        return len(self._bad)

    def close(self) -> None:
        """Shut down the threads."""
        if self._threads is not None:
            self._threads.shutdown()

    def kind(self, step: int) -> str:
        """Return the kind of the batch of a step: pair, image or text."""
        return self._schedule.kind(step)

    def batch(self, step: int) -> PairBatch:
        """Return the batch of a training step, counted from 0; thread-safe.

        Raises:
            InputError: a file is damaged, or no image of a set can be decoded.
        """
        kind = self.kind(step)
        first = self._schedule.count_before(step) * self._batch_size + self._begin
        entries = [self._samplers[kind].entry(first + row) for row in range(self.sizes.batch)]
        batch = empty_pair_batch(self.sizes)
        if kind != "text":
            if self._threads is None:
                entries = [self._decode(entry, batch.images[row]) for row, entry in enumerate(entries)]
            else:
                entries = list(self._threads.map(self._decode, entries, batch.images))
        if kind != "image":
            longest = MAX_CHARS_PER_TOKEN * self.sizes.tokens
            texts = [entry.set.text(entry.position, entry.draw) or "" for entry in entries]
            batch.tokens[:], batch.text_padding_mask[:] = self._tokenizer(
                [text[:longest] for text in texts], truncate=True
            )
        return batch

    def _decode(self, entry: "Entry", out: np.ndarray) -> "Entry":
        """Decode an entry's image, or the next valid one of its set, into `out`; return the entry that was decoded."""
        reason, size = "", len(entry.set)
        for offset in range(min(size, MAX_CONSECUTIVE_BAD)):
            index = (entry.position + offset) % size
            if (entry.set_number, index) in self._bad:
                continue
            try:
                out[:] = decode_image(entry.set.image(index) or b"", self.sizes.image_size)
            except BadImageError as error:
                reason = str(error)
                self._bad.add((entry.set_number, index))
            else:
                return entry._replace(position=index)
        raise InputError(
            f"{entry.set.path}: {min(size, MAX_CONSECUTIVE_BAD)} images in a row cannot be decoded "
            f"({reason or 'as before'}); is it a set of JPEG or PNG images?"
        )


class Entry(NamedTuple):
    """One entry of a set, and random bits to select among its captions."""

    set_number: int
    set: PairSet
    position: int  # within the set
    draw: int


class KindSampler:
    """All entries of one kind, in consecutive epochs.

    Attributes:
        sampler: order of the entries of an epoch.
    """

    def __init__(self, kind: str, sets: Sequence[PairSet], *, seed: int, shuffle: bool) -> None:
        """Raise InputError if the sets have no entries of the kind."""
        candidates = {
            "pair": [one for one in sets if one.has_images and one.has_texts],
            "image": [one for one in sets if one.has_images and not one.has_texts],
            "text": [one for one in sets if one.has_texts and not one.has_images],
        }
        self._sets = candidates[kind] or candidates["pair"]
        if not self._sets:
            required = {"pair": "both images and captions", "image": "images", "text": "captions or text"}[kind]
            paths = ", ".join(one.path for one in sets)
            raise InputError(f"rates.{kind}: above 0, but no set has {required}: {paths}; set it to 0 or add one")
        self._set_numbers = [next(number for number, other in enumerate(sets) if other is one) for one in self._sets]
        self._firsts = np.cumsum([0, *map(len, self._sets[:-1])])
        # Kinds that share sets must not iterate them in the same order.
        self.sampler = Sampler(
            [len(one) for one in self._sets], seed=seed * len(KINDS) + KINDS.index(kind), shuffle=shuffle
        )

    def entry(self, position: int) -> Entry:
        """Return the `position`-th entry of the concatenated epochs."""
        epoch, offset = divmod(position, self.sampler.length)
        order, draws = self.sampler.epoch(epoch)
        found = int(np.searchsorted(self._firsts, order[offset], side="right")) - 1
        index = int(order[offset] - self._firsts[found])
        return Entry(self._set_numbers[found], self._sets[found], index, int(draws[offset]))


class KindSchedule:
    """Kind of every step, with exact rates in every block of steps.

    Attributes:
        kinds: the kinds with a rate, in the order of KINDS.
    """

    def __init__(self, rates: Mapping[str, float], *, seed: int) -> None:
        """Raise InputError for invalid rates, or if all are zero."""
        self.kinds = [kind for kind in KINDS if rates.get(kind, 0) > 0]
        if not self.kinds or set(rates) - set(KINDS) or any(not rate >= 0 for rate in rates.values()):
            raise InputError(f"rates: found {dict(rates)}; allowed: pair, image and text, from 0, at least one above 0")
        self._shares = dict(zip(self.kinds, apportion(BLOCK, [rates[kind] for kind in self.kinds]), strict=True))
        if not all(self._shares.values()):
            raise InputError(
                f"rates: found {dict(rates)}; a rate above 0 must be at least 1/{BLOCK} of the sum; raise it or set 0"
            )
        self._seed = seed
        self._block = lru_cache(4)(self._sample_block)

    def share(self, kind: str) -> int:
        """Return the number of steps of a kind per 1000 steps."""
        return self._shares[kind]

    def kind(self, step: int) -> str:
        """Return the kind of a step."""
        return self.kinds[self._block(step // BLOCK)[0][step % BLOCK]]

    def count_before(self, step: int) -> int:
        """Return the number of earlier steps of the same kind."""
        block, offset = divmod(step, BLOCK)
        kinds, before = self._block(block)
        return block * self._shares[self.kinds[kinds[offset]]] + int(before[offset])

    def _sample_block(self, block: int) -> tuple[np.ndarray, np.ndarray]:
        """Return the kinds of a block's steps, and for each the number of earlier ones of its kind in the block."""
        kinds = np.repeat(np.arange(len(self.kinds)), [self._shares[kind] for kind in self.kinds])
        bits = np.random.Philox(np.random.SeedSequence([self._seed, block, 1 << 20]))  # independent of a Sampler's
        kinds = kinds[np.argsort(bits.random_raw(BLOCK), kind="stable")]
        before = np.zeros(BLOCK, np.int64)
        for number in range(len(self.kinds)):
            before[kinds == number] = np.arange((kinds == number).sum())
        return kinds, before
