"""Several processes that train one model: how they find each other, wait for each other and end together.

Process 0 alone prints, writes, collects, computes features and rolls out; the others wait for it or follow. Whichever
fails tells the others why, and none is left waiting for it. Needs no jax before there are several.
"""

import itertools
import os
import sys
import threading
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout, suppress
from pathlib import Path
from typing import Any, NoReturn

from instructrl.config import HardwareConfig
from instructrl.errors import InputError, InterruptedRun, RunError
from instructrl.interruption import asked, stop_if_asked

FOREVER = 1000 * 60 * 60 * 24 * 30  # milliseconds
LOOK = 0.5  # seconds between two looks at how the others are
FAREWELL = 10_000  # milliseconds in which the others hear why one ends
AGAIN = 75  # the exit code of an interruption, which all processes agree on among themselves


class Team:
    """This process among the others, and their common notes.

    Notes stay when a run is over, and a process may meet the others for another one: each `meeting` has its own.
    """

    def __init__(self, client: Any, index: int, count: int, meeting: int) -> None:
        self.client, self.index, self.count = client, index, count
        self.meeting, self.waits = meeting, 0
        self._quiet = threading.Event()

    def note(self, *words: object) -> str:
        """Where the processes of this meeting tell each other of a thing."""
        return "/".join(map(str, ("instructrl", self.meeting, *words)))

    def stop_if_any_asked(self) -> None:
        """Of processes that were asked to end while they looked for each other, all end here or none.

        Raises:
            InterruptedRun: one of them was.
        """
        keys = [self.note("asked", index) for index in range(self.count)]
        self.client.key_value_set(keys[self.index], asked() or "no")
        heard = [self.client.blocking_key_value_get(key, FOREVER) for key in keys]
        if any(signal != "no" for signal in heard):
            raise InterruptedRun(f"by {next(signal for signal in heard if signal != 'no')}")

    def watch(self) -> None:
        """End this process when another one tells that it failed, whatever it is waiting for."""

        def look() -> None:
            while not self._quiet.wait(LOOK):
                try:
                    code, line = self.client.key_value_try_get(self.note("failed")).split(" ", 1)
                except Exception:  # nothing is told yet, or the one that keeps the notes is gone: jax ends us then
                    continue
                if self._quiet.is_set():
                    return
                print(f"error: {line}", file=sys.stderr, flush=True)
                self.leave(int(code))  # a collective operation cannot be broken off

        threading.Thread(target=look, name="watch", daemon=True).start()

    def fail(self, error: BaseException) -> NoReturn:
        """Let the others know that this process ends, and why, and end it."""
        self._quiet.set()
        code = getattr(error, "exit_code", 1)
        reason = " ".join(str(error).split()) or type(error).__name__
        with suppress(Exception):  # another one was first
            self.client.key_value_set(self.note("failed"), f"{code} process {self.index} ended: {reason}")
        if isinstance(error, InputError | RunError):
            print(f"error: {reason}", file=sys.stderr, flush=True)
        else:
            traceback.print_exception(error)
        self.leave(code)

    def leave(self, code: int) -> NoReturn:
        """End this process once all have heard why. jax's own end would wait for others, or abort."""
        with suppress(Exception):  # some are gone
            self.client.wait_at_barrier(self.note("farewell"), FAREWELL)
        if self.index == 0:
            time.sleep(LOOK)  # it keeps the notes: without it jax would abort the others
        sys.stdout.flush()
        os._exit(code)

    def part(self) -> None:
        """All are through: none fails any more."""
        self.client.wait_at_barrier(self.note("end"), FOREVER)
        self._quiet.set()


_team: Team | None = None
_meetings = itertools.count()


def is_first() -> bool:
    """Whether this is process 0, or the only one."""
    return _team is None or _team.index == 0


def shard() -> tuple[int, int]:
    """This process's number and how many there are."""
    return (0, 1) if _team is None else (_team.index, _team.count)


@contextmanager
def first_ahead() -> Iterator[None]:
    """Process 0 goes through a block while the others wait; then they go through it too."""
    if _team is None:
        yield
        return
    _team.waits += 1
    key = _team.note("through", _team.waits)
    if _team.index:
        _team.client.blocking_key_value_get(key, FOREVER)
    yield
    if not _team.index:
        _team.client.key_value_set(key, "yes")


@contextmanager
def together(config: HardwareConfig) -> Iterator[None]:
    """Join the processes that `hardware` names; only the first one prints.

    Raises:
        InputError, RunError: they cannot find each other.
        InterruptedRun: this one, or one of them, was asked to end.
    """
    global _team
    if config.coordinator is None:
        stop_if_asked()
        yield
        return
    team = join(config)
    _team = team if team.count > 1 else None
    if _team is None:
        yield
        return
    team.watch()
    try:
        team.stop_if_any_asked()
        with redirect_stdout(sys.stdout if team.index == 0 else Path(os.devnull).open("w")):
            yield
        team.part()
    except BaseException as error:
        if getattr(error, "exit_code", 1) != AGAIN:
            team.fail(error)
        raise
    finally:
        _team = None


def join(config: HardwareConfig) -> Team:
    """Connect to the others; a second run of the same command finds the connection there.

    Raises:
        InputError: nothing tells the processes of each other.
        RunError: they do not all come.
    """
    import jax
    from jax._src.distributed import global_state  # the notes that jax keeps for all; it has no public name

    if not jax.distributed.is_initialized():
        began = time.monotonic()
        try:
            if config.coordinator == "auto":
                jax.distributed.initialize()
            else:
                jax.distributed.initialize(
                    config.coordinator, config.processes, config.process, cluster_detection_method="deactivate"
                )
        except (ValueError, TypeError) as error:
            raise InputError(
                f"hardware.coordinator: found {config.coordinator}, but {' '.join(str(error).split())[:200]}; "
                "auto needs srun or a TPU pod, else give host:port with hardware.processes and hardware.process"
            ) from None
        except RuntimeError as error:
            raise RunError(
                f"hardware.coordinator: {config.coordinator} could not be joined in {time.monotonic() - began:.0f} s "
                f"({' '.join(str(error).split())[:200]}); see that all processes run and reach process 0"
            ) from None
    return Team(global_state.client, global_state.process_id, global_state.num_processes or 1, next(_meetings))
