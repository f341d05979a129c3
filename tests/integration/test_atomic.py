"""A process that is killed while it replaces a file leaves the former one whole."""

import subprocess
import sys
from pathlib import Path

import pytest

from instructrl.storage.atomic import atomic_path
from tests.paths import ROOT

KILLED = """
import os, pathlib, signal, sys
from instructrl.storage.atomic import atomic_path
def kill(*_): os.kill(os.getpid(), signal.SIGKILL)
path, moment = pathlib.Path(sys.argv[1]), sys.argv[2]
with atomic_path(path, exclusive=True) as temporary:
    temporary.write_text("half")
    if moment == "write": kill()
    if moment == "sync": os.fsync = kill
    if moment == "replace": pathlib.Path.replace = kill
"""


@pytest.mark.parametrize("moment", ["write", "sync", "replace"])
def test_a_killed_writer_leaves_the_former_file_and_the_next_one_cleans_up(tmp_path: Path, moment: str) -> None:
    path = tmp_path / "file"
    path.write_text("former")
    assert subprocess.run([sys.executable, "-c", KILLED, str(path), moment], cwd=ROOT).returncode == -9
    assert path.read_text() == "former"
    with atomic_path(path, exclusive=True) as temporary:
        temporary.write_text("new")
    assert [entry.name for entry in tmp_path.iterdir()] == ["file"] and path.read_text() == "new"
