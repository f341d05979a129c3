"""Preemption signals: SIGTERM, as clusters send it, and SIGUSR2, which SLURM can send some time before the time limit.

The handler only sets a flag; long-running loops poll it at safe points, so that no library is interrupted in the middle
of a call and no file is left half written. A command that has not begun its work has written nothing, and stops at
once.
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
POLL_INTERVAL = 0.5  # seconds; the longest that a waiting loop may go without polling
_pending: list[signal.Signals] = []
_stop_at_once = False


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
    try:
        yield
    finally:
        _stop_at_once = False
        _pending.clear()
        for one, handler in before.items():
            signal.signal(one, signal.SIG_DFL if handler is None else handler)


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
    """
    if _pending and not jax_syncs_preemption():
        raise InterruptedRun(f"by {_pending[0].name}")
