"""Skipped episodes and counts, shared by all kinds of conversion."""

from collections import Counter
from dataclasses import dataclass, field
from enum import StrEnum
from typing import NamedTuple

from tqdm import tqdm

from instructrl.types import Demonstration


class SkipReason(StrEnum):
    """Reason for skipping an episode; counted separately."""

    FRAMES = "missing frames"
    CAMERAS = "cameras of unequal frames"
    IMAGES = "images that cannot be used"
    PICKLE = "pickles that are not read"
    VARIATION = "variations out of range"
    SENTENCES = "no sentences"
    NUMBERS = "numbers that cannot be used"
    GAPS = "windows that are missing"
    RECORDS = "damaged records"
    MATRICES = "camera matrices of other images"
    COPIES = "copies of others"
    WORKSPACE = "keyframes outside the workspace"
    COLLISIONS = "without collision flags"


class SkippedError(Exception):
    """One episode cannot be used; the conversion continues with the others."""

    def __init__(self, reason: SkipReason, text: str) -> None:
        super().__init__(f"{reason}: {text}")
        self.reason, self.text = reason, text


class Skipped(NamedTuple):
    """Reason for skipping an episode, as a worker process returns it."""

    reason: SkipReason
    text: str


class Converted(NamedTuple):
    """A converted episode, with notes on what was changed in it."""

    demonstration: Demonstration
    notes: tuple[str, ...] = ()


@dataclass
class ConversionReport:
    """Number of episodes found, converted and skipped, and of those to which a note applies."""

    found: int = 0
    converted: int = 0
    skipped: Counter[SkipReason] = field(default_factory=Counter)
    notes: Counter[str] = field(default_factory=Counter)

    def __str__(self) -> str:
        reasons = ", ".join(f"{count} {reason}" for reason, count in sorted(self.skipped.items()))
        total = self.skipped.total()
        return f"{self.found} episodes found, {self.converted} converted, {total} skipped" + f" ({reasons})" * bool(
            total
        )

    def add(self, converted: Converted) -> None:
        """Count an episode that was converted."""
        self.found += 1
        self.converted += 1
        self.notes.update(converted.notes)

    def skip(self, name: str, skipped: Skipped) -> None:
        """Count and print an episode that was skipped."""
        self.found += 1
        self.skipped[skipped.reason] += 1
        tqdm.write(f"skipped {name}: {skipped.reason}: {' '.join(skipped.text.split())}")
