"""What belongs to a checkpoint: the sizes of its files, written before it counts, so that a truncated one is found."""

import json
from pathlib import Path
from typing import Any

NAME = "sizes.json"
MARKER = "_CHECKPOINT_METADATA"  # Orbax's; it and the next are written anew when the checkpoint begins to count
LATE = (NAME, MARKER, "commit_success.txt")


def sizes(folder: Path) -> dict[str, int]:
    """Bytes of every file below a folder, but for those at its top that are written last."""
    files = {path.relative_to(folder).as_posix(): path for path in sorted(folder.rglob("*")) if path.is_file()}
    return {name: path.stat().st_size for name, path in files.items() if name not in LATE}


def write_inventory(folder: Path) -> None:
    """Note the files that are there now."""
    (folder / NAME).write_text(json.dumps(sizes(folder)))


def read_marker(folder: Path) -> dict[str, Any]:
    """What Orbax notes of a checkpoint; an empty one if that is damaged."""
    try:
        marker = json.loads((folder / MARKER).read_text())
        return marker if isinstance(marker, dict) and marker.get("commit_timestamp_nsecs") else {}
    except (OSError, ValueError):
        return {}


def damage(folder: Path) -> str | None:
    """The first thing that is wrong with a checkpoint's files, if anything is.

    One without an inventory, of an older version of the suite, is only told by what Orbax says when it reads it.
    """
    if not read_marker(folder):
        return f"{MARKER} is damaged"
    if not (folder / NAME).exists():
        return None
    try:
        expected = json.loads((folder / NAME).read_text())
        found = sizes(folder)
        wrong = [name for name, size in expected.items() if found.get(name) != size]
    except (OSError, ValueError, AttributeError):
        return f"{NAME} is damaged"
    if not wrong:
        return None
    return f"{wrong[0]} has {found.get(wrong[0], 'no')} bytes, not {expected[wrong[0]]}"
