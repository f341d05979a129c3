"""Fuzzer: damages files deterministically by case number, reads them, and prints the result; see `test_fuzz`.

    python -m tests.fuzz KIND FOLDER BEGIN END

prints a line "case N" before and a line of JSON after each case, to identify a case that hangs or crashes.
"""

import json
import random
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from instructrl.batch import Features, FeatureSizes
from instructrl.config import EncoderConfig
from instructrl.data.episodes import DemonstrationDataset
from instructrl.data.features import ensure_features
from instructrl.data.format import fields
from instructrl.data.tokenizer import make_tokenizer
from instructrl.errors import InputError
from tests.demonstrations import HEADER, assert_equal, demonstration, write

PATHS = [field.path for field in fields(HEADER).values()]
DATASETS = ["frames/images", *PATHS, "sentences"]
ATTRIBUTES = ["format", "version", "task", "split", "cameras", "image_size", "provenance", "checksum"]
SIZES = FeatureSizes(pooled=5, text=3, patches=(2, 3), dtype="float32")


def original(folder: Path, number: int) -> tuple[Path, list]:
    """Write a file and return its path and content; larger ones have a multi-level chunk index."""
    rng = np.random.default_rng(number % 5)
    counts = [3, 1, 12, 40, 90][number % 5]
    demonstrations = [
        demonstration(
            seed, steps=int(rng.integers(1, 4)), between=int(rng.integers(0, 3)), sentences=(f"go to {seed}",)
        )
        for seed in range(counts)
    ]
    path = folder / f"original{number % 5}.hdf5"
    if not path.exists():
        write(path, demonstrations)
    return path, demonstrations


def pixel_ranges(path: Path) -> list[tuple[int, int]]:
    """Byte range of the pixels of each frame in a file."""
    with h5py.File(path, "r") as file:
        images = file["frames/images"]
        chunks = (images.id.get_chunk_info(number) for number in range(images.id.get_num_chunks()))
        return [(chunk.byte_offset, chunk.byte_offset + chunk.size) for chunk in chunks]


def damaged_bytes(content: bytes, pixels: list[tuple[int, int]], numbers: random.Random) -> tuple[str, bytes]:
    """Damage a file, mostly outside of pixels; returns the kind of damage and the content."""
    data = bytearray(content)
    inside = np.zeros(len(data), bool)
    for begin, end in pixels:
        inside[begin:end] = True
    offsets = np.flatnonzero(~inside) if numbers.random() < 0.8 else np.arange(len(data))
    offset = int(offsets[numbers.randrange(len(offsets))])
    length = numbers.choice([1, 8, 100, 4096])
    damage = numbers.choice(["cut", "flip", "flip", "flip", "zero", "noise", "copy", "insert", "remove", "append"])
    if damage == "cut":
        del data[offset:]
    elif damage == "flip":
        for _ in range(numbers.choice([1, 1, 1, 2, 5, 50])):
            data[int(offsets[numbers.randrange(len(offsets))])] ^= 1 << numbers.randrange(8)
    elif damage == "zero":
        data[offset : offset + length] = bytes(len(data[offset : offset + length]))
    elif damage == "noise":
        data[offset : offset + length] = numbers.randbytes(len(data[offset : offset + length]))
    elif damage == "copy":
        source = int(offsets[numbers.randrange(len(offsets))])
        piece = data[source : source + length]
        data[offset : offset + len(piece)] = piece
    elif damage == "insert":
        data[offset:offset] = numbers.randbytes(length)
    elif damage == "remove":
        del data[offset : offset + length]
    else:
        data += numbers.randbytes(length)
    return damage, bytes(data)


def replace_dataset(name: str, change: Callable[[np.ndarray], Any]) -> Callable[[h5py.File], None]:
    """Replace a dataset by a function of its values; None removes it."""

    def edit(file: h5py.File) -> None:
        value = change(file[name][()])
        del file[name]
        if value is not None:
            file[name] = value

    return edit


def replace_by_huge(name: str) -> Callable[[h5py.File], None]:
    """Replace a dataset by an unallocated one that exceeds any memory."""

    def edit(file: h5py.File) -> None:
        shape, dtype = file[name].shape, file[name].dtype
        del file[name]
        file.create_dataset(name, (10**13, *shape[1:]), dtype)

    return edit


def change_one(values: np.ndarray, numbers: random.Random) -> np.ndarray:
    """Change one entry."""
    changed = values.copy()
    offset = tuple(numbers.randrange(size) for size in values.shape)
    if values.dtype.kind == "S":
        changed[offset] = values[offset][:-1] + (b"x" if not values[offset].endswith(b"x") else b"y")
    elif values.dtype.kind == "f":
        changed[offset] = numbers.choice(
            [np.nan, np.inf, np.nextafter(values[offset], np.float32(9)), values[offset] + 1]
        )
    else:
        changed[offset] ^= values.dtype.type(1 << numbers.randrange(7))
    return changed


def replace_by_link(name: str, link: Any) -> Callable[[h5py.File], None]:
    """Replace a dataset by a link."""

    def edit(file: h5py.File) -> None:
        del file[name]
        file[name] = link

    return edit


def damaged_field(name: str, numbers: random.Random) -> tuple[str, Callable[[h5py.File], None]]:
    """Choose a modification of a dataset."""
    dtype = numbers.choice(["i1", "i2", ">i4", "u8", "f2", "f8", ">f4", "?", "S5", "c8"])
    other = numbers.choice([path for path in DATASETS if path != name])
    modifications: dict[str, Callable[[h5py.File], None]] = {
        "missing": replace_dataset(name, lambda _: None),
        f"of type {dtype}": replace_dataset(
            name, lambda values: values.astype(dtype) if values.dtype.kind != "S" else np.zeros(len(values), dtype)
        ),
        "text": replace_dataset(name, lambda values: np.array(["x"] * len(values), object)),
        "records": replace_dataset(name, lambda values: np.zeros(len(values), [("a", "f4"), ("b", "i8")])),
        "a number": replace_dataset(name, lambda _: 3),
        "empty": replace_dataset(name, lambda values: h5py.Empty(values.dtype)),
        "without entries": replace_dataset(name, lambda values: values[:0]),
        "shorter": replace_dataset(name, lambda values: values[:-1]),
        "longer": replace_dataset(name, lambda values: np.concatenate([values, values[-1:]])),
        "deeper": replace_dataset(name, lambda values: values[..., None]),
        "flat": replace_dataset(
            name, lambda values: values.reshape(-1)[: len(values)] if values.ndim > 1 else values[0]
        ),
        "reversed": replace_dataset(
            name, lambda values: values[::-1] if (values != values[::-1]).any() else values[:0]
        ),
        "one changed": replace_dataset(name, lambda values: change_one(values, numbers)),
        "a folder": lambda file: (file.__delitem__(name), file.create_group(name)),  # type: ignore[dict-item]
        "dangling": replace_by_link(name, h5py.SoftLink("/nowhere")),
        "itself": replace_by_link(name, h5py.SoftLink(f"/{name}")),
        "another": replace_by_link(name, h5py.SoftLink(f"/{other}")),
        "elsewhere": replace_by_link(name, h5py.ExternalLink("/nowhere.hdf5", f"/{name}")),
        "huge": replace_by_huge(name),
    }
    damage = numbers.choice(sorted(modifications))
    return f"{name} {damage}", modifications[damage]


def damaged_attribute(name: str, numbers: random.Random) -> tuple[str, Callable[[h5py.File], None]]:
    """Choose a modification of an attribute."""
    values = [
        7, -1, 2.5, np.nan, "text", b"\xff\xfe", "", "[1]", "[" * 9999, np.zeros(0), np.zeros((2, 2)), [b"a", b"\xff"],
        np.array(["front"], object), h5py.Empty("S5"), np.zeros(2, [("a", "f4")]), 2**60, True,
    ]  # fmt: skip
    offset = numbers.randrange(len(values) + 1)

    def edit(file: h5py.File) -> None:
        del file.attrs[name]
        if offset < len(values):
            file.attrs[name] = values[offset]

    return f"attribute {name} {values[offset]!r:.20}" if offset < len(values) else f"attribute {name} missing", edit


def verdict(path: Path, demonstrations: list) -> str:
    """Return "equal", or the one-line error.

    Raises:
        AssertionError: the content read differs from that written.
    """
    try:
        with DemonstrationDataset(path) as episodes:
            assert episodes.header == HEADER
            assert len(episodes) == len(demonstrations)
            for number, expected in enumerate(demonstrations):
                assert_equal(episodes.demonstration(number), expected)
            episodes.verify()
    except InputError as error:
        return str(error)
    return "equal"


def bytes_case(folder: Path, number: int) -> tuple[str, str]:
    """Read a file with damaged bytes."""
    path, demonstrations = original(folder, number)
    damage, data = damaged_bytes(path.read_bytes(), pixel_ranges(path), random.Random(number))
    damaged = folder / "damaged.hdf5"
    damaged.write_bytes(data)
    return damage, verdict(damaged, demonstrations)


def fields_case(folder: Path, number: int) -> tuple[str, str]:
    """Read a well-formed file with one invalid field or attribute."""
    numbers = random.Random(number)
    path, demonstrations = original(folder, numbers.choice([0, 2]))
    damaged = folder / "damaged.hdf5"
    damaged.write_bytes(path.read_bytes())
    if numbers.random() < 0.7:
        damage, edit = damaged_field(numbers.choice(DATASETS), numbers)
    else:
        damage, edit = damaged_attribute(numbers.choice(ATTRIBUTES), numbers)
    with h5py.File(damaged, "r+") as file:
        edit(file)
    return damage, verdict(damaged, demonstrations)


def encode(images: np.ndarray, tokens: np.ndarray, padding: np.ndarray) -> Features:
    """Fake features that differ for different images and instructions."""
    count, cameras = images.shape[:2]
    pixels = images.reshape(count, cameras, -1)[:, :, :11].astype(np.float32)
    return Features(pixels[..., :5], tokens[:, :3].astype(np.float32), pixels[..., 5:].reshape(count, cameras, 2, 3))


def features_case(folder: Path, number: int) -> tuple[str, str]:
    """Damage one file of a feature cache: reopening it must restore the features."""
    numbers, tokenizer = random.Random(number), make_tokenizer(EncoderConfig())
    path, demonstrations = original(folder, 0)
    with DemonstrationDataset(path) as episodes:
        options: dict[str, Any] = {
            "encode": encode, "sizes": SIZES, "identity": {"weights": "x"}, "joint": False, "max_instructions": None,
            "folder": folder / "cache", "batch_size": 4,
        }  # fmt: skip
        cache = ensure_features(episodes, tokenizer, **options)
        expected = {name: rows.memmap().copy() for name, rows in cache.rows.items()}
        file = numbers.choice(sorted(entry for entry in cache.folder.iterdir() if entry.name != ".lock"))
        damage, data = damaged_bytes(file.read_bytes(), [], numbers)
        if file.name == "index.json" and numbers.random() < 0.4:
            damage, data = "other JSON", numbers.choice([b"[]", b"3", b"null", b'{"key": [1]}', b"[" * 99999, b"\xff"])
        if numbers.random() < 0.2:  # a damaged second cache next to it, which must be reported
            other = cache.folder.with_name("other")
            other.mkdir(exist_ok=True)
            (other / "index.json").write_bytes(data)
            file.unlink()
        else:
            file.write_bytes(data)
        try:
            again = ensure_features(episodes, tokenizer, **options)
        except InputError as error:
            return damage, str(error)
        for name, rows in again.rows.items():
            assert np.array_equal(rows.memmap(), expected[name]), name
        assert len(demonstrations) == len(episodes)
    return f"{file.name} {damage}", "equal"


CASES = {"bytes": bytes_case, "fields": fields_case, "features": features_case}


def main() -> None:
    """Run cases `begin` to `end` (exclusive)."""
    kind, folder, begin, end = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])
    for number in range(begin, end):
        print(f"case {number}", flush=True)
        damage, found, fault = "", "", ""
        try:
            damage, found = CASES[kind](folder, number)
        except Exception:
            fault = traceback.format_exc()
        print(json.dumps({"case": number, "how": damage, "found": found, "fault": fault}), flush=True)


if __name__ == "__main__":
    main()
