"""Many environments, each in a process of its own: parallel calls with time-outs, restarts and replay."""

import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from multiprocessing.connection import wait
from typing import Any

from instructrl.errors import SimulatorError
from instructrl.interruption import LOOK, stop_if_asked
from instructrl.sim.worker import Request, Worker, WorkerLostError

_ATTEMPTS = 2
_CLOSE_SECONDS = 3.0
_EPISODE = ("reset", "step")  # the calls that make an environment's state; the first begins anew


@dataclass(frozen=True)
class WorkerFailure:
    """In place of a result: the call failed, and failed again in a fresh process."""

    reason: str


@dataclass
class _Slot:
    """A place for a worker, and the call that it is working on."""

    worker: Worker
    index: int = -1  # which of the caller's pieces of work this is
    request: Request = ("", ())
    attempt: int = 0
    replay: list[Request] = field(default_factory=list)  # still to be repeated before the request, after a restart
    history: list[Request] = field(default_factory=list)  # of the episode under way


def worker_count(wanted: int | None) -> int:
    """How many processes: as asked, or one per core that we may use."""
    if wanted is not None:
        return wanted
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class Workers:
    """`count` processes that each hold one environment, made there by `recipe()` (anything picklable).

    A worker that dies, hangs or raises is replaced and its call made once more; after that the result is a
    `WorkerFailure`. A process that does not start is started once more. An InputError in a worker is raised here, a
    RunError there as a SimulatorError. A context manager.
    """

    def __init__(self, recipe: Callable[[], Any], count: int, *, timeout: float, start_timeout: float = 120.0):
        """Start all processes. `timeout`: seconds that one call may take; `start_timeout`: that a start may take.

        Raises:
            SimulatorError: a process cannot start. InputError: the recipe refuses its settings.
        """
        self._recipe, self._timeout, self._start_timeout = recipe, timeout, start_timeout
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
        """Let every environment close, then end its process."""
        for slot in self._slots:
            slot.worker.stop()
        end = time.monotonic() + _CLOSE_SECONDS
        for slot in self._slots:
            slot.worker.join(end - time.monotonic())
        self.kill()

    def kill(self) -> None:
        """End all processes at once."""
        for slot in self._slots:
            slot.worker.kill()
        self._slots = []

    def map(self, method: str, arguments: Iterable[tuple]) -> Iterator[tuple[int, Any]]:
        """Call the method once for each tuple of arguments, on whichever worker is free.

        Yields (index, result or WorkerFailure) as they complete. At most one call per worker is under way, so a slow
        consumer holds the work back; `arguments` may be endless.
        """
        todo = enumerate(arguments)
        free, busy = list(range(len(self._slots))), list[int]()
        while True:
            while free and (piece := next(todo, None)) is not None:
                index, given = piece
                self._slots[free[-1]].history.clear()  # an episode that was under way there is over
                self._submit(free[-1], (method, given), index=index)
                busy.append(free.pop())
            if not busy:
                return
            for number, result in self._collect(busy):
                busy.remove(number)
                free.append(number)
                yield self._slots[number].index, result

    def call(self, requests: Mapping[int, Request]) -> dict[int, Any]:
        """Make one call on each of the workers named, all at once: {slot: (method, arguments)} -> {slot: result}.

        An environment lost in the middle of an episode is brought back by repeating its calls since `reset`.
        """
        for number, request in requests.items():
            if request[0] == _EPISODE[0]:
                self._slots[number].history.clear()
            self._submit(number, request, index=number)
        results: dict[int, Any] = {}
        while len(results) < len(requests):
            for number, result in self._collect([number for number in requests if number not in results]):
                results[number] = result
                if requests[number][0] in _EPISODE and not isinstance(result, WorkerFailure):
                    self._slots[number].history.append(requests[number])
        return {number: results[number] for number in requests}

    def _launch(self) -> Worker:
        return Worker(self._recipe, start_timeout=self._start_timeout)

    def _await_ready(self, slot: _Slot) -> None:
        """Wait for a process that was launched; one that does not start is launched again."""
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
        """Wait until something happens on these workers; the results of the calls that are done."""
        slots = {number: self._slots[number] for number in numbers}
        stop_if_asked()
        patience = min(LOOK, *(slot.worker.patience() for slot in slots.values()))
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
        """Start a process in place of a lost one and try the call again; or give the call up, and say so."""
        slot.worker.kill()
        slot.worker = self._launch()
        self._await_ready(slot)
        if slot.attempt >= _ATTEMPTS:
            slot.history.clear()
            return [WorkerFailure(f"a simulator process failed {_ATTEMPTS} times: {reason}")]
        slot.attempt, slot.replay = slot.attempt + 1, list(slot.history)
        slot.worker.send((slot.replay or [slot.request])[0], timeout=self._timeout)
        return []
