"""The container image: its file names what is there, and the package is built from what it is given."""

import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

from tests.paths import ROOT

DOCKERFILE = ROOT / "launchers/container/Dockerfile"


def context(folder: Path) -> Path:
    """The files that `docker build` sends: those that .dockerignore lets through."""
    lines = (ROOT / ".dockerignore").read_text().splitlines()
    assert lines[1] == "*", "everything is left out, except for what begins with !"
    for pattern in (line[1:] for line in lines if line.startswith("!")):
        found = list(ROOT.glob(pattern))
        assert found, pattern
        for path in found:
            if path.is_dir():
                shutil.copytree(path, folder / path.name, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                shutil.copy(path, folder)
    return folder


def wheel_files(source: Path, out: Path) -> set[str]:
    """Names of the files in the wheel that is built from a folder."""
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(out)]
    subprocess.run(command, cwd=source, capture_output=True, text=True, timeout=120, check=True)
    [wheel] = out.glob("*.whl")
    return set(zipfile.ZipFile(wheel).namelist())


def test_the_package_in_the_image_is_whole(tmp_path: Path) -> None:
    (tmp_path / "context").mkdir()
    inside = wheel_files(context(tmp_path / "context"), tmp_path / "inside")
    assert inside == wheel_files(ROOT, tmp_path / "checkout")


def test_the_image_is_made_of_files_that_exist_for_each_device() -> None:
    text = DOCKERFILE.read_text()
    devices = re.findall(r"^ +(\w+)\) python -m pip install -r (\S+)", text, re.MULTILINE)
    assert dict(devices) == {"cpu": "requirements.txt", "gpu": "requirements-gpu.txt"}
    assert all((ROOT / name).is_file() for _, name in devices)
