"""Checkpoint integrity: file sizes, recorded before the checkpoint is committed, reveal truncated files."""

import json
from pathlib import Path
from typing import TypedDict

from instructrl.training.running_mean import MeanState

INVENTORY = "sizes.json"
MARKER = "_CHECKPOINT_METADATA"  # Orbax's; this file and the next one are rewritten when the checkpoint is committed
WRITTEN_LAST = (INVENTORY, MARKER, "commit_success.txt")


class Marker(TypedDict, total=False):
    """The part of Orbax's metadata that is read here."""

    commit_timestamp_nsecs: int
    custom_metadata: MeanState | None


def file_sizes(folder: Path) -> dict[str, int]:
    """Sizes in bytes of all files below a folder, except the top-level ones that are written last."""
    files = {path.relative_to(folder).as_posix(): path for path in sorted(folder.rglob("*")) if path.is_file()}
    return {name: path.stat().st_size for name, path in files.items() if name not in WRITTEN_LAST}


def write_inventory(folder: Path) -> None:
    """Record the sizes of the files in a checkpoint."""
    (folder / INVENTORY).write_text(json.dumps(file_sizes(folder)))


def read_marker(folder: Path) -> Marker:
    """Orbax's metadata of a checkpoint; empty if it is damaged."""
    try:
        marker: Marker = json.loads((folder / MARKER).read_text())
        return marker if isinstance(marker, dict) and marker.get("commit_timestamp_nsecs") else {}
    except (OSError, ValueError):
        return {}


def find_damage(folder: Path) -> str | None:
    """Describe the first damage in a checkpoint's files; None if they are intact.

    Checkpoints of older versions have no inventory; only reading them with Orbax reveals damage.
    """
    if not read_marker(folder):
        return f"{MARKER} is damaged"
    if not (folder / INVENTORY).exists():
        return None
    try:
        expected = json.loads((folder / INVENTORY).read_text())
        found = file_sizes(folder)
        damaged = [name for name, size in expected.items() if found.get(name) != size]
    except (OSError, ValueError, AttributeError):
        return f"{INVENTORY} is damaged"
    if not damaged:
        return None
    return f"{damaged[0]} has {found.get(damaged[0], 'no')} bytes, not {expected[damaged[0]]}"
