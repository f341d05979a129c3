"""Files of JSON objects, one per line, that grow at their end: read as a whole, or refused with the line at fault."""

import codecs
import json
import math
import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from instructrl.errors import InputError, RunError, format_value
from instructrl.storage.atomic import write_atomically
from instructrl.storage.json_file import JsonError, parse_json

Entry = dict[str, Any]  # the JSON object of a line


class LineError(Exception):
    """A line of no use; the message says what was found and what is allowed."""


@dataclass(frozen=True)
class Kind:
    """Values that a key may have: a test, and its description in a message."""

    accepts: Callable[[Any], bool]
    allowed: str


INTEGER = Kind(lambda value: type(value) is int and 0 <= value < 2**63, "an integer, at least 0")
NUMBER = Kind(
    lambda value: isinstance(value, float) or (type(value) is int and abs(value) < 2**63), "a number"
)  # not finite where a result was not
FINITE = Kind(lambda value: NUMBER.accepts(value) and math.isfinite(value), "a finite number")
TEXT = Kind(lambda value: isinstance(value, str), "a text")
FLAG = Kind(lambda value: isinstance(value, bool), "true or false")


class LineFile:
    """A file that grows by whole lines: one that cannot be written is taken back, and the lines before it stay."""

    def __init__(self, path: Path, entries: Sequence[Entry]) -> None:
        """Write the lines that the file begins with, in place of its content, and open it.

        Raises:
            InputError: it cannot be written.
        """
        write_atomically(path, "".join(json.dumps(entry) + "\n" for entry in entries))
        self.path = path
        self._handle = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC)

    def __enter__(self) -> "LineFile":
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        try:
            os.close(self._handle)
        except OSError as own:  # network file systems report here what they could not write
            if error is None:  # else that is what went wrong first
                raise self._unwritable(own) from None

    def append(self, entry: Entry) -> None:
        """Write a line at once.

        Raises:
            RunError: the disk is full or fails.
        """
        line = memoryview(json.dumps(entry).encode() + b"\n")
        before = os.fstat(self._handle).st_size
        try:
            while line:
                line = line[os.write(self._handle, line) :]
        except OSError as error:
            with suppress(OSError):
                os.ftruncate(self._handle, before)
            raise self._unwritable(error) from None

    def _unwritable(self, error: OSError) -> RunError:
        return RunError(
            f"{self.path}: cannot be written ({error.strerror}); make room and run the same command again to resume"
        )


def read_json_lines(path: Path, check: Callable[[Entry], None], *, advice: str) -> list[Entry]:
    """The objects of all lines of a file; [] if there is no file.

    A crash while a line was written leaves its beginning at the end of the file; that is left out. Nothing else is.

    Args:
        path: the file.
        check: called with one object after another; raises LineError for one of no use.
        advice: what the user can do about a damaged file.

    Raises:
        InputError: the file cannot be read, or a line is damaged; the message has its number.
    """
    try:
        *lines, rest = path.read_bytes().split(b"\n")
    except FileNotFoundError:
        return []
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); {advice}") from None
    if rest and not is_torn(rest):
        lines.append(rest)  # complete except for the line break
    entries = []
    for number, line in enumerate(lines, start=1):
        try:
            entries.append(parse(line))
            check(entries[-1])
        except LineError as error:
            raise InputError(f"{path}, line {number}: {error}; {advice}") from None
    return entries


def parse(line: bytes) -> Entry:
    """The object of a line.

    Raises:
        LineError: there is none.
    """
    if b"\0" in line:
        raise LineError("found NUL bytes; allowed: a JSON object")
    try:
        value = parse_json(line)
    except JsonError as error:
        allowed = "once" if str(error).endswith(" twice") else "a JSON object"
        raise LineError(f"{error}; allowed: {allowed}") from None
    if not isinstance(value, dict):
        raise LineError(f"found {format_value(value)}; allowed: a JSON object")
    return value


def is_torn(rest: bytes) -> bool:
    """Return True if bytes without a line break may be the beginning of an object's line, and not all of it."""
    try:
        text = codecs.getincrementaldecoder("utf-8")().decode(rest)  # accepts a character that lacks its end
        json.JSONDecoder().raw_decode(text)
    except UnicodeDecodeError:
        return False
    except (ValueError, RecursionError):
        return text.startswith("{") and "\0" not in text
    return False


def check_keys(entry: Entry, required: Mapping[str, Kind], optional: Mapping[str, Kind]) -> None:
    """Raise LineError unless an object has the required keys, no others than those known, and values of their kinds.

    Args:
        entry: the object.
        required: the kinds of values of the keys that it must have.
        optional: those of the keys that it may have.
    """
    for key, kind in required.items():
        if key not in entry:
            raise LineError(f"found no {key}; allowed: {kind.allowed}")
    kinds = {**optional, **required}
    for key, value in entry.items():
        if key not in kinds:
            raise LineError(f"found the unknown key {format_value(key)}; allowed: {', '.join(kinds)}")
        if not kinds[key].accepts(value):
            raise LineError(f"found {key} {format_value(value)}; allowed: {kinds[key].allowed}")
