"""Training end to end: the files of a run, and what it refuses."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest

from instructrl.data.demonstrations.dataset import DemonstrationDataset
from instructrl.data.loading.loader import Loader
from instructrl.data.text.tokenizer import make_tokenizer
from instructrl.errors import InputError, RunError
from instructrl.inference.batched_agent import load_batched_agent
from instructrl.storage.file_lock import exclusive_lock
from instructrl.training.checkpointing.manager import open_checkpoints
from instructrl.training.monitoring.metric_writer import read_lines
from instructrl.training.objectives.behavior_cloning import (
    describe_episodes,
    open_demonstrations,
    prepare_behavior_cloning,
)
from instructrl.training.run_dir import open_run
from tests.fixtures import tiny, tiny_objective
from tests.paths import ROOT


@pytest.fixture(scope="module")
def data():
    return tiny.shared_demonstrations()


def final_params(run, which="last"):
    actor, step = load_batched_agent(run, checkpoint=which, slots=1, steps=6, hardware=tiny.config(run).hardware)
    return actor.params, step


def test_a_run_leaves_settings_data_metrics_and_checkpoints(data):
    run = tiny.shared_run()
    lines = [line for line in read_lines(run / "metrics.jsonl") if line["split"] in ("train", "val")]
    assert [(line["split"], line["epoch"], line["step"]) for line in lines] == [
        (split, epoch, 3 * epoch) for epoch in (1, 2, 3, 4) for split in ("train", "val")
    ]
    assert {"loss", "position_cm", "rotation_deg", "gripper_accuracy"} <= set(lines[0]) & set(lines[1])
    assert lines[-2]["loss"] < lines[0]["loss"]
    recorded = json.loads((run / "data.json").read_text())
    assert recorded["train"]["path"] == str(data["train"][0])
    assert recorded["train"]["provenance"]["renderer"] == "raycast"
    _, last = final_params(run)
    _, best = final_params(run, "best")
    val = {line["step"]: line["loss"] for line in lines if line["split"] == "val"}
    assert last == 12 and best == min(val, key=val.__getitem__)


def test_the_same_command_again_trains_no_further(data, tmp_path, capsys):
    run = tiny.copied_run(tmp_path)
    metrics, checkpoints = (run / "metrics.jsonl").read_text(), sorted((run / "checkpoints").iterdir())
    assert tiny.trained(tmp_path, data) == run
    assert "already trained" in capsys.readouterr().out
    assert (run / "metrics.jsonl").read_text() == metrics and sorted((run / "checkpoints").iterdir()) == checkpoints


def test_one_trainer_at_a_time(tmp_path):
    run = tiny_objective.trained(tmp_path, "training.epochs=1", "optimizer.warmup_epochs=0")
    with (
        exclusive_lock(run, activity="trains", busy_hint="wait"),
        pytest.raises(InputError, match="another process"),
    ):
        tiny_objective.trained(tmp_path, "training.epochs=1", "optimizer.warmup_epochs=0")


def test_reading_a_run_leaves_what_its_trainer_is_writing(tmp_path):
    half = tmp_path / "checkpoints" / "12.orbax-checkpoint-tmp"
    half.mkdir(parents=True)
    for read_only in (True, False):  # orbax cleans up in the background
        with open_checkpoints(tmp_path, read_only=read_only) as checkpoints:
            assert checkpoints.step("last") is None
            end = time.monotonic() + (0.5 if read_only else 20)
            while half.exists() and time.monotonic() < end:
                time.sleep(0.02)
        assert half.exists() is read_only


def test_a_device_that_is_not_there_is_refused_before_anything_is_made(tmp_path):
    command = [sys.executable, str(ROOT / "train.py"), *tiny.overrides(tmp_path, "hardware=gpu")]
    nowhere = {**os.environ, "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(command, cwd=tmp_path, env=nowhere, capture_output=True, text=True, check=False)
    assert done.returncode == 2 and "install requirements-gpu.txt" in done.stderr.splitlines()[-1]
    assert not list(tmp_path.iterdir())


def test_another_seed_gives_other_parameters_and_batches(data, tmp_path):
    found = []
    for seed in (0, 1):
        config = tiny.config(tmp_path, f"seed={seed}")
        with open_demonstrations(config, data) as splits:
            training, state = prepare_behavior_cloning(config, open_run(config), splits)
            found.append((jax.tree.leaves(state.params), training.train.batch(0).actions))
    (params, actions), (others, other_actions) = found
    assert any(np.any(one != other) for one, other in zip(params, others, strict=True))
    assert np.any(actions != other_actions)


def test_rollouts_are_asked_for_every_n_epochs_and_recorded(tmp_path):
    epochs = []

    def rollout(params, epoch):
        epochs.append(epoch)
        return {"success_rate": 0.5}

    words = ("training.rollout_every=2", "training.validate_every=3")
    run = tiny_objective.trained(tmp_path, *words, rollout=rollout)
    lines = read_lines(run / "metrics.jsonl")
    assert epochs == [2, 4] == [line["epoch"] for line in lines if line["split"] == "rollout"]
    assert [line["epoch"] for line in lines if line["split"] == "val"] == [3, 4]


def test_a_loss_that_is_not_finite_stops_with_the_step_and_its_episodes_and_saves_nothing(data, tmp_path):
    with pytest.raises(RunError, match=r"loss is (inf|nan) at step 0") as error:
        tiny.trained(tmp_path, data, "head.rotation_weight=1e39")
    assert not [folder for folder in (tmp_path / "outputs").glob("*/checkpoints/*") if folder.name.isdigit()]
    with DemonstrationDataset(data["train"][0]) as episodes:
        tokenizer = make_tokenizer(tiny.config(tmp_path).encoder)
        drawn = Loader([episodes], tokenizer, batch_size=5, seed=0).episodes_in_batch(0)
        assert describe_episodes(drawn) in str(error.value) and "\n" not in str(error.value)


def test_other_demonstrations_under_the_same_run_are_refused(tmp_path):
    tiny.copied_run(tmp_path)
    other = tiny.demonstrations(tmp_path / "other", seed=5)
    with pytest.raises(InputError, match="content has changed since"):
        tiny.trained(tmp_path, other)


def test_demonstrations_of_other_cameras_are_refused(data, tmp_path):
    with pytest.raises(InputError, match=r"batch\.images"):
        tiny.trained(tmp_path, data, "sim.cameras=[front]")


def test_a_damaged_checkpoint_is_one_line_that_names_it(tmp_path):
    run = tiny.copied_run(tmp_path)
    for file in (run / "checkpoints" / "12").rglob("*"):
        if file.is_file() and "d" in file.relative_to(run).parts:
            file.write_bytes(file.read_bytes()[:10])
    for file in (run / "checkpoints" / "12" / "default").rglob("manifest.ocdbt"):
        file.write_bytes(b"damaged")
    with pytest.raises(InputError, match="12"):
        final_params(run)


def test_reading_checkpoints_says_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with open_checkpoints(tmp_path):
        pass
    caplog.clear()
    with open_checkpoints(tmp_path, read_only=True) as checkpoints:
        assert checkpoints.step() is None
    assert [record.getMessage() for record in caplog.records if record.levelname != "INFO"] == []
