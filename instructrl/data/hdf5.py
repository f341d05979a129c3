"""Opening of HDF5 files: whatever leads out of the file, in circles or to no end is refused before it is read.

HDF5 follows links to other files, raw data in other files and virtual data sets without being asked, and loads a shared
library for a compression filter that it does not know.
"""

import math
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import h5py

from instructrl.errors import InputError, format_value, short_message
from instructrl.storage.paths import Hdf5Source, StoragePath, read_error

READ_ERRORS = (OSError, RuntimeError, KeyError, ValueError, TypeError, AttributeError, MemoryError)
OWN_FILTERS = {1: "gzip", 2: "shuffle", 3: "fletcher32", 4: "szip", 5: "nbit", 6: "scaleoffset", 32000: "lzf"}
PLUGIN_FILTERS = {32004: "lz4", 32015: "zstd"}
COMPRESSION = {1, 4, 32000, *PLUGIN_FILTERS}
MAX_LINKS = 10_000  # of a file: those of this package and M3AE's have about 20
MAX_PIECE = 1 << 28  # bytes of a chunk, and of an entry: each is read whole
MAX_UNSTORED = 1 << 26  # bytes of a data set that may be missing from the file: entries that were never written
MAX_RATIO = 5000  # of compression
REMEDY = "copy it with all its data in one file"


def open_hdf5(source: Hdf5Source, path: StoragePath) -> h5py.File:
    """Open a file for reading, and check everything in it but the data.

    Args:
        source: what h5py opens.
        path: its name in errors.

    Raises:
        InputError: it is not a regular file, or has links, data sets or filters that are not allowed.
        OSError, ValueError: it is not an HDF5 file, or is damaged.
        RunError: object storage keeps failing.
    """
    if isinstance(source, Path):
        check_regular(source, path)
    unload_plugins()
    file = h5py.File(source, "r", locking=False)  # files are replaced, never modified: no lock is needed
    try:
        filters: set[int] = set()
        for name, dataset in datasets(path, file):
            filters |= check_dataset(f"{path}: {name}", dataset)
        if filters & PLUGIN_FILTERS.keys():
            import hdf5plugin  # noqa: F401  (registers them)
    except InputError as error:
        file.close()
        raise read_error(source) or error from None
    except READ_ERRORS as error:
        file.close()
        raise read_error(source) or OSError(short_message(error)) from None
    return file


def check_regular(source: Path, path: StoragePath) -> None:
    """Raise InputError for what is neither a file nor a folder: opening a named pipe would wait forever."""
    mode = source.stat().st_mode
    if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
        kinds = {stat.S_IFIFO: "named pipe", stat.S_IFSOCK: "socket", stat.S_IFCHR: "device", stat.S_IFBLK: "device"}
        raise InputError(f"{path}: found a {kinds[stat.S_IFMT(mode)]}; allowed: a regular file; name one, or copy it")


def unload_plugins() -> None:
    """Remove the folders, such as HDF5_PLUGIN_PATH, in which HDF5 searches libraries for filters it does not know."""
    while h5py.h5pl.size():
        h5py.h5pl.remove(0)


class Place(NamedTuple):
    """An object within a file, with its group."""

    name: str
    group: h5py.h5g.GroupID
    link: bytes


def datasets(path: StoragePath, file: h5py.File) -> Iterator[tuple[str, h5py.h5d.DatasetID]]:
    """Yield all data sets with their names, without following a link that is not allowed.

    Raises:
        InputError: there is such a link, or more links than any valid file has.
    """
    pending, links, soft_links = [("", h5py.h5g.open(file.id, b"/"))], 0, []
    groups = {h5py.h5o.get_info(file.id).addr}
    while pending:
        parent, group = pending.pop()
        for link, kind in list_links(group):
            links += 1
            if links > MAX_LINKS:
                raise InputError(f"{path}: found more than {MAX_LINKS} objects; is it a file of this kind?")
            place = Place(f"{parent}/{shown(link)}", group, link)
            if kind != h5py.h5l.TYPE_HARD:
                check_link(path, place, kind)
                soft_links.append(place)
                continue
            info = h5py.h5o.get_info(group, link)
            if info.type == h5py.h5o.TYPE_DATASET:
                yield place.name, h5py.h5d.open(group, link)
            elif info.type == h5py.h5o.TYPE_GROUP:
                if info.addr in groups:
                    raise InputError(f"{path}: {place.name}: found a second name of another group; {REMEDY}")
                groups.add(info.addr)
                pending.append((place.name, h5py.h5g.open(group, link)))
    for place in soft_links:  # only now: on their way there may be any link of the file
        check_target(path, place)


def list_links(group: h5py.h5g.GroupID) -> list[tuple[bytes, int]]:
    """Return names and kinds of a group's links; at most one more than allowed in a file."""
    found: list[tuple[bytes, int]] = []

    def add(name: bytes, info: h5py.h5l.LinkInfo) -> bool | None:
        found.append((name, info.type))
        return True if len(found) > MAX_LINKS else None

    group.links.iterate(add, info=True)
    return found


def shown(name: bytes) -> str:
    """Return a name in a file for an error message."""
    return format_value(name.decode(errors="replace"))


def check_link(path: StoragePath, place: Place, kind: int) -> None:
    """Raise InputError for a link to another file."""
    if kind == h5py.h5l.TYPE_EXTERNAL:
        target, inner = place.group.links.get_val(place.link)
        found = f"a link to {shown(inner)} in another file, {shown(target)}"
    elif kind != h5py.h5l.TYPE_SOFT:
        found = f"a link of kind {kind}"
    else:
        return
    raise InputError(f"{path}: {place.name}: found {found}; allowed: data in the file itself; {REMEDY}")


def check_target(path: StoragePath, place: Place) -> None:
    """Raise InputError unless a soft link leads to a data set."""
    try:
        found = h5py.h5o.get_info(place.group, place.link).type
    except READ_ERRORS:  # it leads nowhere, or in circles
        found = None
    if found != h5py.h5o.TYPE_DATASET:
        target = shown(place.group.links.get_val(place.link))
        raise InputError(f"{path}: {place.name}: found a link to {target}, which leads to no data set; {REMEDY}")


def check_dataset(where: str, dataset: h5py.h5d.DatasetID) -> set[int]:
    """Return the filters of a data set.

    Raises:
        InputError: its data are in another file, in pieces beyond any memory, or behind an unknown filter.
    """
    creation = dataset.get_create_plist()
    layout = creation.get_layout()
    if layout == h5py.h5d.VIRTUAL:
        raise InputError(f"{where}: found a virtual data set, which shows data of other files; {REMEDY}")
    if layout == h5py.h5d.CONTIGUOUS and creation.get_external_count():
        name = shown(creation.get_external(0)[0])
        raise InputError(f"{where}: found data in another file, {name}; {REMEDY}")
    filters = {creation.get_filter(number)[0] for number in range(creation.get_nfilters())}
    unknown = sorted(filters - OWN_FILTERS.keys() - PLUGIN_FILTERS.keys())
    if unknown:
        allowed = ", ".join((OWN_FILTERS | PLUGIN_FILTERS).values())
        raise InputError(
            f"{where}: found the compression filter {unknown[0]}; allowed: {allowed}; rewrite it with h5repack"
        )
    if len(filters & COMPRESSION) > 1 or len(filters) < creation.get_nfilters():
        raise InputError(f"{where}: found several compression filters, allowed: one; rewrite it with h5repack")
    size = dataset.get_type().get_size()
    pieces = {"an entry": dataset.shape[1:] if dataset.rank else ()}
    if layout == h5py.h5d.CHUNKED:
        pieces["a chunk"] = creation.get_chunk()
    for name, shape in pieces.items():
        piece = size * math.prod(shape)
        if piece > MAX_PIECE:
            raise InputError(
                f"{where}: found {name} of {piece} bytes; allowed: at most {MAX_PIECE}; rewrite it with h5repack"
            )
    return filters


def check_stored(where: str, dataset: h5py.Dataset) -> None:
    """Raise InputError if a data set claims far more data than the file stores, which would fill the memory."""
    stored = dataset.id.get_storage_size()
    if dataset.nbytes > max(MAX_UNSTORED, MAX_RATIO * stored):
        raise InputError(f"{where}: found {stored} bytes, but a shape of {dataset.nbytes}; copy or create it again")
