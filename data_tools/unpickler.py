"""Reads pickles of other people's programs without running anything of them.

A pickle is a program for a stack machine. This machine has no instruction that imports, calls or changes anything
but plain containers and what `data_tools.pickled` builds; every other name, and all that is made of it, becomes a
`Foreign`, which remembers its name and its state. A hostile file can do no more than be refused.
"""

import os
import pickle
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any, BinaryIO, ClassVar

import numpy as np

from data_tools.pickled import KNOWN, Allowance, Dtype, Foreign, Frozen, Known, RefusedError, build, check_key
from instructrl.errors import InputError

# Instructions whose meaning the library may give: they push plain values, and move or remember what is there.
PLAIN = (
    "PROTO FRAME STOP MARK POP POP_MARK DUP PUT BINPUT LONG_BINPUT MEMOIZE GET BINGET LONG_BINGET NONE",
    "NEWTRUE NEWFALSE INT BININT BININT1 BININT2 LONG LONG1 LONG4 FLOAT BINFLOAT STRING BINSTRING SHORT_BINSTRING",
    "BINBYTES BINBYTES8 SHORT_BINBYTES UNICODE BINUNICODE BINUNICODE8 SHORT_BINUNICODE EMPTY_TUPLE TUPLE TUPLE1 TUPLE2",
    "TUPLE3 EMPTY_LIST LIST EMPTY_DICT EMPTY_SET",
    "GLOBAL STACK_GLOBAL EXT1 EXT2 EXT4 PERSID BINPERSID",  # through find_class, get_extension, persistent_load: ours
)
LONGEST_NAME = 80  # characters of a name in an error


def load(path: Path, *, foreign: str = "inert", allowed: Collection[str] = ()) -> Any:
    """What a pickle holds: numbers, text, bytes, containers (FrozenDict as dict), numpy arrays (also of jax arrays).

    Anything else is a `Foreign`. With foreign="refuse" only the classes `allowed` ("module.name") may be met.

    Raises:
        InputError: the file is missing, damaged, hostile, or holds what is refused.
    """
    if not path.is_file():
        raise InputError(f"{path}: no such file; say where the pickle is")
    try:
        with path.open("rb") as file:
            return Unpickler(file, refuse=foreign == "refuse", allowed=allowed).load()
    except RefusedError as error:
        raise InputError(f"{path}: {error}") from None
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from None
    except Exception as error:  # whatever a damaged or hostile file leads to
        raise InputError(f"{path}: damaged, or no pickle ({type(error).__name__}); get the file again") from None


class Source:
    """A file that is never asked for more than it has."""

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
    """The machine. In Python: the library's in C answers extension codes with real objects."""

    stack: list[Any]
    append: Callable[[Any], None]
    read: Callable[[int], bytes]
    readline: Callable[[], bytes]
    pop_mark: Callable[[], list[Any]]
    dispatch: ClassVar[dict[int, Callable]] = {
        getattr(pickle, name)[0]: pickle._Unpickler.dispatch[getattr(pickle, name)[0]]
        for name in " ".join(PLAIN).split()
    }

    def __init__(self, file: BinaryIO, *, refuse: bool = False, allowed: Collection[str] = ()) -> None:
        source = Source(file)
        super().__init__(source)
        self.refuse, self.allowed, self.allowance = refuse, frozenset(allowed), Allowance(source.size)

    def find_class(self, module: str, name: str) -> Any:
        """Stands for a name; nothing is imported."""
        full = f"{module}.{name}"
        return KNOWN[full] if full in KNOWN else self.foreign(full)

    def foreign(self, name: str) -> Foreign:
        if self.refuse and name not in self.allowed:
            shown = ascii(name[:LONGEST_NAME])[1:-1]
            raise RefusedError(f"found {shown} in it, which is none of the classes expected; it is not read")
        return Foreign(name)

    def get_extension(self, code: int) -> None:
        """Extension codes stand for names that a program registers with copyreg; ours asks nobody."""
        self.append(self.foreign(f"extension code {code}"))

    def persistent_load(self, pid: Any) -> Any:
        return self.foreign("persistent id")

    def call(self, what: Any, arguments: Any) -> Any:
        """What would come of calling something."""
        if type(arguments) is not tuple:
            raise TypeError("arguments that are no tuple")
        if type(what) is Foreign:
            return Foreign(what.name)
        if type(what) is Known:
            return what.make(self.allowance, *arguments)
        raise TypeError("called what is no name")


def instruction(name: str) -> Callable[[Callable[[Unpickler], None]], Callable[[Unpickler], None]]:
    """Make a function the meaning of an opcode."""

    def decorate(function: Callable[[Unpickler], None]) -> Callable[[Unpickler], None]:
        Unpickler.dispatch[getattr(pickle, name)[0]] = function
        return function

    return decorate


@instruction("BYTEARRAY8")
def bytearray8(machine: Unpickler) -> None:
    machine.append(bytearray(machine.read(int.from_bytes(machine.read(8), "little"))))


@instruction("REDUCE")
def reduce(machine: Unpickler) -> None:
    arguments = machine.stack.pop()
    machine.stack[-1] = machine.call(machine.stack[-1], arguments)


@instruction("NEWOBJ")
def newobj(machine: Unpickler) -> None:
    reduce(machine)


@instruction("NEWOBJ_EX")
def newobj_ex(machine: Unpickler) -> None:
    if machine.stack.pop() and type(machine.stack[-2]) is not Foreign:
        raise TypeError("named arguments")
    reduce(machine)


@instruction("INST")
def inst(machine: Unpickler) -> None:
    module, name = (machine.readline()[:-1].decode("ascii") for _ in range(2))
    arguments = tuple(machine.pop_mark())
    machine.append(machine.call(machine.find_class(module, name), arguments))


@instruction("OBJ")
def obj(machine: Unpickler) -> None:
    what, *arguments = machine.pop_mark()
    machine.append(machine.call(what, tuple(arguments)))


@instruction("BUILD")
def build_state(machine: Unpickler) -> None:
    state, what = machine.stack.pop(), machine.stack[-1]
    if type(what) is Foreign:
        what.state = state
    elif type(what) in (np.ndarray, Dtype, Frozen):
        build(machine.allowance, what, state)
    elif type(what) is not dict:  # the attributes of an OrderedDict are of no interest
        raise TypeError("a state for what has none")


@instruction("APPEND")
def append(machine: Unpickler) -> None:
    extend(machine, [machine.stack.pop()])


@instruction("APPENDS")
def appends(machine: Unpickler) -> None:
    extend(machine, machine.pop_mark())


def extend(machine: Unpickler, items: list[Any]) -> None:
    whole = machine.stack[-1]
    if type(whole) is list:
        whole.extend(items)
    elif type(whole) is not Foreign:
        raise TypeError("appended to what is no list")


@instruction("SETITEM")
def setitem(machine: Unpickler) -> None:
    items = machine.stack[-2:]
    del machine.stack[-2:]
    update(machine.stack[-1], items)


@instruction("SETITEMS")
def setitems(machine: Unpickler) -> None:
    items = machine.pop_mark()
    update(machine.stack[-1], items)


@instruction("DICT")
def dictionary(machine: Unpickler) -> None:
    items = machine.pop_mark()
    machine.append({})
    update(machine.stack[-1], items)


def update(whole: Any, items: list[Any]) -> None:
    """Put keys and values, in turn, into a dict."""
    if type(whole) in (dict, Frozen):
        for key, value in zip(items[::2], items[1::2], strict=True):
            whole[check_key(key)] = value
    elif type(whole) is not Foreign:
        raise TypeError("an entry for what is no dict")


@instruction("ADDITEMS")
def additems(machine: Unpickler) -> None:
    items = machine.pop_mark()
    whole = machine.stack[-1]
    if type(whole) is set:
        whole.update(map(check_key, items))
    elif type(whole) is not Foreign:
        raise TypeError("added to what is no set")


@instruction("FROZENSET")
def frozen_set(machine: Unpickler) -> None:
    items = machine.pop_mark()
    machine.append(frozenset(map(check_key, items)))
