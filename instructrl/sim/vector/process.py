"""Handle of one worker process: start it, send it calls, receive replies, and report how it ended."""

import contextlib
import os
import signal
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any

from instructrl.errors import RunError, SimulatorError
from instructrl.preemption import POLL_INTERVAL, raise_if_preempted
from instructrl.sim.vector import heartbeat
from instructrl.sim.vector.interpreter import launch
from instructrl.sim.vector.server import Reply

Request = tuple[str, tuple]  # a method (or attribute) of the environment, and its arguments

_ONE_THREAD = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "LP_NUM_THREADS")


class WorkerLostError(Exception):
    """The process died or hung, or its environment raised something unexpected."""


class Worker:
    """One process with one environment."""

    def __init__(self, factory: Callable[[], Any], *, start_timeout: float, python: str | None = None):
        """Start the process and send it the environment factory; `await_ready` reports success.

        Args:
            factory: makes the environment.
            start_timeout: seconds within which it has to.
            python: interpreter of the process; None: this one.
        """
        parent_end, child_end = socket.socketpair()
        main = threading.current_thread() is threading.main_thread()
        arguments = f"{child_end.fileno()}, {os.getpid()}, use_prctl={main}"
        serve = f"from instructrl.sim.vector.server import serve; serve({arguments})"
        self._log = tempfile.TemporaryFile()  # noqa: SIM115  (open as long as the process; holds its stderr)
        words, environ = launch(python, serve, {**os.environ, **dict.fromkeys(_ONE_THREAD, "1")})
        with child_end:
            # not multiprocessing's spawn, which would run the parent's main module and thereby import jax
            self._process = subprocess.Popen(
                words,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,  # simulators print a lot
                stderr=self._log,
                pass_fds=(child_end.fileno(),),
                env=environ,
                start_new_session=True,  # only the parent handles ctrl-C
            )
        self.connection = Connection(parent_end.detach())
        self._heartbeat = heartbeat.Heartbeat(self._process.pid)
        self._expect_within(start_timeout)
        self._number = 0
        try:
            with contextlib.suppress(OSError):  # it has exited already, which `await_ready` reports
                self.connection.send(factory)
        except BaseException:
            self.kill()
            raise

    def await_ready(self) -> None:
        """Wait until the environment is created.

        Raises:
            SimulatorError: it cannot be created. InputError: the factory rejects its settings.
        """
        try:
            while not self.connection.poll(min(self.patience(), POLL_INTERVAL)):
                self.check_alive()
                raise_if_preempted()
            self.receive()
        except WorkerLostError as lost:
            raise SimulatorError(f"a simulator process cannot start: {lost}") from None

    def send(self, request: Request, *, timeout: float) -> None:
        """Send a call that must be answered within `timeout` seconds."""
        self._number += 1
        self._expect_within(timeout)
        with contextlib.suppress(OSError):  # it has exited, which the closed connection reports on the next receive
            self.connection.send((self._number, *request))

    def patience(self) -> float:
        """Seconds to wait for a reply before the next `check_alive`."""
        return min(max(self.deadline - time.monotonic(), 0.0), heartbeat.SILENCE / 10)

    def check_alive(self) -> None:
        """Raise WorkerLostError if the reply is overdue or the process hangs."""
        if time.monotonic() >= self.deadline:
            what = "did not answer" if self._number else "was not ready"
            raise WorkerLostError(f"it {what} within {self._timeout:g} s")
        if self._heartbeat.silence() >= heartbeat.SILENCE:
            raise WorkerLostError(f"it hangs: it used no CPU for {heartbeat.SILENCE:g} s")

    def _expect_within(self, timeout: float) -> None:
        self._timeout, self.deadline = timeout, time.monotonic() + timeout
        self._heartbeat.restart()

    def receive(self) -> Reply | None:
        """The next reply, or None if it belongs to an earlier, abandoned call.

        Raises:
            WorkerLostError: the process has exited or its state is undefined. InputError: as raised in the worker.
            SimulatorError: for a RunError in the worker.
        """
        try:
            reply = self.connection.recv()
        except (EOFError, OSError):
            raise WorkerLostError(self._exit_reason()) from None
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
        """Kill the process."""
        self._process.kill()
        self._process.wait()
        self.connection.close()
        self._log.close()

    def _exit_reason(self) -> str:
        """Describe how the process ended, with the last line of its stderr."""
        self.join(5.0)
        code = self._process.poll()
        if code is None:
            return "it closed its connection"
        reason = f"it was killed by {signal.Signals(-code).name}" if code < 0 else f"it exited with code {code}"
        self._log.seek(0)
        lines = self._log.read().decode(errors="replace").strip().splitlines()
        return f"{reason} ({lines[-1].strip()})" if lines else reason
