"""A folder in which only one process works at a time."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from instructrl.data.writer import unwritable
from instructrl.errors import InputError


@contextmanager
def only_process(folder: Path, *, does: str, remedy: str) -> Iterator[None]:
    """Hold the folder, created if need be, against other processes; one that dies lets go.

    Raises:
        InputError: another process holds it (it says what that one `does`), or the folder cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        handle = os.open(folder / ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    except OSError as error:
        raise unwritable(folder, error) from None
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise InputError(f"{folder}: another process {does} here; wait for it or {remedy}") from None
        yield
    finally:
        os.close(handle)
