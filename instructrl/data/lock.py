"""A folder in which only one process works at a time."""

import errno
import fcntl
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from instructrl.data.storage import Place, lock_folder
from instructrl.errors import InputError
from instructrl.interruption import LOOK, stop_if_asked

UNKNOWN = (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP)  # how a disk says that it has no locks


@contextmanager
def only_process(
    folder: Place,
    *,
    does: str,
    remedy: str | None,
    elsewhere: str = "choose another data.dir",
    who: Callable[[], object] = lambda: None,
) -> Iterator[None]:
    """Hold the folder, created if need be, against other processes; one that dies lets go.

    A folder in a bucket is held against the processes of this machine only, and one on a disk without locks not at all.
    `who` tells the holder's name, if it is known.

    Without a `remedy` it waits for the other process, after a line that says what that one `does`.

    Raises:
        InputError: another process holds it, and `remedy` says what to do; or the folder cannot be
            written, and `elsewhere` says how to name another. InterruptedRun: it was to end while it waited.
    """
    try:
        agreed = lock_folder(folder)
        agreed.mkdir(parents=True, exist_ok=True)
        handle = os.open(agreed / ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    except OSError as error:
        raise InputError(f"{folder}: cannot be written ({error.strerror}); free space there or {elsewhere}") from None
    try:
        if not taken(handle):
            name = who()
            holder = "another process" if name is None else f"another process ({name})"
            if remedy is not None:
                raise InputError(f"{folder}: {holder} {does} here; wait for it or {remedy}")
            print(f"{folder}: {holder} {does} here; waiting for it", flush=True)
            while not taken(handle):
                stop_if_asked()
                time.sleep(LOOK)
        yield
    finally:
        os.close(handle)


def taken(handle: int) -> bool:
    """Whether the lock is ours now, as far as the disk has locks."""
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno not in UNKNOWN:
            raise
    return True
