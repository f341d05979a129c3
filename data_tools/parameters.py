"""Parameters in a file of others: trees of arrays, judged before anything is made of them."""

import re
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from instructrl.errors import InputError

FLOATS = {np.dtype(name) for name in ("float16", "float32", "float64", ml_dtypes.bfloat16)}
DEEPEST, MOST_NAMES, LONGEST_NAME = 16, 8, 60


def flattened(path: Path, tree: Any) -> Iterator[tuple[str, np.ndarray]]:
    """The arrays of a tree of dicts as float32, by their paths joined with slashes."""
    waiting: list[tuple[tuple[str, ...], Any]] = [((), tree)]
    seen = set()
    while waiting:
        place, part = waiting.pop()
        name = "/".join(map(printable, place))
        if isinstance(part, dict):
            if id(part) in seen or len(place) > DEEPEST:  # a file of a few bytes can describe an endless tree
                raise InputError(f"{path}: {name}: found a tree that repeats itself or is too deep; it is not read")
            seen.add(id(part))
            for key, value in part.items():
                if type(key) is not str or not re.fullmatch(r"\w{1,100}", key, re.ASCII):
                    raise InputError(f"{path}: {name}: found a key {printable(key)}; expected parameters' names")
                waiting.append(((*place, key), value))
        else:
            yield name, floats(path, name, part)


def floats(path: Path, name: str, value: Any) -> np.ndarray:
    """A parameter as float32.

    Raises:
        InputError: it is no array of finite floating-point numbers.
    """
    if not isinstance(value, np.ndarray | np.generic) or value.dtype.newbyteorder("=") not in FLOATS:
        kind = (
            f"dtype {value.dtype}"
            if hasattr(value, "dtype")
            else printable(getattr(value, "name", type(value).__name__))
        )
        raise InputError(f"{path}: {printable(name)}: found {kind}, expected an array of floating-point numbers")
    with np.errstate(over="ignore"):
        plain = np.asarray(value, np.float32)
    if not np.isfinite(plain).all():
        raise InputError(f"{path}: {printable(name)}: found numbers that are not finite; get the file again")
    return plain


def some(names: Collection[Any]) -> str:
    """A few names, as an error shows them."""
    first = [printable(name) for name, _ in zip(names, range(MOST_NAMES), strict=False)]
    return ", ".join(first + ["..."] * (len(names) > MOST_NAMES)) or "nothing"


def printable(name: Any) -> str:
    """A name from a file, as an error may show it."""
    return ascii(name[:LONGEST_NAME])[1:-1] if isinstance(name, str) else type(name).__name__
