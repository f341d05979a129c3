"""Injected faults: the file FAKE_RLBENCH_FAULTS holds lines `call@variation=kind*times`.

`call` is launch, place, validate, reset, step, short, demo, observe or shutdown; variation `any` means each; without
`*times` it is every time. FAKE_RLBENCH_LOG names a file to which every call is appended, which also counts over
processes.
"""

import ctypes
import os
import time
from pathlib import Path

from pyrep.errors import ConfigurationError, ConfigurationPathError, IKError
from rlbench.backend.exceptions import (
    DemoError,
    InvalidActionError,
    NoWaypointsError,
    TaskEnvironmentError,
    WaypointError,
)


class Named:
    """Task attributes that RLBench's errors read."""

    def get_name(self) -> str:
        return "fake"


def strike(call: str, variation: int) -> bool:
    """Record the call and inject its fault, if any; returns True for the fault `far`, on which the caller acts."""
    far = False
    log(f"{call} {variation}")
    for fault in Path(os.environ["FAKE_RLBENCH_FAULTS"]).read_text().split():
        where, _, what = fault.partition("=")
        kind, _, times = what.partition("*")
        at, _, chosen = where.partition("@")
        if at == call and chosen in ("any", str(variation)) and (not times or used(fault) < int(times)):
            log(f"fault {fault}")
            far = kind == "far" or misbehave(kind)
    return far


def log(line: str) -> None:
    with Path(os.environ["FAKE_RLBENCH_LOG"]).open("a") as file:
        file.write(f"{os.getpid()} {line}\n")


def count(call: str) -> int:
    """The number of calls of this kind so far, of all variations and processes."""
    return sum(line.split()[1:2] == [call] for line in Path(os.environ["FAKE_RLBENCH_LOG"]).read_text().split("\n"))


def used(fault: str) -> int:
    return sum(
        line.endswith(f" fault {fault}") for line in Path(os.environ["FAKE_RLBENCH_LOG"]).read_text().split("\n")
    )


def misbehave(kind: str) -> bool:
    if kind == "hang":
        time.sleep(10_000)
    elif kind == "exit":
        os._exit(3)
    elif kind == "segfault":
        ctypes.string_at(0)
    elif kind == "vrep":
        raise RuntimeError("The call failed on the V-REP side. Return value: -1")
    elif kind == "path":
        raise InvalidActionError("A path could not be found.") from ConfigurationPathError("Could not create path.")
    elif kind == "pose":
        cause = ConfigurationPathError("Could not create path.")
        cause.__cause__ = ConfigurationError(
            "Could not find a valid joint configuration for desired end effector pose."
        )
        raise InvalidActionError("A path could not be found.") from cause
    elif kind in ("DemoError", "NoWaypointsError", "WaypointError"):
        about_task = (DemoError, NoWaypointsError, WaypointError)
        raise next(one for one in about_task if one.__name__ == kind)("It did not work.", Named())
    else:
        known = (
            ConfigurationError,
            ConfigurationPathError,
            IKError,
            InvalidActionError,
            TaskEnvironmentError,
            ValueError,
        )
        raise next(one for one in known if one.__name__ == kind)("on request")
    return False
