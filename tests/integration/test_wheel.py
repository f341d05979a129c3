"""The wheel, built as pip builds it, and used in an environment without a checkout."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from omegaconf import OmegaConf

from instructrl import Agent
from instructrl.types import Observation
from tests.fixtures import tiny
from tests.fixtures.cameras import ring_of_cameras
from tests.paths import ROOT

ACT = """
import sys
import instructrl
assert "jax" not in sys.modules and instructrl.__file__.startswith(sys.prefix), instructrl.__file__
from instructrl import Agent, Observation
import numpy as np
seen = dict(np.load(sys.argv[2]))
Agent.load(sys.argv[1]).save("agent")
action = Agent.load("agent").act(Observation(**seen, instruction=""), "reach the red ball")
np.save("action.npy", action)
"""
FILES = """
from instructrl.package_files import CONFIG_DIR, IS_CHECKOUT, PACKAGE, REPORT_STYLE, SHIPPED_WEIGHTS, VOCABULARY
from instructrl.package_files import PLAY_PAGE, RLBENCH_INTERFACE, SHIPPED_AGENT
from data_tools.vocabulary import WORDS
from launchers.ssh.broadcast import HOLD
from launchers.ssh.background import RUNS
from instructrl.evaluation.report.templates import environment
import launchers.setup
from pathlib import Path
assert not IS_CHECKOUT and CONFIG_DIR == PACKAGE / "conf"
setup = Path(launchers.setup.__file__).parent
scripts = [setup / f"{name}.sh" for name in ("python", "environment", "setup_gpu", "setup_tpu", "setup_rlbench")]
weights = SHIPPED_WEIGHTS / "m3ae_tiny.safetensors"
play = [SHIPPED_AGENT / "agent.safetensors", SHIPPED_AGENT / "config.yaml", PLAY_PAGE / "page.html"]
for path in (REPORT_STYLE, weights, VOCABULARY, WORDS, RLBENCH_INTERFACE, PACKAGE / "py.typed", *scripts, *play):
    assert path.is_file(), path
for page in ("report", "comparison", "statistics"):
    environment().get_template(f"{page}.html.j2")
"""


class Installed:
    """An environment with the wheel in it, and a folder to work in."""

    def __init__(self, folder: Path) -> None:
        self.bin, self.work = folder / "environment/bin", folder / "work"
        self.work.mkdir()
        dist, tool = folder / "dist", [sys.executable, "-m"]
        done(*tool, "hatchling", "build", "-t", "sdist", "-d", str(dist), cwd=ROOT)
        pip = [*tool, "pip", "--disable-pip-version-check", "--quiet"]
        quiet = ["--no-deps", "--no-index"]
        (source,) = dist.iterdir()
        done(*pip, "wheel", *quiet, "--no-build-isolation", "-w", str(dist), str(source), cwd=folder)
        done(*tool, "venv", "--without-pip", str(folder / "environment"), cwd=folder)
        (wheel,) = dist.glob("*.whl")
        done(*pip, "--python", str(self.bin / "python"), "install", *quiet, str(wheel), cwd=folder)
        # The packages that the suite needs are those of the tests: paths in a .pth file, of which none is a checkout.
        (site,) = folder.glob("environment/lib/*/site-packages")
        (site / "of_the_tests.pth").write_text("\n".join(path for path in sys.path if path.endswith("site-packages")))

    def run(self, command: str, *words: str, code: int = 0) -> subprocess.CompletedProcess[str]:
        environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
        environment["XDG_CONFIG_HOME"] = str(self.work)
        return done(str(self.bin / command), *words, cwd=self.work, code=code, env=environment)


def done(*words: str, cwd: Path, code: int = 0, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    ran = subprocess.run(words, cwd=cwd, env=env, capture_output=True, text=True, timeout=600)
    assert ran.returncode == code, f"{words}: {ran.stdout}{ran.stderr}"
    return ran


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Installed:
    return Installed(tmp_path_factory.mktemp("package"))


def test_it_holds_what_is_not_python_too(installed: Installed) -> None:
    installed.run("python", "-c", FILES)


def test_its_commands_explain_themselves_and_compose(installed: Installed) -> None:
    for name, setting in {"train": "policy.dim", "eval": "episodes", "collect": "val_episodes"}.items():
        assert setting in installed.run(f"instructrl-{name}", "--help").stdout
    composed = installed.run("instructrl-train", "experiment=quickstart", "--cfg", "job").stdout
    ours = done(sys.executable, "train.py", "experiment=quickstart", "--cfg", "job", cwd=ROOT).stdout
    assert OmegaConf.create(composed) == OmegaConf.create(ours)
    refused = installed.run("instructrl-train", "task=unknown", code=2)
    assert refused.stderr.startswith("error: task: found unknown; allowed: ") and refused.stderr.count("\n") == 1


def test_its_agent_is_trained_saved_and_acts_as_in_a_checkout(installed: Installed) -> None:
    words = tiny.overrides(installed.work, "training.epochs=1", "optimizer.warmup_epochs=0", "task=pick_and_lift")
    said = installed.run("instructrl-train", *words).stdout
    run, following = said.splitlines()[-2:]
    run = run.removeprefix("run: ")
    assert following == f"next: instructrl-eval run={run}"
    random = np.random.default_rng(3)
    intrinsics, extrinsics = ring_of_cameras(2, 32)
    seen = {
        "images": random.integers(0, 256, (2, 32, 32, 3), np.uint8),
        "state": random.random(4, np.float32),
        "intrinsics": intrinsics.astype(np.float32),
        "extrinsics": extrinsics.astype(np.float32),
    }
    np.savez(installed.work / "seen.npz", **seen)
    installed.run("python", "-c", ACT, run, "seen.npz")
    ours = Agent.load(installed.work / "agent").act(Observation(**seen, instruction=""), "reach the red ball")
    assert ours.shape == (8,) and np.array_equal(np.load(installed.work / "action.npy"), ours)


def test_its_launcher_starts_jobs_as_modules(installed: Installed) -> None:
    small = ["episodes=2", "val_episodes=1", "sim.image_size=16", "sim.cameras=[front]", "sim.renderer=raycast"]
    words = ["task=reach_target,push_button", *small, "data.dir=collected"]
    installed.run("instructrl-collect", *words, "--multirun")
    assert len([*(installed.work / "collected").rglob("*.hdf5")]) == 4
    script = installed.run("instructrl-train", "launcher=slurm_gpu", "seed=0,1", "-m", "--dry-run").stdout
    assert "PYTHONPATH" not in script and f"{installed.bin}/python -m instructrl.commands.train seed=1" in script
    refused = installed.run("instructrl-train", "launcher=tpu_v4_32", "output_dir=/mnt/x", "--dry-run", code=2)
    assert "clone InstructRL with git" in refused.stderr and refused.stderr.count("\n") == 1
