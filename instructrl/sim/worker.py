"""The parent's end of one worker process: start it, send it calls, hear from it, and say how it ended."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from instructrl.errors import RunError, SimulatorError
from instructrl.interruption import LOOK, stop_if_asked
from instructrl.sim import heartbeat
from instructrl.sim.server import Reply

Request = tuple[str, tuple]  # a method (or attribute) of the environment, and its arguments

_ONE_THREAD = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "LP_NUM_THREADS")


class WorkerLostError(Exception):
    """The process died or hung, or its environment raised something unexpected."""


class Worker:
    """One process with one environment."""

    def __init__(self, recipe: Callable[[], Any], *, start_timeout: float):
        """Start the process and send it the recipe; `await_ready` says whether that went well."""
        ours, theirs = socket.socketpair()
        main = threading.current_thread() is threading.main_thread()
        serve = f"from instructrl.sim.server import serve; serve({theirs.fileno()}, {os.getpid()}, at_once={main})"
        self._log = tempfile.TemporaryFile()  # noqa: SIM115  (open as long as the process; its last words)
        with theirs:
            # not multiprocessing's spawn: that would run the parent's main module, and import jax with it
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-c", serve],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,  # simulators talk a lot
                stderr=self._log,
                pass_fds=(theirs.fileno(),),
                env={
                    **os.environ,
                    **dict.fromkeys(_ONE_THREAD, "1"),
                    "PYTHONPATH": os.pathsep.join(entry or str(Path.cwd()) for entry in sys.path),
                },
                start_new_session=True,  # ctrl-C in the terminal is the parent's affair
            )
        self.connection = Connection(ours.detach())
        self._heartbeat = heartbeat.Heartbeat(self._process.pid)
        self._expect_within(start_timeout)
        self._number = 0
        try:
            with contextlib.suppress(OSError):  # it died already: `await_ready` tells
                self.connection.send(recipe)
        except BaseException:
            self.kill()
            raise

    def await_ready(self) -> None:
        """Wait until the environment is made.

        Raises:
            SimulatorError: it cannot be. InputError: the recipe refuses its settings.
        """
        try:
            while not self.connection.poll(min(self.patience(), LOOK)):
                self.check_alive()
                stop_if_asked()
            self.receive()
        except WorkerLostError as lost:
            raise SimulatorError(f"a simulator process cannot start: {lost}") from None

    def send(self, request: Request, *, timeout: float) -> None:
        """Ask for a call, to be answered within `timeout` seconds."""
        self._number += 1
        self._expect_within(timeout)
        with contextlib.suppress(OSError):  # it died: the closed connection says so when we listen
            self.connection.send((self._number, *request))

    def patience(self) -> float:
        """Seconds to wait for an answer before `check_alive` is asked again."""
        return min(max(self.deadline - time.monotonic(), 0.0), heartbeat.SILENCE / 10)

    def check_alive(self) -> None:
        """Raise WorkerLostError if the answer is overdue, or the process has stopped working on it."""
        if time.monotonic() >= self.deadline:
            what = "gave no answer" if self._number else "was not ready"
            raise WorkerLostError(f"it {what} within {self._timeout:g} s")
        if self._heartbeat.silence() >= heartbeat.SILENCE:
            raise WorkerLostError(f"it hangs: it did no work for {heartbeat.SILENCE:g} s")

    def _expect_within(self, timeout: float) -> None:
        self._timeout, self.deadline = timeout, time.monotonic() + timeout
        self._heartbeat.restart()

    def receive(self) -> Reply | None:
        """The next reply, or None if it answers an earlier call, whose caller has gone away.

        Raises:
            WorkerLostError: no process, or no state to go on with. InputError: as raised over there.
            SimulatorError: for a RunError there.
        """
        try:
            reply = self.connection.recv()
        except (EOFError, OSError):
            raise WorkerLostError(self._last_words()) from None
        if reply.number != self._number:
            return None
        if reply.kind == "expected":
            kind, message = reply.value
            raise (SimulatorError if issubclass(kind, RunError) else kind)(message)
        if reply.kind == "unexpected":
            raise WorkerLostError(f"it raised {reply.value}")
        return reply

    def stop(self) -> None:
        """Ask the environment to close and its process to end."""
        with contextlib.suppress(OSError):
            self.connection.send(None)

    def join(self, timeout: float) -> None:
        """Wait for the process to end, at most `timeout` seconds."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(max(timeout, 0.01))

    def kill(self) -> None:
        """End the process at once."""
        self._process.kill()
        self._process.wait()
        self.connection.close()
        self._log.close()

    def _last_words(self) -> str:
        """How the process ended, and the last line of what it wrote."""
        self.join(5.0)
        code = self._process.poll()
        if code is None:
            return "it closed its connection"
        how = f"it was ended by {signal.Signals(-code).name}" if code < 0 else f"it exited with code {code}"
        self._log.seek(0)
        lines = self._log.read().decode(errors="replace").strip().splitlines()
        return f"{how} ({lines[-1].strip()})" if lines else how
