"""An RLDS data set of a low table: its own workspace is found, trained on, recorded, and not taken for another's."""

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from data_tools.rlds.__main__ import main as rlds_main
from instructrl.data.demonstrations.dataset import DemonstrationDataset
from instructrl.inference.agent import Agent
from instructrl.types import Observation
from tests.fixtures import foreign_rlds as third_party
from tests.fixtures.commands import run_main
from tests.paths import ROOT

SIZE = 32
LOW, HIGH = np.array([0.2, -0.2, 0.02]), np.array([0.45, 0.2, 0.23])  # metres, of the gripper's targets
HOME = np.array([0.3, 0.0, 0.2])
MAPPING = """
cameras:
  front: {image: steps/observation/image}
action:
  position: steps/observation/state[0:3]
  rotation: steps/observation/state[3:6]
  rotation_is: euler_xyz
  gripper: steps/observation/state[6] > 0.5
  leads_to: same
state: {gripper: "steps/observation/state[6] > 0.5", finger_opening: 0.04}
keyframes: {kind: every}
instruction: {key: steps/language_instruction}
"""
TINY = (
    "name=bridge",
    "head=regression",
    "policy=vit_debug",
    "training.epochs=30",
    "training.batch_size=16",
    "optimizer.learning_rate=0.003",
    "training.token_dropout=0",
    "hardware=cpu",
    "hardware.local_devices=1",
)


def features() -> Any:
    import tensorflow_datasets as tfds

    has = tfds.features
    observation = {"image": has.Image(shape=(SIZE, SIZE, 3)), "state": has.Tensor(shape=(7,), dtype=np.float32)}
    step = {
        "observation": observation,
        **dict.fromkeys(("is_first", "is_last", "is_terminal"), np.bool_),
        "language_instruction": has.Text(),
    }
    return has.FeaturesDict({"steps": has.Dataset(step)})


def image(target: np.ndarray) -> np.ndarray:
    """A blob: its place is the target's x and y, its colour the height."""
    x, y, z = (target - LOW) / (HIGH - LOW)
    rows, columns = np.mgrid[:SIZE, :SIZE] / SIZE
    blob = np.exp(-((rows - 0.15 - 0.7 * x) ** 2 + (columns - 0.15 - 0.7 * y) ** 2) / 0.01)
    return (255 * blob[..., None] * [1, z, 1 - z]).astype(np.uint8)


def episode(seed: int) -> dict[str, Any]:
    """Go from home to the target that the image shows."""
    target = np.random.default_rng(seed).uniform(LOW, HIGH)
    steps = [
        {
            "observation": {
                "image": third_party.png(image(target)),
                "state": np.array([*position, np.pi, 0, 0, 1], np.float32),
            },
            "is_first": number == 0,
            "is_last": number == 1,
            "is_terminal": number == 1,
            "language_instruction": "go to the blob",
        }
        for number, position in enumerate((HOME, target))
    ]
    return {"steps": steps}


def train(place: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """Train in a folder."""
    argv = [sys.executable, str(ROOT / "train.py"), *words]
    return subprocess.run(argv, cwd=place, capture_output=True, text=True, timeout=600, check=False)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the data set."""
    folder = tmp_path_factory.mktemp("bridge")
    splits = {"train": [episode(seed) for seed in range(96)], "val": [episode(seed) for seed in range(500, 516)]}
    third_party.dataset(folder / "src", splits, kind="tfrecord", has=features())
    (folder / "mapping.yaml").write_text(MAPPING)
    return folder


@pytest.fixture(scope="module")
def printed(place: Path) -> list[str]:
    """The words of the command that the import prints."""
    words = (f"src={place / 'src'}", f"out={place / 'data'}", f"mapping={place / 'mapping.yaml'}", "task=bridge")
    done = run_main(rlds_main, "import", *words)
    assert done.returncode == 0, done.stderr
    assert "96 episodes found, 96 converted" in done.stdout and "16 episodes found, 16 converted" in done.stdout
    [following] = [line for line in done.stdout.splitlines() if line.startswith("next: ")]
    assert following == done.stdout.splitlines()[-1] and "task.episodes=96 task.val_episodes=16" in following
    return shlex.split(following)[3:]


def test_the_workspace_of_both_files_is_that_of_the_data(place: Path, printed: list[str]) -> None:
    files = [DemonstrationDataset(path) for path in sorted((place / "data").rglob("*.hdf5"))]
    targets = np.stack([np.random.default_rng(seed).uniform(LOW, HIGH) for seed in (*range(96), *range(500, 516))])
    assert len(files) == 2
    for one in files:
        low, high = one.workspace.bounds
        margin = np.maximum(0.05 * np.ptp(targets, axis=0), 0.01)
        np.testing.assert_allclose(low, targets.min(axis=0) - margin, atol=6e-4)
        np.testing.assert_allclose(high, targets.max(axis=0) + margin, atol=6e-4)
        assert not one.outside.any()
    assert f"sim.workspace={files[0].workspace}" in printed


def test_training_is_refused_with_bounds_of_another_world(place: Path, printed: list[str]) -> None:
    words = [word for word in printed if not word.startswith("sim.workspace")]
    done = train(place, *words, *TINY)
    found = r"^error: .*hdf5: found demonstrations with the workspace \[.*\], but sim.workspace=\[-0.3,-0.5,0.6,0.7,.*"
    assert done.returncode == 2 and re.match(found, done.stderr) and done.stderr.count("\n") == 1, done.stderr
    assert next(word for word in printed if word.startswith("sim.workspace")) in done.stderr
    assert not (place / "outputs").exists()


def test_its_agent_acts_within_centimetres_in_its_own_workspace(place: Path, printed: list[str]) -> None:
    done = train(place, *printed, *TINY)
    assert done.returncode == 0, done.stderr[-2000:]
    run = place / "outputs" / "bridge"
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert min(line["position_cm"] for line in lines if line["split"] == "val") < 5
    agent = Agent.load(run)
    workspace = next(iter({DemonstrationDataset(path).workspace for path in (place / "data").rglob("*.hdf5")}))
    assert agent.workspace == workspace
    target = np.random.default_rng(500).uniform(LOW, HIGH)
    seen = Observation(
        image(target)[None],
        np.array([1, 0.04, 0.04, -1], np.float32),
        np.array([[[SIZE, 0, SIZE / 2], [0, SIZE, SIZE / 2], [0, 0, 1]]], np.float32),
        np.eye(4, dtype=np.float32)[None],
        "",
    )
    assert np.linalg.norm(agent.act(seen, "go to the blob")[:3] - target) < 0.1
    agent.save(place / "exported")
    assert Agent.load(place / "exported").workspace == workspace


def test_no_simulator_plays_its_episodes(place: Path) -> None:
    done = subprocess.run(
        [sys.executable, str(ROOT / "eval.py"), "run=outputs/bridge"], cwd=place, capture_output=True, text=True,
        timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == 2 and done.stderr.startswith("error: sim.workspace: found ["), done.stderr
    assert "sim=rlbench plays episodes: its own, [-0.3, -0.5, 0.6, 0.7, 0.5, 1.6]" in done.stderr


def test_keyframes_outside_a_given_workspace_are_counted_and_refused(place: Path, tmp_path: Path) -> None:
    words = (f"src={place / 'src'}", f"out={tmp_path}", f"mapping={place / 'mapping.yaml'}", "task=bridge")
    done = run_main(rlds_main, "import", *words, "workspace=[-0.3,-0.5,0.1,0.7,0.5,1.6]")
    low = sum(np.random.default_rng(seed).uniform(LOW, HIGH)[2] < 0.1 for seed in range(96))
    assert f"96 episodes found, {96 - low} converted, {low} skipped ({low} keyframes outside" in done.stdout
    done = run_main(rlds_main, "import", *words, "workspace=[-0.3,-0.5,0.6,0.7,0.5]")
    assert done.returncode == 2 and done.stderr.startswith("error: workspace: found [-0.3, -0.5, 0.6, 0.7, 0.5]; allo")
