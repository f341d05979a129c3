"""Helpers that wait for processes."""

import time
from collections.abc import Callable
from pathlib import Path


def bearers(mark: str) -> dict[int, str]:
    """Return the command lines, by id, of processes with a marker in their environment."""
    found = {}
    for entry in Path("/proc").iterdir():
        try:
            if entry.name.isdigit() and mark.encode() in (entry / "environ").read_bytes():
                found[int(entry.name)] = (entry / "cmdline").read_text().replace("\0", " ")
        except OSError:  # it has ended, or belongs to another user
            continue
    return found


def wait_for(condition: Callable[[], object], seconds: float) -> bool:
    """Return True if a condition became true within a time limit."""
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(0.05)
    return True


def until(condition: Callable[[], object], seconds: float = 60) -> None:
    """Assert that a condition becomes true within a time limit."""
    assert wait_for(condition, seconds), f"not within {seconds:g} seconds"
