"""Checks the RLBench installation: every required part, what was found, and the command that fixes it.

Nothing is imported or started, since a broken installation may crash or hang. An installation that passes can still
fail later, for instance because the display lacks GLX; `python -m data_tools.rlbench smoke` runs an episode to test it.
"""

import ctypes.util
import os
import platform
import re
import socket
import sys
from importlib.machinery import EXTENSION_SUFFIXES
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

from instructrl.errors import InputError
from instructrl.sim.rlbench.interface import VARIANTS, closest_variant, read, recorded
from instructrl.sim.rlbench.shared_libraries import LIBRARY, problem

COPPELIASIM = "4.1.0"
INSTALL = "make rlbench"
_X_PORT = 6000


class Finding(NamedTuple):
    """One part of an installation; `fix` is empty if it is valid."""

    part: str
    found: str
    fix: str = ""


def check_installation() -> None:
    """Raise InputError with the first missing part, the command that fixes it and how to list the others."""
    failed = [finding for finding in findings() if finding.fix]
    if failed:
        part, found, fix = failed[0]
        more_failures = f" ({len(failed) - 1} more: python -m data_tools.rlbench check)" if len(failed) > 1 else ""
        raise InputError(f"sim=rlbench: {part}: {found}; {fix}{more_failures}")


def findings() -> list[Finding]:
    """All parts, in the order in which to fix them."""
    return [_machine(), *_coppeliasim(), _display(), _pyrep(), _rlbench(), *_interface(), _gymnasium()]


def _machine() -> Finding:
    found = f"{platform.system()} {platform.machine()}"
    valid = sys.platform == "linux" and platform.machine() in ("x86_64", "AMD64")
    return Finding("machine", found, "" if valid else "CoppeliaSim 4.1.0 needs Linux on x86_64; use another machine")


def _coppeliasim() -> list[Finding]:
    """CoppeliaSim itself, and the environment variables that locate its libraries."""
    root_variable = os.environ.get("COPPELIASIM_ROOT", "")
    root = Path(root_variable)
    fix = f"{INSTALL}, then export COPPELIASIM_ROOT=FOLDER"
    if not root_variable:
        return [Finding("COPPELIASIM_ROOT", "not set", fix)]
    if not (root / LIBRARY).exists():
        return [Finding("COPPELIASIM_ROOT", f"no {LIBRARY} in {root_variable}", fix)]
    if not root_variable.isascii():  # PyRep would wait forever for a thread that cannot encode it
        return [Finding("COPPELIASIM_ROOT", root_variable, "move it to a folder with ASCII letters only")]
    version = coppeliasim_version(root)
    valid = version in (COPPELIASIM, "unknown")
    return [
        Finding("COPPELIASIM_ROOT", root_variable),
        Finding("CoppeliaSim", version, "" if valid else f"exactly {COPPELIASIM} is needed: {fix}"),
        _system_libraries(root),
        _variable("LD_LIBRARY_PATH", root, fallback=ctypes.util.find_library("coppeliaSim")),
        _variable("QT_QPA_PLATFORM_PLUGIN_PATH", root, fallback=None),
    ]


def _system_libraries(root: Path) -> Finding:
    found, fix = problem(root) or ("all found", "")
    return Finding("system libraries", found, fix)


def coppeliasim_version(root: Path) -> str:
    """The version of a CoppeliaSim according to its header, else to its folder name, else "unknown".

    The simulator itself is not asked: PyRep's function for it (simGetInt32Parameter) raises a TypeError.
    """
    try:
        header = (root / "programming" / "include" / "simConst.h").read_text(encoding="utf-8", errors="replace")
    except OSError:
        header = ""
    number = re.search(r"#\s*define\s+SIM_PROGRAM_VERSION_NB\s+(\d+)", header)
    if number:
        return f"{int(number[1]) // 10_000}.{int(number[1]) // 100 % 100}.{int(number[1]) % 100}"  # 40100 is 4.1.0
    match = re.search(r"V(\d+)_(\d+)_(\d+)", Path(os.path.realpath(root)).name)
    return ".".join(match.groups()) if match else "unknown"


def _variable(name: str, root: Path, *, fallback: str | None) -> Finding:
    """A variable that must list CoppeliaSim's folder, unless the system finds the libraries otherwise."""
    value = os.environ.get(name, "")
    listed = any(entry and os.path.realpath(entry) == os.path.realpath(root) for entry in value.split(os.pathsep))
    more = f"${name}:" if name == "LD_LIBRARY_PATH" else ""
    fix = "" if listed or fallback else f"export {name}={more}$COPPELIASIM_ROOT, before Python starts"
    return Finding(name, value or "not set", fix)


def _display() -> Finding:
    """An X display with a running server; GLX support shows only in use."""
    display = os.environ.get("DISPLAY", "")
    fix = "put xvfb-run -a -s '-screen 0 1280x1024x24' before the command, or start an X server and export DISPLAY=:0"
    if not display:
        return Finding("X display", "DISPLAY is not set", fix)
    return (
        Finding("X display", display) if is_served(display) else Finding("X display", f"{display} has no server", fix)
    )


def is_served(display: str) -> bool:
    """Return True if an X server accepts connections for this display name."""
    match = re.fullmatch(r"(?:unix)?([^:]*):(\d+)(?:\.\d+)?", display)
    if not match:
        return False
    host, number = match[1], int(match[2])
    if host:
        addresses: list[tuple[socket.AddressFamily, Any]] = [(socket.AF_INET, (host, _X_PORT + number))]
    else:
        path = f"/tmp/.X11-unix/X{number}"
        addresses = [(socket.AF_UNIX, f"\0{path}"), (socket.AF_UNIX, path), (socket.AF_INET, ("", _X_PORT + number))]
    return any(_accepts(family, address) for family, address in addresses)


def _accepts(family: socket.AddressFamily, address: Any) -> bool:
    with socket.socket(family, socket.SOCK_STREAM) as connection:
        connection.settimeout(5.0)
        try:
            connection.connect(address)
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
    if not any((folder / "backend" / f"_sim_cffi{suffix}").exists() for suffix in EXTENSION_SUFFIXES):
        found = f"{folder} has no compiled part for Python {platform.python_version()}"
        return Finding("PyRep", found, f"pip uninstall pyrep, then {INSTALL}")
    return Finding("PyRep", str(folder))


def _rlbench() -> Finding:
    folder = package_folder("rlbench")
    if folder is None:
        return Finding("RLBench", "not installed", INSTALL)
    if not str(folder).isascii():  # the same for the scene file in it
        return Finding("RLBench", str(folder), f"install it into a folder with ASCII letters only: {INSTALL}")
    if not ((folder / "environment.py").is_file() and (folder / "tasks").is_dir()):
        return Finding("RLBench", f"{folder} is another package of that name", f"pip uninstall rlbench, then {INSTALL}")
    return Finding("RLBench", str(folder))


def _interface() -> list[Finding]:
    """The differences of RLBench and PyRep from the versions that the adapter is written for."""
    rlbench, pyrep = package_folder("rlbench"), package_folder("pyrep")
    if rlbench is None or pyrep is None or _pyrep().fix or _rlbench().fix:
        return []
    try:
        variant, differences = closest_variant(read(rlbench, pyrep))
    except (OSError, SyntaxError, ValueError) as error:
        return [Finding("interface", f"cannot be read ({error})", INSTALL)]
    if not differences:
        return [Finding("interface", f"that of {VARIANTS[variant]}")]
    more = f" and {len(differences) - 1} more differences" if len(differences) > 1 else ""
    made_for = f"{VARIANTS[variant]} at commit {recorded(variant).commit[:8]}"
    fix = f"{INSTALL} installs {made_for}, for which this suite is written"
    return [Finding("interface", f"{differences[0]}{more}", fix)]


def _gymnasium() -> Finding:
    if find_spec("gymnasium") is None:
        return Finding("gymnasium", "not installed, RLBench imports it", "pip install gymnasium")
    return Finding("gymnasium", "installed")


def package_folder(name: str) -> Path | None:
    """The folder of a package (the file of a single module), without importing it; None if there is none."""
    spec = find_spec(name)
    if spec is None:
        return None
    folders = [Path(entry) for entry in spec.submodule_search_locations or [spec.origin or ""]]
    return folders[0] if folders else None
