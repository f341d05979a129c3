"""Training end to end: the files of a run, and that an interruption changes no result."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest

from instructrl.errors import InputError, RunError
from instructrl.inference.batched_agent import load_batched_agent
from instructrl.storage.file_lock import exclusive_lock
from instructrl.training.checkpointing.manager import open_checkpoints
from instructrl.training.monitoring.metric_writer import read_lines
from instructrl.training.run_dir import open_run
from instructrl.training.train_loop import train
from tests.fixtures import tiny
from tests.paths import ROOT


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return tiny.demonstrations(tmp_path_factory.mktemp("demonstrations"))


def run_to_the_end(folder, data, *more, rollout=None):
    config = tiny.config(folder, *more)
    run = open_run(config)
    train(config, run, data=data, rollout=rollout)
    return run


def final_params(run, which="last"):
    actor, step = load_batched_agent(run, checkpoint=which, slots=1, steps=6, hardware=tiny.config(run).hardware)
    return actor.params, step


def assert_same(first, second):
    jax.tree.map(np.testing.assert_array_equal, first, second)


@pytest.fixture(scope="module")
def undisturbed(data, tmp_path_factory):
    return run_to_the_end(tmp_path_factory.mktemp("undisturbed"), data)


def test_a_run_leaves_settings_data_metrics_and_checkpoints(undisturbed, data):
    lines = read_lines(undisturbed / "metrics.jsonl")
    assert [(line["split"], line["epoch"], line["step"]) for line in lines] == [
        (split, epoch, 3 * epoch) for epoch in (1, 2, 3, 4) for split in ("train", "val")
    ]
    assert {"loss", "position_cm", "rotation_deg", "gripper_accuracy"} <= set(lines[0]) & set(lines[1])
    assert lines[-2]["loss"] < lines[0]["loss"]
    recorded = json.loads((undisturbed / "data.json").read_text())
    assert recorded["train"]["path"] == str(data["train"][0])
    assert recorded["train"]["provenance"]["renderer"] == "raycast"
    _, last = final_params(undisturbed)
    _, best = final_params(undisturbed, "best")
    val = {line["step"]: line["loss"] for line in lines if line["split"] == "val"}
    assert last == 12 and best == min(val, key=val.__getitem__)


def test_the_same_command_again_trains_no_further(undisturbed, data, capsys):
    before, metrics = final_params(undisturbed)[0], (undisturbed / "metrics.jsonl").read_text()
    run_to_the_end(undisturbed.parent.parent, data)
    assert "already trained" in capsys.readouterr().out
    assert_same(final_params(undisturbed)[0], before)
    assert (undisturbed / "metrics.jsonl").read_text() == metrics


def test_one_trainer_at_a_time(undisturbed, data):
    with (
        exclusive_lock(undisturbed, activity="trains", busy_hint="wait"),
        pytest.raises(InputError, match="another process"),
    ):
        run_to_the_end(undisturbed.parent.parent, data)


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


@pytest.mark.parametrize("epoch", [1, 3])
def test_an_interrupted_run_ends_with_the_same_numbers(undisturbed, data, tmp_path, epoch):
    def fail(params, at):
        if at == epoch:
            raise KeyboardInterrupt
        return {}

    with pytest.raises(KeyboardInterrupt):
        run_to_the_end(tmp_path, data, "training.rollout_every=1", rollout=fail)
    run = run_to_the_end(tmp_path, data)
    assert_same(final_params(run)[0], final_params(undisturbed)[0])
    lines = [line for line in read_lines(run / "metrics.jsonl") if line["split"] != "rollout"]
    assert lines == read_lines(undisturbed / "metrics.jsonl")


def test_another_seed_gives_other_numbers(undisturbed, data, tmp_path):
    run = run_to_the_end(tmp_path, data, "seed=1")
    other = jax.tree.leaves(final_params(run)[0])
    assert any(np.any(a != b) for a, b in zip(other, jax.tree.leaves(final_params(undisturbed)[0]), strict=True))


def test_rollouts_are_asked_for_every_n_epochs_and_recorded(data, tmp_path):
    epochs = []

    def rollout(params, epoch):
        epochs.append(epoch)
        return {"success_rate": 0.5}

    run = run_to_the_end(tmp_path, data, "training.rollout_every=2", "training.validate_every=3", rollout=rollout)
    lines = read_lines(run / "metrics.jsonl")
    assert epochs == [2, 4] == [line["epoch"] for line in lines if line["split"] == "rollout"]
    assert [line["epoch"] for line in lines if line["split"] == "val"] == [3, 4]


def test_a_loss_that_is_not_finite_stops_with_the_step_and_saves_nothing(data, tmp_path):
    with pytest.raises(RunError, match=r"loss is (inf|nan) at step 0"):
        run_to_the_end(tmp_path, data, "head.rotation_weight=1e39")
    assert not [folder for folder in (tmp_path / "outputs").glob("*/checkpoints/*") if folder.name.isdigit()]


def test_other_demonstrations_under_the_same_run_are_refused(data, tmp_path):
    run_to_the_end(tmp_path, data, "training.epochs=1", "optimizer.warmup_epochs=0")
    other = tiny.demonstrations(tmp_path, seed=5)
    with pytest.raises(InputError, match="content has changed since"):
        run_to_the_end(tmp_path, other, "training.epochs=1", "optimizer.warmup_epochs=0")


def test_demonstrations_of_other_cameras_are_refused(data, tmp_path):
    with pytest.raises(InputError, match=r"batch\.images"):
        run_to_the_end(tmp_path, data, "sim.cameras=[front]")


@pytest.mark.parametrize("head", ["regression", "spatial"])
def test_bfloat16_computes_near_float32_and_keeps_float32_parameters(data, tmp_path, head):
    losses = {}
    for precision in ("float32", "bfloat16"):
        run = run_to_the_end(tmp_path, data, f"hardware.precision={precision}", f"head={head}", f"name={precision}")
        losses[precision] = read_lines(run / "metrics.jsonl")[-1]["loss"]
        assert {leaf.dtype for leaf in jax.tree.leaves(final_params(run)[0])} == {np.dtype(np.float32)}
    assert losses["bfloat16"] == pytest.approx(losses["float32"], rel=0.1)
    assert losses["bfloat16"] != losses["float32"]


def test_a_damaged_checkpoint_is_one_line_that_names_it(data, tmp_path):
    run = run_to_the_end(tmp_path, data)
    for file in (run / "checkpoints" / "12").rglob("*"):
        if file.is_file() and "d" in file.relative_to(run).parts:
            file.write_bytes(file.read_bytes()[:10])
    for file in (run / "checkpoints" / "12" / "default").rglob("manifest.ocdbt"):
        file.write_bytes(b"damaged")
    with pytest.raises(InputError, match="12"):
        final_params(run)


@pytest.fixture
def wandb_stops():
    """Stop W&B's service, which would otherwise be inherited through the environment by all later tests."""
    yield
    import wandb

    wandb.teardown()


@pytest.mark.usefixtures("wandb_stops")
def test_wandb_offline_keeps_the_same_numbers_and_online_without_a_key_is_one_line(data, tmp_path, monkeypatch):
    for name in ("WANDB_API_KEY", "WANDB_MODE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    run = run_to_the_end(tmp_path, data, "wandb.mode=offline")
    assert list((run / "wandb").glob("offline-run-*/*.wandb"))
    assert len(read_lines(run / "metrics.jsonl")) == 8
    with pytest.raises(InputError, match=r"wandb\.mode"):
        run_to_the_end(tmp_path, data, "wandb.mode=online", "name=online")


@pytest.mark.slow
@pytest.mark.parametrize(("words", "steps"), [((), 90), (("task.tasks=[reach_target,push_button]",), 150)])
def test_killed_at_random_moments_the_same_command_ends_bit_equal(tmp_path, words, steps):
    """The complete command line, including collection; SIGKILL leaves no process behind."""

    def start(folder):
        command = [sys.executable, str(ROOT / "train.py"), *tiny.overrides(folder, "training.epochs=30", *words)]
        log = (folder / "log").open("a")
        return subprocess.Popen(command, cwd=folder, stdout=log, stderr=log, start_new_session=True)

    folders = {name: tmp_path / name for name in ("undisturbed", "killed")}
    for folder in folders.values():
        folder.mkdir()
    started = time.monotonic()
    assert start(folders["undisturbed"]).wait(300) == 0, (folders["undisturbed"] / "log").read_text()
    duration = time.monotonic() - started
    moments = random.Random(7)
    for _ in range(3):
        process = start(folders["killed"])
        time.sleep(moments.uniform(0.2, 0.95) * duration)
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
    assert start(folders["killed"]).wait(300) == 0, (folders["killed"] / "log").read_text()
    runs = [next((folder / "outputs").iterdir()) for folder in folders.values()]
    (first, step), (second, same_step) = (final_params(run) for run in runs)
    assert step == same_step == steps
    assert_same(first, second)
    assert len({(run / "metrics.jsonl").read_text() for run in runs}) == 1


def test_reading_checkpoints_says_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with open_checkpoints(tmp_path):
        pass
    caplog.clear()
    with open_checkpoints(tmp_path, read_only=True) as checkpoints:
        assert checkpoints.step() is None
    assert [record.getMessage() for record in caplog.records if record.levelname != "INFO"] == []
