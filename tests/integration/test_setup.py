"""Set-up scripts of GPU machines and TPU hosts, with stub programs: actions, kept installations and errors."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.paths import ROOT

# A Python 3.MINOR that logs its calls, and creates an environment whose Python does the same.
PYTHON = """#!/bin/sh
case "$*" in
*"import sys, venv"*) echo MINOR; exit 0 ;;
*"import platform"*) echo 3.MINOR.0; exit 0 ;;
esac
echo "$(basename "$0") $*" >> "$LOG"
case "$*" in
*"-m venv"*) for folder; do :; done; mkdir -p "$folder/bin" && cp "$0" "$folder/bin/python" ;;
*"pip install"*) [ -z "$NO_NETWORK" ] || { echo "no route to host" >&2; exit 1; } ;;
*launchers.setup.check_devices*) echo "$3: 4 x imaginary" ;;
esac
"""
OTHER = "#!/bin/sh\nexit 1\n"  # another version, or a shim of pyenv without a version
NOTE = '#!/bin/sh\necho "$(basename "$0") $*" >> "$LOG"\n'


def python(minor: int = 11) -> str:
    """A program that behaves like Python 3.`minor`."""
    return PYTHON.replace("MINOR", str(minor))


class Machine:
    """A checkout and stub programs that only log their calls."""

    def __init__(self, folder: Path):
        self.bin, self.log, self.checkout = folder / "bin", folder / "log", folder / "suite"
        for path in (self.bin, self.checkout / "launchers/setup"):
            path.mkdir(parents=True)
        for name in ("python.sh", "environment.sh", "setup_gpu.sh", "setup_tpu.sh", "setup_metaworld.sh"):
            script = Path("launchers/setup") / name
            (self.checkout / script).write_bytes((ROOT / script).read_bytes())
        for name in ("requirements.txt", "requirements-gpu.txt", "requirements-tpu.txt"):
            (self.checkout / name).write_bytes((ROOT / name).read_bytes())
        (folder / "os-release").write_text("NAME=Debian\nID=debian\n")
        self.release = folder / "os-release"
        self.program("uname", '#!/bin/sh\n[ "$1" = -m ] && echo x86_64 || echo Linux\n')
        self.program("nvidia-smi", NOTE)
        self.program("id", "#!/bin/sh\necho 1000\n")
        self.program("sudo", OTHER)
        for name in (
            "bash",
            "sh",
            "dirname",
            "basename",
            "cat",
            "mkdir",
            "cp",
            "rm",
            "touch",
            "grep",
            "sha256sum",
            "env",
            "true",
        ):
            source = next(Path(place) / name for place in ("/usr/bin", "/bin") if (Path(place) / name).exists())
            (self.bin / name).symlink_to(source)

    def program(self, name: str, text: str) -> None:
        (self.bin / name).unlink(missing_ok=True)
        (self.bin / name).write_text(text)
        (self.bin / name).chmod(0o755)

    def setup(self, kind: str, *words: str, **variables: str) -> subprocess.CompletedProcess[str]:
        defaults = {"PATH": str(self.bin), "LOG": str(self.log), "OS_RELEASE": str(self.release), "NO_NETWORK": ""}
        self.log.write_text("")
        script = ["bash", str(self.checkout / f"launchers/setup/setup_{kind}.sh"), *words]
        return subprocess.run(script, capture_output=True, text=True, env={**defaults, **variables}, timeout=60)

    @property
    def calls(self) -> list[str]:
        return self.log.read_text().splitlines()


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    machine = Machine(tmp_path)
    machine.program("python3.11", python())
    return machine


@pytest.mark.parametrize("kind", ["gpu", "tpu"])
def test_it_installs_fixed_versions_looks_at_the_devices_and_keeps_what_is_there(machine: Machine, kind: str) -> None:
    done = machine.setup(kind)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == f"{kind}: 4 x imaginary"
    created_line, pip, packages, checked = [line for line in machine.calls if line.startswith("python")]
    assert created_line == "python3.11 -m venv --clear .venv" and pip.endswith("pip==26.3")
    assert (
        packages.endswith(f"-r requirements-{kind}.txt")
        and checked == f"python -m launchers.setup.check_devices {kind}"
    )
    again = machine.setup(kind)
    assert again.returncode == 0 and "packages: kept in .venv" in again.stdout
    assert not [line for line in machine.calls if "pip install" in line or "venv" in line]
    requirements = machine.checkout / f"requirements-{kind}.txt"
    requirements.write_text(requirements.read_text() + "six==1.17.0\n")
    assert "packages: installed" in machine.setup(kind).stdout
    assert not [line for line in machine.calls if "-m venv" in line], (
        "the environment is kept, its packages are updated"
    )


def test_what_was_not_finished_is_not_taken_for_finished(machine: Machine) -> None:
    failed = machine.setup("tpu", NO_NETWORK="1")
    assert failed.returncode == 2 and failed.stderr.splitlines()[-1].startswith("error: pip install pip==26.3: failed")
    assert machine.setup("tpu").returncode == 0 and len([line for line in machine.calls if "pip install" in line]) == 2


def test_a_login_node_has_no_gpu(machine: Machine) -> None:
    machine.program("nvidia-smi", OTHER)
    refused = machine.setup("gpu")
    assert refused.returncode == 2 and refused.stderr.startswith("error: nvidia-smi: finds no GPU; install NVIDIA's")
    assert refused.stderr.count("\n") == 1 and not machine.calls
    done = machine.setup("gpu", "--login")
    assert (
        done.returncode == 0 and "GPUs: not checked; check them with: srun --gpus=1 .venv/bin/python -m" in done.stdout
    )
    assert not [line for line in machine.calls if "devices" in line]
    wrong = machine.setup("gpu", "--logn")
    assert wrong.returncode == 2 and wrong.stderr == "error: --logn: no such option; allowed: --login\n"


@pytest.mark.parametrize("root", [True, False])
@pytest.mark.parametrize("system", ["debian", "ubuntu"])
def test_a_missing_python_comes_from_the_systems_packages(machine: Machine, system: str, root: bool) -> None:
    (machine.bin / "python3.11").unlink()
    machine.program("python3", OTHER)
    machine.release.write_text(f"ID={system}\n")
    machine.program("id", f"#!/bin/sh\necho {0 if root else 1000}\n")
    machine.program("sudo", '#!/bin/sh\nshift\nexec "$@"\n')
    machine.program("add-apt-repository", NOTE)
    brings = f'case "$*" in\n*python3*-venv*) cp "{machine.bin}/saved" "{machine.bin}/python3" ;;\nesac\n'
    machine.program("saved", python(13))
    machine.program("apt-get", NOTE + brings)
    done = machine.setup("tpu")
    assert done.returncode == 0, done.stderr
    added = [line for line in machine.calls if line.startswith("add-apt-repository")]
    assert added == (["add-apt-repository -y ppa:deadsnakes/ppa"] if system == "ubuntu" else [])
    assert all("DPkg::Lock::Timeout=600" in line for line in machine.calls if line.startswith("apt-get"))


def test_a_missing_python_comes_from_uv(machine: Machine) -> None:
    (machine.bin / "python3.11").unlink()
    machine.program("own", python(13))
    found = f'case "$*" in\n"python find 3.13") echo "{machine.bin}/own" ;;\nesac\n'
    machine.program("uv", NOTE + found)
    done = machine.setup("tpu")
    assert done.returncode == 0, done.stderr
    assert machine.calls[0] == "uv python install --quiet 3.13" and "own -m venv --clear .venv" in machine.calls


def test_without_any_python_it_is_one_line(machine: Machine) -> None:
    (machine.bin / "python3.11").unlink()
    machine.program("python3", OTHER)
    refused = machine.setup("tpu")
    assert refused.returncode == 2 and refused.stderr.startswith("error: python3: found none from 3.11 to 3.14, and")
    assert refused.stderr.count("\n") == 1
    named = machine.setup("tpu", PYTHON="python3")
    assert named.returncode == 2 and named.stderr.startswith("error: PYTHON=python3: not a Python 3.11 or")


def test_the_newest_python_that_works_is_taken_unless_one_is_given(machine: Machine) -> None:
    """As by make, which runs python.sh alone."""
    for name, program in {"python3.14": OTHER, "python3.13": python(13), "python3": python(12)}.items():
        machine.program(name, program)

    def run_script(**variables: str) -> str:
        machine.log.write_text("")
        given = {"PATH": str(machine.bin), "LOG": str(machine.log), **variables}
        words = ["bash", str(ROOT / "launchers/setup/python.sh"), ".venv"]
        ran = subprocess.run(words, cwd=machine.checkout, env=given, capture_output=True, text=True, timeout=60)
        assert (ran.returncode == 0) == (ran.stderr == "") and ran.returncode in (0, 2)
        return ran.stdout or ran.stderr

    assert run_script() == "Python: 3.13.0 (python3.13), in .venv\n"
    machine.program("python3.14", python(14))
    assert run_script() == "", "the environment stays as it is"
    assert run_script(PYTHON="python3.11") == "Python: 3.11.0 (python3.11), in .venv\n"
    machine.program("python3.10", python(10))
    assert run_script(PYTHON="python3.10").startswith(
        "error: PYTHON=python3.10: not a Python 3.11 or newer with venv; set"
    )
    (machine.checkout / ".venv/bin/python").unlink()
    for name in ("python3.14", "python3.13", "python3.11"):
        (machine.bin / name).unlink()
    machine.program("python3", python(15))
    assert run_script().startswith("error: python3: found none from 3.11 to 3.14 with venv; install one, or")
    assert run_script(PYTHON="python3") == "Python: 3.15.0 (python3), in .venv\n", (
        "newer than the tested versions, at the user's risk"
    )


def test_metaworld_gets_an_environment_of_its_own(machine: Machine) -> None:
    requirements = "requirements-metaworld.txt"
    (machine.checkout / requirements).write_bytes((ROOT / requirements).read_bytes())
    machine.program("python3.14", python(14))  # for which that MuJoCo has no wheel
    done = machine.setup("metaworld", "python3.11")
    assert done.returncode == 0, done.stderr
    created, packages, played = [line for line in machine.calls if line.startswith("python")]
    assert created == "python3.11 -m venv --clear .venv-metaworld" and packages.endswith(f"-r {requirements}")
    assert played.startswith("python3.11 -m data_tools.simulators play --sim metaworld --task reach-v3 --python ")
    assert machine.setup("metaworld", "python3.11").returncode == 0
    assert not [line for line in machine.calls if "-m venv" in line], "the environment is kept"
    failed = machine.setup("metaworld", "python3.11", NO_NETWORK="1")
    assert failed.returncode == 2 and failed.stderr.splitlines()[-1].startswith(f"error: {requirements}: cannot be ins")
    (machine.bin / "python3.11").unlink()
    (machine.checkout / ".venv-metaworld/bin/python").unlink()
    machine.program("python3", OTHER)
    refused = machine.setup("metaworld", "python3.11")
    assert refused.returncode == 2 and refused.stderr.startswith("error: python3: found none from 3.11 to 3.13 with")


def test_pinned_versions_are_within_the_ranges_of_the_package() -> None:
    words = [sys.executable, str(ROOT / ".ci/lock.py"), "--check"]
    ran = subprocess.run(words, capture_output=True, text=True, timeout=60)
    assert ran.returncode == 0, ran.stderr


@pytest.mark.parametrize("kind", ["gpu", "tpu", "metaworld"])
def test_all_that_is_installed_has_a_fixed_version(kind: str) -> None:
    text = (ROOT / f"requirements-{kind}.txt").read_text() + (ROOT / "requirements.txt").read_text()
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    assert all(line == "-r requirements.txt" or re.fullmatch(r"[\w.\[\]-]+==[\w.]+", line) for line in lines), lines
