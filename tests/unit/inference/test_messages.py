"""Messages of the policy server: read as they were written, and anything else refused in one line."""

from typing import Any

import msgpack
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from instructrl.errors import InputError
from instructrl.inference.serving.messages import pack, unpack

NUMBERS = arrays.boolean_dtypes() | arrays.integer_dtypes() | arrays.floating_dtypes(sizes=(16, 32, 64))
SHAPES = arrays.array_shapes(min_dims=0, min_side=0, max_dims=3, max_side=3)
ANY_ARRAY = NUMBERS.flatmap(lambda dtype: arrays.arrays(dtype, SHAPES))
PLAIN = st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats(allow_nan=False) | st.text()
VALUES = st.recursive(
    PLAIN | ANY_ARRAY, lambda values: st.dictionaries(st.text(), values) | st.lists(values), max_leaves=4
)


def same(one: Any, other: Any) -> bool:
    if isinstance(one, dict | list):
        keys = one if isinstance(one, dict) else range(len(one))
        return type(one) is type(other) and len(one) == len(other) and all(same(one[key], other[key]) for key in keys)
    if isinstance(one, np.ndarray):
        equal = np.array_equal(one, other, equal_nan=one.dtype.kind == "f")
        return bool(equal) and (one.dtype, one.shape) == (other.dtype, other.shape)
    return type(one) is type(other) and one == other


@settings(max_examples=30)
@given(st.dictionaries(st.text(), VALUES, max_size=3))
def test_a_message_is_read_as_it_was_written(message: dict[str, Any]) -> None:
    assert same(unpack(pack(message)), message)


def test_the_layout_is_that_of_openpis_client() -> None:
    image = np.arange(12, dtype=np.uint8).reshape(2, 2, 3)
    raw = msgpack.unpackb(pack({"image": image, "gain": np.float32(0.5)}), strict_map_key=False)
    assert raw["image"] == {
        b"__ndarray__": True, b"data": image.tobytes(), b"dtype": "|u1", b"shape": [2, 2, 3]
    }  # fmt: skip
    assert raw["gain"] == {b"__npgeneric__": True, b"data": 0.5, b"dtype": "<f4"}


@settings(max_examples=200)
@given(st.binary(max_size=60) | st.tuples(st.integers(0, 200), st.binary(min_size=1, max_size=4)))
def test_other_bytes_are_one_line(found: bytes | tuple[int, bytes]) -> None:
    whole = pack({"a": np.zeros((2, 3), np.float32), "b": [1, "x"], "c": np.float64(2)})
    if isinstance(found, tuple):  # a message with some other bytes
        place, other = found
        found = whole[: place % len(whole)] + other + whole[place % len(whole) + len(other) :]
    try:
        assert isinstance(unpack(found), dict)
    except InputError as error:
        assert str(error).startswith("message: found ") and "\n" not in str(error) and len(str(error)) < 300


def array(**changed: Any) -> bytes:
    """A message with an array of which something is wrong."""
    whole = {"__ndarray__": True, "data": bytes(4), "dtype": "<f4", "shape": [1]} | changed
    return msgpack.packb({"a": {key.encode(): value for key, value in whole.items()}})


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (array(dtype="|O"), "an array of another type than booleans, integers and floats"),
        (array(dtype="f4,f4"), "an array of another type"),
        (array(dtype="<M8[s]"), "an array of another type"),
        (array(shape=[2]), "an array whose data do not fill its shape"),
        (array(shape=[2**40, 2**40]), "an array whose data do not fill its shape"),
        (array(shape=[-1]), "an array whose shape is none"),
        (array(shape=[True]), "an array whose shape is none"),
        (array(shape=[1] * 9), "an array without data or shape"),
        (array(data="text"), "an array without data or shape"),
        (b"\x91" * 5000, "StackError"),
        (b"", "ValueError"),
    ],
)
def test_arrays_that_are_none_are_refused(data: bytes, reason: str) -> None:
    with pytest.raises(InputError, match=reason):
        unpack(data)


def test_what_no_message_holds_is_an_error_of_the_program() -> None:
    with pytest.raises(TypeError, match="a message cannot hold object"):
        pack({"a": object()})
