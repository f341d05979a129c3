"""The cache of a frozen encoder's features: computed once per file of demonstrations, memory-mapped in training.

    <file's stem>.features/<first 16 digits of the key>/
        index.json                   everything that decides the numbers, and the key, its SHA-256
        pooled.bin  patches.bin      a row for each (episode, step), or, where the encoder reads image and sentence
                                     together, for each (episode, sentence, step); patches only where a head asks
        text.bin                     a row for each distinct sentence; only where sentences have features of their own
        *.crc32                      see `rows`

What decides the numbers is in the folder's name, so features of another encoder or other demonstrations are never
taken for these; what is damaged or unfinished is seen when the cache is opened, and computed.
"""

from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np

from instructrl.batch import Features, FeatureSizes
from instructrl.data.episodes import Episodes
from instructrl.data.filling import ELSEWHERE, Encode, check_space, fill, usable
from instructrl.data.index import INDEX, describe, nearest, read_index, write_index
from instructrl.data.layout import Layout
from instructrl.data.lock import only_process
from instructrl.data.mirror import Mirror
from instructrl.data.rows import Rows
from instructrl.data.sentences import Sentences
from instructrl.data.storage import BucketPath, Place, local_folder
from instructrl.data.tokenizer import Tokenizer
from instructrl.errors import InputError

SENT = ".sent"  # in the local folder of a cache that lies in a bucket: that one is complete too


class FeatureCache:
    """Features of every episode, read from a memory map. Can be pickled and shared between threads.

    Attributes:
        folder: where it lies.
        sizes: what a row is.
        layout: which row belongs to which episode, sentence and step.
    """

    def __init__(self, folder: Path, layout: Layout, sizes: FeatureSizes) -> None:
        """Nothing is read yet."""
        self.folder, self.layout, self.sizes = folder, layout, sizes
        dtype, cameras = sizes.numpy_dtype, layout.cameras
        self.rows = {"pooled": Rows(folder / "pooled.bin", layout.views, (cameras, sizes.pooled), dtype)}
        if sizes.patches is not None:
            self.rows["patches"] = Rows(folder / "patches.bin", layout.views, (cameras, *sizes.patches), dtype)
        if layout.texts:
            self.rows["text"] = Rows(folder / "text.bin", layout.texts, (sizes.text,), dtype)
        self._maps: dict[str, np.ndarray] | None = None

    def read(self, episode: int, choice: int, *, out: Features) -> None:
        """Put an episode's features, asked with its sentence number `choice`, into one sequence of a batch.

        `out`: pooled [>=T,K,F], text [G] and, if there are any, patches [>=T,K,P,D]; what lies beyond T is left alone.

        Raises:
            InputError: the files are gone.
        """
        maps, views = self._mapped(), self.layout.rows(episode, choice)
        length = views.stop - views.start
        out.pooled[:length] = maps["pooled"][views]
        if "patches" in maps:
            out.patches[:length] = maps["patches"][views]
        if "text" in maps:
            out.text[:] = maps["text"][self.layout.sentences.row(episode, choice)]

    def missing(self) -> tuple[np.ndarray, int]:
        """Which items [layout.items] are not there whole, and how many rows are damaged; reads every byte."""
        items, damaged = np.zeros(self.layout.items, bool), 0
        for name, rows in self.rows.items():
            wrong, once_written = rows.missing()
            begin = self.layout.first_text if name == "text" else 0
            items[begin : begin + rows.count] |= wrong
            damaged += once_written
        return items, damaged

    def _mapped(self) -> dict[str, np.ndarray]:
        if self._maps is None:
            try:
                self._maps = {name: rows.mapped() for name, rows in self.rows.items()}
            except OSError as error:
                raise InputError(
                    f"{self.folder}: cannot be read ({error.strerror}); the same command computes it again"
                ) from None
        return self._maps

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_maps": None}


def ensure_features(
    episodes: Episodes,
    tokenizer: Tokenizer,
    *,
    encode: Encode,
    sizes: FeatureSizes,
    identity: Mapping[str, str],
    joint: bool,
    sentences: int | None,
    folder: Place | None,
    batch_size: int,
) -> FeatureCache:
    """The cache of these episodes' features; what is missing is computed first.

    Args:
        episodes: the demonstrations in use.
        tokenizer: of the encoder.
        encode: maps images and sentences to features; not called if the cache is complete.
        sizes: what `encode` returns.
        identity: what decides the numbers besides the data, in words.
        joint: whether an image's features depend on the sentence.
        sentences: how many of each episode's sentences are in use; None: all.
        folder: where the cache is put; None: beside the demonstrations. One in a bucket is fetched into a local folder,
            and sent back when something was computed.
        batch_size: images' moments (of K cameras) that `encode` gets at a time.

    Raises:
        InputError: the cache cannot be written, or the disk is too small.
        RunError: a feature is not finite.
    """
    layout = Layout(episodes, Sentences(episodes, tokenizer, limit=sentences), joint=joint, texts=sizes.text > 0)
    index = describe(episodes, layout, sizes, identity)
    beside = (folder or episodes.path.parent) / f"{episodes.path.stem}.features"
    place = beside / index["key"][:16]
    cache = FeatureCache(local_folder(place), layout, sizes)
    if not is_complete(cache, index) or not is_sent(place, cache):
        with only_process(cache.folder, does="computes the same features", remedy=None, elsewhere=ELSEWHERE):
            with ExitStack() as afterwards:
                if isinstance(place, BucketPath):
                    mirror = Mirror(place, cache.folder)
                    mirror.pull()
                    afterwards.callback(mirror.push)  # also what was computed before an error
                complete(cache, index, episodes, encode, batch_size=batch_size)
            if isinstance(place, BucketPath):
                (cache.folder / SENT).touch()
    return cache


def is_sent(place: Place, cache: FeatureCache) -> bool:
    """Whether the bucket, if it is in one, has all that is here."""
    return isinstance(place, Path) or (cache.folder / SENT).exists()


def is_complete(cache: FeatureCache, index: dict[str, Any]) -> bool:
    """Whether every row is there; nothing is written."""
    try:
        return fits(cache, index) and not cache.missing()[0].any()
    except OSError:  # another process is making it anew
        return False


def fits(cache: FeatureCache, index: dict[str, Any]) -> bool:
    """Whether the folder speaks of these features, and has files of the right sizes."""
    return read_index(cache.folder) == index and all(rows.exist() for rows in cache.rows.values())


def complete(
    cache: FeatureCache, index: dict[str, Any], episodes: Episodes, encode: Encode, *, batch_size: int
) -> None:
    """Compute what is missing; no other process does so now."""
    with usable(cache.folder):
        missing = still_missing(cache, index)
        if not missing.any():
            return
        check_space(cache.folder, cache.rows, cache.layout, missing)
        if not fits(cache, index):
            for rows in cache.rows.values():
                rows.create()
            write_index(cache.folder, index)
    fill(cache.folder, cache.rows, cache.layout, missing, episodes, encode, batch_size=batch_size)


def still_missing(cache: FeatureCache, index: dict[str, Any]) -> np.ndarray:
    """Which items [layout.items] must be computed; says what is wrong with what there is, and removes what is useless.

    Raises:
        OSError: the folder cannot be read or written.
    """
    if fits(cache, index):
        missing, damaged = cache.missing()
        if damaged:
            print(f"features: {cache.folder}: {damaged} damaged rows are computed again", flush=True)
        return missing
    other = nearest(cache.folder, index)
    if (cache.folder / INDEX).exists():
        print(f"features: {cache.folder}: {INDEX} or the files' sizes are wrong; made anew", flush=True)
    elif other is not None:
        print(f"features: none fit, not even {other}", flush=True)
    (cache.folder / INDEX).unlink(missing_ok=True)  # first, so that it never speaks of files that are not its own
    for rows in cache.rows.values():
        rows.remove()
    return np.ones(cache.layout.items, bool)
