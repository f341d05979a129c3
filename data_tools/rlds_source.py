"""Any tensorflow-datasets directory of RLDS episodes, read without TensorFlow: what it says, and its episodes."""

from collections.abc import Iterable
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from instructrl.data.records import said
from instructrl.data.tfds import DataSet
from instructrl.errors import InputError


class Source(DataSet):
    """A directory with dataset_info.json, features.json and record files of episodes."""

    def __init__(self, src: Path) -> None:
        """Read what the directory says about itself.

        Raises:
            InputError: it is none, or none that can be read here.
        """
        super().__init__(src)
        if "steps" not in self.features or not isinstance(self.features["steps"], tfds.features.Dataset):
            raise InputError(
                f"{self.folder}: has no nested data set steps; RLDS episodes have one; found {self.listed()}"
            )
        if not self.splits:
            raise InputError(f"{self.folder}: no episodes in it; choose another src")

    def episodes(self, keys: Iterable[str]) -> "Parser":
        """What makes episodes of records, with these keys in them."""
        return Parser(self, list(dict.fromkeys(keys)))


class Parser:
    """Makes episodes of records; nothing but the asked keys is decoded."""

    def __init__(self, source: Source, keys: list[str]) -> None:
        self.leaves = {key: source.leaf(key) for key in keys}
        self._parser = source.parser(keys)

    def episode(self, where: str, record: bytes) -> "Episode":
        """One episode; `where` names it in errors.

        Raises:
            InputError: the record is none of this dataset.
        """
        try:
            return Episode(where, self._parser.parse_example(record), self.leaves)
        except InputError:
            raise
        except Exception as error:  # whatever a record of something else leads to
            raise InputError(f"{where}: not as features.json says ({said(error)})") from None


class Episode:
    """What a record holds, decoded when asked for.

    Attributes:
        where: its name in errors.
    """

    def __init__(self, where: str, columns: Any, leaves: dict[str, Any]) -> None:
        self.where, self._columns, self._leaves = where, columns, leaves

    @cached_property
    def steps(self) -> int:
        """How many steps it has."""
        lengths = {key: len(column) for key, column in self._columns.items() if key.startswith("steps/")}
        if len(set(lengths.values())) != 1:
            raise InputError(f"{self.where}: steps of unequal length: {lengths}")
        return next(iter(lengths.values()))

    def at(self, key: str, step: int) -> Any:
        """The value of a key in steps at one step."""
        try:
            return self._leaves[key].decode_example_np(self._columns[key][step])
        except Exception as error:
            raise InputError(f"{self.where}: {key}: step {step}: cannot be decoded ({said(error)})") from None

    def column(self, key: str) -> np.ndarray:
        """The values of a key in steps at all of them [N ...]."""
        found = [np.asarray(self.at(key, step)) for step in range(self.steps)]
        if len({one.shape for one in found}) != 1:
            raise InputError(f"{self.where}: {key}: found none, or values of unequal shapes")
        return np.stack(found)

    def once(self, key: str) -> Any:
        """The value of a key that is not in steps."""
        try:
            return self._leaves[key].decode_example_np(self._columns[key])
        except Exception as error:
            raise InputError(f"{self.where}: {key}: cannot be decoded ({said(error)})") from None

    def text(self, key: str) -> tuple[str, ...]:
        """The sentences of a key, in steps at the first of them."""
        found = self.at(key, 0) if key.startswith("steps/") else self.once(key)
        several = [found] if isinstance(found, bytes | str) else list(np.asarray(found, object).reshape(-1))
        try:
            return tuple(one if isinstance(one, str) else one.decode() for one in several)
        except (UnicodeDecodeError, AttributeError):
            raise InputError(f"{self.where}: {key}: found no text in UTF-8") from None
