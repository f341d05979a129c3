"""Safe unpickler: reads third-party pickles without executing any code in them.

A pickle is a program for a stack machine. This machine has no instruction that imports, calls or modifies anything
except plain containers and the objects of `safe_pickle_types`; every other name, and everything built from it,
becomes an `InertObject` with its name and state. A malicious file can only be refused.
"""

import os
import pickle
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any, BinaryIO, ClassVar

import numpy as np

from instructrl.errors import InputError
from instructrl.storage.pickles.pickle_budget import Budget, RefusedError
from instructrl.storage.pickles.safe_pickle_types import (
    KNOWN,
    Dtype,
    FrozenDictStandIn,
    InertObject,
    KnownGlobal,
    check_length,
    set_state,
)

# Opcodes inherited from the standard library: they push plain values, and move or memoize stack entries.
INHERITED_OPCODES = (
    "PROTO FRAME STOP MARK POP POP_MARK DUP BINPUT LONG_BINPUT MEMOIZE GET BINGET LONG_BINGET NONE",
    "NEWTRUE NEWFALSE INT BININT BININT1 BININT2 LONG LONG1 LONG4 FLOAT BINFLOAT STRING BINSTRING SHORT_BINSTRING",
    "BINBYTES BINBYTES8 SHORT_BINBYTES UNICODE BINUNICODE BINUNICODE8 SHORT_BINUNICODE EMPTY_TUPLE TUPLE TUPLE1 TUPLE2",
    "TUPLE3 EMPTY_LIST LIST EMPTY_DICT EMPTY_SET",
    "GLOBAL STACK_GLOBAL EXT1 EXT2 EXT4 PERSID BINPERSID",  # call methods that are overridden below
)
MAX_NAME_LENGTH = 80  # characters of a name in an error
MAX_FULL_NAME = 500  # characters of the name of a class or function, with its module


def load(path: Path, *, unknown: str = "inert", allowed: Collection[str] = ()) -> Any:
    """Load a pickle: numbers, text, bytes, containers (FrozenDict as dict), numpy arrays (also of jax arrays).

    Anything else is an `InertObject`; with unknown="refuse" only those of the classes `allowed` ("module.name").

    Raises:
        InputError: the file is missing, damaged or malicious, or contains a refused object.
    """
    if not path.is_file():
        raise InputError(f"{path}: no such file; give the path of the pickle")
    try:
        with path.open("rb") as file:
            return Unpickler(file, refuse=unknown == "refuse", allowed=allowed).load()
    except RefusedError as error:
        raise InputError(f"{path}: {error}") from None
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from None
    except Exception as error:  # a damaged or malicious file can raise any error
        raise InputError(f"{path}: damaged or not a pickle ({type(error).__name__}); download the file again") from None


class BoundedFile:
    """A file that never reads beyond its end, so that no oversized buffer is allocated."""

    def __init__(self, file: BinaryIO) -> None:
        self.file = file
        self.left = self.size = os.fstat(file.fileno()).st_size

    def read(self, count: int) -> bytes:
        if count > self.left:
            raise EOFError
        self.left -= count
        return self.file.read(count)

    def readline(self) -> bytes:
        line = self.file.readline()
        if not line.endswith(b"\n"):
            raise EOFError
        self.left -= len(line)
        return line


class Unpickler(pickle._Unpickler):
    """The stack machine, in pure Python: the C implementation resolves extension codes to real objects."""

    stack: list[Any]
    memo: dict[int, Any]
    append: Callable[[Any], None]
    read: Callable[[int], bytes]
    readline: Callable[[], bytes]
    pop_mark: Callable[[], list[Any]]
    dispatch: ClassVar[dict[int, Callable]] = {
        getattr(pickle, name)[0]: pickle._Unpickler.dispatch[getattr(pickle, name)[0]]
        for name in " ".join(INHERITED_OPCODES).split()
    }

    def __init__(self, file: BinaryIO, *, refuse: bool = False, allowed: Collection[str] = ()) -> None:
        source = BoundedFile(file)
        super().__init__(source)
        self.refuse, self.allowed, self.budget = refuse, frozenset(allowed), Budget(source.size)

    def find_class(self, module: str, name: str) -> Any:
        """Return a stand-in for a global name; nothing is imported."""
        if len(module) + len(name) > MAX_FULL_NAME:  # two strings of the file would be copied into many names
            raise RefusedError(f"found a name of {len(module) + len(name)} characters; it is not read")
        full = f"{module}.{name}"
        return KNOWN[full] if full in KNOWN else self.stand_in(full)

    def stand_in(self, name: str) -> InertObject:
        if self.refuse and name not in self.allowed:
            shown = ascii(name[:MAX_NAME_LENGTH])[1:-1]
            raise RefusedError(f"found {shown}, which is not one of the expected classes; it is not read")
        return InertObject(name)

    def get_extension(self, code: int) -> None:
        """Push a stand-in for an extension code, without consulting the copyreg registry."""
        self.append(self.stand_in(f"extension code {code}"))

    def persistent_load(self, pid: Any) -> Any:
        return self.stand_in("persistent id")

    def call(self, target: Any, arguments: Any) -> Any:
        """Return a stand-in or a safely built object in place of a call."""
        if type(arguments) is not tuple:
            raise TypeError("arguments that are not a tuple")
        if type(target) is InertObject:
            return InertObject(target.name)
        if type(target) is KnownGlobal:
            return target.make(self.budget, *check_length(arguments))
        raise TypeError("called something other than a name")


def opcode(name: str) -> Callable[[Callable[[Unpickler], None]], Callable[[Unpickler], None]]:
    """Register a function as the handler of an opcode."""

    def decorate(function: Callable[[Unpickler], None]) -> Callable[[Unpickler], None]:
        Unpickler.dispatch[getattr(pickle, name)[0]] = function
        return function

    return decorate


@opcode("PUT")
def put(machine: Unpickler) -> None:
    number = int(machine.readline()[:-1])
    if not 0 <= number < 1 << 32:  # as in the other opcodes; large numbers may have equal hashes
        raise ValueError("not an index of the memo")
    machine.memo[number] = machine.stack[-1]


@opcode("BYTEARRAY8")
def bytearray8(machine: Unpickler) -> None:
    machine.append(bytearray(machine.read(int.from_bytes(machine.read(8), "little"))))


@opcode("REDUCE")
def reduce(machine: Unpickler) -> None:
    arguments = machine.stack.pop()
    machine.stack[-1] = machine.call(machine.stack[-1], arguments)


@opcode("NEWOBJ")
def newobj(machine: Unpickler) -> None:
    reduce(machine)


@opcode("NEWOBJ_EX")
def newobj_ex(machine: Unpickler) -> None:
    if machine.stack.pop() and type(machine.stack[-2]) is not InertObject:
        raise TypeError("named arguments")
    reduce(machine)


@opcode("INST")
def inst(machine: Unpickler) -> None:
    module, name = (machine.readline()[:-1].decode("ascii") for _ in range(2))
    arguments = tuple(machine.pop_mark())
    machine.append(machine.call(machine.find_class(module, name), arguments))


@opcode("OBJ")
def obj(machine: Unpickler) -> None:
    target, *arguments = machine.pop_mark()
    machine.append(machine.call(target, tuple(arguments)))


@opcode("BUILD")
def build_state(machine: Unpickler) -> None:
    state, target = machine.stack.pop(), machine.stack[-1]
    if type(target) is InertObject:
        target.state = state
    elif type(target) in (np.ndarray, Dtype, FrozenDictStandIn):
        set_state(machine.budget, target, state)
    elif type(target) is not dict:  # attributes of an OrderedDict are ignored
        raise TypeError("a state for an object without one")


@opcode("APPEND")
def append(machine: Unpickler) -> None:
    extend(machine, [machine.stack.pop()])


@opcode("APPENDS")
def appends(machine: Unpickler) -> None:
    extend(machine, machine.pop_mark())


def extend(machine: Unpickler, items: list[Any]) -> None:
    container = machine.stack[-1]
    if type(container) is list:
        container.extend(items)
    elif type(container) is not InertObject:
        raise TypeError("appended to something other than a list")


@opcode("SETITEM")
def setitem(machine: Unpickler) -> None:
    items = machine.stack[-2:]
    del machine.stack[-2:]
    update(machine, items)


@opcode("SETITEMS")
def setitems(machine: Unpickler) -> None:
    items = machine.pop_mark()
    update(machine, items)


@opcode("DICT")
def dictionary(machine: Unpickler) -> None:
    items = machine.pop_mark()
    machine.append({})
    update(machine, items)


def update(machine: Unpickler, items: list[Any]) -> None:
    """Insert alternating keys and values into the dict on top of the stack."""
    container = machine.stack[-1]
    if type(container) in (dict, FrozenDictStandIn):
        for key, value in zip(items[::2], items[1::2], strict=True):
            container[machine.budget.check_key(key)] = value
    elif type(container) is not InertObject:
        raise TypeError("an entry for something other than a dict")


@opcode("ADDITEMS")
def additems(machine: Unpickler) -> None:
    items = machine.pop_mark()
    container = machine.stack[-1]
    if type(container) is set:
        container.update(map(machine.budget.check_key, items))
    elif type(container) is not InertObject:
        raise TypeError("added to something other than a set")


@opcode("FROZENSET")
def frozen_set(machine: Unpickler) -> None:
    items = machine.pop_mark()
    machine.append(frozenset(map(machine.budget.check_key, items)))
