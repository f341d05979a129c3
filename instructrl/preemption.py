"""Preemption signals: SIGTERM, as clusters send it, and SIGUSR2, which SLURM can send some time before the time limit.

The handler only sets a flag; long-running loops poll it at safe points, so that no library is interrupted in the middle
of a call and no file is left half written. A command that has not begun its work has written nothing, and stops at
once. Compilation is a call that may take minutes in which Python handles no signal, not even ctrl-C: a thread says so
at once, and ends the process when the grace period is nearly over. Nothing is lost by that which a killed process would
not keep: files are written atomically, and the same command resumes.
"""

import os
import select
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

from instructrl.errors import InterruptedRun

SIGNALS = (signal.SIGTERM, signal.SIGUSR2)
POLL_INTERVAL = 0.5  # seconds; the longest that a waiting loop may go without polling
COMPILATION_GRACE = 15.0  # seconds for a compilation to end; clusters kill about 30 after the signal
COMPILERS = ("jax._src.compiler", "jax._src.pjit", "jax._src.interpreters.pxla")  # modules that trace and compile
SHORT_COMPILATION = 1.0  # seconds; such ones occur while a run saves, and are let end
COMPILATION_POLL = 0.1  # seconds between looks at whether it has ended, once a signal has come
_exit: Callable[[int], Any] = os._exit  # ends this process, and those that compute with it
_pending: list[signal.Signals] = []
_stop_at_once = False
_deferred_interrupt = threading.Event()  # set by a ctrl-C during a compilation


@contextmanager
def handle_signals(*, working: bool = True) -> Iterator[None]:
    """Install the signal handlers, in the main thread; the flag is cleared when the outermost context ends.

    Args:
        working: False: nothing is written until a nested context begins the work, and a signal raises `InterruptedRun`
            wherever it arrives: the settings of many jobs take minutes to compose.
    """
    global _stop_at_once
    nested = signal.getsignal(signal.SIGTERM) is _on_signal
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    _stop_at_once = not working
    if nested:
        yield
        return
    before = {one: signal.signal(one, _on_signal) for one in SIGNALS}
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # ignored by jobs in the background
        before[signal.SIGINT] = signal.signal(signal.SIGINT, _on_interrupt)
    try:
        with _watch_compilation():
            yield
        raise_if_interrupted()
    finally:
        _stop_at_once = False
        _pending.clear()
        _deferred_interrupt.clear()
        for one, handler in before.items():
            signal.signal(one, signal.SIG_DFL if handler is None else handler)


@contextmanager
def _watch_compilation() -> Iterator[None]:
    """Watch for signals that arrive while the main thread compiles, in a thread that gets their numbers by a pipe."""
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    before = signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    watcher = threading.Thread(target=_answer_signals, args=(reader,), name="compilation watch", daemon=True)
    watcher.start()
    try:
        yield
    finally:
        signal.set_wakeup_fd(before)
        os.close(writer)
        watcher.join()
        os.close(reader)


# A forked process has a copy of the pipe, and is not watched.
os.register_at_fork(
    after_in_child=lambda: signal.set_wakeup_fd(-1) if threading.current_thread() is threading.main_thread() else None
)


def _answer_signals(reader: int) -> None:
    """Answer each signal that arrives before or during a compilation, until the pipe is closed."""
    number: signal.Signals | None = None  # the first signal, unless Python's handler has answered it
    deadline: float | None = None  # of compilations, from the first one that delays the answer
    begun: float | None = None  # when the current one was first seen
    while True:
        if select.select([reader], [], [], None if number is None else COMPILATION_POLL)[0]:
            received = os.read(reader, 1)
            if not received:
                return
            if received[0] == signal.SIGINT and begun is not None:  # ctrl-C again
                _end_process(signal.SIGINT)
            if number is None and (received[0] in SIGNALS or (received[0] == signal.SIGINT and is_compiling())):
                number = signal.Signals(received[0])
        if number is None:
            continue
        now = time.monotonic()
        if not is_compiling():
            begun = None
            if number == signal.SIGINT:
                number = deadline = None
            _send_deferred_interrupt()
            continue
        begun = begun or now
        if deadline is None:
            deadline = now + COMPILATION_GRACE
            name = "ctrl-C" if number == signal.SIGINT else number.name
            print(f"{name}: stopping after compilation, or in {COMPILATION_GRACE:.0f} s", file=sys.stderr, flush=True)
        elif now > deadline and now > begun + SHORT_COMPILATION:
            _end_process(number)


def _on_interrupt(number: int, frame: FrameType | None) -> None:
    """Raise KeyboardInterrupt; within a compilation, which that would crash, leave it for its end."""
    if _in_compiler(frame):
        _deferred_interrupt.set()
    else:
        signal.default_int_handler(number, frame)


def _send_deferred_interrupt() -> None:
    """Repeat a ctrl-C that arrived during a compilation."""
    if _deferred_interrupt.is_set():
        _deferred_interrupt.clear()
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)


@contextmanager
def defer_signals() -> Iterator[None]:
    """Answer a ctrl-C or a preemption signal that arrives within the context at its end; also a decorator.

    For libraries that lose an exception of the handler or turn it into another one: OmegaConf fails when it restores
    what it has half changed, and HDF5 calls the driver of a file from C.
    """
    numbers = (signal.SIGINT, *SIGNALS) if threading.current_thread() is threading.main_thread() else ()
    handlers = {number: signal.getsignal(number) for number in numbers}
    received: list[tuple[int, FrameType | None]] = []
    deferred = {number: handler for number, handler in handlers.items() if callable(handler)}
    for number in deferred:
        signal.signal(number, lambda *signalled: received.append(signalled))
    try:
        yield
    finally:
        for number, handler in deferred.items():
            signal.signal(number, handler)
        for answered, frame in received:
            deferred[signal.Signals(answered)](answered, frame)


def is_compiling() -> bool:
    """Return True if the main thread traces or compiles a function with jax."""
    return _in_compiler(sys._current_frames().get(threading.main_thread().ident or 0))


def _in_compiler(frame: FrameType | None) -> bool:
    """Return True for a frame within a function that traces or compiles."""
    while frame is not None:
        if frame.f_globals.get("__name__") in COMPILERS:
            return True
        frame = frame.f_back
    return False


@contextmanager
def exit_by(exit: Callable[[int], Any]) -> Iterator[None]:
    """Within the context, a compilation that does not end in time is ended by `exit`, which gets the exit code."""
    global _exit
    before, _exit = _exit, exit
    try:
        yield
    finally:
        _exit = before


def _end_process(number: signal.Signals) -> None:
    """End the process with the line and the exit code of an interruption."""
    by = "" if number == signal.SIGINT else f" by {number.name}"
    print(f"interrupted{by} while compiling: the same command resumes", file=sys.stderr, flush=True)
    sys.stdout.flush()
    _exit(130 if number == signal.SIGINT else InterruptedRun.exit_code)


def _on_signal(number: int, frame: FrameType | None) -> None:
    _pending.append(signal.Signals(number))
    if _stop_at_once:
        raise InterruptedRun(f"by {_pending[0].name}")
    if number != signal.SIGTERM and jax_syncs_preemption():  # jax handles later SIGTERMs itself
        forward_to_jax()


def jax_syncs_preemption() -> bool:
    """Return True if jax handles SIGTERM, so that several processes can agree on the step at which they stop."""
    distributed = getattr(sys.modules.get("jax"), "distributed", None)  # a signal may arrive during the import
    return distributed is not None and distributed.is_initialized()


def forward_to_jax() -> None:
    """Forward a pending signal to jax, and thereby to all processes."""
    if _pending:
        _pending.clear()
        os.kill(os.getpid(), signal.SIGTERM)


def pending_signal() -> str | None:
    """Return the name of the signal that this process received, if it is not forwarded to jax."""
    return _pending[0].name if _pending else None


def raise_if_preempted() -> None:
    """Stop here if this process was preempted; with several processes, none stops before the others.

    Raises:
        InterruptedRun: a signal is pending.
        KeyboardInterrupt: ctrl-C came during a compilation.
    """
    raise_if_interrupted()
    if _pending and not jax_syncs_preemption():
        raise InterruptedRun(f"by {_pending[0].name}")


def sleep(seconds: float) -> None:
    """Wait, but answer a signal at once, as `raise_if_preempted` does."""
    end = time.monotonic() + seconds
    raise_if_preempted()
    while (left := end - time.monotonic()) > 0:
        time.sleep(min(left, POLL_INTERVAL))
        raise_if_preempted()


def raise_if_interrupted() -> None:
    """Raise KeyboardInterrupt if ctrl-C came during a compilation that has ended."""
    if _deferred_interrupt.is_set():
        _deferred_interrupt.clear()
        raise KeyboardInterrupt
