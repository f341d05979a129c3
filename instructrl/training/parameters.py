"""Parameters in a safetensors file: their paths joined with slashes, their values, and a few words about them."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open

from instructrl.errors import InputError
from instructrl.models.encoder import by_name
from instructrl.models.weights import checksum, tree, write_arrays

FORMAT, VERSION = "instructrl parameters", "1"


def identity(params: Any) -> str:
    """A digest of the names, shapes and values of a tree of parameters."""
    return checksum({name: np.asarray(leaf) for name, leaf in by_name(params).items()})


def write_parameters(path: Path, params: Any, *, about: Mapping[str, str]) -> str:
    """Write a tree of parameters so that the file is there whole or not at all; their checksum.

    Raises:
        InputError: it cannot be written.
    """
    arrays = {name: np.asarray(leaf, order="C") for name, leaf in by_name(params).items()}
    said = {"format": FORMAT, "version": VERSION, "checksum": checksum(arrays), **about}
    write_arrays(path, arrays, said)
    return said["checksum"]


def read_parameters(path: Path, *, remedy: str) -> tuple[Any, dict[str, str]]:
    """The tree of parameters (numpy arrays) in a file, and what is said about them; `remedy` ends an error.

    Raises:
        InputError: the file is missing, damaged, or none of ours.
    """
    try:
        with safe_open(path, "numpy") as file:
            said = file.metadata() or {}
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except FileNotFoundError:
        raise InputError(f"{path}: not there; {remedy}") from None
    except (SafetensorError, OSError) as error:
        raise InputError(f"{path}: damaged, or no safetensors file ({error}); {remedy}") from None
    if said.get("format") != FORMAT or said.get("version") != VERSION:
        raise InputError(f"{path}: not written by this suite, or by another version of it; {remedy}")
    if checksum(arrays) != said.get("checksum"):
        raise InputError(f"{path}: damaged (its checksum is another one); {remedy}")
    return tree(arrays), said
