"""Data sets of LeRobot are imported, trained on with the command that the import prints, and acted upon."""

import json
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from data_tools.lerobot.__main__ import main
from instructrl.data.demonstrations.dataset import DemonstrationDataset
from instructrl.inference.agent import Agent
from instructrl.types import Observation
from tests.fixtures import tiny
from tests.fixtures.commands import run_main
from tests.fixtures.lerobot_tiny import TINY, exported_mapping, mapping
from tests.paths import ROOT

pytest.importorskip("av")
FAST = ("name=lerobot", "policy=vit_debug", "training.epochs=1", "training.batch_size=2")
CPU = ("training.token_dropout=0", "optimizer.warmup_epochs=0", "hardware=cpu", "hardware.local_devices=1")


def test_data_of_the_embedded_robot_is_trained_on_and_its_agent_evaluated(tmp_path: Path) -> None:
    """Through a mapping, as for a data set of others: nothing but its features says where it is from."""
    originals = tiny.demonstrations(tmp_path / "originals", task="reach_target")
    assert run_main(main, "export", f"src={tmp_path / 'originals'}", f"out={tmp_path / 'lerobot'}").returncode == 0
    words = (
        exported_mapping(tmp_path, "front", "left_shoulder"),
        "task=reach_target",
        "sim=tabletop",
        "renderer=raycast",
    )
    done = run_main(main, "import", f"src={tmp_path / 'lerobot'}", f"out={tmp_path / 'data'}", *words)
    assert done.returncode == 0 and "sim=tabletop" in done.stdout.splitlines()[-1], done.stderr
    files = {path.stem: [path] for path in (tmp_path / "data" / "tabletop").rglob("*.hdf5")}
    for split in originals:
        with DemonstrationDataset(originals[split][0]) as old, DemonstrationDataset(files[split][0]) as new:
            assert len(new) == len(old)
            np.testing.assert_array_equal(new.demonstration(0).actions, old.demonstration(0).actions)
    run = tiny.trained(tmp_path, files, "task=reach_target", "training.epochs=1")
    words = (f"run={run}", "episodes=2", "videos=0", "conditions=[trained,oracle]", "hardware=cpu")
    ended = subprocess.run(
        [sys.executable, str(ROOT / "eval.py"), *words], cwd=tmp_path, capture_output=True, text=True
    )
    assert ended.returncode == 0, ended.stderr[-2000:]
    results = json.loads((run / "eval" / "results.json").read_text())
    assert results["episodes"] == 2 and results["conditions"]["oracle"]["success_rate"] == 1.0


def test_data_of_another_robot_are_trained_on_and_its_agent_acts_in_its_workspace_but_in_no_simulator(
    tmp_path: Path,
) -> None:
    words = (f"src={TINY}", f"out={tmp_path / 'data'}", mapping(tmp_path), "task=blob")
    done = run_main(main, "import", *words)
    assert done.returncode == 0 and "3 episodes found, 3 converted" in done.stdout, done.stderr
    following = shlex.split(done.stdout.splitlines()[-1])
    assert following[:3] == ["next:", "python", "train.py"] and following[-1] == "head=regression"
    argv = [sys.executable, str(ROOT / "train.py"), *following[3:], *FAST, *CPU]
    trained = subprocess.run(argv, cwd=tmp_path, capture_output=True, text=True, timeout=600, check=False)
    assert trained.returncode == 0, trained.stderr[-2000:]
    run = tmp_path / "outputs" / "lerobot"
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert any(line["split"] == "val" and np.isfinite(line["position_cm"]) for line in lines)
    with DemonstrationDataset(next(tmp_path.rglob("val.hdf5"))) as episodes:
        one, agent = episodes.demonstration(0), Agent.load(run)
        seen = Observation(one.images[0], one.state[0], one.intrinsics[0], one.extrinsics[0], "")
        assert agent.workspace == episodes.workspace
        assert episodes.workspace.contains(agent.act(seen, one.instructions[0])[:3])
    before = sorted(run.rglob("*"))
    argv = [sys.executable, str(ROOT / "eval.py"), f"run={run}", "hardware=cpu"]
    refused = subprocess.run(argv, cwd=tmp_path, capture_output=True, text=True, timeout=600, check=False)
    [line] = refused.stderr.splitlines()
    assert refused.returncode == 2 and sorted(run.rglob("*")) == before
    assert line.startswith("error: sim.workspace: found [") and line.endswith(
        "serve it: python -m instructrl.inference.serve run=RUN"
    )
