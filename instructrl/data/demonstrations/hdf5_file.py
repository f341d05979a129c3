"""File-like driver under a `Writer` that survives a full file system.

HDF5 corrupts the process's memory when a write fails (seen with HDF5 2.0: a segmentation fault instead of an error). So
it writes through this object, which stores the first error for the Writer to raise and then discards all writes.
"""

import os
from pathlib import Path


class Hdf5FileDriver:
    """File-like object on a new file, as h5py requires it. `error` is the first error of a write."""

    def __init__(self, path: Path) -> None:
        self._handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o666)
        self._position = self._end = 0
        self.error: OSError | None = None

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Set the position of the next read or write."""
        origin = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self._end}[whence]
        self._position = origin + offset
        return self._position

    def tell(self) -> int:
        """Return the position of the next read or write."""
        return self._position

    def readinto(self, buffer: memoryview) -> int:
        """Fill the buffer; bytes that were never written are zero."""
        view = memoryview(buffer).cast("B")
        found = os.preadv(self._handle, [view], self._position)
        view[found:] = bytes(len(view) - found)
        self._position += len(view)
        return len(view)

    def read(self, size: int) -> bytes:
        """Return the next bytes; h5py requires this method."""
        buffer = bytearray(size)
        self.readinto(memoryview(buffer))
        return bytes(buffer)

    def write(self, buffer: memoryview) -> int:
        """Write all of the buffer, or store the error."""
        view = memoryview(buffer).cast("B")
        try:
            written = 0
            while self.error is None and written < len(view):
                written += os.pwrite(self._handle, view[written:], self._position + written)
        except OSError as error:
            self.error = error
        self._position += len(view)
        self._end = max(self._end, self._position)
        return len(view)

    def truncate(self, size: int) -> int:
        """Resize the file, or store the error."""
        try:
            if self.error is None:
                os.ftruncate(self._handle, size)
        except OSError as error:
            self.error = error
        self._end = size
        return size

    def flush(self) -> None:
        """Do nothing: writes are not buffered."""

    def sync(self) -> None:
        """Sync the file to disk, or store the error."""
        try:
            if self.error is None:
                os.fsync(self._handle)
        except OSError as error:
            self.error = error

    def close(self) -> None:
        """Close the file."""
        os.close(self._handle)
