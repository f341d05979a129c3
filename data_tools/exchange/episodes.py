"""Interfaces of a data set of others: what a mapping needs of it, whatever its format."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any, Protocol

import numpy as np


class Episode(Protocol):
    """An episode whose values are decoded when they are asked for.

    Attributes:
        where: its name in errors.
    """

    where: str

    @property
    def steps(self) -> int:
        """Number of steps."""

    def is_per_step(self, key: str) -> bool:
        """Return True if a key has a value at each step, False if it has one per episode."""

    def at(self, key: str, step: int) -> Any:
        """Value of a per-step key at one step."""

    def column(self, key: str) -> np.ndarray:
        """Values of a per-step key at all steps [N ...]."""

    def episode_value(self, key: str) -> Any:
        """Value of a per-episode key."""

    def text(self, key: str) -> tuple[str, ...]:
        """Texts of a key; of a per-step key, those at the first step."""


class Reader(Protocol):
    """Reads the episodes of a data set."""

    def load(self, split: str, number: int) -> Episode:
        """Load an episode of a split.

        Raises:
            SkippedError: it is damaged.
            InputError: the split's files cannot be read at all.
        """


class Source(Protocol):
    """A data set on the local disk.

    Attributes:
        format: name of its format, such as RLDS.
        folder: where it lies.
        name, version: as it calls itself.
        splits: number of episodes of each split that has any.
    """

    format: str
    folder: Path
    splits: dict[str, int]

    @property
    def name(self) -> str:
        """Name of the data set."""

    @property
    def version(self) -> str:
        """Version of the data set or of its format."""

    def shape(self, key: str) -> tuple[int | None, ...]:
        """Shape of a key's value, None where it varies.

        Raises:
            InputError: there is no such key.
        """

    def is_per_step(self, key: str) -> bool:
        """Return True if a key has a value at each step, False if it has one per episode."""

    def describe_keys(self) -> str:
        """Return the keys with their types, on one line."""

    def reader(self, keys: Iterable[str]) -> Reader:
        """Return a reader that decodes only these keys."""
