"""Checks that results can be written, made before the work whose results they are."""

import os
import secrets
import tempfile
from collections.abc import Iterable
from pathlib import Path

from instructrl.errors import InputError
from instructrl.storage import object_store
from instructrl.storage.paths import StoragePath


def check_writable(folder: StoragePath, *, hint: str) -> None:
    """Check that files can be created in a folder, existing or not; nothing of the attempt remains.

    Args:
        folder: where results will be written.
        hint: next action in the error, such as "choose another output_dir".

    Raises:
        InputError: it cannot be written. RunError: object storage keeps failing.
    """
    if isinstance(folder, Path):
        _check_local(folder, shown=folder, hint=hint)
        return
    name = f"{folder}/.write-{secrets.token_hex(4)}"
    with tempfile.NamedTemporaryFile() as empty:
        object_store.upload(Path(empty.name), name)
    object_store.remove(name)


def check_writable_file(path: Path, *, hint: str) -> None:
    """Check that a file can be written, as `check_writable` does for its folder.

    Raises:
        InputError: it cannot be written.
    """
    if path.is_dir():
        raise InputError(f"{path}: cannot be written (it is a folder); {hint}")
    _check_local(path.parent, shown=path, hint=hint)


def check_outputs(outputs: Iterable[tuple[str, StoragePath]]) -> None:
    """Check the folders that settings name, given as (setting, folder).

    Raises:
        InputError: one of them cannot be written. RunError: object storage keeps failing.
    """
    for setting, folder in outputs:
        check_writable(folder, hint=f"choose another {setting}")


def _check_local(folder: Path, *, shown: Path, hint: str) -> None:
    try:
        existing = next((one for one in (folder, *folder.absolute().parents) if os.path.lexists(one)), folder)
        with tempfile.TemporaryFile(dir=existing) as file:
            file.write(b"\0")  # an empty one fits on a full disk
    except OSError as error:
        raise InputError(f"{shown}: cannot be written ({error.strerror}); make room or {hint}") from None
