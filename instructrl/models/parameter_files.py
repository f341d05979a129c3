"""Files of arrays and metadata, in safetensors' format, which no other module reads or writes; and parameter trees.

Names of parameters are their slash-separated paths in the tree. `checksum` covers names, shapes and values. Needs no
jax: train.py reads these files before it loads it.
"""

import hashlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from instructrl.config.fields import format_value
from instructrl.errors import InputError
from instructrl.storage.atomic import write_atomically

FORMAT, VERSION = "instructrl parameters", "1"


@contextmanager
def open_arrays(path: Path, hint: str) -> Iterator[tuple[Any, dict[str, str]]]:
    """Open a file: its arrays, of which only the header is read, and its metadata. `hint` ends every error message.

    Raises:
        InputError: the file is missing or damaged; also when an array is read inside the `with` block.
    """
    try:
        with safe_open(path, "numpy") as file:
            yield file, file.metadata() or {}
    except FileNotFoundError:
        raise InputError(f"{path}: missing; {hint}") from None
    except (SafetensorError, OSError, TypeError, ValueError) as error:
        raise damaged_file(path, error, hint) from None


def damaged_file(path: Path, reason: object, hint: str) -> InputError:
    """InputError for a file that cannot be read."""
    return InputError(f"{path}: damaged or not a safetensors file ({format_value(str(reason))}); {hint}")


def write_arrays(path: Path, arrays: Mapping[str, np.ndarray], metadata: Mapping[str, str]) -> None:
    """Write arrays and metadata atomically.

    Raises:
        InputError: the file cannot be written.
    """
    write_atomically(path, save(dict(arrays), dict(metadata)), hint="choose another path")


def checksum(arrays: Mapping[str, np.ndarray]) -> str:
    """SHA-256 of names, shapes and values."""
    digest = hashlib.sha256()
    for name in sorted(arrays):
        digest.update(f"{name} {arrays[name].shape}\n".encode())
        digest.update(np.ascontiguousarray(arrays[name]).data)
    return digest.hexdigest()


def params_checksum(params: Any) -> str:
    """Checksum of the paths, shapes and values of a parameter tree."""
    return checksum({name: np.asarray(leaf) for name, leaf in flatten_params(params).items()})


def write_parameters(path: Path, params: Any, *, metadata: Mapping[str, str]) -> str:
    """Write a parameter tree atomically; returns its checksum.

    Raises:
        InputError: the file cannot be written.
    """
    arrays = {name: np.asarray(leaf, order="C") for name, leaf in flatten_params(params).items()}
    full = {"format": FORMAT, "version": VERSION, "checksum": checksum(arrays), **metadata}
    write_arrays(path, arrays, full)
    return full["checksum"]


def read_parameters(path: Path, *, hint: str) -> tuple[Any, dict[str, str]]:
    """Read a parameter tree (numpy arrays) and its metadata; `hint` ends every error message.

    Raises:
        InputError: the file is missing, damaged, or was not written by `write_parameters`.
    """
    with open_arrays(path, hint) as (file, metadata):
        arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    if metadata.get("format") != FORMAT or metadata.get("version") != VERSION:
        raise InputError(f"{path}: not written by InstructRL, or by another version of it; {hint}")
    if checksum(arrays) != metadata.get("checksum"):
        raise InputError(f"{path}: damaged (checksum mismatch); {hint}")
    return unflatten_params(arrays), metadata


def flatten_params(params: Mapping[str, Any]) -> dict[str, Any]:
    """Flatten a parameter tree to {slash-separated path: leaf}, in the order that jax has the leaves in."""
    leaves: dict[str, Any] = {}
    for name, branch in sorted(params.items()):
        if isinstance(branch, Mapping):
            leaves |= {f"{name}/{path}": leaf for path, leaf in flatten_params(branch).items()}
        else:
            leaves[name] = branch
    return leaves


def unflatten_params(leaves: Mapping[str, Any]) -> Any:
    """Build a tree of dicts from leaves by slash-separated path."""
    tree: dict[str, Any] = {}
    for name, leaf in leaves.items():
        *branches, last = name.split("/")
        node = tree
        for branch in branches:
            node = node.setdefault(branch, {})
        node[last] = leaf
    return tree
