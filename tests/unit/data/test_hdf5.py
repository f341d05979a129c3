"""Every HDF5 file that is read is searched first: nothing in it leads elsewhere, in circles, or fills the memory."""

import os
import struct
import tracemalloc
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import hdf5plugin
import numpy as np
import pytest

from data_tools.convert.__main__ import main as convert
from instructrl.config.environment import DataConfig
from instructrl.data.demonstrations.dataset import DemonstrationDataset
from instructrl.data.hdf5 import MAX_LINKS
from instructrl.data.hdf5_lengths import chunk
from instructrl.data.image_text.loader import open_pairs
from instructrl.errors import InputError
from instructrl.storage import object_store
from tests.fixtures import demonstrations, pairs, stored
from tests.fixtures.commands import run_main


def demonstration_file(path: Path) -> Path:
    return demonstrations.write(path, [demonstrations.demonstration(0, steps=1)])


def read_demonstrations(path: Path) -> None:
    with DemonstrationDataset(path) as episodes:
        episodes.verify()


def pair_file(path: Path) -> Path:
    return pairs.some(path, 3)


def read_pairs(path: Path) -> None:
    with open_pairs([str(path)], "train") as [found]:
        found.checksum()


def window_file(path: Path) -> Path:
    return stored.windows(path, [3], shuffled=False)


def read_windows(path: Path) -> None:
    done = run_main(convert, "kind=windows", f"src={path}", f"out={path}.out.hdf5", "cameras=[front,left_shoulder]")
    if done.returncode:
        assert done.returncode == 2 and len(done.stderr.splitlines()) == 1
        raise InputError(done.stderr.strip().removeprefix("error: "))


READERS: dict[str, tuple[Callable[[Path], Path], Callable[[Path], None]]] = {
    "demonstrations": (demonstration_file, read_demonstrations),
    "pairs": (pair_file, read_pairs),
    "windows": (window_file, read_windows),
}


def link(target: str | h5py.SoftLink | h5py.ExternalLink) -> Callable[[h5py.File], None]:
    return lambda file: file.__setitem__("more/extra", target)


def external_storage(file: h5py.File) -> None:
    file.create_dataset("more/extra", (4,), "u1", external=[(b"/etc/passwd", 0, 4)])


def virtual(file: h5py.File) -> None:
    layout = h5py.VirtualLayout((4,), "u1")
    layout[:] = h5py.VirtualSource(f"{file.filename}.pipe", "x", (4,))
    file.create_virtual_dataset("more/extra", layout)


def large_chunk(file: h5py.File) -> None:
    file.create_dataset("more/extra", (1 << 30,), "f4", chunks=((1 << 30) - 1,))


def large_entry(file: h5py.File) -> None:
    file.create_dataset("more/extra", (3, 1 << 32), "u1", chunks=(1, 4096))


def large_text(file: h5py.File) -> None:
    file.create_dataset("more/extra", (1,), f"S{(1 << 31) - 1}")


def unknown_filter(file: h5py.File) -> None:
    creation = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    creation.set_chunk((4,))
    creation.set_filter(40_000, h5py.h5z.FLAG_OPTIONAL, ())
    group = file.create_group("more")
    h5py.h5d.create(group.id, b"extra", h5py.h5t.NATIVE_UINT8, h5py.h5s.create_simple((4,)), creation)


def loop(file: h5py.File) -> None:
    group = file.create_group("more")
    group["extra"] = group


def loop_through_root(file: h5py.File) -> None:
    file["more/extra"] = file["/"]


def link_of_own_kind(file: h5py.File) -> None:
    file["more/extra"] = h5py.ExternalLink("there\n\x1b[2J.hdf5", "/x")


FOUND: dict[str, tuple[Callable[[h5py.File], None], str]] = {
    "a link to another file": (
        link(h5py.ExternalLink("/nowhere.hdf5", "/x")),
        "found a link to /x in another file, /nowhere.hdf5; allowed: data in the file itself; copy it",
    ),
    "a link with a hostile name": (link_of_own_kind, r"found a link to /x in another file, 'there\n\x1b[2J.hdf5'"),
    "data in another file": (external_storage, "found data in another file, /etc/passwd; copy it"),
    "a virtual data set": (virtual, "found a virtual data set, which shows data of other files; copy it"),
    "a link to itself": (link(h5py.SoftLink("/more/extra")), "found a link to /more/extra, which leads to no data set"),
    "a link to nothing": (link(h5py.SoftLink("/nothing")), "found a link to /nothing, which leads to no data set"),
    "a link to a group": (link(h5py.SoftLink("/more")), "found a link to /more, which leads to no data set"),
    "a group within itself": (loop, "found a second name of another group"),
    "the root within a group": (loop_through_root, "found a second name of another group"),
    "a chunk of 4 GB": (large_chunk, "found a chunk of 4294967292 bytes; allowed: at most 268435456"),
    "an entry of 4 GB": (large_entry, "found an entry of 4294967296 bytes; allowed: at most 268435456"),
    "a text of 2 GB": (large_text, "found an entry of 2147483647 bytes; allowed: at most 268435456"),
    "an unknown filter": (unknown_filter, "found the compression filter 40000; allowed: gzip, shuffle"),
}


@pytest.mark.timeout(60)  # a pipe that is opened waits for a writer
@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("found", FOUND)
def test_what_leads_elsewhere_or_in_circles_or_fills_the_memory_is_named(
    tmp_path: Path, reader: str, found: str
) -> None:
    write, read = READERS[reader]
    edit, message = FOUND[found]
    path = write(tmp_path / "a.hdf5")
    os.mkfifo(f"{path}.pipe")
    read(path)
    Path(f"{path}.out.hdf5").unlink(missing_ok=True)
    with h5py.File(path, "r+") as file:
        edit(file)
    with pytest.raises(InputError) as caught:
        read(path)
    assert str(caught.value).startswith(f"{path}: /more/extra: {message}") and "\n" not in str(caught.value)


@pytest.mark.parametrize("reader", READERS)
def test_a_second_name_of_a_data_set_is_allowed(tmp_path: Path, reader: str) -> None:
    write, read = READERS[reader]
    path = write(tmp_path / "a.hdf5")
    with h5py.File(path, "r+") as file:
        file["more/extra"] = np.zeros(3)
        file["more/again"] = file["more/extra"]
        file["more/soft"] = h5py.SoftLink("again")
    read(path)


@pytest.mark.timeout(60)
@pytest.mark.parametrize("reader", ["demonstrations", "pairs"])
def test_a_pipe_in_place_of_a_file_is_named(tmp_path: Path, reader: str) -> None:
    path = tmp_path / "a.hdf5"
    os.mkfifo(path)
    with pytest.raises(InputError) as caught:
        READERS[reader][1](path)
    assert str(caught.value) == f"{path}: found a named pipe; allowed: a regular file; name one, or copy it"


def test_a_device_in_place_of_a_file_is_named() -> None:
    with pytest.raises(InputError, match="/dev/zero: found a device; allowed: a regular file"):
        read_demonstrations(Path("/dev/zero"))


def test_a_pipe_in_place_of_windows_is_named(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.hdf5")
    with pytest.raises(InputError, match="which is not a file"):
        read_windows(tmp_path / "a.hdf5")


@pytest.mark.parametrize(
    ("reader", "name"),
    [("demonstrations", "frames/state"), ("demonstrations", "sentences"), ("pairs", "jpg"), ("windows", "time")],
)
def test_a_data_set_that_was_never_written_is_not_read(tmp_path: Path, reader: str, name: str) -> None:
    write, read = READERS[reader]
    path = write(tmp_path / "a.hdf5")
    with h5py.File(path, "r+") as file:
        shape, dtype = file[name].shape, file[name].dtype
        del file[name]
        file.create_dataset(name, (1 << 28, *shape[1:]), dtype, chunks=(1024, *shape[1:]))
    tracemalloc.start()
    with pytest.raises(InputError) as caught:
        read(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert str(caught.value).startswith(f"{path}: {name}: found 0 bytes, but a shape of ") and peak < 50_000_000


CLAIMED = 0xFFFFFFF0


@pytest.mark.parametrize("options", [{}, {"chunks": (2,)}, {"chunks": (2,), "compression": "gzip", "shuffle": True},
                                     {"chunks": (2,), "compression": "lzf"}])  # fmt: skip
@pytest.mark.parametrize("name", ["jpg", "caption"])
def test_an_entry_that_claims_4_gb_is_not_read(tmp_path: Path, name: str, options: dict[str, Any]) -> None:
    path = pair_file(tmp_path / "a.hdf5")
    with h5py.File(path, "r+") as file:
        values, dtype = file[name][()], file[name].dtype
        del file[name]
        file.create_dataset(name, data=values, dtype=dtype, **options)
    read_pairs(path)
    with h5py.File(path, "r+") as file:
        if options:
            references = bytearray(chunk(file[name], (0,)))
            references[:4] = CLAIMED.to_bytes(4, "little")
            whole = h5py.File(tmp_path / "references.hdf5", "w")
            copied = whole.create_dataset("x", data=np.frombuffer(references, "V16"), **options)
            file[name].id.write_direct_chunk((0,), copied.id.read_direct_chunk((0,))[1])
        else:
            place = file[name].id.get_offset()
    if not options:
        with path.open("r+b") as content:
            content.seek(place)
            content.write(CLAIMED.to_bytes(4, "little"))
    with pytest.raises(InputError) as caught:
        read_pairs(path)
    message = f"/{name}: an entry beside 0 claims {CLAIMED} bytes; allowed: at most 268435456; copy or create it again"
    assert str(caught.value) == f"{path}: {message}"


def test_texts_of_another_type_are_named(tmp_path: Path) -> None:
    path = pair_file(tmp_path / "a.hdf5")
    with h5py.File(path, "r+") as file:
        del file["caption"]
        file.create_dataset("caption", (3,), np.dtype([("text", h5py.string_dtype())]))
    with pytest.raises(InputError, match=r"/caption: found .*; allowed: strings, or uint8 arrays of any length"):
        read_pairs(path)


def test_numbers_of_windows_of_another_type_are_named(tmp_path: Path) -> None:
    path = window_file(tmp_path / "a.hdf5")
    with h5py.File(path, "r+") as file:
        shape = file["time"].shape
        del file["time"]
        file.create_dataset("time", shape, h5py.vlen_dtype(np.uint8))
    with pytest.raises(InputError, match="time: found object; allowed: numbers"):
        read_windows(path)


def test_a_file_of_too_many_objects_is_not_searched_forever(tmp_path: Path) -> None:
    path = demonstration_file(tmp_path / "a.hdf5")
    with h5py.File(path, "r+", libver="latest") as file:
        group, target = file.create_group("more"), np.zeros(1)
        group["0"] = target
        for number in range(1, MAX_LINKS + 2):
            group.id.links.create_soft(str(number).encode(), b"0")
    with pytest.raises(InputError, match=f"{path}: found more than {MAX_LINKS} objects"):
        read_demonstrations(path)


def test_no_folder_is_searched_for_filters(tmp_path: Path) -> None:
    h5py.h5pl.prepend(str(tmp_path).encode())
    read_demonstrations(demonstration_file(tmp_path / "a.hdf5"))
    assert h5py.h5pl.size() == 0


def test_an_entry_in_a_bucket_that_claims_4_gb_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = pair_file(tmp_path / "a.hdf5")
    with h5py.File(path) as file:
        place = file["jpg"].id.get_offset()
    content = bytearray(path.read_bytes())
    content[place + 16 : place + 20] = CLAIMED.to_bytes(4, "little")
    monkeypatch.setattr(object_store, "fetch", lambda _, begin, end: bytes(content[begin:end]))
    monkeypatch.setattr(object_store, "stat", lambda _: object_store.ObjectStat(len(content), "", None, None))
    data = DataConfig(cache_dir=None)
    with (
        pytest.raises(InputError, match="/jpg: an entry beside 0 claims"),
        open_pairs(["gs://b/a.hdf5"], "train", data=data) as [found],
    ):
        found.image(0)


def gzip_bomb() -> bytes:
    return zlib.compress(bytes(1 << 26), 9)


def lz4_bomb() -> bytes:
    return struct.pack(">Q", 1 << 31) + bytes(64)


def zstd_bomb() -> bytes:
    blocks = 1 << 9  # each of 128 KiB, described by four bytes
    header = b"\x28\xb5\x2f\xfd" + bytes([0b10100000]) + struct.pack("<I", blocks << 17)
    block = [struct.pack("<I", (number == blocks - 1) | 1 << 1 | 1 << 20)[:3] + b"\0" for number in range(blocks)]
    return header + b"".join(block)


BOMBS: dict[str, tuple[dict[str, Any], Callable[[], bytes]]] = {
    "gzip": ({"compression": "gzip"}, gzip_bomb),
    "lz4": (dict(hdf5plugin.LZ4()), lz4_bomb),
    "zstd": (dict(hdf5plugin.Zstd()), zstd_bomb),
}


@pytest.mark.parametrize("codec", BOMBS)
@pytest.mark.parametrize(
    ("reader", "name"),
    [
        ("demonstrations", "frames/images"), ("demonstrations", "frames/state"), ("demonstrations", "sentences"),
        ("pairs", "jpg"), ("pairs", "caption"), ("windows", "time"), ("windows", "front_rgb"),
    ],
)  # fmt: skip
def test_a_chunk_that_is_larger_than_its_shape_is_not_decompressed(
    tmp_path: Path, reader: str, name: str, codec: str
) -> None:
    write, read = READERS[reader]
    options, bomb = BOMBS[codec]
    path = write(tmp_path / "a.hdf5")
    with h5py.File(path, "r+") as file:
        values, dtype = file[name][()], file[name].dtype
        del file[name]
        file.create_dataset(name, data=values, dtype=dtype, chunks=(1, *values.shape[1:]), **options)
    read(path)
    Path(f"{path}.out.hdf5").unlink(missing_ok=True)
    with h5py.File(path, "r+") as file:
        file[name].id.write_direct_chunk((0,) * file[name].ndim, bomb())
    with pytest.raises(InputError, match=rf"{name}: the chunk at \(0,.*\) is larger than the \d+ bytes of its shape"):
        read(path)


def test_several_compression_filters_are_refused(tmp_path: Path) -> None:
    path = demonstration_file(tmp_path / "a.hdf5")
    with h5py.File(path, "r+") as file:
        creation = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        creation.set_chunk((4,))
        creation.set_deflate(9)
        creation.set_deflate(9)
        h5py.h5d.create(file.id, b"extra", h5py.h5t.NATIVE_UINT8, h5py.h5s.create_simple((4,)), creation)
    with pytest.raises(InputError, match=f"{path}: /extra: found several compression filters, allowed: one"):
        read_demonstrations(path)
