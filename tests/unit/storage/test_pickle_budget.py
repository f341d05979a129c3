"""A small pickle never takes much memory or time, however often it uses its own content."""

import pickle
import struct
import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from data_tools.weights.m3ae import read_m3ae
from instructrl.errors import InputError
from instructrl.storage.pickles.safe_unpickler import load
from tests.fixtures.malicious import DTYPE, EMPTY, called, named, text

FROZEN_DICT = named("flax.core.frozen_dict", "FrozenDict")
GET = b"h\x01"  # the object in the memo's entry 1
OFTEN = "used so often that reading it takes far more than its"


def keep(content: bytes) -> bytes:
    """Put an object into the memo's entry 1, and take it from the stack."""
    return content + b"q\x010"


def long_int(value: int) -> bytes:
    coded = value.to_bytes(value.bit_length() // 8 + 1, "little", signed=True)
    return b"\x8b" + struct.pack("<i", len(coded)) + coded


def number(value: int) -> bytes:
    return pickle.dumps(value, 2)[2:-1]


def dictionary(keys: list[bytes]) -> bytes:
    return b"}(" + b"".join(key + b"K\x01" for key in keys) + b"u"


COLLIDING = [number(index * (2**61 - 1)) for index in range(1, 5000)]
SAME_HASH = [
    called(named("builtins", "complex"), *(b"G" + struct.pack(">d", part) for part in (-1000003.0 * index, index)))
    for index in range(5000)
]
COPIED = keep(dictionary([number(index) for index in range(5000)]))
LONG_TEXTS = text("x" * 100_000) + b"q\x010" + text("x" * 100_000) + b"q\x020"
REPEATED = {
    "a dict, copied into many FrozenDicts": COPIED
    + b"](" + (FROZEN_DICT + b")\x81}" + text("_dict") + GET + b"sb") * 500 + b"e",
    "pairs, copied into many dicts": keep(b"](" + b"".join(number(n) + b"N\x86" for n in range(5000)) + b"e")
    + b"](" + called(named("collections", "OrderedDict"), GET) * 500 + b"e",
    "a tuple of many parts, hashed as a key": keep(b"(" + b"K\x01" * 998 + b"t") + dictionary([GET] * 20_000),
    "a tuple of many parts, hashed as a member": keep(b"(" + b"K\x01" * 998 + b"t") + b"\x8f(" + GET * 20_000 + b"\x90",
    "a number of many digits, hashed as a key": keep(long_int(1 << 800_000)) + dictionary([GET] * 20_000),
    "two equal texts, compared as keys": LONG_TEXTS + dictionary([GET, b"h\x02"] * 10_000),
    "numbers of one hash": dictionary(COLLIDING),
    "complex numbers of one hash": dictionary(SAME_HASH),
    "numbers of one hash in a set": b"\x8f(" + b"".join(COLLIDING) + b"\x90",
    "numbers of one hash in a frozenset": b"(" + b"".join(COLLIDING) + b"\x91",
    "numbers of one hash in a set that is made": called(named("builtins", "set"), b"](" + b"".join(COLLIDING) + b"e"),
}  # fmt: skip


@pytest.mark.parametrize("name", REPEATED)
def test_content_that_is_copied_hashed_or_compared_too_often_is_refused(tmp_path: Path, name: str) -> None:
    content = b"\x80\x05" + REPEATED[name] + b"."
    path = tmp_path / "x.pkl"
    path.write_bytes(content)
    tracemalloc.start()
    with pytest.raises(InputError) as caught:
        load(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert str(caught.value) == f"{path}: found content that is {OFTEN} {len(content)} bytes; it is not read"
    assert peak < 200 * len(content) + 1_000_000


LONG_TUPLE = keep(b"(" + b"N" * 50_000 + b"t")
LENGTHS = {
    "arguments": LONG_TUPLE + b"](" + (DTYPE + GET + b"R") * 1000 + b"e",
    "the state of a dtype": LONG_TUPLE + called(DTYPE, text("f4"), b"\x89", b"\x88") + (GET + b"b") * 1000,
    "indices of the memo": b"N" + b"".join(b"p%d\n" % (index * (2**61 - 1)) for index in range(1, 1000)),
}  # fmt: skip


@pytest.mark.parametrize("name", LENGTHS)
def test_what_no_valid_file_has_is_one_line(tmp_path: Path, name: str) -> None:
    path = tmp_path / "x.pkl"
    path.write_bytes(b"\x80\x05" + LENGTHS[name] + b".")
    with pytest.raises(InputError, match=rf"{path}: damaged or not a pickle \((Type|Value)Error\)"):
        load(path)


def test_a_long_name_is_not_copied_into_many_objects(tmp_path: Path) -> None:
    path = tmp_path / "x.pkl"
    path.write_bytes(b"\x80\x05" + keep(text("x" * 100_000)) + b"](" + (GET + GET + b"\x93") * 1000 + b"e.")
    with pytest.raises(InputError, match=rf"{path}: found a name of 200000 characters; it is not read"):
        load(path)


@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_an_array_of_many_names_is_converted_only_as_often_as_the_file_has_room_for(tmp_path: Path, dtype: str) -> None:
    array = np.ones(50_000, dtype)
    path = tmp_path / "model.pkl"
    path.write_bytes(pickle.dumps({"state": {"params": {f"name{index}": array for index in range(700)}}}))
    tracemalloc.start()
    with pytest.raises(InputError) as caught:
        read_m3ae(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert str(caught.value).startswith(f"{path}: name") and OFTEN in str(caught.value)
    assert peak < 20 * path.stat().st_size


def test_every_array_of_half_precision_is_read_if_each_has_one_name(tmp_path: Path) -> None:
    path = tmp_path / "model.pkl"
    params = {f"name{index}": np.full(1000, index, np.float16) for index in range(50)}
    for protocol in range(6):
        path.write_bytes(pickle.dumps({"state": {"params": params}}, protocol))
        assert {name: value[0] for name, value in read_m3ae(path).arrays.items()} == {f"name{n}": n for n in range(50)}


HUGE = (0, 2**63 - 1, 2**63 - 1)
EMPTY_ARRAY = (
    EMPTY
    + b"(K\x01" + pickle.dumps(HUGE, 2)[2:-1] + called(DTYPE, text("f4"), b"\x89", b"\x88") + b"\x89C\x00tb"
)  # fmt: skip


def test_an_empty_array_of_impossible_sizes_is_one_line(tmp_path: Path) -> None:
    path = tmp_path / "model.pkl"
    path.write_bytes(b"\x80\x05}" + text("params") + b"}" + text("kernel") + EMPTY_ARRAY + b"ss.")
    with pytest.raises(InputError) as caught:
        read_m3ae(path)
    assert str(caught.value) == (
        f"{path}: found an empty array of shape {HUGE}; allowed: a product of at most {1 << 31} without the zeros; "
        "download the file again"
    )
