"""Exclusive use of a folder by one process of this machine, through a file lock."""

import errno
import fcntl
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import BaseFileLock, FileLock, Timeout

from instructrl.errors import InputError
from instructrl.preemption import POLL_INTERVAL, sleep
from instructrl.storage.paths import StoragePath, lock_folder

NO_LOCKING = (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP)  # of file systems without locks


@contextmanager
def exclusive_lock(
    folder: StoragePath,
    *,
    activity: str,
    busy_hint: str | None,
    write_hint: str = "choose another data.dir",
    holder: Callable[[], object] = lambda: None,
) -> Iterator[None]:
    """Lock the folder (created if missing) against other processes; the lock of a process that dies is released.

    This excludes only processes of this machine if the folder is in a bucket, and none on a file system without locks.

    Args:
        folder: the folder to lock.
        activity: what the process does there, third person ("trains"), for messages of other processes.
        busy_hint: next action in the error if the lock is held; None: print a line and wait for the lock.
        write_hint: next action in the error if the folder cannot be written.
        holder: returns the name of the process that holds the lock, or None if unknown.

    Raises:
        InputError: another process holds the lock and there is a `busy_hint`, or the folder cannot be written.
        InterruptedRun: the process was preempted while it waited.
    """
    try:
        locked_folder = lock_folder(folder)
        locked_folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(locked_folder / ".lock", fallback_to_soft=False)
        free = try_lock(lock)
    except OSError as error:
        raise InputError(f"{folder}: cannot be written ({error.strerror}); free space there or {write_hint}") from None
    try:
        if not free:
            name = holder()
            other = "another process" if name is None else f"another process ({name})"
            if busy_hint is not None:
                raise InputError(f"{folder}: {other} {activity} here; wait for it or {busy_hint}")
            print(f"{folder}: {other} {activity} here; waiting for it", flush=True)
            while not try_lock(lock):
                sleep(POLL_INTERVAL)
        yield
    finally:
        lock.release()


@contextmanager
def shared_lock(folder: StoragePath) -> Iterator[None]:
    """Lock the folder (created if missing) against `exclusive_lock`, beside other processes with this lock.

    Waits for a process that holds the exclusive one. The limits are those of `exclusive_lock`.

    Raises:
        InputError: the folder cannot be written.
        InterruptedRun: the process was preempted while it waited.
    """
    try:
        locked_folder = lock_folder(folder)
        locked_folder.mkdir(parents=True, exist_ok=True)
        file = (locked_folder / ".lock").open("ab+")
    except OSError as error:
        raise InputError(
            f"{folder}: cannot be written ({error.strerror}); free space there or choose another data.dir"
        ) from None
    with file:
        if not try_share(file.fileno()):
            print(f"{folder}: another process works here; waiting for it", flush=True)
            while not try_share(file.fileno()):
                sleep(POLL_INTERVAL)
        yield


def try_share(descriptor: int) -> bool:
    """Return True if the open file is locked beside others that share it, or the file system has no locking."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno not in NO_LOCKING:
            raise
    return True


def try_lock(lock: BaseFileLock) -> bool:
    """Return True if the lock was acquired, or the file system has no locking."""
    try:
        lock.acquire(blocking=False)
    except Timeout:
        return False
    except OSError as error:
        if error.errno not in NO_LOCKING:
            raise
    return True


def is_locked(folder: Path) -> bool:
    """Return True while a process holds the lock of a local folder, which may be another user's; nothing is written."""
    try:
        with (folder / ".lock").open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:  # never locked, or a file system without locks
        return False
    return False
