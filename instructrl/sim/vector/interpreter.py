"""The Python interpreter of worker processes: this one, or a simulator's own.

A simulator may need versions of packages that cannot be installed beside ours. Its processes then run in another
interpreter, which needs numpy and the simulator's packages. Of this one they get the package `instructrl` alone, by its
path: no folder of packages and no variable of Python passes from one to the other.
"""

import functools
import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np

from instructrl.errors import InputError
from instructrl.package_files import PACKAGE

OLDEST_PYTHON = (3, 11)
_PROBE_SECONDS = 60.0
_PROBE = """
import json, sys
try:
    from numpy import __version__ as numpy
except Exception:
    numpy = ""
print(json.dumps([sys.version_info[:3], numpy]))
"""
_LOAD = """
import sys
from importlib.util import module_from_spec, spec_from_file_location
spec = spec_from_file_location("instructrl", {path!r}, submodule_search_locations=[{folder!r}])
sys.modules["instructrl"] = module = module_from_spec(spec)
spec.loader.exec_module(module)
"""


class Launch(NamedTuple):
    """Words that start a process, and its environment variables."""

    words: list[str]
    environ: dict[str, str]


def launch(python: str | None, code: str, environ: Mapping[str, str]) -> Launch:
    """Words and variables that start a process whose code imports from `instructrl`.

    Args:
        python: the interpreter; None: this one, with all that can be imported here.
        code: the code.
        environ: the environment variables.
    """
    if python is None:
        path = os.pathsep.join(entry or str(Path.cwd()) for entry in sys.path)
        return Launch([sys.executable, "-P", "-c", code], {**environ, "PYTHONPATH": path})
    load = _LOAD.format(path=str(PACKAGE / "__init__.py"), folder=str(PACKAGE))
    apart = {name: value for name, value in environ.items() if name not in ("PYTHONPATH", "PYTHONHOME")}
    return Launch([python, "-I", "-c", load + code], {**apart, "PYTHONNOUSERSITE": "1"})  # for its own children


def missing_package(error: ImportError) -> InputError:
    """The error for a simulator, in an interpreter of its own, that lacks a package."""
    return InputError(
        f"sim.python: {sys.executable} cannot import the simulator ({error}); install its packages there: "
        f"{sys.executable} -m pip install PACKAGE"
    )


@functools.cache
def check_interpreter(python: str) -> None:
    """Check that an interpreter can run worker processes.

    Raises:
        InputError: it is not there, is no Python, is too old, or lacks a numpy whose arrays can be exchanged with ours.
    """
    oldest = ".".join(map(str, OLDEST_PYTHON))
    found = f"sim.python: found {python}"
    needs = f"null, or a Python {oldest} or newer with numpy 2 and the simulator's packages"
    try:
        child = subprocess.run(
            [python, "-I", "-c", _PROBE],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=_PROBE_SECONDS,
            check=True,
        )
        version, numpy = json.loads(child.stdout)
    except FileNotFoundError:
        raise InputError(f"{found}, which does not exist; allowed: {needs}") from None
    except (OSError, ValueError, subprocess.SubprocessError) as error:
        reason = " ".join(str(error).split()) if isinstance(error, OSError) else "it does not answer"
        raise InputError(f"{found}, which is no Python that runs here ({reason}); allowed: {needs}") from None
    if tuple(version[:2]) < OLDEST_PYTHON:
        raise InputError(f"{found}, a Python {'.'.join(map(str, version))}; allowed: {needs}")
    install = f"install it: {python} -m pip install 'numpy>=2'"
    if not numpy:
        raise InputError(f"{found}, which has no numpy; {install}")
    if int(numpy.partition(".")[0]) != int(np.__version__.partition(".")[0]):
        raise InputError(f"{found}, whose numpy {numpy} cannot exchange arrays with {np.__version__} here; {install}")
