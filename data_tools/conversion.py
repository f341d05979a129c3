"""What both kinds of conversion share: why an episode is left out, and what is counted."""

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from enum import StrEnum

from instructrl.batch import Demonstration
from instructrl.data.format import Contents
from instructrl.data.writer import Writer
from instructrl.errors import InputError


class Reason(StrEnum):
    """Why an episode is left out; each is counted apart."""

    FRAMES = "missing frames"
    CAMERAS = "cameras of unequal frames"
    PICTURES = "pictures that cannot be used"
    PICKLE = "pickles that are not read"
    VARIATION = "variations out of range"
    SENTENCES = "no sentences"
    NUMBERS = "numbers that cannot be used"
    GAPS = "windows that are missing"
    RECORDS = "damaged records"


class SkippedError(Exception):
    """One episode cannot be used; the rest goes on."""

    def __init__(self, reason: Reason, text: str) -> None:
        super().__init__(f"{reason}: {text}")
        self.reason = reason


@dataclass
class Tally:
    """Episodes found, converted and left out."""

    found: int = 0
    converted: int = 0
    skipped: Counter[Reason] = field(default_factory=Counter)

    def __str__(self) -> str:
        reasons = ", ".join(f"{count} {reason}" for reason, count in sorted(self.skipped.items()))
        left = self.skipped.total()
        return f"{self.found} episodes found, {self.converted} converted, {left} skipped" + f" ({reasons})" * bool(left)


def add_all(
    writer: Writer, candidates: Iterable[tuple[str, Callable[[], Demonstration]]], tally: Tally, *, wanted: int | None
) -> None:
    """Write the first `wanted` episodes (None: all) that can be used; name and count those that cannot."""
    added = 0
    for name, make in candidates:
        if wanted is not None and added == wanted:
            return
        tally.found += 1
        try:
            demonstration, contents = made(make, writer)
        except SkippedError as error:
            tally.skipped[error.reason] += 1
            print(f"skipped {name}: {' '.join(str(error).split())}", flush=True)
            continue
        writer.append(demonstration, contents)
        tally.converted += 1
        added += 1


def made(make: Callable[[], Demonstration], writer: Writer) -> tuple[Demonstration, Contents]:
    """The episode, fit to be written as its contents; whatever its numbers lead to is a reason to leave it out."""
    try:
        demonstration = make()
        return demonstration, writer.check(demonstration)
    except InputError as error:
        raise SkippedError(Reason.NUMBERS, str(error)) from None
    except (ValueError, TypeError, OverflowError, LookupError, AttributeError, OSError) as error:
        raise SkippedError(Reason.NUMBERS, f"{type(error).__name__}: {error}") from None
