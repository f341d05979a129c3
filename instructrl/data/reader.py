"""Reading a file of demonstrations: everything but the pixels, checked, or one line that says what is wrong."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py

from instructrl.data.format import (
    FORMAT,
    VERSION,
    Contents,
    Field,
    Header,
    check_array,
    check_contents,
    checksum,
    fields,
    image_field,
)
from instructrl.data.storage import Place, Source, failure, readable
from instructrl.errors import InputError

READ_ERRORS = (OSError, RuntimeError, KeyError, ValueError, TypeError, AttributeError)
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


def read(path: Place) -> tuple[Header, Contents]:
    """Read and check everything but the pixels.

    Raises:
        InputError: one line naming the file, what was found and what to do.
    """
    with open_file(path) as (file, _):
        header = read_header(path, file)
        contents = read_contents(path, file, header)
        if file.attrs.get("checksum") != checksum(header, contents).encode():
            raise InputError(f"{path}: damaged: its checksum is not that of its contents; {REMEDY}")
    return header, contents


def read_header(path: Place, file: h5py.File) -> Header:
    """The header of a file of this format and version."""
    if file.attrs.get("format") != FORMAT.encode():
        raise InputError(f"{path}: an HDF5 file of another kind; name one written by python -m data_tools.collect")
    if file.attrs.get("version") != VERSION:
        found = file.attrs.get("version")
        raise InputError(f"{path}: format version {found}, this suite reads version {VERSION}; collect it again")
    missing = [key for key in ("task", "split", "cameras", "image_size", "provenance") if key not in file.attrs]
    if missing:
        raise InputError(f"{path}: attribute {missing[0]}: missing; {REMEDY}")
    return Header(
        task=file.attrs["task"].decode(),
        split=file.attrs["split"].decode(),
        cameras=tuple(camera.decode() for camera in file.attrs["cameras"]),
        image_size=int(file.attrs["image_size"]),
        provenance={key: str(value) for key, value in json.loads(file.attrs["provenance"]).items()},
    )


def read_contents(path: Place, file: h5py.File, header: Header) -> Contents:
    """Every field but the pixels, of which only shape and dtype are checked."""
    try:
        images = stored(path, file, image_field(header))
        columns = {name: stored(path, file, field)[()] for name, field in fields(header).items()}
        sentences = file.get("sentences")
        if not isinstance(sentences, h5py.Dataset) or sentences.dtype.kind != "S" or sentences.ndim != 1:
            raise InputError(f"{path}: sentences: missing or not text")
        contents = Contents(**columns, text=[sentence.decode() for sentence in sentences[()].tolist()])
        if len(images) != len(contents.state):
            frames = len(contents.state)
            raise InputError(f"{path}: frames/images: found {len(images)} frames, the other fields have {frames}")
        check_contents(str(path), contents, header)
    except InputError as error:
        raise InputError(f"{error}; {REMEDY}") from None
    return contents


def stored(path: Place, file: h5py.File, field: Field) -> h5py.Dataset:
    """The data set of a field, if it is there with the right shape and dtype."""
    found = file.get(field.path)
    if not isinstance(found, h5py.Dataset):
        raise InputError(f"{path}: {field.path}: missing")
    check_array(f"{path}: {field.path}", found, field)
    return found
