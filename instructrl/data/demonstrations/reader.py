"""Validating reader of demonstration files: everything but the pixels, or a one-line error."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from instructrl.data.demonstrations.schema import (
    ACTION_CONVENTION,
    ACTION_CONVENTIONS,
    CHECKS,
    FORMAT,
    PLACEMENTS,
    UNKNOWN,
    VERSION,
    Contents,
    Field,
    Header,
    check_array,
    check_contents,
    checksum,
    episode_checksums,
    fields,
    image_field,
    placements_field,
    stored_fields,
)
from instructrl.data.hdf5 import READ_ERRORS, check_stored, open_hdf5
from instructrl.data.hdf5_chunks import ChunkCheck
from instructrl.errors import InputError, format_value, short_message
from instructrl.storage.json_file import parse_json
from instructrl.storage.paths import Hdf5Source, StoragePath, open_source, read_error
from instructrl.types import GRIPPER_STATE
from instructrl.workspace import Workspace

RECOLLECT_HINT = "delete it and collect or copy it again"


@contextmanager
def open_file(path: StoragePath) -> Iterator[tuple[h5py.File, Hdf5Source]]:
    """Open a file for reading; any error of HDF5 becomes an InputError that names the file.

    Data that was read is valid only if `read_error` of the source is still None.

    Raises:
        InputError: the file is missing, damaged, or not readable.
        RunError: object storage keeps failing.
    """
    try:
        present = not isinstance(path, Path) or path.exists()
    except OSError:
        present = True
    if not present:
        raise InputError(f"{path}: no such file; collect it with python -m data_tools.collect")
    with open_source(path) as source:
        try:
            file = open_hdf5(source, path)
        except (OSError, ValueError) as error:
            raise read_error(source) or InputError(f"{path}: {describe_open_error(source, error)}") from None
        with file:
            try:
                yield file, source
            except READ_ERRORS as error:
                raise read_error(source) or InputError(
                    f"{path}: damaged ({short_message(error)}); {RECOLLECT_HINT}"
                ) from None
            except InputError as error:
                raise read_error(source) or error from None


def describe_open_error(path: Any, error: Exception) -> str:
    """Return why HDF5 could not open a file, and what to do."""
    if not isinstance(path, Path):
        return f"not an HDF5 file, or truncated or damaged ({short_message(error)}); {RECOLLECT_HINT}"
    if path.is_dir():
        return "is a folder; name one of the .hdf5 files in it"
    if isinstance(error, PermissionError):
        return "permission denied; change its permissions"
    if path.stat().st_size and not h5py.is_hdf5(path):
        return "not an HDF5 file; name one written by python -m data_tools.collect"
    return f"truncated or damaged ({short_message(error)}); {RECOLLECT_HINT}"


@contextmanager
def report_field(path: StoragePath, field: str) -> Iterator[None]:
    """Turn any error while parsing a field into an InputError that names it."""
    try:
        yield
    except READ_ERRORS as error:
        raise InputError(f"{path}: {field}: damaged ({short_message(error)}); {RECOLLECT_HINT}") from None


def read(path: StoragePath) -> tuple[Header, Contents]:
    """Read and check everything but the pixels.

    Raises:
        InputError: the file is missing or damaged; names the file, and the episode and field if known.
    """
    with open_file(path) as (file, _):
        header = read_header(path, file)
        contents = read_contents(path, file, header)
        with report_field(path, "attribute checksum"):
            intact = bytes(file.attrs.get("checksum", b"")) == checksum(header, contents).encode()
        if not intact:
            where = locate_damage(path, file, header, contents)
            raise InputError(f"{path}: {where}damaged: its checksum does not match its contents; {RECOLLECT_HINT}")
    return header, contents


def locate_damage(path: StoragePath, file: h5py.File, header: Header, contents: Contents) -> str:
    """Return the first episode and field with a wrong checksum; empty if the file has no checksums per field."""
    with report_field(path, CHECKS):
        written, found = file.get(CHECKS), episode_checksums(header, contents)
        if not isinstance(written, h5py.Dataset) or written.shape != found.shape:
            return ""
        check_size(path, CHECKS, written)
        wrong = np.argwhere(written[()] != found)
    if not len(wrong):
        return ""
    names = [*(field.path for field in stored_fields(header, contents).values()), "sentences"]
    return f"episode {wrong[0][0]}: {names[wrong[0][1]]}: "


def read_header(path: StoragePath, file: h5py.File) -> Header:
    """Read the header of a file of this format and version."""
    with report_field(path, "attribute format"):
        is_ours = "format" in file.attrs and text(file.attrs["format"]) == FORMAT
    if not is_ours:
        raise InputError(f"{path}: an HDF5 file of another format; name one written by python -m data_tools.collect")
    with report_field(path, "attribute version"):
        version = int(file.attrs["version"])
    if version != VERSION:
        raise InputError(f"{path}: format version {version}, InstructRL reads version {VERSION}; collect it again")
    action = read_attribute(path, file, "action", text)
    spaces = {convention: space for space, convention in ACTION_CONVENTIONS.items()}
    if action not in spaces:
        raise InputError(
            f"{path}: attribute action: found {format_value(action)}, InstructRL uses "
            f"{format_value(ACTION_CONVENTION)}; collect or convert it again with this version"
        )
    low, high = (read_attribute(path, file, f"workspace_{name}", corner) for name in ("low", "high"))
    return Header(
        **{key: read_attribute(path, file, key, parse) for key, parse in HEADER.items()},
        workspace=Workspace.from_numbers([*low, *high], key=f"{path}: attributes workspace_low, workspace_high"),
        state=read_attribute(path, file, "state", texts) if "state" in file.attrs else GRIPPER_STATE,
        actions=spaces[action],
    )


def read_attribute(path: StoragePath, file: h5py.File, key: str, parse: Callable[[Any], Any]) -> Any:
    """Return an attribute of a file, parsed."""
    if key not in file.attrs:
        raise InputError(f"{path}: attribute {key}: missing; {RECOLLECT_HINT}")
    with report_field(path, f"attribute {key}"):
        return parse(file.attrs[key])


def corner(value: Any) -> list[float]:
    """Parse an attribute as three numbers; raises TypeError for anything else."""
    if not isinstance(value, np.ndarray) or value.shape != (3,) or value.dtype.kind not in "iuf":
        raise TypeError(f"found {type(value).__name__} {np.shape(value)}, expected three numbers")
    return list(map(float, value))


def text(value: Any) -> str:
    """Parse an attribute as text; raises TypeError for anything else."""
    if not isinstance(value, bytes | str):
        raise TypeError(f"found {type(value).__name__}, expected text")
    return value.decode() if isinstance(value, bytes) else value


def texts(values: Any) -> tuple[str, ...]:
    """Parse an attribute as one or more texts; raises TypeError for anything else."""
    if not isinstance(values, np.ndarray) or values.ndim != 1 or not len(values):
        raise TypeError(f"found {type(values).__name__} {np.shape(values)}, expected a list of texts")
    return tuple(text(value) for value in values)


def positive_int(value: Any) -> int:
    """Parse an attribute as an integer >= 1; raises TypeError for anything else."""
    if not isinstance(value, np.integer) or value < 1:
        raise TypeError(f"found {value!r}, expected an integer >= 1")
    return int(value)


def string_dict(value: Any) -> dict[str, str]:
    """Parse an attribute as a JSON dictionary of texts; raises ValueError or TypeError for anything else."""
    found = parse_json(text(value))
    if not isinstance(found, dict):
        raise TypeError(f"found {type(found).__name__}, expected a dictionary")
    return {key: str(value) for key, value in found.items()}


HEADER = {"task": text, "split": text, "cameras": texts, "image_size": positive_int, "provenance": string_dict}


def read_contents(path: StoragePath, file: h5py.File, header: Header) -> Contents:
    """Read every field but the pixels, of which only shape and dtype are checked."""
    try:
        images = field_dataset(path, file, image_field(header))
        columns = {name: read_field(path, file, field) for name, field in fields(header).items()}
        columns[PLACEMENTS] = read_placements(path, file, len(columns["seed"]))
        contents = Contents(**columns, text=read_instructions(path, file))
        if len(images) != len(contents.state):
            frames = len(contents.state)
            raise InputError(f"{path}: frames/images: found {len(images)} frames, the other fields have {frames}")
        check_contents(str(path), contents, header)
    except InputError as error:
        hint = "" if str(error).endswith(RECOLLECT_HINT) else f"; {RECOLLECT_HINT}"
        raise InputError(f"{error}{hint}") from None
    return contents


def read_field(path: StoragePath, file: h5py.File, field: Field) -> np.ndarray:
    """Read a field."""
    found = field_dataset(path, file, field)
    with report_field(path, field.path):
        check_size(path, field.path, found)
        return found[()]


def read_placements(path: StoragePath, file: h5py.File, episodes: int) -> np.ndarray:
    """Read the rejected placements [E]; all of them unknown if the file has none."""
    if placements_field().path not in file:
        return np.full(episodes, UNKNOWN, np.int64)
    return read_field(path, file, placements_field())


def read_instructions(path: StoragePath, file: h5py.File) -> list[str]:
    """Read all instructions."""
    with report_field(path, "sentences"):
        found = file.get("sentences")
        if not isinstance(found, h5py.Dataset) or found.dtype.kind != "S" or found.ndim != 1:
            raise InputError(f"{path}: sentences: missing or not text")
        check_size(path, "sentences", found)
        return [sentence.decode() for sentence in found[()].tolist()]


def check_size(path: StoragePath, name: str, found: h5py.Dataset) -> None:
    """Raise InputError for a data set whose size in the file is not that of its shape: it would return garbage."""
    check_stored(f"{path}: {name}", found)
    ChunkCheck(f"{path}: {name}", found)(0, len(found) if found.ndim else 0)
    if found.chunks is None and found.id.get_storage_size() != found.nbytes:
        raise InputError(f"{path}: {name}: found {found.id.get_storage_size()} bytes, expected {found.nbytes}")


def field_dataset(path: StoragePath, file: h5py.File, field: Field) -> h5py.Dataset:
    """Return the data set of a field, if it exists with the right shape and dtype."""
    with report_field(path, field.path):
        found = file.get(field.path)
        if not isinstance(found, h5py.Dataset) or found.shape is None:
            raise InputError(f"{path}: {field.path}: missing")
        check_array(f"{path}: {field.path}", found, field)
    return found
