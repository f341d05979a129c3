"""A class is compared with its interface before anything is called."""

from abc import ABC, abstractmethod
from functools import partial, partialmethod, singledispatchmethod
from typing import Any, Protocol

import pytest

from instructrl.errors import InputError
from instructrl.interface import check_interface


class Arm(Protocol):
    def move(self, pose: Any, *, speed: float = 1.0) -> None: ...

    @classmethod
    def named(cls, name: str) -> Any: ...

    @property
    def joints(self) -> int: ...


class Good:
    joints = 7  # a value serves as a property does

    def move(self, target: Any, time: float = 0.0, *, speed: float = 1.0, **others: Any) -> None: ...

    @staticmethod
    def named(name: str) -> Any: ...


class Base(ABC):
    @abstractmethod
    def ready(self) -> bool: ...

    def inherited(self) -> int:
        return 0


def test_what_can_be_called_in_the_same_way_is_accepted() -> None:
    check_interface(Good, Arm)
    check_interface(
        type("Anything", (), {"move": lambda *_, **__: None, "named": Good.__dict__["named"], "joints": 7}), Arm
    )
    check_interface(type("Wrapper", (), {"__getattr__": lambda self, name: None, "named": Good.__dict__["named"]}), Arm)
    check_interface(type("Ready", (Base,), {"ready": lambda self: True}), Base)


class Mover:
    """An object that is called as a method is, without the object whose attribute it is."""

    def __call__(self, pose: Any, *, speed: float = 1.0) -> None: ...


def move(arm: Any, pose: Any, *, speed: float = 1.0) -> None: ...


@pytest.mark.parametrize(
    "member", [Mover(), partial(move, None), partialmethod(move), singledispatchmethod(move), staticmethod(Mover())]
)
def test_what_is_called_as_a_method_need_not_be_a_function(member: Any) -> None:
    check_interface(type("Other", (Good,), {"move": member}), Arm)


def test_class_methods_may_be_those_of_a_metaclass() -> None:
    meta = type("Meta", (type,), {"named": lambda cls, name: None})
    check_interface(meta("Made", (), {"move": move, "joints": 7}), Arm)


def test_objects_that_ask_others_need_class_methods_of_their_own() -> None:
    with pytest.raises(InputError, match=r"Wrapper: found no class method named; allowed: named\(name\)"):
        check_interface(type("Wrapper", (), {"__getattr__": lambda self, name: None}), Arm)


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        (
            {"move": lambda self, pose: None},
            r"Bad: found move\(pose\); allowed: what can be called as move\(pose, \*, sp",
        ),
        ({"move": lambda self, *, pose, speed=1.0: None}, r"found move\(\*, pose, speed=1.0\); allowed"),
        ({"move": lambda self, pose, grip, *, speed=1: None}, r"found move\(pose, grip, \*, speed=1\); allowed"),
        ({"move": 3}, r"found the value move; allowed: a method, move\(pose"),
        ({"named": lambda self, name: None}, r"found the method named; allowed: a class method, named\(name\)"),
        ({"joints": lambda self: 7}, r"found the method joints; allowed: a property, joints"),
    ],
)
def test_a_member_that_cannot_be_used_is_named(changes: dict[str, Any], line: str) -> None:
    with pytest.raises(InputError, match=line):
        check_interface(type("Bad", (Good,), changes), Arm)


def test_a_missing_method_is_named_also_where_a_stub_is_inherited() -> None:
    with pytest.raises(InputError, match=r"Empty: found no method move; allowed: move\(pose, \*, speed=1.0\)"):
        check_interface(type("Empty", (), {}), Arm)
    with pytest.raises(InputError, match=r"Stub: found no method move"):
        check_interface(type("Stub", (Arm,), {}), Arm)
    with pytest.raises(InputError, match=r"Idle: found no method ready; allowed: ready\(\)"):
        check_interface(type("Idle", (Base,), {}), Base)
