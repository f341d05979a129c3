"""Files that are replaced atomically: a reader sees the old content or the new one, also after a power failure."""

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from instructrl.errors import InputError


@contextmanager
def atomic_path(path: Path, *, exclusive: bool = False) -> Iterator[Path]:
    """Yield a temporary path in the same folder to write to; it replaces `path` at the end, or is removed on an error.

    Args:
        path: the file to replace; its folder exists.
        exclusive: only one process writes it at a time: what a killed one left behind is overwritten.

    Raises:
        OSError: the file cannot be written.
    """
    temporary = path.with_name(f".{path.name}.tmp" if exclusive else f".{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        yield temporary
        commit(temporary, path)
    except BaseException:
        with suppress(OSError):  # it may not exist
            temporary.unlink()
        raise


def write_atomically(path: Path, content: str | bytes, *, hint: str = "choose another output_dir") -> None:
    """Write a file atomically, and create its folder; `hint` tells the user how to choose another path.

    Raises:
        InputError: the folder cannot be written or the disk is full.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_path(path) as temporary:
            if isinstance(content, str):
                temporary.write_text(content, encoding="utf-8")
            else:
                temporary.write_bytes(content)
    except OSError as error:
        raise InputError(f"{path}: cannot be written ({error.strerror}); make room or {hint}") from None


def commit(temporary: Path, path: Path) -> None:
    """Replace `path` by a complete file of the same file system; its content and its new name are on disk afterwards.

    Raises:
        OSError: the file cannot be replaced, or the disk fails.
    """
    sync(temporary)
    temporary.replace(path)
    sync(path.parent)


def sync(path: Path) -> None:
    """Wait until a file, or the names in a folder, are on disk.

    Raises:
        OSError: the disk is full or fails.
    """
    handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
