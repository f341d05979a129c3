"""The script of `make rlbench` with fake programs and downloads: its effects and refusals."""

import os
import subprocess
import tarfile
from pathlib import Path

import pytest

from tests.fakes.rlbench_stand_in import display
from tests.fixtures.rlbench_sources import Sources
from tests.paths import ROOT

SCRIPT = ROOT / "launchers/setup/setup_rlbench.sh"
RLBENCH = "02720bba4c73fe02eb75df946b8791b806028a9d"
PYREP = "8f420be8064b1970aae18a9cfbc978dfb15747ef"
PYTHON = """#!/bin/sh
echo "python $*" >> "$LOG"
case "$*" in
*Python.h*) echo "${HEADER:-/dev/null}" ;;
*version_info*) echo python3.11-dev ;;
*sys.prefix*) echo "$PREFIX" ;;
*"commit('pyrep')"*) cat "$PREFIX/pyrep" 2>/dev/null || echo unknown ;;
*"commit('rlbench')"*) cat "$PREFIX/rlbench" 2>/dev/null || echo unknown ;;
*"pyrep @"*) echo PYREP > "$PREFIX/pyrep" ;;
*"rlbench @"*) [ -z "$NO_GIT" ] || exit 1; echo RLBENCH > "$PREFIX/rlbench" ;;
*smoke*) echo "in $COPPELIASIM_ROOT, $LD_LIBRARY_PATH, $QT_QPA_PLATFORM_PLUGIN_PATH, display $DISPLAY" ;;
esac
"""
UNAME = """#!/bin/sh
case "$1" in
-s) echo {0} ;;
-m) echo {1} ;;
*) echo {0} {1} ;;
esac
"""


class Machine:
    """A home folder and programs that only record their calls."""

    def __init__(self, folder: Path):
        self.home, self.bin, self.log = folder / "home", folder / "bin", folder / "log"
        self.prefix = folder / "venv"
        for made in (self.home, self.bin, self.prefix):
            made.mkdir()
        self.log.touch()
        self.program("python", PYTHON.replace("PYREP >", f"{PYREP} >").replace("RLBENCH >", f"{RLBENCH} >"))
        for name in ("git", "cc", "curl"):
            self.program(name, f'#!/bin/sh\necho "{name} $*" >> "$LOG"\nexit 22\n')
        self.program("xvfb-run", '#!/bin/sh\necho "xvfb-run $*" >> "$LOG"\nshift 3\nDISPLAY=:99 exec "$@"\n')
        # the archive of these tests takes the place of the true one
        self.program("sha256sum", '#!/bin/sh\nread -r sum file\ngrep -q archive "$file" && [ ${#sum} = 64 ]\n')
        self.program("uname", UNAME.format("Linux", "x86_64"))
        for name in ("bash", "sh", "tar", "xz", "dirname", "cat", "mkdir", "mv", "ln", "rm", "grep", "env"):
            source = next(Path(place) / name for place in ("/usr/bin", "/bin") if (Path(place) / name).exists())
            (self.bin / name).symlink_to(source)
        inside = folder / "CoppeliaSim_Edu"
        inside.mkdir()
        (inside / "libcoppeliaSim.so").write_text("archive")
        self.archive = folder / "CoppeliaSim.tar"
        with tarfile.open(self.archive, "w") as tar:
            tar.add(inside, "CoppeliaSim_Edu")

    def program(self, name: str, text: str) -> None:
        """Install a program, never through a link, which would replace the machine's own."""
        (self.bin / name).unlink(missing_ok=True)
        (self.bin / name).write_text(text)
        (self.bin / name).chmod(0o755)

    def setup(self, **variables: str) -> subprocess.CompletedProcess[str]:
        given = {"HOME": str(self.home), "PATH": str(self.bin), "LOG": str(self.log), "PREFIX": str(self.prefix)}
        given |= {"NO_GIT": "", "COPPELIASIM_ARCHIVE": str(self.archive), **variables}
        self.log.write_text("")
        return subprocess.run([SCRIPT, "python"], capture_output=True, text=True, env=given, timeout=60, cwd=self.home)

    def installs(self) -> list[str]:
        return [line for line in self.log.read_text().splitlines() if " install " in line]


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


def test_it_installs_everything_at_fixed_versions_and_plays_an_episode(machine: Machine) -> None:
    done = machine.setup()
    assert done.returncode == 0, done.stderr
    root = machine.home / "CoppeliaSim"
    assert (root / "libcoppeliaSim.so").read_text() == "archive"
    assert (root / "libcoppeliaSim.so.1").readlink() == Path("libcoppeliaSim.so")
    _, pyrep, rlbench = machine.installs()
    assert f"git+https://github.com/stepjam/PyRep.git@{PYREP}" in pyrep and "--no-deps" in pyrep
    assert f"git+https://github.com/stepjam/RLBench.git@{RLBENCH}" in rlbench
    assert f"in {root}, {root}, {root}, display :99" in done.stdout, "with Xvfb, and the variables set"
    assert "non-commercial" in done.stdout
    lines = machine.log.read_text()
    assert lines.index("data_tools.rlbench check") < lines.index("data_tools.rlbench smoke")


def test_started_again_it_keeps_what_is_there(machine: Machine) -> None:
    assert machine.setup().returncode == 0
    before = (machine.home / "CoppeliaSim" / "libcoppeliaSim.so").stat()
    machine.archive.unlink()
    again = machine.setup(DISPLAY=":5")
    assert again.returncode == 0, again.stderr
    assert (machine.home / "CoppeliaSim" / "libcoppeliaSim.so").stat() == before
    assert len(machine.installs()) == 1, "neither PyRep nor RLBench is built again"
    assert f"pyrep: kept at {PYREP}" in again.stdout and f"rlbench: kept at {RLBENCH}" in again.stdout
    assert "display :5" in again.stdout and "xvfb-run" not in machine.log.read_text()
    (machine.prefix / "rlbench").write_text("an older commit")
    assert machine.setup().returncode == 0 and len(machine.installs()) == 2


def test_the_variables_that_it_writes_can_be_sourced_twice(machine: Machine, tmp_path: Path) -> None:
    root = tmp_path / "some place" / "sim"
    root.parent.mkdir()
    assert machine.setup(COPPELIASIM_ROOT=f"{root}/").returncode == 0
    file = machine.prefix / "rlbench.sh"
    script = (
        f'set -eu; source {file}; source {file}; echo "$COPPELIASIM_ROOT|$LD_LIBRARY_PATH|$QT_QPA_PLATFORM_PLUGIN_PATH"'
    )
    for before, expected in (({}, f"{root}"), ({"LD_LIBRARY_PATH": "/opt/lib"}, f"/opt/lib:{root}")):
        given = {"PATH": os.environ["PATH"], **before}
        sourced = subprocess.run(["bash", "-c", script], capture_output=True, text=True, env=given)
        assert sourced.stdout.strip() == f"{root}|{expected}|{root}", sourced.stderr


def test_a_download_that_fails_or_is_damaged_leaves_nothing_half_done(machine: Machine) -> None:
    failed = machine.setup(COPPELIASIM_ARCHIVE=str(machine.home / "cache" / "file.tar.xz"))
    assert (
        failed.returncode == 2 and "cannot be downloaded; run this again, or set COPPELIASIM_ARCHIVE" in failed.stderr
    )
    assert "--continue-at" in machine.log.read_text()
    damaged = machine.home / "damaged.tar"
    damaged.write_text("<html>")
    refused = machine.setup(COPPELIASIM_ARCHIVE=str(damaged))
    assert refused.returncode == 2 and f"{damaged}: damaged, or not CoppeliaSim 4.1.0" in refused.stderr
    assert refused.stderr.count("\n") == 1
    assert not (machine.home / "CoppeliaSim").exists()


def test_what_stands_in_the_way_is_said_in_one_line(machine: Machine) -> None:
    (machine.home / "CoppeliaSim").mkdir()
    taken = machine.setup()
    assert taken.returncode == 2 and "exists, but is not CoppeliaSim; set COPPELIASIM_ROOT" in taken.stderr
    (machine.home / "CoppeliaSim").rmdir()
    built = machine.setup(NO_GIT="1")
    assert built.returncode == 2 and f"rlbench: cannot be built at {RLBENCH}" in built.stderr
    assert f"pyrep: installed at {PYREP}" in built.stdout
    (machine.bin / "xvfb-run").unlink()
    blind = machine.setup()
    assert blind.returncode == 2 and "no X display: sudo apt-get install xvfb" in blind.stderr
    assert blind.stderr.count("\n") == 1
    headless = machine.setup(HEADER="/usr/include/python3.99/Python.h")
    assert headless.returncode == 2 and headless.stderr == (
        "error: /usr/include/python3.99/Python.h: not found; on Ubuntu: sudo apt-get install python3.11-dev\n"
    )
    other = machine.setup(RLBENCH_VARIANT="rvt")
    assert other.returncode == 2 and other.stderr == "error: RLBENCH_VARIANT: found rvt; allowed: original, peract\n"
    (machine.bin / "cc").unlink()
    bare = machine.setup()
    assert bare.returncode == 2 and "cc: not installed; on Ubuntu: sudo apt-get install" in bare.stderr


@pytest.mark.parametrize("found", [("Darwin", "arm64"), ("Darwin", "x86_64"), ("Linux", "aarch64")])
def test_another_machine_is_refused_before_anything_is_touched(machine: Machine, found: tuple[str, str]) -> None:
    machine.program("uname", UNAME.format(*found))
    refused = machine.setup()
    assert refused.returncode == 2 and refused.stderr.count("\n") == 1
    assert f"{' '.join(found)}: CoppeliaSim 4.1.0 needs Linux on x86_64" in refused.stderr
    assert not machine.installs() and not (machine.home / "CoppeliaSim").exists()


def test_programs_of_these_tests_never_replace_the_machines_own(machine: Machine, tmp_path: Path) -> None:
    real = tmp_path / "real"
    real.write_text("as it was")
    (machine.bin / "linked").symlink_to(real)
    machine.program("linked", "#!/bin/sh\n")
    assert real.read_text() == "as it was" and not (machine.bin / "linked").is_symlink()


def run(sources: Sources, folder: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run the script with the machine's own programs, a real git and a real pip."""
    (folder / "calls").touch()
    (folder / "faults").touch()
    with display() as name:
        given = {
            **{one: value for one, value in os.environ.items() if not one.startswith(("PYTHON", "PIP", "VIRTUAL"))},
            "DISPLAY": name,
            "HOME": str(folder),
            **sources.variables,
            **variables,
            "FAKE_RLBENCH_LOG": str(folder / "calls"),
            "FAKE_RLBENCH_FAULTS": str(folder / "faults"),
        }
        script = sources.checkout / "launchers/setup/setup_rlbench.sh"
        command = [script, sources.venv / "bin/python"]
        return subprocess.run(command, capture_output=True, text=True, env=given, timeout=300)


def test_a_real_pip_installs_what_it_asks_for(tmp_path: Path) -> None:
    """Its resolver accepts the requirements, and the original and PerAct's fork work from where it puts them."""
    sources = Sources(tmp_path)
    done = run(sources, tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    for name, commit in (("pyrep", "PYREP_COMMIT"), ("rlbench", "RLBENCH_COMMIT")):
        assert f"{name}: installed at {sources.commits[commit]}" in done.stdout
    assert "RLBench is installed" in done.stdout and "variant original" in done.stdout
    assert "success after 2 keyframes" in done.stdout
    fork = run(sources, tmp_path, RLBENCH_VARIANT="peract")
    assert fork.returncode == 0, fork.stdout + fork.stderr
    commit = sources.commits["PERACT_COMMIT"]
    assert f"rlbench: installed at {commit}" in fork.stdout and "pyrep: kept" in fork.stdout
    assert f"variant peract, commit {commit}" in fork.stdout and "success after 2 keyframes" in fork.stdout
    again = run(sources, tmp_path, RLBENCH_VARIANT="peract")
    assert again.returncode == 0 and f"rlbench: kept at {commit}" in again.stdout


def test_a_real_pip_refuses_versions_that_do_not_fit(tmp_path: Path) -> None:
    sources = Sources(tmp_path)
    script = sources.checkout / "launchers/setup/setup_rlbench.sh"
    script.write_text(script.read_text().replace(" cffi ", " cffi==1.14.2 "))
    refused = run(sources, tmp_path)
    assert refused.returncode == 2, refused.stdout
    assert "dependencies of PyRep and RLBench cannot be installed; see above" in refused.stderr
    assert "cffi==1.14.2" in refused.stderr and "installed at" not in refused.stdout


def test_the_makefile_calls_it() -> None:
    shown = subprocess.run(["make", "-n", "rlbench"], cwd=ROOT, capture_output=True, text=True)
    assert "launchers/setup/setup_rlbench.sh .venv/bin/python" in shown.stdout, shown.stderr
