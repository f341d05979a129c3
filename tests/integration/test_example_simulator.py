"""The example of a simulator: installed from another folder, it is collected, trained, evaluated and reported."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from instructrl.data.demonstrations.dataset import DemonstrationDataset
from instructrl.workspace import RLBENCH_WORKSPACE
from tests.fixtures.packages import EXAMPLE, install
from tests.paths import ROOT

WORKSPACE = "[1,-0.3,0,1.6,0.3,0.2]"
CHOSEN = ("sim=mat", "task=touch_disc", "sim.workers=1")
TRAINED = (
    "name=mat",
    "policy=vit_debug",
    "policy.dim=16",
    "policy.heads=2",
    "training.epochs=2",
    "training.batch_size=16",
    "training.rollout_every=2",
    "training.rollout_episodes=2",
    "optimizer.warmup_epochs=0.5",
    "hardware=cpu",
    "hardware.local_devices=1",
)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder in which the package is installed."""
    folder = tmp_path_factory.mktemp("site")
    install(EXAMPLE, folder)
    return folder


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder in which the commands are called."""
    return tmp_path_factory.mktemp("place")


def ran(*words: str, place: Path, site: Path) -> subprocess.CompletedProcess[str]:
    """A command of InstructRL's beside the installed package."""
    path = os.pathsep.join(map(str, [ROOT, site]))
    return subprocess.run(
        [sys.executable, *words],
        cwd=place,
        env=os.environ | {"PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )


def test_the_example_is_short() -> None:
    [file] = EXAMPLE.rglob("*.py")
    assert len(file.read_text().splitlines()) < 100


def test_the_whole_path_from_collection_to_report(place: Path, site: Path) -> None:
    done = ran("-m", "data_tools.collect", *CHOSEN, place=place, site=site)
    assert done.returncode == 0, done.stderr[-2000:]
    files = [DemonstrationDataset(path) for path in sorted((place / "data" / "mat").rglob("*.hdf5"))]
    assert [one.header.split for one in files] == ["train", "val"]
    for one in files:
        assert (str(one.workspace), one.cameras) == (WORKSPACE, ("port", "starboard")) and not one.outside.any()
        assert one.state == ("tip x (m)", "tip y (m)", "tip z (m)") and one.contents.state.shape[1] == 3
        assert not RLBENCH_WORKSPACE.contains(one.contents.action[:, :3]).any()
    done = ran(str(ROOT / "train.py"), *CHOSEN, *TRAINED, place=place, site=site)
    assert done.returncode == 0, done.stderr[-2000:]
    run = place / "outputs" / "mat"
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert any(line["split"] == "rollout" for line in lines)
    assert all(line["position_cm"] < 90 for line in lines if line["split"] == "val"), "within the workspace"
    conditions = "conditions=[trained,held_out_instructions,swapped_instruction,oracle]"
    words = ("run=outputs/mat", "episodes=8", conditions, "videos=1", "workers=1")
    done = ran(str(ROOT / "eval.py"), *words, place=place, site=site)
    assert done.returncode == 0, done.stderr[-2000:]
    results = json.loads((run / "eval" / "results.json").read_text())
    assert results["conditions"]["oracle"]["success_rate"] == 1 and results["simulator"]["simulator"] == "mat"
    assert "touch_disc" in (run / "eval" / "report.html").read_text()


@pytest.mark.parametrize(
    ("word", "line"),
    [
        ("sim.cameras=[front]", "error: sim.cameras: found [front]; allowed: a list of port, starboard"),
        ("sim.workspace=[0,0,0,1,1,1]", "error: sim.workspace: found [0.0, 0.0, 0.0, 1.0, 1.0, 1.0], of other de"),
        ("sim.workspace=[0,0,0,1,1,0]", "error: sim.workspace: found [0.0, 0.0, 0.0, 1.0, 1.0, 0.0]; allowed: six num"),
        ("sim.state=[joint]", "error: sim.state: found [joint], of other demonstrations; allowed where sim=mat plays"),
    ],
)
def test_settings_of_another_world_are_one_line(word: str, line: str, site: Path, tmp_path: Path) -> None:
    done = ran("-m", "data_tools.collect", *CHOSEN, word, place=tmp_path, site=site)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1) and done.stderr.startswith(line), done.stderr
    assert not list(tmp_path.rglob("*.hdf5"))
