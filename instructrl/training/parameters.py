"""Parameter trees in safetensors files: slash-separated paths, values, and metadata."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open

from instructrl.errors import InputError
from instructrl.models.encoder import flatten_params
from instructrl.models.weights import checksum, unflatten_params, write_arrays

FORMAT, VERSION = "instructrl parameters", "1"


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
    try:
        with safe_open(path, "numpy") as file:
            metadata = file.metadata() or {}
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except FileNotFoundError:
        raise InputError(f"{path}: missing; {hint}") from None
    except (SafetensorError, OSError) as error:
        raise InputError(f"{path}: damaged or not a safetensors file ({error}); {hint}") from None
    if metadata.get("format") != FORMAT or metadata.get("version") != VERSION:
        raise InputError(f"{path}: not written by InstructRL, or by another version of it; {hint}")
    if checksum(arrays) != metadata.get("checksum"):
        raise InputError(f"{path}: damaged (checksum mismatch); {hint}")
    return unflatten_params(arrays), metadata
