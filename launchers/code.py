"""This checkout on other machines: what git knows, and what is not committed yet, but nothing that git ignores."""

import io
import shlex
import subprocess
import tarfile
from collections.abc import Sequence
from pathlib import Path

from instructrl.errors import InputError
from launchers.hosts import Host, ask_all

MOST_MB = 200
MANIFEST = ".copied"  # on the host: what the last copy brought, so that the next one removes what is no longer there
UNPACK = """
set -e
mkdir -p "$1"
cd "$1"
for run in "$HOME"/.instructrl/runs/*/; do
    if [ "$2" != force ] && [ -f "$run/pid" ] && [ ! -f "$run/exit" ] && kill -0 "$(cat "$run/pid")" 2>/dev/null; then
        echo "run $(basename "$run") is running from this code; stop it, or say force=true" >&2
        exit 3
    fi
done
[ ! -f .copied ] || xargs -0 rm -f -- <.copied
tar -xzf -
"""


def copy_code(hosts: Sequence[Host], root: Path, folder: str, *, force: bool = False) -> tuple[int, float]:
    """Bring the code of a checkout to a folder of all hosts. What lies there beside it (environment, data, runs) stays.

    Args:
        hosts: where to.
        root: of the checkout.
        folder: below the home directory.
        force: also while a run is running from it.

    Returns:
        How many files, and their megabytes.

    Raises:
        InputError: it is no checkout, or too large.
        HostError, LostHostError: it does not arrive.
    """
    names = tracked(root)
    megabytes = sum((root / name).lstat().st_size for name in names) / 1e6
    if megabytes > MOST_MB:
        largest = max(names, key=lambda name: (root / name).lstat().st_size)
        raise InputError(
            f"{root}: {megabytes:.0f} MB of code, at most {MOST_MB}; move {largest} away or into .gitignore"
        )
    command = shlex.join(["bash", "-c", UNPACK, "unpack", folder, "force" if force else ""])
    ask_all(hosts, [command] * len(hosts), data=packed(root, names), timeout=600)
    return len(names), megabytes


def tracked(root: Path) -> list[str]:
    """The files of a checkout, by their paths in it.

    Raises:
        InputError: it is none.
    """
    words = ["git", "-C", str(root), "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    try:
        listed = subprocess.run(words, capture_output=True, check=True).stdout.decode()
    except (OSError, subprocess.CalledProcessError):
        raise InputError(f"{root}: not a checkout of git, which says what is code; clone the suite with git") from None
    paths = (root / name for name in sorted(set(listed.split("\0")) - {""}))
    return [str(path.relative_to(root)) for path in paths if path.is_file() or path.is_symlink()]


def packed(root: Path, names: Sequence[str]) -> bytes:
    """Files as a compressed archive, the list of them first."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz", compresslevel=3) as archive:
        listing = "".join(f"{name}\0" for name in names).encode()
        entry = tarfile.TarInfo(MANIFEST)
        entry.size = len(listing)
        archive.addfile(entry, io.BytesIO(listing))
        for name in names:
            archive.add(root / name, arcname=name, recursive=False)
    return buffer.getvalue()
