"""A folder in which only one process works at a time."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager

from instructrl.data.storage import Place, lock_folder
from instructrl.errors import InputError


@contextmanager
def only_process(
    folder: Place, *, does: str, remedy: str | None, elsewhere: str = "choose another data.dir"
) -> Iterator[None]:
    """Hold the folder, created if need be, against other processes; one that dies lets go.

    A folder in a bucket is held against the processes of this machine only.

    Without a `remedy` it waits for the other process, after a line that says what that one `does`.

    Raises:
        InputError: another process holds it, and `remedy` says what to do; or the folder cannot be
            written, and `elsewhere` says how to name another.
    """
    try:
        agreed = lock_folder(folder)
        agreed.mkdir(parents=True, exist_ok=True)
        handle = os.open(agreed / ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    except OSError as error:
        raise InputError(f"{folder}: cannot be written ({error.strerror}); free space there or {elsewhere}") from None
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if remedy is not None:
                raise InputError(f"{folder}: another process {does} here; wait for it or {remedy}") from None
            print(f"{folder}: another process {does} here; waiting for it", flush=True)
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)
