"""Files that are replaced atomically: a reader sees the old content or the new one."""

import os
from contextlib import suppress
from pathlib import Path

from instructrl.errors import InputError


def write_atomically(path: Path, text: str, *, hint: str = "choose another output_dir") -> None:
    """Write a file atomically; `hint` tells the user how to choose another path.

    Raises:
        InputError: the directory cannot be written or the disk is full.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_text(text, encoding="utf-8")
        temporary.replace(path)
    except OSError as error:
        with suppress(OSError):  # it may not exist
            temporary.unlink()
        raise InputError(f"{path}: cannot be written ({error.strerror}); make room or {hint}") from None
