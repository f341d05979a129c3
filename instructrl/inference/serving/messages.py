"""Messages between policy server and client: MessagePack with numpy arrays, in the layout of openpi's client.

An array is a map with the binary keys `__ndarray__`, `data`, `dtype` and `shape`; a number of numpy one with
`__npgeneric__`, `data` and `dtype`. Arrays of booleans, integers and floats are taken, so that no message can run code.
"""

import math
import re
from typing import Any

import msgpack
import numpy as np

from instructrl.errors import InputError

PLAIN_DTYPE = re.compile(r"[<>=|]?(b1|[iu][1248]|f[248])")
MAX_DIMENSIONS = 8
ALLOWED = "allowed: a map in MessagePack, with arrays as msgpack-numpy writes them"
ARRAY, NUMBER, DATA, DTYPE, SHAPE = b"__ndarray__", b"__npgeneric__", b"data", b"dtype", b"shape"


def pack(message: dict[str, Any]) -> bytes:
    """Encode a message of numbers, texts, lists, maps and arrays."""
    return msgpack.packb(message, default=_encode)


def unpack(data: bytes) -> dict[str, Any]:
    """Decode a message; its arrays cannot be written.

    Raises:
        InputError: it is no map in MessagePack, or has an array that is none.
    """
    try:
        message = msgpack.unpackb(data, object_hook=_decode)
    except (ValueError, TypeError, OverflowError, RecursionError, msgpack.UnpackException) as error:
        raise InputError(
            f"message: found {len(data)} bytes that cannot be read ({_reason(error)}); {ALLOWED}"
        ) from None
    if not isinstance(message, dict):
        raise InputError(f"message: found {type(message).__name__}; {ALLOWED}")
    return message


def _encode(value: Any) -> Any:
    if isinstance(value, np.ndarray | np.generic) and PLAIN_DTYPE.fullmatch(value.dtype.str):
        if isinstance(value, np.ndarray):
            return {ARRAY: True, DATA: value.tobytes(), DTYPE: value.dtype.str, SHAPE: value.shape}
        return {NUMBER: True, DATA: value.item(), DTYPE: value.dtype.str}
    if hasattr(value, "__array__"):
        return _encode(np.asarray(value))
    raise TypeError(f"a message cannot hold {type(value).__name__}")


def _decode(found: dict[Any, Any]) -> Any:
    if ARRAY in found:
        return _array(_dtype(found), found.get(DATA), found.get(SHAPE))
    if NUMBER in found:
        return _dtype(found).type(found.get(DATA))
    return found


def _dtype(found: dict[Any, Any]) -> np.dtype:
    name = found.get(DTYPE)
    if not isinstance(name, str) or not PLAIN_DTYPE.fullmatch(name):
        raise ValueError("an array of another type than booleans, integers and floats")
    return np.dtype(name)


def _array(dtype: np.dtype, data: Any, shape: Any) -> np.ndarray:
    if not isinstance(data, bytes) or not isinstance(shape, list) or len(shape) > MAX_DIMENSIONS:
        raise ValueError("an array without data or shape")
    if not all(type(size) is int and size >= 0 for size in shape):
        raise ValueError("an array whose shape is none")
    if math.prod(shape) * dtype.itemsize != len(data):
        raise ValueError("an array whose data do not fill its shape")
    return np.frombuffer(data, dtype).reshape(tuple(shape))


def _reason(error: Exception) -> str:
    """The fault of a message, without quoting the message's bytes."""
    own = isinstance(error, ValueError) and str(error).startswith("an array")
    return str(error) if own else type(error).__name__
