"""Validation of parameter trees from third-party files, before they are used."""

import re
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np

from instructrl.config.model import Architecture
from instructrl.errors import InputError
from instructrl.storage.pickles.pickle_budget import Budget, RefusedError, check_shape

Arrays = dict[str, np.ndarray]  # float32, by the names of our models
FLOAT_DTYPES = {np.dtype(name) for name in ("float16", "float32", "float64", ml_dtypes.bfloat16)}
MAX_DEPTH, MAX_NAMES, MAX_NAME_LENGTH = 16, 8, 60


class Contents(NamedTuple):
    """Content of a published file."""

    arrays: Arrays
    architecture: Architecture  # what the file and those beside it say
    tokenizer: str = ""  # checksum of the tokenizer beside it, if there is one


def flatten(path: Path, tree: Any) -> Iterator[tuple[str, np.ndarray]]:
    """Yield the arrays of a nested dict as (path joined with slashes, float32 array).

    Raises:
        InputError: it is no tree of arrays, or one array has so many names that the file cannot hold their content.
    """
    budget = Budget(path.stat().st_size)
    pending: list[tuple[tuple[str, ...], Any]] = [((), tree)]
    visited = set()
    while pending:
        keys, node = pending.pop()
        name = "/".join(map(printable, keys))
        if isinstance(node, dict):
            if id(node) in visited or len(keys) > MAX_DEPTH:  # a file of a few bytes can describe an endless tree
                raise InputError(f"{path}: {name}: found a tree that contains itself or is too deep; it is not read")
            visited.add(id(node))
            for key, value in node.items():
                if type(key) is not str or not re.fullmatch(r"\w{1,100}", key, re.ASCII):
                    raise InputError(f"{path}: {name}: found a key {printable(key)}; expected parameter names")
                pending.append(((*keys, key), value))
        else:
            converted = to_float32(path, name, node)
            try:
                budget.spend(converted.nbytes)
            except RefusedError as error:
                raise InputError(f"{path}: {name}: {error}") from None
            yield name, converted


def to_float32(path: Path, name: str, value: Any) -> np.ndarray:
    """Convert a parameter to float32.

    Raises:
        InputError: it is not an array of finite floating-point numbers.
    """
    if not isinstance(value, np.ndarray | np.generic) or value.dtype.newbyteorder("=") not in FLOAT_DTYPES:
        kind = (
            f"dtype {value.dtype}"
            if hasattr(value, "dtype")
            else printable(getattr(value, "name", type(value).__name__))
        )
        raise InputError(f"{path}: {printable(name)}: found {kind}, expected an array of floating-point numbers")
    try:
        check_shape(value.shape)
    except RefusedError as error:
        raise InputError(f"{path}: {printable(name)}: {error}") from None
    with np.errstate(over="ignore"):
        converted = np.asarray(value, np.float32)
    if not np.isfinite(converted).all():
        raise InputError(f"{path}: {printable(name)}: found numbers that are not finite; download the file again")
    return converted


def preview(names: Collection[Any]) -> str:
    """Return the first few names for an error message."""
    first = [printable(name) for name, _ in zip(names, range(MAX_NAMES), strict=False)]
    return ", ".join(first + ["..."] * (len(names) > MAX_NAMES)) or "nothing"


def printable(name: Any) -> str:
    """Return a name from a file, shortened and escaped for an error message."""
    return ascii(name[:MAX_NAME_LENGTH])[1:-1] if isinstance(name, str) else type(name).__name__
