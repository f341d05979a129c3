"""Safetensors checkpoints of Hugging Face in one file or in shards, which an index names."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from data_tools.weights.array_tree import printable
from data_tools.weights.clip_config import read_json
from instructrl.config.fields import format_value
from instructrl.errors import InputError
from instructrl.models.parameter_files import open_arrays

INDEX = "model.safetensors.index.json"
DTYPES = ("F64", "F32", "F16", "BF16")
SHARD = re.compile(r".*-\d+-of-\d+\.safetensors")
MAX_SHARDS = 1000
AGAIN = "download it again"


def read_index(path: Path) -> dict[str, list[str]]:
    """The names of the parameters in each shard that an index names, by the shard's file name.

    Raises:
        InputError: the index is damaged, or names a file that is not beside it.
    """
    entries = read_json(path).get("weight_map")
    if not isinstance(entries, dict) or not entries or not all(isinstance(name, str) for name in entries.values()):
        raise InputError(f"{path}: weight_map: found no file name for each parameter; {AGAIN}")
    shards: dict[str, list[str]] = {}
    for parameter, name in entries.items():
        if not re.fullmatch(r"[\w.-]{1,200}", name, re.ASCII) or name.strip(".") == "" or "/" in name:
            raise InputError(
                f"{path}: weight_map: found the file {format_value(name)} for {printable(parameter)}; "
                "allowed: names of files in the same folder"
            )
        shards.setdefault(name, []).append(parameter)
    if len(shards) > MAX_SHARDS:
        raise InputError(f"{path}: weight_map: found {len(shards)} files; allowed: at most {MAX_SHARDS}")
    return shards


def read_tensors(path: Path) -> Iterator[tuple[Path, str, Any]]:
    """Yield the file, name and array of each parameter of a file, or of the shards of an index.

    Raises:
        InputError: a file is missing or damaged, has no such parameter, or numbers of a type that is not supported.
    """
    if path.name.endswith(".index.json"):
        for name, parameters in read_index(path).items():
            shard = path.parent / name
            if not shard.is_file():
                raise InputError(f"{shard}: missing; {path} names it: download it too, into the same folder")
            yield from read_file(shard, wanted=parameters, index=path)
    else:
        if SHARD.fullmatch(path.name):
            raise InputError(f"{path}: found one shard of several; give {INDEX}, or the folder of all of them")
        yield from read_file(path)


def read_file(
    path: Path, *, wanted: list[str] | None = None, index: Path | None = None
) -> Iterator[tuple[Path, str, Any]]:
    """Yield the file, name and array of each parameter of a file, by default all of them."""
    with open_arrays(path, AGAIN) as (file, _):
        present = list(file.keys())
        absent = sorted(set(wanted or ()) - set(present))
        if absent:
            more = f" (and {len(absent) - 1} more)" if len(absent) > 1 else ""
            raise InputError(f"{path}: found no parameter {printable(absent[0])}{more}, which {index} names; {AGAIN}")
        for name in present if wanted is None else wanted:
            if name.endswith("position_ids"):  # a buffer
                continue
            dtype = file.get_slice(name).get_dtype()
            if dtype not in DTYPES:
                raise InputError(
                    f"{path}: {printable(name)}: found numbers of type {printable(dtype)}; "
                    f"allowed: {', '.join(DTYPES)}; use the weights in one of these"
                )
            yield path, name, file.get_tensor(name)
