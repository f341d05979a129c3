"""Objects that `safe_unpickler` builds itself: containers, and numeric arrays from validated bytes.

Each builder takes the unvalidated arguments in the file and raises unless they are those of a valid file.
"""

import re
from collections.abc import Callable
from typing import Any

import ml_dtypes
import numpy as np

from instructrl.storage.pickles.pickle_budget import Budget, RefusedError, check_shape

NUMBER_CODES = re.compile("b1|[iu][1248]|f[248]|c8|c16")  # dtype codes in numpy's pickles
MAX_PARTS = 64  # arguments of a builder, entries of a state, axes of an array
ENTRY_SIZE = 4  # minimum bytes of a dict's entry in a file


class InertObject:
    """Placeholder for an unknown class or function, or for its result.

    Attributes:
        name: "module.name" in the file.
        state: the argument of the object's __setstate__, usually a dict of its attributes.
    """

    __slots__ = ("name", "state")

    def __init__(self, name: str) -> None:
        self.name, self.state = name, None

    def __repr__(self) -> str:
        return f"InertObject({self.name!r})"


class FrozenDictStandIn(dict):
    """Stand-in for a FrozenDict."""


class Dtype:
    """A numpy dtype under construction: a second instruction sets its byte order."""

    __slots__ = ("code", "dtype")

    def __init__(self, code: str, dtype: np.dtype | None) -> None:
        self.code, self.dtype = code, dtype


class KnownGlobal:
    """A global name with its own safe builder."""

    __slots__ = ("make", "name")

    def __init__(self, name: str, make: Callable[..., Any]) -> None:
        self.name, self.make = name, make


def set_state(budget: Budget, target: Any, state: Any) -> None:
    """Set the state of an object that was created empty."""
    if type(target) is FrozenDictStandIn:
        attributes = state[1] if type(state) is tuple else state
        content = plain_dict(attributes["_dict"])
        budget.spend(ENTRY_SIZE * len(content))
        target.update(content)
    elif type(target) is Dtype:
        set_byte_order(target, state)
    else:
        fill_array(budget, target, state)


def plain_dict(found: Any) -> dict:
    if type(found) not in (dict, FrozenDictStandIn):
        raise TypeError("not a dict")
    return found


def check_length(parts: Any) -> tuple:
    """Return arguments, axes or a state; raises TypeError for more than any valid file has, which are not copied."""
    if type(parts) not in (tuple, list) or len(parts) > MAX_PARTS:
        raise TypeError("not a short tuple")
    return tuple(parts)


def set_byte_order(target: Dtype, state: Any) -> None:
    """Apply the state of a dtype; one with fields is not numeric."""
    _, order, inner, names, fields, *_ = check_length(state)
    if inner is not None or names is not None or fields is not None:
        target.dtype = None
    elif target.dtype is not None and target.dtype.itemsize > 1 and order == ">":
        target.dtype = target.dtype.newbyteorder(">")


def number_dtype(dtype: Any) -> np.dtype:
    """Return the dtype if it is numeric, without Python objects."""
    if type(dtype) is not Dtype:
        raise TypeError("not a dtype")
    if dtype.dtype is None:
        raise RefusedError(f"found an array of dtype {dtype.code[:20]!a}; only arrays of numbers are read")
    return dtype.dtype


def check_array(budget: Budget, data: Any, dtype: np.dtype, shape: Any) -> None:
    """Raise unless the bytes exactly fill an array of this shape."""
    if type(data) not in (bytes, bytearray) or type(shape) is not tuple:
        raise TypeError("not bytes, or not a shape")
    if check_shape(shape) * dtype.itemsize != len(data):
        raise ValueError("bytes that do not fill the array")
    budget.spend(len(data))


def fill_array(budget: Budget, array: np.ndarray, state: Any) -> None:
    """Set the content of an array that was created empty."""
    if array.dtype != np.int8 or array.shape != (0,) or not array.flags.owndata:
        raise TypeError("an array with content")
    _, shape, dtype, fortran, data = state
    check_array(budget, data, number_dtype(dtype), shape)
    array.__setstate__((1, shape, number_dtype(dtype), fortran is True, bytes(data)))  # type: ignore[arg-type]


def empty_array(_: Budget, kind: Any, shape: Any, code: Any) -> np.ndarray | InertObject:
    """Create an empty array, whose content follows."""
    if type(kind) is InertObject:  # a subclass of arrays
        return InertObject(kind.name)
    if kind is not KNOWN["numpy.ndarray"] or shape != (0,):
        raise TypeError("not an array")
    return np.empty(0, np.int8)


def from_buffer(budget: Budget, data: Any, dtype: Any, shape: Any, order: Any, axes: Any = None) -> np.ndarray:
    """Build an array from a buffer in the same pickle."""
    plain = number_dtype(dtype)
    check_array(budget, data, plain, shape)
    if order not in ("C", "F", "K") or (order == "K" and sorted(check_length(axes)) != [*range(len(shape))]):
        raise ValueError("an unknown order")
    array = np.frombuffer(data, plain).reshape(shape, order="F" if order == "F" else "C")
    return array.transpose(axes) if order == "K" else array


def scalar(budget: Budget, dtype: Any, data: Any) -> Any:
    plain = number_dtype(dtype)
    check_array(budget, data, plain, ())
    return np.frombuffer(data, plain)[0]


def from_jax(budget: Budget, make: Any, arguments: Any, state: Any, _: Any) -> np.ndarray:
    """Build a numpy array from a pickled jax array, which contains a pickled numpy array."""
    if type(make) is not KnownGlobal or make.make is not empty_array or type(arguments) is not tuple:
        raise TypeError("not an array")
    array = make.make(budget, *check_length(arguments))
    fill_array(budget, array, state)
    return array


def dtype(_: Budget, code: Any, *flags: Any) -> Dtype:
    if type(code) is KnownGlobal and code.name == "bfloat16":
        return Dtype(code.name, np.dtype(ml_dtypes.bfloat16))
    if type(code) is str and NUMBER_CODES.fullmatch(code):
        return Dtype(code, np.dtype(code))
    return Dtype(code if type(code) is str else getattr(code, "name", "unknown"), None)


def frozen_dict(_: Budget, content: Any = None) -> dict:
    """Build a FrozenDict stand-in from its content, or an empty one."""
    return FrozenDictStandIn() if content is None else plain_dict(content)


def ordered_dict(budget: Budget, pairs: Any = ()) -> dict:
    """Build an OrderedDict as a dict, usually empty at first."""
    if type(pairs) not in (tuple, list):
        raise TypeError("not pairs")
    budget.spend(ENTRY_SIZE * len(pairs))
    return {budget.check_key(key): value for key, value in pairs}


def encode_latin1(budget: Budget, text: str, encoding: str = "") -> bytes:
    """Build bytes as in protocols before 3: text in latin1, one byte per character."""
    if type(text) is not str or encoding not in ("latin1", "latin-1"):
        raise TypeError("not bytes")
    budget.spend(len(text))
    return text.encode("latin1")


def set_of(budget: Budget, items: Any = ()) -> set:
    if type(items) not in (tuple, list, set):
        raise TypeError("not members")
    budget.spend(2 * len(items))  # minimum size of members in a file
    return {*map(budget.check_key, items)}


def frozenset_of(budget: Budget, items: Any = ()) -> frozenset:
    return frozenset(set_of(budget, items))


def empty_bytes(_: Budget) -> bytes:
    """Build empty bytes, as in protocols before 3."""
    return b""


def bytearray_of(budget: Budget, content: Any = b"", encoding: Any = None) -> bytearray:
    """Build a bytearray from bytes; a number is refused, since Python would allocate that length."""
    data = encode_latin1(budget, content, encoding) if encoding is not None else content
    if type(data) is not bytes:
        raise TypeError("not bytes")
    budget.spend(len(data))
    return bytearray(data)


def complex_of(_: Budget, real: Any, imaginary: Any) -> complex:
    if type(real) is not float or type(imaginary) is not float:
        raise TypeError("not numbers")
    return complex(real, imaginary)


def no_call(_: Budget, *arguments: Any) -> None:
    """Raise: the name is known only as an argument of other builders."""
    raise TypeError("not to be called")


def reconstruct(_: Budget, kind: Any, base: Any, state: Any) -> Any:
    """Build an object as in protocols before 2."""
    if type(kind) is InertObject:
        return InertObject(kind.name)
    if kind is KNOWN["flax.core.frozen_dict.FrozenDict"]:
        return FrozenDictStandIn()
    raise TypeError("not an object")


BUILDERS: dict[Callable[..., Any], str] = {
    empty_array: "numpy.core.multiarray._reconstruct numpy._core.multiarray._reconstruct",
    from_buffer: "numpy.core.numeric._frombuffer numpy._core.numeric._frombuffer",
    scalar: "numpy.core.multiarray.scalar numpy._core.multiarray.scalar",
    dtype: "numpy.dtype",
    from_jax: "jax._src.array._reconstruct_array jax.experimental.array._reconstruct_array "
    "jax._src.device_array.reconstruct_device_array jax.interpreters.xla.reconstruct_device_array",
    frozen_dict: "flax.core.frozen_dict.FrozenDict",
    ordered_dict: "collections.OrderedDict",
    encode_latin1: "_codecs.encode",
    set_of: "builtins.set __builtin__.set",
    frozenset_of: "builtins.frozenset __builtin__.frozenset",
    empty_bytes: "builtins.bytes __builtin__.bytes",
    bytearray_of: "builtins.bytearray __builtin__.bytearray",
    complex_of: "builtins.complex __builtin__.complex",
    reconstruct: "copyreg._reconstructor copy_reg._reconstructor",
    no_call: "numpy.ndarray builtins.object __builtin__.object ml_dtypes.bfloat16 jaxlib.xla_extension.bfloat16",
}
KNOWN = {full: KnownGlobal(full.rpartition(".")[2], make) for make, names in BUILDERS.items() for full in names.split()}
