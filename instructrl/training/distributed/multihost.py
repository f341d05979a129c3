"""Multi-process training: connecting processes, barriers, and common termination.

Only process 0 (the leader) prints, writes, collects and rolls out; the others wait for it. All compute features. A
process that fails reports the reason to the others, which then end too instead of waiting forever. Imports jax only
with more than one process.
"""

import atexit
import itertools
import os
import sys
import threading
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout, suppress
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

from instructrl.config.training import HardwareConfig
from instructrl.errors import InputError, InterruptedRun, RunError, short_message
from instructrl.preemption import exit_by, pending_signal, raise_if_preempted
from instructrl.training.distributed.local_devices import local_device_ids

NO_TIMEOUT_MS = 1000 * 60 * 60 * 24 * 30
POLL_SECONDS = 0.5  # interval at which the failure key is polled
EXIT_BARRIER_MS = 10_000  # time for the others to read why a process ended
PREEMPTED_EXIT_CODE = 75  # of InterruptedRun, on which all processes agree without this module


class ProcessGroup:
    """This process among the others, and JAX's key-value store that they share.

    Keys outlive a run, and the same processes may start another one, so each session has its own prefix.
    """

    def __init__(self, client: Any, index: int, count: int, session: int) -> None:
        self.client, self.index, self.count = client, index, count
        self.session, self.waits = session, 0
        self._finished = threading.Event()
        self._watchdog: threading.Thread | None = None

    def kv_key(self, *parts: object) -> str:
        """A key of this session in the key-value store."""
        return "/".join(map(str, ("instructrl", self.session, *parts)))

    def raise_if_any_preempted(self) -> None:
        """Barrier: if any process was preempted during start-up, all exit.

        Raises:
            InterruptedRun: a process received a signal.
        """
        keys = [self.kv_key("preempted", index) for index in range(self.count)]
        self.client.key_value_set(keys[self.index], pending_signal() or "no")
        answers = [self.client.blocking_key_value_get(key, NO_TIMEOUT_MS) for key in keys]
        signals = [answer for answer in answers if answer != "no"]
        if signals:
            raise InterruptedRun(f"by {signals[0]}")

    def start_watchdog(self) -> None:
        """Start a thread that ends this process as soon as another one reports a failure."""

        def poll() -> None:
            while not self._finished.wait(POLL_SECONDS):
                try:
                    code, line = self.client.key_value_try_get(self.kv_key("failed")).split(" ", 1)
                except Exception:  # no failure so far, or the leader with the store is gone: then jax ends this process
                    continue
                if self._finished.is_set():
                    return
                label = "" if int(code) == PREEMPTED_EXIT_CODE else "error: "
                print(f"{label}{line}", file=sys.stderr, flush=True)
                self.exit(int(code))  # a running collective cannot be cancelled

        self._watchdog = threading.Thread(target=poll, name="watchdog", daemon=True)
        self._watchdog.start()
        atexit.register(self.stop_watchdog)  # an interrupted process listens to the others until it ends

    def stop_watchdog(self) -> None:
        """End the thread: a process that ends while one is within a call of jax aborts."""
        self._finished.set()
        if self._watchdog is not None:
            self._watchdog.join()

    def fail(self, error: BaseException) -> NoReturn:
        """Report the error to the other processes and end this one."""
        reason = " ".join(str(error).split()) or type(error).__name__
        if isinstance(error, InputError | RunError):
            print(f"error: {reason}", file=sys.stderr, flush=True)
        else:
            traceback.print_exception(error)
        self.exit_all(getattr(error, "exit_code", 1), reason)

    def exit_all(self, code: int, reason: str) -> NoReturn:
        """Report to the other processes why this one ends, on which they end too, and end it."""
        self._finished.set()
        with suppress(Exception):  # another process failed first
            self.client.key_value_set(self.kv_key("failed"), f"{code} process {self.index} ended: {reason}")
        self.exit(code)

    def exit(self, code: int) -> NoReturn:
        """End this process once all have read the reason. JAX's own shutdown would wait for others, or abort."""
        with suppress(Exception):  # some processes are already gone
            self.client.wait_at_barrier(self.kv_key("exit"), EXIT_BARRIER_MS)
        if self.index == 0:
            time.sleep(POLL_SECONDS)  # the leader hosts the store: once it is gone, jax aborts the others
        sys.stdout.flush()
        os._exit(code)

    def finish(self) -> None:
        """Barrier at the end of a session, after which no process can fail."""
        self.client.wait_at_barrier(self.kv_key("end"), NO_TIMEOUT_MS)
        self.stop_watchdog()


_group: ProcessGroup | None = None
_sessions = itertools.count()


def is_leader() -> bool:
    """Return True if this is process 0 or the only process."""
    return _group is None or _group.index == 0


def process_shard() -> tuple[int, int]:
    """This process's index, and the number of processes."""
    return (0, 1) if _group is None else (_group.index, _group.count)


@contextmanager
def leader_first() -> Iterator[None]:
    """Run a block on process 0 first; the others wait for it and then run the block too."""
    if _group is None:
        yield
        return
    _group.waits += 1
    key = _group.kv_key("leader_done", _group.waits)
    if _group.index:
        _group.client.blocking_key_value_get(key, NO_TIMEOUT_MS)
    yield
    if not _group.index:
        _group.client.key_value_set(key, "yes")


@contextmanager
def process_group(config: HardwareConfig) -> Iterator[None]:
    """Connect the processes configured in `hardware`; only the leader prints.

    Raises:
        InputError, RunError: the processes cannot connect.
        InterruptedRun: this process, or another one, received a signal.
    """
    global _group
    if config.coordinator is None:
        raise_if_preempted()
        yield
        return
    group = connect(config)
    _group = group if group.count > 1 else None
    if _group is None:
        yield
        return
    group.start_watchdog()
    try:
        group.raise_if_any_preempted()
        with (
            exit_by(partial(group.exit_all, reason="interrupted while compiling")),
            redirect_stdout(sys.stdout if group.index == 0 else Path(os.devnull).open("w", encoding="utf-8")),
        ):
            yield
        group.finish()
    except BaseException as error:
        if getattr(error, "exit_code", 1) != PREEMPTED_EXIT_CODE:
            group.fail(error)
        raise
    finally:
        _group = None


def connect(config: HardwareConfig) -> ProcessGroup:
    """Connect to the other processes; later runs in the same process reuse the connection.

    Raises:
        InputError: the coordinator or this process's index cannot be determined, or there are too few GPUs.
        RunError: not all processes connect in time.
    """
    import jax

    from instructrl.training.distributed.jax_internals import coordination

    if not jax.distributed.is_initialized():
        started, devices = time.monotonic(), local_device_ids(config)
        try:
            if config.coordinator == "auto":
                jax.distributed.initialize(local_device_ids=devices)
            else:
                jax.distributed.initialize(
                    config.coordinator,
                    config.num_processes,
                    config.process_id,
                    local_device_ids=devices,
                    cluster_detection_method="deactivate",
                )
        except (ValueError, TypeError) as error:
            raise InputError(
                f"hardware.coordinator: found {config.coordinator}, but {short_message(error)}; "
                "auto needs srun or a TPU pod, else set host:port with hardware.num_processes and hardware.process_id"
            ) from None
        except RuntimeError as error:
            raise RunError(
                f"hardware.coordinator: {config.coordinator} could not be joined in {time.monotonic() - started:.0f} s "
                f"({short_message(error)}); check that all processes run and can reach process 0"
            ) from None
    return ProcessGroup(*coordination(), next(_sessions))
