"""The file under a Writer, for disks that fill up.

HDF5 corrupts the process's memory when a write fails (seen with HDF5 2.0: a segmentation fault in place of an
error). So it writes through this object, which keeps the first error for the Writer to raise and from
then on only pretends to write.
"""

import os
from pathlib import Path


class Sink:
    """What h5py asks of a file-like object, on a new file. `error` is the first thing that went wrong."""

    def __init__(self, path: Path) -> None:
        self._handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o666)
        self._place = self._end = 0
        self.error: OSError | None = None

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Move the place of the next read or write."""
        origin = {os.SEEK_SET: 0, os.SEEK_CUR: self._place, os.SEEK_END: self._end}[whence]
        self._place = origin + offset
        return self._place

    def tell(self) -> int:
        """The place of the next read or write."""
        return self._place

    def readinto(self, buffer: memoryview) -> int:
        """Fill the buffer, with zeros where nothing was written."""
        view = memoryview(buffer).cast("B")
        found = os.preadv(self._handle, [view], self._place)
        view[found:] = bytes(len(view) - found)
        self._place += len(view)
        return len(view)

    def read(self, size: int) -> bytes:
        """The next bytes; h5py takes only an object that has this."""
        buffer = bytearray(size)
        self.readinto(memoryview(buffer))
        return bytes(buffer)

    def write(self, buffer: memoryview) -> int:
        """Write all of the buffer, or keep the error."""
        view = memoryview(buffer).cast("B")
        try:
            written = 0
            while self.error is None and written < len(view):
                written += os.pwrite(self._handle, view[written:], self._place + written)
        except OSError as error:
            self.error = error
        self._place += len(view)
        self._end = max(self._end, self._place)
        return len(view)

    def truncate(self, size: int) -> int:
        """Give the file this size, or keep the error."""
        try:
            if self.error is None:
                os.ftruncate(self._handle, size)
        except OSError as error:
            self.error = error
        self._end = size
        return size

    def flush(self) -> None:
        """Nothing is buffered here."""

    def sync(self) -> None:
        """Wait until the bytes are on the disk, or keep the error."""
        try:
            if self.error is None:
                os.fsync(self._handle)
        except OSError as error:
            self.error = error

    def close(self) -> None:
        """Close the file."""
        os.close(self._handle)
