"""Shared libraries that CoppeliaSim needs from the system, according to `ldd`, and the Debian packages that have them.

Without them CoppeliaSim ends its process when it starts, with a message of Qt at best.
"""

import os
import re
import shutil
import subprocess
from collections.abc import Iterable
from pathlib import Path

LIBRARY = "libcoppeliaSim.so"
PLUGINS = ("platforms/libqxcb.so", "libqxcb.so")  # Qt's plugin for X, which Qt loads from one of these places
_SECONDS = 30
# packages that are not named after their library
_PACKAGES = {
    "libGLU.so.1": "libglu1-mesa",
    "libgio-2.0.so.0": "libglib2.0-0",
    "libglib-2.0.so.0": "libglib2.0-0",
    "libgmodule-2.0.so.0": "libglib2.0-0",
    "libgobject-2.0.so.0": "libglib2.0-0",
    "libgthread-2.0.so.0": "libglib2.0-0",
    "libz.so.1": "zlib1g",
}


def problem(root: Path) -> tuple[str, str] | None:
    """Find out why CoppeliaSim's libraries in the folder `root` cannot be loaded, and how to fix it.

    Returns:
        None if they can be loaded, or if this machine has no ldd to tell.
    """
    program = shutil.which("ldd")
    if program is None:
        return None
    missing: list[str] = []
    for name in (LIBRARY, *(plugin for plugin in PLUGINS if (root / plugin).exists())):
        output = listed(program, root / name, root)
        if "not a dynamic executable" in output:
            return f"{name} is damaged", reinstall(root)
        versions = sorted(set(re.findall(r"version `([\w.]+)' not found", output)))
        if versions:
            return f"{name} needs {', '.join(versions)}", "use a newer system, such as Ubuntu 20.04 or Debian 12"
        missing += re.findall(r"^\s*(\S+) => not found", output, re.MULTILINE)
    if not missing:
        return None
    missing = sorted(set(missing))
    own = any(name.startswith("libQt5") or ".so." not in name for name in missing)  # these come with CoppeliaSim
    fix = reinstall(root) if own else f"sudo apt-get install {' '.join(packages(missing))}"
    return f"without {', '.join(missing)}", fix


def reinstall(root: Path) -> str:
    """The advice for a CoppeliaSim of which a file is missing or damaged."""
    return f"remove {root}, then make rlbench"


def listed(program: str, library: Path, root: Path) -> str:
    """The output of ldd for a library of CoppeliaSim, with the search path of run time; empty if ldd does not run."""
    paths = os.pathsep.join(filter(None, [os.environ.get("LD_LIBRARY_PATH"), str(root)]))
    try:
        ran = subprocess.run(
            [program, str(library)],
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            timeout=_SECONDS,
            stdin=subprocess.DEVNULL,
            env={**os.environ, "LD_LIBRARY_PATH": paths, "LC_ALL": "C"},
        )
    except (OSError, subprocess.SubprocessError):
        return ""
    return ran.stdout + ran.stderr


def packages(libraries: Iterable[str]) -> list[str]:
    """The Debian packages of libraries: libxcb-icccm.so.4 is in libxcb-icccm4, libX11.so.6 in libx11-6."""
    return sorted({_PACKAGES.get(name) or _package(name) for name in libraries})


def _package(library: str) -> str:
    name, _, version = library.partition(".so.")
    separator = "-" if name[-1:].isdigit() else ""
    return f"{name}{separator}{version.partition('.')[0]}".lower().replace("_", "-")
