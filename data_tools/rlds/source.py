"""Reader of tensorflow-datasets directories of RLDS episodes, without TensorFlow."""

from collections.abc import Iterable
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from PIL import UnidentifiedImageError

from data_tools.convert.skip_report import SkippedError, SkipReason
from instructrl.data.image_text.tfds_source import TfdsDataset
from instructrl.data.image_text.tfrecord import Records
from instructrl.errors import InputError, short_message

STEPS = "steps/"  # what the keys of values at each step begin with


class Source(TfdsDataset):
    """A directory with dataset_info.json, features.json and record files of episodes."""

    format = "RLDS"

    def __init__(self, src: Path) -> None:
        """Read the directory's metadata.

        Raises:
            InputError: it is not such a directory, or in an unsupported format.
        """
        super().__init__(src)
        if "steps" not in self.features or not isinstance(self.features["steps"], tfds.features.Dataset):
            raise InputError(
                f"{self.folder}: has no nested dataset `steps`, as RLDS episodes have; found {self.list_keys()}"
            )
        if not self.splits:
            raise InputError(f"{self.folder}: contains no episodes; choose another src")

    def episodes(self, keys: Iterable[str]) -> "EpisodeParser":
        """Return a parser of records that decodes only these keys."""
        return EpisodeParser(self, list(dict.fromkeys(keys)))

    def reader(self, keys: Iterable[str]) -> "EpisodeReader":
        """Return a reader of episodes that decodes only these keys."""
        return EpisodeReader(self, self.episodes(keys))

    def shape(self, key: str) -> tuple[int | None, ...]:
        """Shape of a key's value, None where it varies.

        Raises:
            InputError: there is no such key.
        """
        return tuple(self.leaf(key).shape)

    def is_per_step(self, key: str) -> bool:
        """Return True if a key has a value at each step, False if it has one per episode."""
        return key.startswith(STEPS)


class EpisodeReader:
    """Reads the episodes of the splits, which it opens when they are first asked for."""

    def __init__(self, source: Source, parser: "EpisodeParser") -> None:
        self._source, self._parser = source, parser
        self._records: dict[str, Records] = {}

    def load(self, split: str, number: int) -> "Episode":
        """Load an episode of a split.

        Raises:
            SkippedError: its record is damaged.
            InputError: a file of the split is missing, or has another number of records.
        """
        if split not in self._records:
            self._records[split] = self._source.records(split)
        try:
            where = f"{self._source.folder}: {split}: episode {number}"
            return self._parser.episode(where, self._records[split].read(number))
        except InputError as error:
            raise SkippedError(SkipReason.RECORDS, str(error)) from None


class EpisodeParser:
    """Parses records to episodes; only the requested keys are decoded."""

    def __init__(self, source: Source, keys: list[str]) -> None:
        self.leaves = {key: source.leaf(key) for key in keys}
        self._parser = source.parser(keys)

    def episode(self, where: str, record: bytes) -> "Episode":
        """Parse one episode; `where` names it in errors.

        Raises:
            InputError: the record does not match the dataset's features.
        """
        try:
            return Episode(where, self._parser.parse_example(record), self.leaves)
        except InputError:
            raise
        except Exception as error:  # a malformed record can raise any error
            raise InputError(f"{where}: does not match features.json ({short_message(error)})") from None


class Episode:
    """An episode of a record, decoded lazily.

    Attributes:
        where: its name in errors.
    """

    def __init__(self, where: str, columns: Any, leaves: dict[str, Any]) -> None:
        self.where, self._columns, self._leaves = where, columns, leaves

    @cached_property
    def steps(self) -> int:
        """Number of steps."""
        lengths = {key: len(column) for key, column in self._columns.items() if self.is_per_step(key)}
        if len(set(lengths.values())) != 1:
            raise InputError(f"{self.where}: steps of unequal length: {lengths}")
        return next(iter(lengths.values()))

    def is_per_step(self, key: str) -> bool:
        """Return True if a key has a value at each step, False if it has one per episode."""
        return key.startswith(STEPS)

    def has(self, key: str) -> bool:
        """Return True if the record has this key, and it was asked for."""
        return key in self._leaves

    def at(self, key: str, step: int) -> Any:
        """Value of a per-step key at one step."""
        try:
            return self._leaves[key].decode_example_np(self._columns[key][step])
        except UnidentifiedImageError:  # whose text has an address in memory
            raise InputError(f"{self.where}: {key}: step {step}: found no PNG or JPEG; copy it again") from None
        except Exception as error:
            raise InputError(f"{self.where}: {key}: step {step}: cannot be decoded ({short_message(error)})") from None

    def column(self, key: str) -> np.ndarray:
        """Values of a per-step key at all steps [N ...]."""
        found = [np.asarray(self.at(key, step)) for step in range(self.steps)]
        if len({one.shape for one in found}) != 1:
            raise InputError(f"{self.where}: {key}: found no values, or values of unequal shapes")
        return np.stack(found)

    def episode_value(self, key: str) -> Any:
        """Value of a per-episode key."""
        try:
            return self._leaves[key].decode_example_np(self._columns[key])
        except Exception as error:
            raise InputError(f"{self.where}: {key}: cannot be decoded ({short_message(error)})") from None

    def text(self, key: str) -> tuple[str, ...]:
        """Texts of a key; of a per-step key, those at the first step."""
        found = self.at(key, 0) if self.is_per_step(key) else self.episode_value(key)
        several = [found] if isinstance(found, bytes | str) else list(np.asarray(found, object).reshape(-1))
        try:
            return tuple(one if isinstance(one, str) else one.decode() for one in several)
        except (UnicodeDecodeError, AttributeError):
            raise InputError(f"{self.where}: {key}: found no text in UTF-8") from None
