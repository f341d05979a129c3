"""Cache of a frozen encoder's features: computed once per file of demonstrations, memory-mapped in training.

    <file's stem>.features/<first 16 digits of the key>/
        index.json                   everything that determines the features, and the key, its SHA-256
        pooled.bin  patches.bin      a row for each (episode, view), or, if the encoder reads image and instruction
                                     jointly, for each (episode, instruction, view); patches only if the head needs them
        text.bin                     a row for each distinct instruction; only if instructions are encoded separately
        *.crc32                      see `rows`

The folder's name is a hash of everything that determines the features, so features of another encoder or other
demonstrations are never used by mistake; damaged or missing rows are detected on opening and computed again.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from instructrl.data.demonstrations.dataset import DemonstrationDataset
from instructrl.data.demonstrations.instructions import InstructionTable
from instructrl.data.feature_cache.compute import (
    WRITE_HINT,
    Encode,
    EncodePlan,
    check_space,
    compute_items,
    report_folder_errors,
)
from instructrl.data.feature_cache.metadata import INDEX, closest_cache, index_content, read_index, write_index
from instructrl.data.feature_cache.row_file import RowFile
from instructrl.data.feature_cache.row_layout import RowLayout
from instructrl.data.text.tokenizer import Tokenizer
from instructrl.errors import InputError
from instructrl.storage.file_lock import exclusive_lock
from instructrl.storage.paths import BucketPath, StoragePath, local_folder
from instructrl.storage.synced_dir import SyncedDir
from instructrl.types import Features, FeatureSizes

UPLOADED = ".sent"  # marker in the local folder of a cache in a bucket: the bucket is complete too


class FeatureCache:
    """Features of every episode, read from a memory map. Picklable, thread-safe.

    Attributes:
        folder: local folder of the files.
        sizes: sizes and dtype of a row.
        layout: rows by episode, instruction and view.
    """

    def __init__(self, folder: Path, layout: RowLayout, sizes: FeatureSizes) -> None:
        """Initialize without reading files."""
        self.folder, self.layout, self.sizes = folder, layout, sizes
        dtype, cameras = sizes.numpy_dtype, layout.cameras
        self.rows = {"pooled": RowFile(folder / "pooled.bin", layout.views, (cameras, sizes.pooled), dtype)}
        if sizes.patches is not None:
            self.rows["patches"] = RowFile(folder / "patches.bin", layout.views, (cameras, *sizes.patches), dtype)
        if layout.texts:
            self.rows["text"] = RowFile(folder / "text.bin", layout.texts, (sizes.text,), dtype)
        self._maps: dict[str, np.ndarray] | None = None

    def read(self, episode: int, choice: int, *, out: Features, views: np.ndarray | None = None) -> None:
        """Write the features of an episode, with its instruction number `choice`, into a sequence of a batch.

        Args:
            episode: its number.
            choice: number of its instruction.
            out: pooled [>=T,K,F], text [G] and, if present, patches [>=T,K,P,D]; entries beyond T are unchanged.
            views: which of its views [T], increasing; all by default.

        Raises:
            InputError: the files no longer exist.
        """
        maps, rows = self._mapped(), self.layout.rows(episode, choice)
        chosen: slice | np.ndarray = rows
        if views is not None:
            first, last = rows.start + int(views[0]), rows.start + int(views[-1])
            chosen = slice(first, last + 1) if last - first == len(views) - 1 else rows.start + views
        length = rows.stop - rows.start if views is None else len(views)
        out.pooled[:length] = maps["pooled"][chosen]
        if "patches" in maps and out.patches is not None:
            out.patches[:length] = maps["patches"][chosen]
        if "text" in maps:
            out.text[:] = maps["text"][self.layout.instructions.row(episode, choice)]

    def find_missing(self) -> tuple[np.ndarray, int]:
        """Return a mask of incomplete items [layout.items], and the number of damaged rows; reads every byte."""
        items, damaged = np.zeros(self.layout.items, bool), 0
        for name, rows in self.rows.items():
            wrong, once_written = rows.find_missing()
            begin = self.layout.first_text if name == "text" else 0
            items[begin : begin + rows.count] |= wrong
            damaged += once_written
        return items, damaged

    def _mapped(self) -> dict[str, np.ndarray]:
        if self._maps is None:
            try:
                self._maps = {name: rows.memmap() for name, rows in self.rows.items()}
            except OSError as error:
                raise InputError(
                    f"{self.folder}: cannot be read ({error.strerror}); the same command computes it again"
                ) from None
        return self._maps

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_maps": None}


def first_rows(caches: Sequence[FeatureCache]) -> list[tuple[int, int]]:
    """The numbers of each cache's first view and first text, counted through all of them."""
    counts = np.array([(cache.layout.views, cache.layout.texts) for cache in caches]).reshape(-1, 2)
    return [(int(view), int(text)) for view, text in np.cumsum(counts, axis=0) - counts]


def ensure_features(
    episodes: DemonstrationDataset,
    tokenizer: Tokenizer,
    *,
    encode: Encode,
    sizes: FeatureSizes,
    identity: Mapping[str, str],
    joint: bool,
    max_instructions: int | None,
    folder: StoragePath | None,
    plan: EncodePlan,
    turn: Callable[[], AbstractContextManager[None]] = nullcontext,
) -> FeatureCache:
    """Return the cache of these episodes' features, after computing missing rows.

    Processes that do so at the same time share the rows of a local cache.

    Args:
        episodes: the demonstrations.
        tokenizer: the tokenizer of the encoder.
        encode: maps images and sentences to features; not called if the cache is complete.
        sizes: what `encode` returns.
        identity: everything besides the data that determines the features, as text.
        joint: True if the features of an image depend on the instruction.
        max_instructions: number of instructions per episode in use; None: all.
        folder: parent folder of the cache; None: that of the demonstrations. A cache in a bucket is downloaded into a
            local folder, and uploaded if rows were computed, by one process while others wait.
        plan: what computes; `encode` is called with a batch for all of its devices.
        turn: context in which the first of processes that begin together prepares the files before the others see them.

    Raises:
        InputError: the cache cannot be written, or the file system is too small.
        RunError: a feature is not finite.
    """
    layout = RowLayout(
        episodes, InstructionTable(episodes, tokenizer, limit=max_instructions), joint=joint, texts=sizes.text > 0
    )
    index = index_content(episodes, layout, sizes, identity)
    caches = (folder or episodes.path.parent) / f"{episodes.path.stem}.features"
    location = caches / index["key"][:16]
    cache = FeatureCache(local_folder(location), layout, sizes)
    compute = partial(compute_items, cache.folder, cache.rows, layout, episodes, encode, plan=plan)
    with turn():
        if is_complete(cache, index) and is_uploaded(location, cache):
            return cache
        with exclusive_lock(cache.folder, activity="computes the same features", busy_hint=None, write_hint=WRITE_HINT):
            if isinstance(location, BucketPath):
                compute_in_bucket(location, cache, index, compute)
                return cache
            missing = prepare_files(cache, index)
    compute(missing)
    return cache


def compute_in_bucket(
    location: BucketPath, cache: FeatureCache, index: dict[str, Any], compute: Callable[[np.ndarray], None]
) -> None:
    """Download what the bucket has of a cache, compute what is missing, and upload it; the caller holds the lock."""
    synced = SyncedDir(location, cache.folder)
    synced.pull()
    try:
        compute(prepare_files(cache, index))
    finally:
        synced.push()  # also rows computed before an error
    (cache.folder / UPLOADED).touch()


def is_uploaded(location: StoragePath, cache: FeatureCache) -> bool:
    """Return True if the cache is local, or its bucket has all local rows."""
    return isinstance(location, Path) or (cache.folder / UPLOADED).exists()


def is_complete(cache: FeatureCache, index: dict[str, Any]) -> bool:
    """Return True if every row is present; writes nothing."""
    try:
        return index_matches(cache, index) and not cache.find_missing()[0].any()
    except OSError:  # another process is recreating it
        return False


def index_matches(cache: FeatureCache, index: dict[str, Any]) -> bool:
    """Return True if the folder's index describes these features, and its files have the right sizes."""
    return read_index(cache.folder) == index and all(rows.exists() for rows in cache.rows.values())


def prepare_files(cache: FeatureCache, index: dict[str, Any]) -> np.ndarray:
    """Return a mask of items [layout.items] to compute, for which files exist then; the caller holds the lock.

    Raises:
        InputError: the folder cannot be read or written, or the file system is too small.
    """
    with report_folder_errors(cache.folder):
        missing = items_to_compute(cache, index)
        check_space(cache.folder, cache.rows, cache.layout, missing)
        if missing.any() and not index_matches(cache, index):
            for rows in cache.rows.values():
                rows.create()
            write_index(cache.folder, index)
    return missing


def items_to_compute(cache: FeatureCache, index: dict[str, Any]) -> np.ndarray:
    """Return a mask of items [layout.items] to compute; report damage, and remove files that do not match.

    Raises:
        OSError: the folder cannot be read or written.
    """
    if index_matches(cache, index):
        missing, damaged = cache.find_missing()
        if damaged:
            print(f"features: {cache.folder}: recomputing {damaged} damaged rows", flush=True)
        return missing
    other = closest_cache(cache.folder, index)
    if (cache.folder / INDEX).exists():
        print(f"features: {cache.folder}: {INDEX} or file sizes do not match; recomputing all rows", flush=True)
    elif other is not None:
        print(f"features: no matching cache; the closest is {other}", flush=True)
    (cache.folder / INDEX).unlink(missing_ok=True)  # first, so that it never describes files of another cache
    for rows in cache.rows.values():
        rows.remove()
    return np.ones(cache.layout.items, bool)
