"""Whether RLBench can run here: every part that it needs, what was found, and the command that mends it.

Nothing of it is imported or started: a wrong installation may crash or hang. What is right here can still fail later,
for instance for want of GLX on the display; `python -m data_tools.rlbench smoke` plays an episode to see.
"""

import ctypes.util
import os
import platform
import re
import socket
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

from instructrl.errors import InputError

COPPELIASIM = "4.1.0"
INSTALL = "make rlbench"
_LIBRARY = "libcoppeliaSim.so"
_X_PORT = 6000


class Finding(NamedTuple):
    """One part of an installation. `remedy` is empty where all is well."""

    part: str
    found: str
    remedy: str = ""


def check_installation() -> None:
    """Raise InputError with the first thing that is missing, the command that mends it and how to see the rest."""
    wrong = [finding for finding in findings() if finding.remedy]
    if wrong:
        part, found, remedy = wrong[0]
        others = f" ({len(wrong) - 1} more: python -m data_tools.rlbench check)" if len(wrong) > 1 else ""
        raise InputError(f"sim=rlbench: {part}: {found}; {remedy}{others}")


def findings() -> list[Finding]:
    """Every part, in the order in which one would mend them."""
    return [_machine(), *_coppeliasim(), _display(), _pyrep(), _rlbench(), _gymnasium()]


def _machine() -> Finding:
    found = f"{platform.system()} {platform.machine()}"
    right = sys.platform == "linux" and platform.machine() in ("x86_64", "AMD64")
    return Finding("machine", found, "" if right else "CoppeliaSim 4.1.0 needs Linux on x86_64; use another machine")


def _coppeliasim() -> list[Finding]:
    """CoppeliaSim itself, and the variables through which its libraries are found."""
    given = os.environ.get("COPPELIASIM_ROOT", "")
    root = Path(given)
    mend = f"{INSTALL}, then export COPPELIASIM_ROOT=FOLDER"
    if not given:
        return [Finding("COPPELIASIM_ROOT", "not set", mend)]
    if not (root / _LIBRARY).exists():
        return [Finding("COPPELIASIM_ROOT", f"no {_LIBRARY} in {given}", mend)]
    version = coppeliasim_version(root)
    right = version in (COPPELIASIM, "unknown")
    return [
        Finding("COPPELIASIM_ROOT", given),
        Finding("CoppeliaSim", version, "" if right else f"exactly {COPPELIASIM} is needed: {mend}"),
        _variable("LD_LIBRARY_PATH", root, fallback=ctypes.util.find_library("coppeliaSim")),
        _variable("QT_QPA_PLATFORM_PLUGIN_PATH", root, fallback=None),
    ]


def coppeliasim_version(root: Path) -> str:
    """The version of a CoppeliaSim as its header says it, else as its folder is called, else "unknown"."""
    try:
        header = (root / "programming" / "include" / "simConst.h").read_text(errors="replace")
    except OSError:
        header = ""
    number = re.search(r"#\s*define\s+SIM_PROGRAM_VERSION_NB\s+(\d+)", header)
    if number:
        return version_of(int(number[1]))
    named = re.search(r"V(\d+)_(\d+)_(\d+)", root.resolve().name)
    return ".".join(named.groups()) if named else "unknown"


def version_of(number: int) -> str:
    """CoppeliaSim writes version 4.1.0 as 40100."""
    return f"{number // 10_000}.{number // 100 % 100}.{number % 100}"


def _variable(name: str, root: Path, *, fallback: str | None) -> Finding:
    """A variable that must list CoppeliaSim's folder, unless the system finds the libraries in another way."""
    value = os.environ.get(name, "")
    there = any(entry and Path(entry).resolve() == root.resolve() for entry in value.split(os.pathsep))
    more = f"${name}:" if name == "LD_LIBRARY_PATH" else ""
    remedy = "" if there or fallback else f"export {name}={more}$COPPELIASIM_ROOT, before Python starts"
    return Finding(name, value or "not set", remedy)


def _display() -> Finding:
    """An X display that somebody serves. Whether it has GLX is seen only by using it."""
    display = os.environ.get("DISPLAY", "")
    mend = "put xvfb-run -a -s '-screen 0 1280x1024x24' before the command, or start an X server and export DISPLAY=:0"
    if not display:
        return Finding("X display", "DISPLAY is not set", mend)
    return Finding("X display", display) if answers(display) else Finding("X display", f"{display} is dead", mend)


def answers(display: str) -> bool:
    """Whether somebody listens where an X server of this name would."""
    named = re.fullmatch(r"(?:unix)?([^:]*):(\d+)(?:\.\d+)?", display)
    if not named:
        return False
    host, number = named[1], int(named[2])
    if host:
        places: list[tuple[socket.AddressFamily, Any]] = [(socket.AF_INET, (host, _X_PORT + number))]
    else:
        path = f"/tmp/.X11-unix/X{number}"
        places = [(socket.AF_UNIX, f"\0{path}"), (socket.AF_UNIX, path), (socket.AF_INET, ("", _X_PORT + number))]
    return any(_listens(family, address) for family, address in places)


def _listens(family: socket.AddressFamily, address: Any) -> bool:
    with socket.socket(family, socket.SOCK_STREAM) as end:
        end.settimeout(5.0)
        try:
            end.connect(address)
        except (OSError, OverflowError):
            return False
    return True


def _pyrep() -> Finding:
    folder = package_folder("pyrep")
    if folder is None:
        return Finding("PyRep", "not installed", INSTALL)
    if not ((folder / "backend").is_dir() and (folder / "robots").is_dir()):
        found = f"{folder} is the unrelated package of that name on PyPI"
        return Finding("PyRep", found, f"pip uninstall pyrep, then {INSTALL}")
    return Finding("PyRep", str(folder))


def _rlbench() -> Finding:
    folder = package_folder("rlbench")
    if folder is None:
        return Finding("RLBench", "not installed", INSTALL)
    if not ((folder / "environment.py").is_file() and (folder / "tasks").is_dir()):
        return Finding("RLBench", f"{folder} is another package of that name", f"pip uninstall rlbench, then {INSTALL}")
    return Finding("RLBench", str(folder))


def _gymnasium() -> Finding:
    if find_spec("gymnasium") is None:
        return Finding("gymnasium", "not installed, RLBench imports it", "pip install gymnasium")
    return Finding("gymnasium", "installed")


def package_folder(name: str) -> Path | None:
    """Where a package lies, without importing it; the file if it is a single module; None if there is none."""
    spec = find_spec(name)
    if spec is None:
        return None
    folders = [Path(entry) for entry in spec.submodule_search_locations or [spec.origin or ""]]
    return folders[0] if folders else None
