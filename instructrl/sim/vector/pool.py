"""Pool of environments in worker processes: parallel calls with timeouts, restarts and replay."""

import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from multiprocessing.connection import wait
from typing import Any

from instructrl.errors import SimulatorError
from instructrl.preemption import POLL_INTERVAL, raise_if_preempted
from instructrl.sim.vector.interpreter import check_interpreter
from instructrl.sim.vector.process import Request, Worker, WorkerLostError

_ATTEMPTS = 2
_CLOSE_SECONDS = 3.0
_STATEFUL_CALLS = ("reset", "step")  # calls that determine an environment's state; the first one starts an episode


@dataclass(frozen=True)
class WorkerFailure:
    """Result of a call that failed, and failed again in a new process."""

    reason: str


@dataclass
class _Slot:
    """A worker and its current call."""

    worker: Worker
    index: int = -1  # of the current call in the caller's order
    request: Request = ("", ())
    attempt: int = 0
    replay: list[Request] = field(default_factory=list)  # calls to repeat before the request, after a restart
    history: list[Request] = field(default_factory=list)  # calls of the current episode


def worker_count(requested: int | None) -> int:
    """The requested number of processes, or one per available core."""
    if requested is not None:
        return requested
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class Workers:
    """Context manager for `count` processes, each with one environment created by `factory()` (picklable).

    A worker that crashes, hangs or raises is replaced and its call repeated once; after that the result is a
    `WorkerFailure`. A process that does not start is started once more. An InputError in a worker is raised in the
    parent, a RunError as a SimulatorError.
    """

    def __init__(
        self,
        factory: Callable[[], Any],
        count: int,
        *,
        timeout: float,
        start_timeout: float = 120.0,
        python: str | None = None,
    ):
        """Start all processes.

        Args:
            factory: makes the environment of a process.
            count: number of processes.
            timeout: maximum seconds of a call.
            start_timeout: maximum seconds of a start.
            python: interpreter of the processes (see interpreter.py); None: this one.

        Raises:
            SimulatorError: a process cannot start.
            InputError: the interpreter cannot be used, or the factory rejects its settings.
        """
        if python is not None:
            check_interpreter(python)
        self._python = python
        self._factory, self._timeout, self._start_timeout = factory, timeout, start_timeout
        self._slots: list[_Slot] = []
        try:
            for _ in range(count):
                self._slots.append(_Slot(self._launch()))
            for slot in self._slots:
                self._await_ready(slot)
        except BaseException:
            self.kill()
            raise

    def __len__(self) -> int:
        return len(self._slots)

    def __enter__(self) -> "Workers":
        return self

    def __exit__(self, kind: type | None, *_: object) -> None:
        if kind is None:
            self.close()
        else:
            self.kill()

    def close(self) -> None:
        """Close all environments, then their processes."""
        for slot in self._slots:
            slot.worker.stop()
        end = time.monotonic() + _CLOSE_SECONDS
        for slot in self._slots:
            slot.worker.join(end - time.monotonic())
        self.kill()

    def kill(self) -> None:
        """Kill all processes."""
        for slot in self._slots:
            slot.worker.kill()
        self._slots = []

    def ask(self, name: str, *arguments: Any, failure: str = "the simulator cannot be used: {}") -> Any:
        """Call a method of the first worker's environment, or read an attribute.

        Args:
            name: of the method or attribute.
            arguments: of the method.
            failure: the message if the worker fails, with a place for the reason.

        Raises:
            SimulatorError: the worker fails.
        """
        answer = self.call({0: (name, arguments)})[0]
        if isinstance(answer, WorkerFailure):
            raise SimulatorError(failure.format(answer.reason))
        return answer

    def map(self, method: str, arguments: Iterable[tuple], *, ahead: bool = False) -> Iterator[tuple[int, Any]]:
        """Call the method once per tuple of arguments, on whichever worker is free.

        Yields (index, result or WorkerFailure) as they complete. Each worker has at most one call in flight, so a slow
        consumer applies backpressure; `arguments` may be infinite.

        Args:
            method: of the environments.
            arguments: of each call.
            ahead: begin a worker's next call before its result is yielded, so that it works while the result is used.
                Without it, the next arguments may depend on the results so far.
        """
        pending = enumerate(arguments)
        free, busy, done = list(range(len(self._slots))), list[int](), list[tuple[int, Any]]()
        while True:
            while free and (piece := next(pending, None)) is not None:
                index, values = piece
                self._slots[free[-1]].history.clear()  # ends the worker's current episode
                self._submit(free[-1], (method, values), index=index)
                busy.append(free.pop())
            yield from done
            if not busy:
                return
            done = []
            for number, result in self._collect(busy):
                busy.remove(number)
                free.append(number)
                done.append((self._slots[number].index, result))
            if not ahead:
                yield from done
                done = []

    def call(self, requests: Mapping[int, Request]) -> dict[int, Any]:
        """Make one call on each given worker in parallel: {slot: (method, arguments)} -> {slot: result}.

        An environment lost during an episode is restored by repeating its calls since `reset`.
        """
        for number, request in requests.items():
            if request[0] == _STATEFUL_CALLS[0]:
                self._slots[number].history.clear()
            self._submit(number, request, index=number)
        results: dict[int, Any] = {}
        while len(results) < len(requests):
            for number, result in self._collect([number for number in requests if number not in results]):
                results[number] = result
                if requests[number][0] in _STATEFUL_CALLS and not isinstance(result, WorkerFailure):
                    history = self._slots[number].history
                    history.append(requests[number])
                    if getattr(result, "scene", None) is not None:  # restores what the start alone does not
                        history[0] = (_STATEFUL_CALLS[0], (result.scene,))
        return {number: results[number] for number in requests}

    def _launch(self) -> Worker:
        return Worker(self._factory, start_timeout=self._start_timeout, python=self._python)

    def _await_ready(self, slot: _Slot) -> None:
        """Wait for a launched process; relaunch it if it does not start."""
        for _ in range(_ATTEMPTS - 1):
            try:
                return slot.worker.await_ready()
            except SimulatorError:
                slot.worker.kill()
                slot.worker = self._launch()
        return slot.worker.await_ready()

    def _submit(self, number: int, request: Request, *, index: int) -> None:
        slot = self._slots[number]
        slot.request, slot.index, slot.attempt, slot.replay = request, index, 1, []
        slot.worker.send(request, timeout=self._timeout)

    def _collect(self, numbers: list[int]) -> list[tuple[int, Any]]:
        """Wait for an event on these workers; return the results of completed calls."""
        slots = {number: self._slots[number] for number in numbers}
        raise_if_preempted()
        patience = min(POLL_INTERVAL, *(slot.worker.patience() for slot in slots.values()))
        ready = wait([slot.worker.connection for slot in slots.values()], timeout=patience)
        done: list[tuple[int, Any]] = []
        for number, slot in slots.items():
            try:
                if slot.worker.connection in ready:
                    reply = slot.worker.receive()
                else:
                    slot.worker.check_alive()
                    reply = None
            except WorkerLostError as lost:
                done += [(number, failure) for failure in self._replace(slot, str(lost))]
                continue
            if reply is None:
                continue
            if slot.replay:
                slot.replay.pop(0)
                slot.worker.send((slot.replay or [slot.request])[0], timeout=self._timeout)
            else:
                done.append((number, reply.value))
        return done

    def _replace(self, slot: _Slot, reason: str) -> list[WorkerFailure]:
        """Replace a lost process and retry the call, or fail the call after the last attempt."""
        slot.worker.kill()
        slot.worker = self._launch()
        self._await_ready(slot)
        if slot.attempt >= _ATTEMPTS:
            slot.history.clear()
            return [WorkerFailure(f"its process failed {_ATTEMPTS} times: {reason}")]
        slot.attempt, slot.replay = slot.attempt + 1, list(slot.history)
        slot.worker.send((slot.replay or [slot.request])[0], timeout=self._timeout)
        return []
