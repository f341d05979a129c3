"""Reading a file of demonstrations: everything but the pixels, checked, or one line that says what is wrong."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from instructrl.data.format import (
    CHECKS,
    FORMAT,
    VERSION,
    Contents,
    Field,
    Header,
    check_array,
    check_contents,
    checks,
    checksum,
    fields,
    image_field,
)
from instructrl.data.storage import Place, Source, failure, readable
from instructrl.errors import InputError

READ_ERRORS = (OSError, RuntimeError, KeyError, ValueError, TypeError, AttributeError, MemoryError)
REMEDY = "delete it and collect or copy it again"


@contextmanager
def open_file(path: Place) -> Iterator[tuple[h5py.File, Source]]:
    """Open for reading; whatever HDF5 cannot open or read is an InputError that names the file.

    What was read counts only if `failure` of the source is None then.

    Raises:
        InputError: it is missing, damaged, or may not be read.
        RunError: its store keeps failing.
    """
    try:
        present = not isinstance(path, Path) or path.exists()
    except OSError:
        present = True
    if not present:
        raise InputError(f"{path}: no such file; collect it with python -m data_tools.collect")
    with readable(path) as source:
        try:
            file = h5py.File(source, "r", locking=False)  # files are replaced, never changed: no lock is needed
        except (OSError, ValueError) as error:
            raise failure(source) or InputError(f"{path}: {unreadable(source, error)}") from None
        with file:
            try:
                add_filters(file)
                yield file, source
            except READ_ERRORS as error:
                raise failure(source) or InputError(f"{path}: damaged ({reason(error)}); {REMEDY}") from None
            except InputError as error:
                raise failure(source) or error from None


def add_filters(file: h5py.File) -> None:
    """Make HDF5 know lz4 and zstd, if pixels are compressed."""
    images = file.get("frames/images")
    if isinstance(images, h5py.Dataset) and images.id.get_create_plist().get_nfilters():
        import hdf5plugin  # noqa: F401  (registers them)


def unreadable(path: Any, error: Exception) -> str:
    """Why HDF5 could not open a file, and what to do."""
    if not isinstance(path, Path):
        return f"no HDF5 file, or truncated or damaged ({reason(error)}); {REMEDY}"
    if path.is_dir():
        return "is a folder; name one of the .hdf5 files in it"
    if isinstance(error, PermissionError):
        return "may not be read; change its permissions"
    if path.stat().st_size and not h5py.is_hdf5(path):
        return "not an HDF5 file; name one written by python -m data_tools.collect"
    return f"truncated or damaged ({reason(error)}); {REMEDY}"


def reason(error: Exception) -> str:
    """The essence of an error of HDF5, on one line."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 160 else text[:157] + "..."


@contextmanager
def naming(path: Place, field: str) -> Iterator[None]:
    """Whatever cannot be made of a field is an InputError that names it."""
    try:
        yield
    except READ_ERRORS as error:
        raise InputError(f"{path}: {field}: damaged ({reason(error)}); {REMEDY}") from None


def read(path: Place) -> tuple[Header, Contents]:
    """Read and check everything but the pixels.

    Raises:
        InputError: one line naming the file, the episode and field if there is one, what was found and what to do.
    """
    with open_file(path) as (file, _):
        header = read_header(path, file)
        contents = read_contents(path, file, header)
        with naming(path, "attribute checksum"):
            intact = bytes(file.attrs.get("checksum", b"")) == checksum(header, contents).encode()
        if not intact:
            place = damage(path, file, header, contents)
            raise InputError(f"{path}: {place}damaged: its checksum is not that of its contents; {REMEDY}")
    return header, contents


def damage(path: Place, file: h5py.File, header: Header, contents: Contents) -> str:
    """Which episode and field are the first that are not as they were written; empty if the file does not say."""
    with naming(path, CHECKS):
        written, found = file.get(CHECKS), checks(header, contents)
        if not isinstance(written, h5py.Dataset) or written.shape != found.shape:
            return ""
        wrong = np.argwhere(written[()] != found)
    if not len(wrong):
        return ""
    names = [*(field.path for field in fields(header).values()), "sentences"]
    return f"episode {wrong[0][0]}: {names[wrong[0][1]]}: "


def read_header(path: Place, file: h5py.File) -> Header:
    """The header of a file of this format and version."""
    with naming(path, "attribute format"):
        ours = "format" in file.attrs and text(file.attrs["format"]) == FORMAT
    if not ours:
        raise InputError(f"{path}: an HDF5 file of another kind; name one written by python -m data_tools.collect")
    with naming(path, "attribute version"):
        version = int(file.attrs["version"])
    if version != VERSION:
        raise InputError(f"{path}: format version {version}, this suite reads version {VERSION}; collect it again")
    values: dict[str, Any] = {}
    for key, kind in HEADER.items():
        if key not in file.attrs:
            raise InputError(f"{path}: attribute {key}: missing; {REMEDY}")
        with naming(path, f"attribute {key}"):
            values[key] = kind(file.attrs[key])
    return Header(**values)


def text(value: Any) -> str:
    """Text of an attribute; raises TypeError for anything else."""
    if not isinstance(value, bytes | str):
        raise TypeError(f"found {type(value).__name__}, expected text")
    return value.decode() if isinstance(value, bytes) else value


def texts(values: Any) -> tuple[str, ...]:
    """Several texts of an attribute, at least one; raises TypeError for anything else."""
    if not isinstance(values, np.ndarray) or values.ndim != 1 or not len(values):
        raise TypeError(f"found {type(values).__name__} {np.shape(values)}, expected a row of texts")
    return tuple(text(value) for value in values)


def whole(value: Any) -> int:
    """An integer >= 1 of an attribute; raises TypeError for anything else."""
    if not isinstance(value, np.integer) or value < 1:
        raise TypeError(f"found {value!r}, expected an integer >= 1")
    return int(value)


def words(value: Any) -> dict[str, str]:
    """A dictionary of texts that an attribute holds as JSON; raises ValueError or TypeError for anything else."""
    found = json.loads(text(value))
    if not isinstance(found, dict):
        raise TypeError(f"found {type(found).__name__}, expected a dictionary")
    return {key: str(value) for key, value in found.items()}


HEADER = {"task": text, "split": text, "cameras": texts, "image_size": whole, "provenance": words}


def read_contents(path: Place, file: h5py.File, header: Header) -> Contents:
    """Every field but the pixels, of which only shape and dtype are checked."""
    try:
        images = stored(path, file, image_field(header))
        columns = {name: read_field(path, file, field) for name, field in fields(header).items()}
        contents = Contents(**columns, text=read_sentences(path, file))
        if len(images) != len(contents.state):
            frames = len(contents.state)
            raise InputError(f"{path}: frames/images: found {len(images)} frames, the other fields have {frames}")
        check_contents(str(path), contents, header)
    except InputError as error:
        remedy = "" if str(error).endswith(REMEDY) else f"; {REMEDY}"
        raise InputError(f"{error}{remedy}") from None
    return contents


def read_field(path: Place, file: h5py.File, field: Field) -> np.ndarray:
    """All of a field."""
    found = stored(path, file, field)
    with naming(path, field.path):
        check_stored(path, field.path, found)
        return found[()]


def read_sentences(path: Place, file: h5py.File) -> list[str]:
    """All sentences."""
    with naming(path, "sentences"):
        found = file.get("sentences")
        if not isinstance(found, h5py.Dataset) or found.dtype.kind != "S" or found.ndim != 1:
            raise InputError(f"{path}: sentences: missing or not text")
        check_stored(path, "sentences", found)
        return [sentence.decode() for sentence in found[()].tolist()]


def check_stored(path: Place, name: str, found: h5py.Dataset) -> None:
    """Raise InputError for a data set that claims to hold more than lies in the file, which may be anything."""
    if found.chunks is None and found.id.get_storage_size() != found.nbytes:
        raise InputError(f"{path}: {name}: found {found.id.get_storage_size()} bytes, expected {found.nbytes}")


def stored(path: Place, file: h5py.File, field: Field) -> h5py.Dataset:
    """The data set of a field, if it is there with the right shape and dtype."""
    with naming(path, field.path):
        found = file.get(field.path)
        if not isinstance(found, h5py.Dataset) or found.shape is None:
            raise InputError(f"{path}: {field.path}: missing")
        check_array(f"{path}: {field.path}", found, field)
    return found
