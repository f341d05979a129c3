"""Waiting for processes: for what they do, and for their end."""

import time
from collections.abc import Callable
from pathlib import Path


def bearers(mark: str) -> dict[int, str]:
    """Processes that were started with a mark in their environment, and their command lines."""
    found = {}
    for entry in Path("/proc").iterdir():
        try:
            if entry.name.isdigit() and mark.encode() in (entry / "environ").read_bytes():
                found[int(entry.name)] = (entry / "cmdline").read_text().replace("\0", " ")
        except OSError:  # it is gone, or not ours
            continue
    return found


def wait_for(moment: Callable[[], object], seconds: float) -> bool:
    """Whether a moment came in time."""
    end = time.monotonic() + seconds
    while not moment():
        if time.monotonic() > end:
            return False
        time.sleep(0.05)
    return True


def until(moment: Callable[[], object], seconds: float = 60) -> None:
    """Wait for a moment that must come."""
    assert wait_for(moment, seconds), f"not within {seconds:g} seconds"
