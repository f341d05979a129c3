"""Checkpoint integrity: sizes and checksums of all files, recorded before the checkpoint is committed."""

import json
from pathlib import Path
from typing import NamedTuple, TypedDict

from instructrl.storage.json_file import read_json
from instructrl.storage.object_store import crc32c
from instructrl.training.running_mean import MeanState

INVENTORY = "inventory.json"
MARKER = "_CHECKPOINT_METADATA"  # Orbax's; this file and the next one are rewritten when the checkpoint is committed
WRITTEN_LAST = (INVENTORY, MARKER, "commit_success.txt")


class Marker(TypedDict, total=False):
    """The part of Orbax's metadata that is read here."""

    commit_timestamp_nsecs: int
    custom_metadata: MeanState | None


class FileRecord(NamedTuple):
    """A file of a checkpoint as it was written."""

    size: int  # bytes
    crc32c: str  # base64


def checkpoint_files(folder: Path) -> dict[str, Path]:
    """All files below a folder, except the top-level ones that are written last."""
    files = {path.relative_to(folder).as_posix(): path for path in sorted(folder.rglob("*")) if path.is_file()}
    return {name: path for name, path in files.items() if name not in WRITTEN_LAST}


def write_inventory(folder: Path, progress: MeanState | None) -> None:
    """Record sizes and checksums of the files in a checkpoint, and a copy of the progress in Orbax's metadata.

    The metadata themselves may not be written yet.
    """
    files = {name: FileRecord(path.stat().st_size, crc32c(path)) for name, path in checkpoint_files(folder).items()}
    (folder / INVENTORY).write_text(json.dumps({"files": files, "progress": progress}), encoding="utf-8")


def read_marker(folder: Path) -> Marker:
    """Orbax's metadata of a checkpoint; empty if it is damaged."""
    try:
        marker: Marker = read_json(folder / MARKER)
        return marker if isinstance(marker, dict) and marker.get("commit_timestamp_nsecs") else {}
    except (OSError, ValueError):
        return {}


def find_damage(folder: Path, *, contents: bool) -> str | None:
    """Describe the first damage in a checkpoint's files; None if they are intact.

    Sizes are always compared, checksums with `contents`, for which all files are read. Checkpoints of older versions
    have no inventory; only reading them with Orbax reveals damage.
    """
    marker = read_marker(folder)
    if not marker:
        return f"{MARKER} is damaged"
    if not (folder / INVENTORY).exists():
        return None
    try:
        inventory = read_json(folder / INVENTORY)
        expected = {name: FileRecord(*record) for name, record in inventory["files"].items()}
        progress = inventory["progress"]
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return f"{INVENTORY} is damaged"
    if (progress or {}) != (marker.get("custom_metadata") or {}):  # Orbax records an empty one for none
        return f"{MARKER} and {INVENTORY} differ"
    try:
        found = checkpoint_files(folder)
        sizes = {name: path.stat().st_size for name, path in found.items()}
        for name, record in expected.items():
            if sizes.get(name) != record.size:
                return f"{name} has {sizes.get(name, 'no')} bytes, not {record.size}"
        changed = (name for name, record in expected.items() if contents and crc32c(found[name]) != record.crc32c)
        name = next(changed, None)
    except OSError as error:  # or a training has just replaced the checkpoint
        return f"cannot be read: {error.strerror}"
    return None if name is None else f"the content of {name} has changed"
