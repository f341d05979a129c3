"""Being asked to end: SIGTERM, as clusters send it, and SIGUSR2, which SLURM can send some time before its limit.

A signal only leaves a note. What works for long looks for it at moments at which nothing would be lost: so no library
is torn out of its work, and no file is half written.
"""

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from instructrl.errors import InterruptedRun

SIGNALS = (signal.SIGTERM, signal.SIGUSR2)
LOOK = 0.5  # seconds: nobody who waits for something should wait longer without looking
_asked: list[signal.Signals] = []


@contextmanager
def heeded_signals() -> Iterator[None]:
    """Take note of the signals, in the main thread; what was asked counts until the outermost of these blocks ends."""
    nested = signal.getsignal(signal.SIGTERM) is _take_note
    if nested or threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {one: signal.signal(one, _take_note) for one in SIGNALS}
    try:
        yield
    finally:
        _asked.clear()
        for one, handler in before.items():
            signal.signal(one, signal.SIG_DFL if handler is None else handler)


def _take_note(number: int, frame: FrameType | None) -> None:
    _asked.append(signal.Signals(number))
    if number != signal.SIGTERM and agrees():  # one that comes here came before jax listened
        pass_on()


def agrees() -> bool:
    """Whether jax listens to SIGTERM, so that several processes can agree on the step at which they end."""
    distributed = getattr(sys.modules.get("jax"), "distributed", None)  # a signal may come in the midst of the import
    return distributed is not None and distributed.is_initialized()


def pass_on() -> None:
    """Tell jax, and through it all processes, what this one was asked."""
    if _asked:
        _asked.clear()
        os.kill(os.getpid(), signal.SIGTERM)


def asked() -> str | None:
    """The signal by which this process alone was asked to end."""
    return _asked[0].name if _asked else None


def stop_if_asked() -> None:
    """End here if this process was asked to; of several processes none ends before the others.

    Raises:
        InterruptedRun: it was.
    """
    if _asked and not agrees():
        raise InterruptedRun(f"by {_asked[0].name}")
