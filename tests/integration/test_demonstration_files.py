"""A process that is killed while it writes demonstrations leaves the file that was there."""

import subprocess
import sys
from pathlib import Path

from instructrl.data.demonstrations.dataset import DemonstrationDataset
from tests.fixtures.demonstrations import assert_equal, demonstration, write
from tests.paths import ROOT


def test_a_killed_write_leaves_the_old_file_and_is_overwritten(tmp_path: Path) -> None:
    path = write(tmp_path / "file.hdf5", [demonstration(0)])
    before = path.read_bytes()
    code = (
        "import os, signal, sys, pathlib; from tests.fixtures.demonstrations import *\n"
        "with Writer(pathlib.Path(sys.argv[1]), HEADER) as writer:\n"
        "    writer.add(demonstration(1)); os.kill(os.getpid(), signal.SIGKILL)"
    )
    killed = subprocess.run([sys.executable, "-c", code, str(path)], cwd=ROOT)
    assert killed.returncode == -9
    assert path.read_bytes() == before
    write(path, [demonstration(1)])
    assert [entry.name for entry in tmp_path.iterdir()] == ["file.hdf5"]
    assert_equal(DemonstrationDataset(path).demonstration(0), demonstration(1))
