"""Main loop of a worker process: creates one environment from a factory and answers calls until asked to stop."""

import ctypes
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any, NamedTuple, cast

from instructrl.errors import InputError, RunError, summarize
from instructrl.preemption import SIGNALS
from instructrl.sim.vector.interpreter import missing_package


class Reply(NamedTuple):
    """Reply to one call. `kind`: "value", "expected" (InputError, RunError) or "unexpected" (other exceptions)."""

    number: int
    kind: str
    value: Any


def serve(descriptor: int, parent: int, *, use_prctl: bool) -> None:
    """Answer calls from the socket until it closes.

    Termination signals are ignored, since only the parent handles them; the process never outlives the parent.
    """
    for signal_number in (signal.SIGINT, *SIGNALS):
        signal.signal(signal_number, signal.SIG_IGN)
    _exit_with_parent(parent, use_prctl=use_prctl)
    with Connection(descriptor) as connection:
        try:
            environment = _reply(connection, 0, lambda: _received_factory(connection)(), send_value=False)
            if environment is None:
                return
            while True:
                request = connection.recv()
                if request is None:
                    break
                number, name, arguments = request
                _reply(connection, number, lambda name=name, values=arguments: _use(environment, name, values))
            getattr(environment, "close", lambda: None)()
        except (EOFError, BrokenPipeError, ConnectionResetError):
            return


def _received_factory(connection: Connection) -> Callable[[], Any]:
    """The factory of the environment, whose modules this interpreter must have."""
    try:
        return cast(Callable[[], Any], connection.recv())
    except ImportError as error:
        raise missing_package(error) from None


def _use(environment: Any, name: str, arguments: tuple) -> Any:
    """Call a method or read an attribute."""
    attribute = getattr(environment, name)
    return attribute(*arguments) if callable(attribute) else attribute


def _reply(connection: Connection, number: int, work: Any, *, send_value: bool = True) -> Any:
    """Do the work and send its result (without the value, if `send_value` is false); return None after an error."""
    try:
        value = work()
        connection.send(Reply(number, "value", value if send_value else None))
        return value
    except (EOFError, BrokenPipeError, ConnectionResetError):
        raise
    except (InputError, RunError) as error:
        connection.send(Reply(number, "expected", (type(error), str(error))))
    except Exception as error:  # a simulator may raise anything; the parent decides
        connection.send(Reply(number, "unexpected", summarize(error)))
    return None


def _exit_with_parent(parent: int, *, use_prctl: bool) -> None:
    """Exit when the parent has exited, for whatever reason.

    Linux can signal it immediately, but on the exit of the thread that started this process. So prctl is used only if
    that was the main thread.
    """
    if use_prctl and sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.5)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
