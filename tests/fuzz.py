"""Damages files in ways that follow from a number, reads them, and says how it went: see `test_fuzz`.

    python -m tests.fuzz KIND FOLDER BEGIN END

prints a line "case N" before and a line of JSON after each case, so that whoever waits knows which one hangs or dies.
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
from instructrl.data.episodes import Episodes
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
    """A file to damage, and what is in it: small ones, and larger ones whose index of pixels has several levels."""
    rng = np.random.default_rng(number % 5)
    counts = [3, 1, 12, 40, 90][number % 5]
    given = [
        demonstration(
            seed, steps=int(rng.integers(1, 4)), between=int(rng.integers(0, 3)), sentences=(f"go to {seed}",)
        )
        for seed in range(counts)
    ]
    path = folder / f"original{number % 5}.hdf5"
    if not path.exists():
        write(path, given)
    return path, given


def pixels_of(path: Path) -> list[tuple[int, int]]:
    """Begin and end of the pixels of each frame in a file."""
    with h5py.File(path, "r") as file:
        images = file["frames/images"]
        chunks = (images.id.get_chunk_info(number) for number in range(images.id.get_num_chunks()))
        return [(chunk.byte_offset, chunk.byte_offset + chunk.size) for chunk in chunks]


def damaged_bytes(content: bytes, pixels: list[tuple[int, int]], numbers: random.Random) -> tuple[str, bytes]:
    """How a file was damaged, and what became of it; most damage is done where no pixels are."""
    data = bytearray(content)
    inside = np.zeros(len(data), bool)
    for begin, end in pixels:
        inside[begin:end] = True
    places = np.flatnonzero(~inside) if numbers.random() < 0.8 else np.arange(len(data))
    place = int(places[numbers.randrange(len(places))])
    length = numbers.choice([1, 8, 100, 4096])
    how = numbers.choice(["cut", "flip", "flip", "flip", "zero", "noise", "copy", "insert", "remove", "append"])
    if how == "cut":
        del data[place:]
    elif how == "flip":
        for _ in range(numbers.choice([1, 1, 1, 2, 5, 50])):
            data[int(places[numbers.randrange(len(places))])] ^= 1 << numbers.randrange(8)
    elif how == "zero":
        data[place : place + length] = bytes(len(data[place : place + length]))
    elif how == "noise":
        data[place : place + length] = numbers.randbytes(len(data[place : place + length]))
    elif how == "copy":
        source = int(places[numbers.randrange(len(places))])
        piece = data[source : source + length]
        data[place : place + len(piece)] = piece
    elif how == "insert":
        data[place:place] = numbers.randbytes(length)
    elif how == "remove":
        del data[place : place + length]
    else:
        data += numbers.randbytes(length)
    return how, bytes(data)


def replaced(name: str, change: Callable[[np.ndarray], Any]) -> Callable[[h5py.File], None]:
    """Put something made of a data set in its place."""

    def edit(file: h5py.File) -> None:
        value = change(file[name][()])
        del file[name]
        if value is not None:
            file[name] = value

    return edit


def unallocated(name: str) -> Callable[[h5py.File], None]:
    """A data set of the right kind that claims to be larger than any memory."""

    def edit(file: h5py.File) -> None:
        shape, dtype = file[name].shape, file[name].dtype
        del file[name]
        file.create_dataset(name, (10**13, *shape[1:]), dtype)

    return edit


def one_changed(values: np.ndarray, numbers: random.Random) -> np.ndarray:
    """One entry is another one."""
    changed = values.copy()
    place = tuple(numbers.randrange(size) for size in values.shape)
    if values.dtype.kind == "S":
        changed[place] = values[place][:-1] + (b"x" if not values[place].endswith(b"x") else b"y")
    elif values.dtype.kind == "f":
        changed[place] = numbers.choice([np.nan, np.inf, np.nextafter(values[place], np.float32(9)), values[place] + 1])
    else:
        changed[place] ^= values.dtype.type(1 << numbers.randrange(7))
    return changed


def linked(name: str, link: Any) -> Callable[[h5py.File], None]:
    """A link in a data set's place."""

    def edit(file: h5py.File) -> None:
        del file[name]
        file[name] = link

    return edit


def damaged_field(name: str, numbers: random.Random) -> tuple[str, Callable[[h5py.File], None]]:
    """What happens to a data set."""
    dtype = numbers.choice(["i1", "i2", ">i4", "u8", "f2", "f8", ">f4", "?", "S5", "c8"])
    other = numbers.choice([path for path in DATASETS if path != name])
    ways: dict[str, Callable[[h5py.File], None]] = {
        "missing": replaced(name, lambda _: None),
        f"of type {dtype}": replaced(
            name, lambda values: values.astype(dtype) if values.dtype.kind != "S" else np.zeros(len(values), dtype)
        ),
        "text": replaced(name, lambda values: np.array(["x"] * len(values), object)),
        "records": replaced(name, lambda values: np.zeros(len(values), [("a", "f4"), ("b", "i8")])),
        "a number": replaced(name, lambda _: 3),
        "empty": replaced(name, lambda values: h5py.Empty(values.dtype)),
        "without entries": replaced(name, lambda values: values[:0]),
        "shorter": replaced(name, lambda values: values[:-1]),
        "longer": replaced(name, lambda values: np.concatenate([values, values[-1:]])),
        "deeper": replaced(name, lambda values: values[..., None]),
        "flat": replaced(name, lambda values: values.reshape(-1)[: len(values)] if values.ndim > 1 else values[0]),
        "reversed": replaced(name, lambda values: values[::-1] if (values != values[::-1]).any() else values[:0]),
        "one changed": replaced(name, lambda values: one_changed(values, numbers)),
        "a folder": lambda file: (file.__delitem__(name), file.create_group(name)),  # type: ignore[dict-item]
        "dangling": linked(name, h5py.SoftLink("/nowhere")),
        "itself": linked(name, h5py.SoftLink(f"/{name}")),
        "another": linked(name, h5py.SoftLink(f"/{other}")),
        "elsewhere": linked(name, h5py.ExternalLink("/nowhere.hdf5", f"/{name}")),
        "huge": unallocated(name),
    }
    how = numbers.choice(sorted(ways))
    return f"{name} {how}", ways[how]


def damaged_attribute(name: str, numbers: random.Random) -> tuple[str, Callable[[h5py.File], None]]:
    """What happens to an attribute."""
    values = [
        7, -1, 2.5, np.nan, "text", b"\xff\xfe", "", "[1]", "[" * 9999, np.zeros(0), np.zeros((2, 2)), [b"a", b"\xff"],
        np.array(["front"], object), h5py.Empty("S5"), np.zeros(2, [("a", "f4")]), 2**60, True,
    ]  # fmt: skip
    place = numbers.randrange(len(values) + 1)

    def edit(file: h5py.File) -> None:
        del file.attrs[name]
        if place < len(values):
            file.attrs[name] = values[place]

    return f"attribute {name} {values[place]!r:.20}" if place < len(values) else f"attribute {name} missing", edit


def verdict(path: Path, given: list) -> str:
    """ "equal", or the refusal in one line.

    Raises:
        AssertionError: something else was read than had been written.
    """
    try:
        with Episodes(path) as episodes:
            assert episodes.header == HEADER
            assert len(episodes) == len(given)
            for number, expected in enumerate(given):
                assert_equal(episodes.demonstration(number), expected)
            episodes.verify()
    except InputError as error:
        return str(error)
    return "equal"


def bytes_case(folder: Path, number: int) -> tuple[str, str]:
    """A file with damaged bytes."""
    path, given = original(folder, number)
    how, data = damaged_bytes(path.read_bytes(), pixels_of(path), random.Random(number))
    damaged = folder / "damaged.hdf5"
    damaged.write_bytes(data)
    return how, verdict(damaged, given)


def fields_case(folder: Path, number: int) -> tuple[str, str]:
    """A well-formed file of which one field or attribute is wrong."""
    numbers = random.Random(number)
    path, given = original(folder, numbers.choice([0, 2]))
    damaged = folder / "damaged.hdf5"
    damaged.write_bytes(path.read_bytes())
    if numbers.random() < 0.7:
        how, edit = damaged_field(numbers.choice(DATASETS), numbers)
    else:
        how, edit = damaged_attribute(numbers.choice(ATTRIBUTES), numbers)
    with h5py.File(damaged, "r+") as file:
        edit(file)
    return how, verdict(damaged, given)


def encode(images: np.ndarray, tokens: np.ndarray, padding: np.ndarray) -> Features:
    """Features that tell images and sentences apart."""
    count, cameras = images.shape[:2]
    seen = images.reshape(count, cameras, -1)[:, :, :11].astype(np.float32)
    return Features(seen[..., :5], tokens[:, :3].astype(np.float32), seen[..., 5:].reshape(count, cameras, 2, 3))


def features_case(folder: Path, number: int) -> tuple[str, str]:
    """A cache of features with one damaged file: after it was opened again, all is as before."""
    numbers, tokenizer = random.Random(number), make_tokenizer(EncoderConfig())
    path, given = original(folder, 0)
    with Episodes(path) as episodes:
        options: dict[str, Any] = {
            "encode": encode, "sizes": SIZES, "identity": {"weights": "x"}, "joint": False, "sentences": None,
            "folder": folder / "cache", "batch_size": 4,
        }  # fmt: skip
        cache = ensure_features(episodes, tokenizer, **options)
        expected = {name: rows.mapped().copy() for name, rows in cache.rows.items()}
        file = numbers.choice(sorted(entry for entry in cache.folder.iterdir() if entry.name != ".lock"))
        how, data = damaged_bytes(file.read_bytes(), [], numbers)
        if file.name == "index.json" and numbers.random() < 0.4:
            how, data = "other JSON", numbers.choice([b"[]", b"3", b"null", b'{"key": [1]}', b"[" * 99999, b"\xff"])
        if numbers.random() < 0.2:  # another cache beside it, of which something is to be said
            other = cache.folder.with_name("other")
            other.mkdir(exist_ok=True)
            (other / "index.json").write_bytes(data)
            file.unlink()
        else:
            file.write_bytes(data)
        try:
            again = ensure_features(episodes, tokenizer, **options)
        except InputError as error:
            return how, str(error)
        for name, rows in again.rows.items():
            assert np.array_equal(rows.mapped(), expected[name]), name
        assert len(given) == len(episodes)
    return f"{file.name} {how}", "equal"


CASES = {"bytes": bytes_case, "fields": fields_case, "features": features_case}


def main() -> None:
    """Run cases `begin` to `end`."""
    kind, folder, begin, end = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])
    for number in range(begin, end):
        print(f"case {number}", flush=True)
        how, found, fault = "", "", ""
        try:
            how, found = CASES[kind](folder, number)
        except Exception:
            fault = traceback.format_exc()
        print(json.dumps({"case": number, "how": how, "found": found, "fault": fault}), flush=True)


if __name__ == "__main__":
    main()
