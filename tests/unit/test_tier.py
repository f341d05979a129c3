"""What tests/unit/conftest.py refuses."""

import ctypes.util
import multiprocessing
import os
import socket
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest


@pytest.mark.parametrize(
    "start",
    [
        lambda: subprocess.run([sys.executable, "-c", ""], check=True),
        lambda: multiprocessing.get_context("spawn").Process(target=print).start(),
        lambda: os.system("true"),
        lambda: socket.create_connection(("127.0.0.1", 9)),
        lambda: socket.create_server(("127.0.0.1", 0)),
    ],
)
def test_processes_and_connections_are_refused_and_noted(start: Callable[[], Any], refused: list[str]) -> None:
    with pytest.raises(Exception, match=r"^a unit test .*: move it to tests/integration or tests/cluster$"):
        start()
    assert len(refused) == 1
    refused.clear()


def test_the_standard_library_may_ask_the_system(refused: list[str]) -> None:
    """Libraries that are imported in a test look for others, which Python does in a process."""
    assert ctypes.util.find_library("c")
    assert refused == []
