"""Copies the checkout to hosts: tracked and untracked files, except those that git ignores."""

import io
import shlex
import subprocess
import tarfile
from collections.abc import Sequence
from pathlib import Path

from instructrl.errors import InputError
from launchers.ssh.host import Host, query_all

MAX_MB = 200
MANIFEST = ".copied"  # on the host: files of the last copy, so that the next one removes deleted ones
UNPACK = """
set -e
mkdir -p "$1"
cd "$1"
for run in "$HOME"/.instructrl/runs/*/; do
    if [ "$2" != force ] && [ -f "$run/pid" ] && [ ! -f "$run/exit" ] && kill -0 "$(cat "$run/pid")" 2>/dev/null; then
        echo "run $(basename "$run") is running from this code; stop it, or set force=true" >&2
        exit 3
    fi
done
[ ! -f .copied ] || xargs -0 rm -f -- <.copied
tar -xzf -
"""


def copy_code(hosts: Sequence[Host], root: Path, folder: str, *, force: bool = False) -> tuple[int, float]:
    """Copy the code of a checkout to a folder on all hosts. Other files there (environment, data, runs) are kept.

    Args:
        hosts: the targets.
        root: of the checkout.
        folder: relative to the home directory.
        force: copy even while a run uses the code.

    Returns:
        The number of files, and their size in megabytes.

    Raises:
        InputError: `root` is not a checkout, or is too large.
        HostError, LostHostError: the copy fails.
    """
    names = checkout_files(root)
    megabytes = sum((root / name).lstat().st_size for name in names) / 1e6
    if megabytes > MAX_MB:
        largest = max(names, key=lambda name: (root / name).lstat().st_size)
        raise InputError(
            f"{root}: {megabytes:.0f} MB of code, allowed: at most {MAX_MB}; move {largest} away or into .gitignore"
        )
    command = shlex.join(["bash", "-c", UNPACK, "unpack", folder, "force" if force else ""])
    query_all(hosts, [command] * len(hosts), data=pack(root, names), timeout=600)
    return len(names), megabytes


def checkout_files(root: Path) -> list[str]:
    """List the files of a checkout, relative to its root.

    Raises:
        InputError: it is not a git checkout.
    """
    words = ["git", "-C", str(root), "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    try:
        listed = subprocess.run(words, capture_output=True, check=True).stdout.decode()
    except (OSError, subprocess.CalledProcessError):
        raise InputError(
            f"{root}: not a git checkout, so the files to copy are unknown; clone InstructRL with git"
        ) from None
    paths = (root / name for name in sorted(set(listed.split("\0")) - {""}))
    return [str(path.relative_to(root)) for path in paths if path.is_file() or path.is_symlink()]


def pack(root: Path, names: Sequence[str]) -> bytes:
    """Pack files into a compressed archive, preceded by a manifest."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz", compresslevel=3) as archive:
        listing = "".join(f"{name}\0" for name in names).encode()
        entry = tarfile.TarInfo(MANIFEST)
        entry.size = len(listing)
        archive.addfile(entry, io.BytesIO(listing))
        for name in names:
            archive.add(root / name, arcname=name, recursive=False)
    return buffer.getvalue()
