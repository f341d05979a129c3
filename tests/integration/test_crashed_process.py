"""A test that crashes its process fails alone: all other tests run once, and the run ends."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.paths import ROOT

CONFTEST = "from tests.fixtures.scheduler import pytest_xdist_make_scheduler\n"
OPTIONS = ("-q", "-p", "xdist", "--dist=loadfile", "--no-loadscope-reorder")
PASSES = "def test_{}(): pass\n"
CRASHES = "def test_{}(): import os; os._exit(1)\n"


@pytest.mark.parametrize("processes", [1, 2])
@pytest.mark.parametrize(
    "files",
    [
        (["passes"] * 4, ["passes", "crashes", "passes"]),
        (["passes", "passes"], ["crashes"], ["passes"]),
        (["crashes", "passes"],),
        (["passes"], ["passes"], ["passes"], ["passes", "passes", "crashes"], ["passes"], ["passes"]),
    ],
)
def test_a_crash_fails_one_test_and_the_others_pass(tmp_path: Path, files: tuple, processes: int) -> None:
    (tmp_path / "conftest.py").write_text(CONFTEST)
    for name, tests in zip("abcdefgh", files, strict=False):
        source = "".join((PASSES if test == "passes" else CRASHES).format(index) for index, test in enumerate(tests))
        (tmp_path / f"test_{name}.py").write_text(source)
    (tmp_path / "pytest.ini").write_text("[pytest]\n")
    command = [sys.executable, "-m", "pytest", *OPTIONS, f"-n{processes}"]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    environment |= {"PYTHONPATH": str(ROOT), "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=100)
    passed = sum(test == "passes" for tests in files for test in tests)
    assert f"1 failed, {passed} passed" in done.stdout, done.stdout
