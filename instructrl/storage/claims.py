"""Claims of processes on parts of a common work, as locks on ranges of one file.

A claim ends with its process, however that dies, so that another one can take over. POSIX locks do that across hosts
too, on file systems that pass them on (NFS, Lustre mounted with `flock`). Without locks every claim succeeds.
"""

import fcntl
from pathlib import Path
from types import TracebackType
from typing import Self

from instructrl.storage.file_lock import NO_LOCKING


class Claims:
    """Claims of this process on ranges of numbers; all end when the file is closed.

    Threads of one process do not exclude each other.
    """

    def __init__(self, path: Path) -> None:
        """Open the file, which stays empty; created if missing.

        Raises:
            OSError: the folder cannot be written.
        """
        self._file = path.open("ab")

    def take(self, begin: int, end: int) -> bool:
        """Claim the numbers from `begin` to `end` (excluded); False if another process has claimed any of them."""
        try:
            fcntl.lockf(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB, end - begin, begin)
        except (BlockingIOError, PermissionError):  # POSIX allows either
            return False
        except OSError as error:
            if error.errno not in NO_LOCKING:
                raise
        return True

    def release(self, begin: int, end: int) -> None:
        """End a claim."""
        try:
            fcntl.lockf(self._file, fcntl.LOCK_UN, end - begin, begin)
        except OSError as error:
            if error.errno not in NO_LOCKING:
                raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()
