"""Unit tests take seconds because they start no process and open no connection: here both are errors."""

import inspect
import multiprocessing.process
import os
import socket
import subprocess
from collections.abc import Callable, Iterator
from typing import Any

import pytest

ADVICE = "move it to tests/integration or tests/cluster"
STANDARD_LIBRARY = {"platform", "ctypes.util"}  # these ask the system in a process when a library is imported
FORBIDDEN = (
    (subprocess.Popen, ("__init__",), "starts a process"),
    (multiprocessing.process.BaseProcess, ("start",), "starts a process"),
    (os, ("fork", "forkpty", "posix_spawn", "posix_spawnp", "system"), "starts a process"),
    (socket.socket, ("connect", "connect_ex", "listen"), "opens a connection"),
)


class ForbiddenInUnitTestError(Exception):
    """A unit test, or what it calls, started a process or opened a connection."""


@pytest.fixture(autouse=True, scope="module")
def refused() -> Iterator[list[str]]:
    """Refuse processes and connections, also to fixtures of a module; returns what was refused."""
    found: list[str] = []

    def refuse(what: str, original: Callable[..., Any]) -> Callable[..., Any]:
        def refused_call(*args: Any, **kwargs: Any) -> Any:
            if called_by_standard_library():
                return original(*args, **kwargs)
            found.append(what)
            raise ForbiddenInUnitTestError(f"a unit test {what}: {ADVICE}")

        return refused_call

    with pytest.MonkeyPatch.context() as patch:
        for place, names, what in FORBIDDEN:
            for name in names:
                patch.setattr(place, name, refuse(what, getattr(place, name)))
        yield found


def called_by_standard_library() -> bool:
    """Return True if a call comes from Python's own modules that look at the system."""
    frame = inspect.currentframe()
    while frame is not None:
        if frame.f_globals.get("__name__") in STANDARD_LIBRARY:
            return True
        frame = frame.f_back
    return False


@pytest.fixture(autouse=True)
def nothing_refused_was_caught(refused: list[str]) -> Iterator[None]:
    """Fail also if the code under test caught the error, as it may catch those of a library."""
    yield
    reasons, refused[:] = {*refused}, []
    assert not reasons, f"a unit test {' and '.join(sorted(reasons))}: {ADVICE}"
