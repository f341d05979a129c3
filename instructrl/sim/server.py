"""What runs in a worker process: one environment, made from a recipe, that answers calls until told to stop."""

import ctypes
import os
import signal
import sys
import threading
import time
from multiprocessing.connection import Connection
from typing import Any, NamedTuple

from instructrl.errors import InputError, RunError
from instructrl.interruption import SIGNALS


class Reply(NamedTuple):
    """The answer to one call. `kind`: "value", "expected" (InputError, RunError) or "unexpected" (other exceptions)."""

    number: int
    kind: str
    value: Any


def serve(descriptor: int, parent: int, *, at_once: bool) -> None:
    """Answer calls from the socket until it closes. Never outlives the parent, which alone heeds signals to end."""
    for one in (signal.SIGINT, *SIGNALS):
        signal.signal(one, signal.SIG_IGN)
    _follow_into_death(parent, at_once=at_once)
    with Connection(descriptor) as connection:
        try:
            environment = _reply(connection, 0, lambda: connection.recv()(), answer=False)
            if environment is None:
                return
            while True:
                request = connection.recv()
                if request is None:
                    break
                number, name, arguments = request
                _reply(connection, number, lambda name=name, given=arguments: _use(environment, name, given))
            getattr(environment, "close", lambda: None)()
        except (EOFError, BrokenPipeError, ConnectionResetError):
            return


def _use(environment: Any, name: str, arguments: tuple) -> Any:
    """Call a method, or read an attribute."""
    found = getattr(environment, name)
    return found(*arguments) if callable(found) else found


def _reply(connection: Connection, number: int, work: Any, *, answer: bool = True) -> Any:
    """Do the work and send what came of it (without the value, if it is not for sending); None after an error."""
    try:
        value = work()
        connection.send(Reply(number, "value", value if answer else None))
        return value
    except (EOFError, BrokenPipeError, ConnectionResetError):
        raise
    except (InputError, RunError) as error:
        connection.send(Reply(number, "expected", (type(error), str(error))))
    except Exception as error:  # whatever a simulator may raise: the parent decides
        connection.send(Reply(number, "unexpected", f"{type(error).__name__}: {error}"))
    return None


def _follow_into_death(parent: int, *, at_once: bool) -> None:
    """Exit when the parent is gone, however it went.

    Linux can do it at once, but counts the death of the thread that started us, so only where that was the main one.
    """
    if at_once and sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.5)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
