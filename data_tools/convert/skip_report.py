"""Skipped episodes and counts, shared by all kinds of conversion."""

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from enum import StrEnum
from typing import NamedTuple

from instructrl.data.demonstrations.schema import Contents
from instructrl.data.demonstrations.writer import Writer
from instructrl.errors import InputError
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


class SkippedError(Exception):
    """One episode cannot be used; the conversion continues with the others."""

    def __init__(self, reason: SkipReason, text: str) -> None:
        super().__init__(f"{reason}: {text}")
        self.reason = reason


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


def add_all(
    writer: Writer,
    candidates: Iterable[tuple[str, Callable[[], Demonstration | Converted]]],
    report: ConversionReport,
    *,
    limit: int | None,
) -> None:
    """Write the first `limit` usable episodes (None: all); report and count the others."""
    added = 0
    for name, make in candidates:
        if limit is not None and added == limit:
            return
        report.found += 1
        try:
            made, contents = build_episode(make, writer)
        except SkippedError as error:
            report.skipped[error.reason] += 1
            print(f"skipped {name}: {' '.join(str(error).split())}", flush=True)
            continue
        writer.append(made.demonstration, contents)
        report.converted += 1
        report.notes.update(made.notes)
        added += 1


def build_episode(make: Callable[[], Demonstration | Converted], writer: Writer) -> tuple[Converted, Contents]:
    """Build and validate an episode.

    Raises:
        SkippedError: its values are invalid, whatever error they lead to.
    """
    try:
        found = make()
        made = Converted(found) if isinstance(found, Demonstration) else found
        return made, writer.check(made.demonstration)
    except InputError as error:
        raise SkippedError(SkipReason.NUMBERS, str(error)) from None
    except (ValueError, TypeError, OverflowError, LookupError, AttributeError, OSError) as error:
        raise SkippedError(SkipReason.NUMBERS, f"{type(error).__name__}: {error}") from None
