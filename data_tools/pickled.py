"""What `data_tools.unpickler` builds itself: containers, and arrays of numbers from checked bytes.

Each maker takes the arguments as the file gives them and raises when they are not what an honest file gives.
"""

import math
import re
from collections.abc import Callable
from typing import Any

import ml_dtypes
import numpy as np

NUMBERS = re.compile("b1|[iu][1248]|f[248]|c8|c16")  # as numpy's pickles call their dtypes
LARGEST_KEY = 1000  # parts of a dict's key: hashing it takes as many steps, and as deep


class RefusedError(Exception):
    """What a file holds is understood, and not wanted."""


class Foreign:
    """Stands for a class or a function that is not known, or for what came of it.

    Attributes:
        name: "module.name" as the file has it.
        state: what an object's __setstate__ would have been given, most often a dict of its attributes.
    """

    __slots__ = ("name", "state")

    def __init__(self, name: str) -> None:
        self.name, self.state = name, None

    def __repr__(self) -> str:
        return f"Foreign({self.name!r})"


class Frozen(dict):
    """What was a FrozenDict."""


class Dtype:
    """A numpy dtype on its way: a second instruction gives its byte order."""

    __slots__ = ("code", "dtype")

    def __init__(self, code: str, dtype: np.dtype | None) -> None:
        self.code, self.dtype = code, dtype


class Allowance:
    """Bytes that may still be made of a file of some size.

    An honest one makes of each byte at most two (text, bytes, array); one that copies again and again makes more.
    """

    def __init__(self, size: int) -> None:
        self.left = 2 * size

    def take(self, size: int) -> None:
        self.left -= size
        if self.left < 0:
            raise MemoryError


class Known:
    """A name that we give a meaning of our own."""

    __slots__ = ("make", "name")

    def __init__(self, name: str, make: Callable[..., Any]) -> None:
        self.name, self.make = name, make


def check_key(key: Any) -> Any:
    """A dict's key or a set's member, if hashing it is harmless."""
    waiting, seen = [key], 1
    while waiting:
        part = waiting.pop()
        if type(part) in (tuple, frozenset):
            seen += len(part)
            if seen > LARGEST_KEY:
                raise RefusedError("found a key of too many parts in it; it is not read")
            waiting.extend(part)
        elif type(part) in (list, dict, Frozen, set, bytearray, np.ndarray):
            raise TypeError("a key that changes")
    return key


def build(allowance: Allowance, what: Any, state: Any) -> None:
    """Give an object that was made empty its content."""
    if type(what) is Frozen:
        attributes = state[1] if type(state) is tuple else state
        what.update(plain_dict(attributes["_dict"]))
    elif type(what) is Dtype:
        set_byte_order(what, state)
    else:
        fill(allowance, what, state)


def plain_dict(found: Any) -> dict:
    if type(found) not in (dict, Frozen):
        raise TypeError("no dict")
    return found


def set_byte_order(what: Dtype, state: Any) -> None:
    """The state of a dtype; one with fields is none of numbers."""
    _, order, inner, names, fields, *_ = state
    if inner is not None or names is not None or fields is not None:
        what.dtype = None
    elif what.dtype is not None and what.dtype.itemsize > 1 and order == ">":
        what.dtype = what.dtype.newbyteorder(">")


def numbers(dtype: Any) -> np.dtype:
    """A dtype that holds numbers, and no Python objects."""
    if type(dtype) is not Dtype:
        raise TypeError("no dtype")
    if dtype.dtype is None:
        raise RefusedError(f"found an array of dtype {dtype.code[:20]!a} in it; only arrays of numbers are read")
    return dtype.dtype


def check_array(allowance: Allowance, data: Any, dtype: np.dtype, shape: Any) -> None:
    """Raise unless these bytes are exactly an array of that shape."""
    if type(data) not in (bytes, bytearray) or type(shape) is not tuple:
        raise TypeError("no bytes, or no shape")
    if any(type(size) is not int or size < 0 for size in shape) or math.prod(shape) * dtype.itemsize != len(data):
        raise ValueError("bytes that do not fill the array")
    allowance.take(len(data))


def fill(allowance: Allowance, array: np.ndarray, state: Any) -> None:
    """The content of an array that was made empty."""
    if array.dtype != np.int8 or array.shape != (0,) or not array.flags.owndata:
        raise TypeError("an array that has its content")
    _, shape, dtype, fortran, data = state
    check_array(allowance, data, numbers(dtype), shape)
    array.__setstate__((1, shape, numbers(dtype), fortran is True, bytes(data)))  # type: ignore[arg-type]


def empty_array(_: Allowance, kind: Any, shape: Any, code: Any) -> np.ndarray | Foreign:
    """An array that waits for its content."""
    if type(kind) is Foreign:  # a class made of arrays
        return Foreign(kind.name)
    if kind is not KNOWN["numpy.ndarray"] or shape != (0,):
        raise TypeError("no array")
    return np.empty(0, np.int8)


def from_buffer(allowance: Allowance, data: Any, dtype: Any, shape: Any, order: Any, axes: Any = None) -> np.ndarray:
    """An array whose bytes stand beside it."""
    plain = numbers(dtype)
    check_array(allowance, data, plain, shape)
    if order not in ("C", "F", "K") or (order == "K" and sorted(axes) != [*range(len(shape))]):
        raise ValueError("an unknown order")
    array = np.frombuffer(data, plain).reshape(shape, order="F" if order == "F" else "C")
    return array.transpose(axes) if order == "K" else array


def scalar(allowance: Allowance, dtype: Any, data: Any) -> Any:
    plain = numbers(dtype)
    check_array(allowance, data, plain, ())
    return np.frombuffer(data, plain)[0]


def from_jax(allowance: Allowance, make: Any, arguments: Any, state: Any, _: Any) -> np.ndarray:
    """A jax array, which is pickled as the parts of a numpy array."""
    if type(make) is not Known or make.make is not empty_array or type(arguments) is not tuple:
        raise TypeError("no array")
    array = make.make(allowance, *arguments)
    fill(allowance, array, state)
    return array


def dtype(_: Allowance, code: Any, *flags: Any) -> Dtype:
    if type(code) is Known and code.name == "bfloat16":
        return Dtype(code.name, np.dtype(ml_dtypes.bfloat16))
    if type(code) is str and NUMBERS.fullmatch(code):
        return Dtype(code, np.dtype(code))
    return Dtype(code if type(code) is str else getattr(code, "name", "unknown"), None)


def frozen_dict(_: Allowance, content: Any = None) -> dict:
    """A FrozenDict, from its content, or still empty."""
    return Frozen() if content is None else plain_dict(content)


def ordered_dict(allowance: Allowance, pairs: Any = ()) -> dict:
    """An OrderedDict, most often still empty."""
    if type(pairs) not in (tuple, list):
        raise TypeError("no pairs")
    allowance.take(len(pairs))
    return {check_key(key): value for key, value in pairs}


def encoded(allowance: Allowance, text: str, encoding: str = "") -> bytes:
    """Bytes, as the protocols before 3 write them: text of which each letter is one byte."""
    if type(text) is not str or encoding not in ("latin1", "latin-1"):
        raise TypeError("no bytes")
    allowance.take(len(text))
    return text.encode("latin1")


def set_of(allowance: Allowance, items: Any = ()) -> set:
    if type(items) not in (tuple, list, set):
        raise TypeError("no members")
    allowance.take(2 * len(items))  # the least that members take in a file
    return {*map(check_key, items)}


def frozenset_of(allowance: Allowance, items: Any = ()) -> frozenset:
    return frozenset(set_of(allowance, items))


def empty_bytes(_: Allowance) -> bytes:
    """How the protocols before 3 write no bytes."""
    return b""


def bytearray_of(allowance: Allowance, content: Any = b"", encoding: Any = None) -> bytearray:
    """A bytearray; given a number, Python would make one of that length."""
    data = encoded(allowance, content, encoding) if encoding is not None else content
    if type(data) is not bytes:
        raise TypeError("no bytes")
    allowance.take(len(data))
    return bytearray(data)


def complex_of(_: Allowance, real: Any, imaginary: Any) -> complex:
    if type(real) is not float or type(imaginary) is not float:
        raise TypeError("no numbers")
    return complex(real, imaginary)


def no_call(_: Allowance, *arguments: Any) -> None:
    """Known as an argument of others."""
    raise TypeError("not to be called")


def reconstructed(_: Allowance, kind: Any, base: Any, state: Any) -> Any:
    """An object as the protocols before 2 make it."""
    if type(kind) is Foreign:
        return Foreign(kind.name)
    if kind is KNOWN["flax.core.frozen_dict.FrozenDict"]:
        return Frozen()
    raise TypeError("no object")


MAKERS: dict[Callable[..., Any], str] = {
    empty_array: "numpy.core.multiarray._reconstruct numpy._core.multiarray._reconstruct",
    from_buffer: "numpy.core.numeric._frombuffer numpy._core.numeric._frombuffer",
    scalar: "numpy.core.multiarray.scalar numpy._core.multiarray.scalar",
    dtype: "numpy.dtype",
    from_jax: "jax._src.array._reconstruct_array jax.experimental.array._reconstruct_array "
    "jax._src.device_array.reconstruct_device_array jax.interpreters.xla.reconstruct_device_array",
    frozen_dict: "flax.core.frozen_dict.FrozenDict",
    ordered_dict: "collections.OrderedDict",
    encoded: "_codecs.encode",
    set_of: "builtins.set __builtin__.set",
    frozenset_of: "builtins.frozenset __builtin__.frozenset",
    empty_bytes: "builtins.bytes __builtin__.bytes",
    bytearray_of: "builtins.bytearray __builtin__.bytearray",
    complex_of: "builtins.complex __builtin__.complex",
    reconstructed: "copyreg._reconstructor copy_reg._reconstructor",
    no_call: "numpy.ndarray builtins.object __builtin__.object ml_dtypes.bfloat16 jaxlib.xla_extension.bfloat16",
}
KNOWN = {full: Known(full.rpartition(".")[2], make) for make, names in MAKERS.items() for full in names.split()}
