"""Unit tests take seconds because they start no process and open no connection: here both are errors."""

import multiprocessing.process
import os
import socket
import subprocess
from collections.abc import Iterator
from typing import Any, NoReturn

import pytest

ADVICE = "move it to tests/integration or tests/cluster"


class ForbiddenInUnitTestError(Exception):
    """A unit test, or what it calls, started a process or opened a connection."""


@pytest.fixture(autouse=True, scope="module")
def refused() -> Iterator[list[str]]:
    """Refuse processes and connections, also to fixtures of a module; returns what was refused."""
    found: list[str] = []

    def refuse(what: str) -> Any:
        def raise_error(*args: Any, **kwargs: Any) -> NoReturn:
            found.append(what)
            raise ForbiddenInUnitTestError(f"a unit test {what}: {ADVICE}")

        return raise_error

    process, connection = refuse("starts a process"), refuse("opens a connection")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(subprocess.Popen, "__init__", process)
        patch.setattr(multiprocessing.process.BaseProcess, "start", process)
        for name in ("fork", "forkpty", "posix_spawn", "posix_spawnp", "system"):
            patch.setattr(os, name, process)
        for name in ("connect", "connect_ex", "listen"):
            patch.setattr(socket.socket, name, connection)
        yield found


@pytest.fixture(autouse=True)
def nothing_refused_was_caught(refused: list[str]) -> Iterator[None]:
    """Fail also if the code under test caught the error, as it may catch those of a library."""
    yield
    reasons, refused[:] = {*refused}, []
    assert not reasons, f"a unit test {' and '.join(sorted(reasons))}: {ADVICE}"
