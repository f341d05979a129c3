"""Malicious pickles: fragments of pickle programs which, executed by Python, leave a mark.

A mark is a file created by a shell command, Python code or the import of `module_of_the_attacker`.
"""

import pickle
import struct
from collections.abc import Callable

MODULE = "module_of_the_attacker"
SOURCE = """
import pathlib
def mark(*_, **__): pathlib.Path({path!r}).touch()
mark()
class Thing(list):
    def __new__(cls, *_, **__): mark(); return super().__new__(cls)
    def __setstate__(self, _): mark()
    def __setitem__(self, *_): mark()
    def append(self, _): mark()
    extend = append
    def __hash__(self): mark(); return 1
"""
CACHED, NAMED, NEVER = 240, 241, 242  # extension codes: with a cached object, registered by name, not registered


def text(value: str) -> bytes:
    coded = value.encode()
    return b"X" + struct.pack("<I", len(coded)) + coded


def named(module: str, name: str) -> bytes:
    return f"c{module}\n{name}\n".encode()


def stack_named(module: str, name: str) -> bytes:
    return text(module) + text(name) + b"\x93"


def called(function: bytes, *arguments: bytes) -> bytes:
    return function + b"(" + b"".join(arguments) + b"tR"


def plain(value: object) -> bytes:
    """Pickle a value of built-in types, without the frame."""
    return pickle.dumps(value, 2)[2:-1]


SYSTEM, EVAL, EXEC = named("os", "system"), named("builtins", "eval"), named("builtins", "exec")
GETATTR, NDARRAY, DTYPE = named("builtins", "getattr"), named("numpy", "ndarray"), named("numpy", "dtype")
RECONSTRUCT = named("numpy._core.multiarray", "_reconstruct")
THING = named(MODULE, "Thing")
OBJECTS = (
    called(DTYPE, text("O8"), b"\x89", b"\x88") + b"(K\x03" + text("|") + b"NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK?tb"
)
EMPTY = called(RECONSTRUCT, NDARRAY, b"K\x00\x85", b"C\x01b")
Piece = Callable[[str], bytes]  # takes the path of the mark


def shell(path: str) -> bytes:
    return text(f"touch {path}")


def code(path: str) -> bytes:
    return text(f"__import__('pathlib').Path({path!r}).touch()")


def evil(path: str) -> bytes:
    return called(SYSTEM, shell(path))


def function_made_of_code(path: str) -> bytes:
    """Compile code, build a types.FunctionType and call it, as cloudpickle rebuilds functions."""
    compiled = called(named("builtins", "compile"), code(path), text("f"), text("eval"))
    make = called(GETATTR, called(named("builtins", "__import__"), text("types")), text("FunctionType"))
    return called(called(make, compiled, b"}"))


def cloudpickled(path: str) -> bytes:
    """A function pickled by cloudpickle, called when it is read."""
    import cloudpickle

    def leave(path: str) -> None:
        import pathlib

        pathlib.Path(path).touch()

    leave.__module__ = "__main__"
    return called(cloudpickle.dumps(leave, protocol=2)[:-1], text(path))


PIECES: dict[str, Piece] = {
    "os.system": evil,
    "posix.system, STACK_GLOBAL": lambda path: called(stack_named("posix", "system"), shell(path)),
    "eval": lambda path: called(EVAL, code(path)),
    "exec, Python 2's name": lambda path: b"\x80\x02" + called(named("__builtin__", "exec"), code(path)),
    "getattr of a module": lambda path: called(
        called(GETATTR, called(named("builtins", "__import__"), text("os")), text("system")), shell(path)
    ),
    "a name with dots": lambda path: b"\x80\x04" + called(stack_named("pathlib", "os.system"), shell(path)),
    "operator.attrgetter": lambda path: called(
        called(
            called(named("operator", "attrgetter"), text("os.system")),
            called(named("builtins", "__import__"), text("pathlib")),
        ),
        shell(path),
    ),
    "functools.partial": lambda path: called(called(named("functools", "partial"), SYSTEM, shell(path))),
    "operator.methodcaller": lambda path: called(
        called(named("operator", "methodcaller"), text("system"), shell(path)),
        called(named("builtins", "__import__"), text("os")),
    ),
    "import of a module": lambda _: THING,
    "import of a submodule of numpy's name": lambda _: named(MODULE, "numpy.ndarray"),
    "INST": lambda path: b"(" + shell(path) + b"ios\nsystem\n",
    "OBJ": lambda path: b"(" + SYSTEM + shell(path) + b"o",
    "NEWOBJ": lambda _: THING + b")\x81",
    "NEWOBJ_EX": lambda _: THING + b")}\x92",
    "BUILD of a class's __setstate__": lambda _: THING + b")\x81K\x01b",
    "items of a list that watches": lambda _: THING + b")\x81(K\x01K\x02e",
    "entries of a dict that watches": lambda _: THING + b")\x81(K\x01K\x02u",
    "a key whose hash acts": lambda _: b"}" + THING + b")\x81K\x01s",
    "a member whose hash acts": lambda _: b"\x8f(" + THING + b")\x81\x90",
    "slots that change a class": lambda path: (
        named("types", "SimpleNamespace") + b")\x81N}" + text("x") + evil(path) + b"s\x86b"
    ),
    "extension code, cached": lambda path: called(b"\x82" + bytes([CACHED]), shell(path)),
    "extension code, by name": lambda _: b"\x83" + struct.pack("<H", NAMED),
    "extension code of four bytes": lambda path: called(b"\x84" + struct.pack("<i", CACHED), shell(path)),
    "pickle in a pickle": lambda path: called(named("pickle", "loads"), plain(b"\x80\x02" + evil(path) + b".")),
    "an array of objects": lambda path: EMPTY + b"(K\x01K\x01\x85" + OBJECTS + b"\x89]" + evil(path) + b"atb",
    "a scalar of objects": lambda path: called(named("numpy._core.multiarray", "scalar"), OBJECTS, evil(path)),
    "an array of the attacker's class": lambda _: called(RECONSTRUCT, THING, b"K\x00\x85", b"C\x01b"),
    "a jax array made by a function": lambda path: called(
        named("jax._src.array", "_reconstruct_array"), SYSTEM, shell(path) + b"\x85", b"N", b"}"
    ),
    "a FrozenDict of what acts": lambda path: called(
        named("flax.core.frozen_dict", "FrozenDict"),
        called(named("builtins", "dict"), b"](" + text("x") + evil(path) + b"\x86e"),
    ),
    "an OrderedDict of what acts": lambda path: called(
        named("collections", "OrderedDict"), b"](" + text("x") + evil(path) + b"\x86e"
    ),
    "copyreg.__newobj__": lambda _: called(named("copyreg", "__newobj__"), THING),
    "copyreg._reconstructor": lambda _: called(
        named("copyreg", "_reconstructor"), THING, named("builtins", "object"), b"N"
    ),
    "a memo with something else in it": lambda path: SYSTEM + b"q\x630" + called(b"h\x63", shell(path)),
    "a function of cloudpickle's": cloudpickled,
    "a function made of code": function_made_of_code,
    "codecs": lambda _: called(named("_codecs", "encode"), text("x"), called(GETATTR, THING, text("__name__"))),
    "map with a function": lambda path: called(
        named("builtins", "list"), called(named("builtins", "map"), SYSTEM, b"]" + shell(path) + b"a")
    ),
    "object.__reduce_ex__": lambda _: called(called(GETATTR, THING + b")\x81", text("__reduce_ex__")), b"K\x02"),
}
# Harmless for Python's own unpickler too; ours must refuse them with its usual error.
HARMLESS: dict[str, Piece] = {
    "extension code that is not registered": lambda _: b"\x82" + bytes([NEVER]),
    "persistent id": lambda path: evil(path)[:0] + text("os.system") + b"Q",
    "persistent id, protocol 0": lambda _: b"Pos.system\n",
    "a buffer out of band": lambda _: b"\x97",
    "a memoryview of an array": lambda _: EMPTY + b"\x98",
    "bytes taken for pointers to objects": lambda _: called(
        named("numpy._core.numeric", "_frombuffer"), b"C\x08AAAAAAAA", OBJECTS, b"K\x01\x85", text("C")
    ),
    "more elements than bytes": lambda _: (
        EMPTY + b"(K\x01J\xff\xff\xff\x7f\x85" + called(DTYPE, text("f4"), b"\x89", b"\x88") + b"\x89C\x04AAAAtb"
    ),
    "an array filled twice": lambda _: (
        EMPTY + (b"(K\x01K\x01\x85" + called(DTYPE, text("u1"), b"\x89", b"\x88") + b"\x89C\x01Atb") * 2
    ),
    "a state for what builds dtypes": lambda _: DTYPE + b"}" + text("make") + SYSTEM + b"sb",
    "a state for what builds sets": lambda _: named("builtins", "set") + b"N}" + text("make") + SYSTEM + b"s\x86b",
    "a dtype that is a class": lambda _: called(DTYPE, THING, b"\x89", b"\x88"),
}


def in_params(piece: bytes, params: dict) -> bytes:
    """Published layout, with a fragment as one of the parameters."""
    content = plain({"step": 1}) + text("state") + b"}" + text("params") + plain(params) + text("evil") + piece + b"sss"
    return b"\x80\x05" + content + b"."


def beside_params(piece: bytes, params: dict) -> bytes:
    """Published layout, with a fragment in place of the run's settings."""
    state = plain({"params": params})
    return b"\x80\x05" + plain({"step": 1}) + text("variant") + piece + b"s" + text("state") + state + b"s."


def as_params(piece: bytes, _: dict) -> bytes:
    """Published layout, with a fragment in place of all parameters."""
    return b"\x80\x05" + plain({"step": 1}) + text("state") + b"}" + text("params") + piece + b"ss."


def as_all(piece: bytes, _: dict) -> bytes:
    """A fragment alone."""
    return b"\x80\x05" + piece + b"."


PLACES = {"in params": in_params, "beside params": beside_params, "as params": as_params, "alone": as_all}
