"""JSON of files and of texts in them: read whole, with bounds on size and depth, or refused with the reason."""

import errno
import itertools
import json
import os
import re
from pathlib import Path
from typing import Any

from instructrl.errors import format_value

MAX_BYTES = 256 * 2**20
MAX_DEPTH = 64  # beyond, functions that follow the values would fail in ways of their own
_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")


class JsonError(ValueError):
    """JSON of no use; the message says what was found."""


def read_json(path: Path) -> Any:
    """The value in a file.

    Raises:
        OSError: it cannot be read, or is no regular file.
        JsonError: it has no JSON, or JSON that `parse_json` refuses.
    """
    if path.exists() and not path.is_file():
        raise OSError(errno.EINVAL, "no regular file", str(path))
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        return parse_json(file.read(min(size, MAX_BYTES) + 1))  # a buffer of that size is allocated at once


def parse_json(content: bytes | str) -> Any:
    """The value of a JSON text in UTF-8.

    Raises:
        JsonError: there is none, a key comes twice in an object, or it is too large, or nested too deeply.
    """
    if len(content) > MAX_BYTES:
        raise JsonError(f"found more than {MAX_BYTES >> 20} MB")
    try:
        text = content if isinstance(content, str) else content.decode()
        value = json.loads(text, object_pairs_hook=unique_keys)
    except UnicodeDecodeError:
        raise JsonError("found bytes that are not UTF-8") from None
    except RecursionError:
        raise JsonError(f"found more than {MAX_DEPTH} levels") from None
    except json.JSONDecodeError:
        raise JsonError(f"found {format_value(text[:100])}, which is no JSON") from None
    except JsonError:
        raise
    except ValueError:  # Python reads no integers of more than 4300 digits
        raise JsonError("found a number of thousands of digits") from None
    check_values(value, half_characters=_SURROGATE.search(text) is not None)
    return value


def unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object of JSON.

    Raises:
        JsonError: a key comes twice, of which `json` would silently drop the first.
    """
    found = dict(pairs)
    if len(found) < len(pairs):
        seen: set[str] = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
        raise JsonError(f"found {format_value(twice)} twice")
    return found


def check_values(value: Any, *, half_characters: bool) -> None:
    """Raise JsonError for a value that is nested too deeply, or, where there may be some, for halves of characters."""
    level = [value]
    for depth in itertools.count():
        if half_characters and not all(map(is_text, level)):
            raise JsonError("found half a character")
        level = [one for one in level if isinstance(one, dict | list)]
        if not level:
            return
        if depth == MAX_DEPTH:
            raise JsonError(f"found more than {MAX_DEPTH} levels")
        keys = [key for one in level if isinstance(one, dict) for key in one] if half_characters else []
        level = keys + [item for one in level for item in (one.values() if isinstance(one, dict) else one)]


def is_text(value: Any) -> bool:
    """Return True for what is no text, or a text that can be written in UTF-8."""
    try:
        return not isinstance(value, str) or value.encode() is not None
    except UnicodeEncodeError:
        return False
