"""File systems that are full, read-only or damaged, and concurrent trainings: one-line errors without data loss."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from instructrl.errors import InputError, RunError, report_user_errors
from instructrl.training.checkpointing.manager import Checkpoints, Retention, open_checkpoints
from instructrl.training.monitoring.metric_writer import read_lines
from instructrl.training.run_dir import open_run
from instructrl.training.state import TrainState
from instructrl.training.train_loop import train
from tests.fixtures import tiny, tiny_objective
from tests.paths import ROOT


def state(step: int, kilobytes: int = 4) -> TrainState:
    """Return a state with parameters that do not compress."""
    noise = np.random.default_rng(step).integers(0, 2**31, 256 * kilobytes, np.int32).view(np.float32)
    return TrainState(jax.numpy.int32(step), {"a": jax.numpy.asarray(noise)}, ())


def same(found: TrainState, expected: TrainState) -> None:
    jax.tree.map(np.testing.assert_array_equal, found, expected)


def save(checkpoints: Checkpoints, *steps: int, kilobytes: int = 4) -> None:
    """Save checkpoints whose validation loss increases with the step."""
    for step in steps:
        checkpoints.save(state(step, kilobytes), step=step, metrics={"loss": float(step)})
        checkpoints.wait()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """Mount a file system of 4 MB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(folder)]
    if shutil.which("mount") is None or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("requires permission to mount a file system")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def test_a_full_disk_keeps_the_last_good_checkpoint(small_disk: Path, capfd: pytest.CaptureFixture[str]) -> None:
    refused = pytest.raises(
        RunError, match=r"checkpoints: cannot be written .*earlier checkpoints are intact: make room"
    )
    with refused, open_checkpoints(small_disk, keep=Retention(1, 1)) as checkpoints:
        save(checkpoints, 1, 2, 3, kilobytes=1500)
    assert "Traceback" not in capfd.readouterr().err
    with open_checkpoints(small_disk, read_only=True) as checkpoints:
        assert (checkpoints.step("last"), checkpoints.step("best")) == (2, 1)
        same(checkpoints.restore(state(0, 1500), step=2), state(2, 1500))
    subprocess.run(["mount", "-o", "remount,size=8m", str(small_disk)], check=True)
    with open_checkpoints(small_disk, keep=Retention(1, 1)) as checkpoints:
        save(checkpoints, 3, kilobytes=1500)
    assert sorted(path.name for path in (small_disk / "checkpoints").iterdir()) == ["1", "3"]


@pytest.mark.parametrize("left", [0, 8_000])
def test_training_on_a_full_disk_is_one_line_and_goes_on_when_there_is_room(
    small_disk: Path, tmp_path: Path, left: int, capfd: pytest.CaptureFixture[str]
) -> None:
    check_full_disk(small_disk, tmp_path, capfd, left=left, data={}, objective_kind=tiny_objective.kind())


def test_training_of_an_agent_on_a_full_disk(
    small_disk: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    check_full_disk(small_disk, tmp_path, capfd, left=200_000, data=tiny.shared_demonstrations())


def check_full_disk(disk: Path, folder: Path, capfd: pytest.CaptureFixture[str], *, left: int, **training: Any) -> None:
    """Assert what a training says when `left` bytes are left, and that it resumes when there is room."""
    config = tiny.config(folder, f"output_dir={disk}", "training.epochs=3")
    run = open_run(config)

    def fill(params: Any, epoch: int) -> dict[str, float]:
        if epoch == 2 and not (disk / "ballast").exists():
            room = os.statvfs(disk)
            (disk / "ballast").write_bytes(bytes(max(room.f_bavail * room.f_bsize - left, 0)))
        return {}

    config.training.rollout_every = 1
    with pytest.raises(SystemExit) as ended, report_user_errors():
        train(config, run, rollout=fill, **training)
    stderr = capfd.readouterr().err
    assert ended.value.code == 1, stderr
    assert "Traceback" not in stderr
    [line] = [line for line in stderr.splitlines() if line.startswith("error: ")]
    assert "make room" in line
    (disk / "ballast").unlink()
    config.training.rollout_every = 0
    train(config, run, **training)
    lines = read_lines(run / "metrics.jsonl")
    assert [(line["split"], line["epoch"]) for line in lines if line["split"] != "rollout"] == [
        (split, epoch) for epoch in (1, 2, 3) for split in ("train", "val")
    ]


def test_any_truncated_file_of_a_checkpoint_is_found_and_said(tmp_path: Path) -> None:
    with open_checkpoints(tmp_path / "whole", keep=Retention(2, 1)) as checkpoints:
        save(checkpoints, 1, 2)
        checkpoints.save(state(3), step=3, progress={"sums": {"loss": 0.1}, "count": 2.0})
    last = tmp_path / "whole/checkpoints/3"
    files = [path.relative_to(last) for path in last.rglob("*") if path.is_file()]
    assert len(files) > 8
    silent = []
    for file in files:
        for part in (0.0, 0.5):
            run = tmp_path / "damaged"
            shutil.rmtree(run, ignore_errors=True)
            shutil.copytree(tmp_path / "whole", run)
            damaged = run / "checkpoints/3" / file
            os.truncate(damaged, int(damaged.stat().st_size * part))
            for read_only in (False, True):
                try:
                    with open_checkpoints(run, read_only=read_only) as checkpoints:
                        same(checkpoints.restore(state(0), step=3), state(3))
                        assert checkpoints.progress(3)["count"] == 2
                    silent.append(file.name)
                except InputError as error:
                    assert str(error).startswith(f"{run}/checkpoints/3: damaged (") and "\n" not in str(error)
                    assert str(error).endswith("remove that folder to resume from step 2")
    assert set(silent) <= {"commit_success.txt"}, "its content is never read"
    shutil.rmtree(run / "checkpoints/3")
    with open_checkpoints(run) as checkpoints:
        same(checkpoints.restore(state(0), step=2), state(2))


def test_the_only_checkpoint_damaged_says_that_training_begins_anew(tmp_path: Path) -> None:
    with open_checkpoints(tmp_path) as checkpoints:
        save(checkpoints, 1)
    os.truncate(tmp_path / "checkpoints/1/metrics/metrics", 3)
    with pytest.raises(InputError, match=r"metrics/metrics has 3 bytes, not \d+.*to start from scratch"):
        Checkpoints(tmp_path, read_only=True)


def test_a_checkpoint_without_an_inventory_is_read(tmp_path: Path) -> None:
    """Read checkpoints of versions without an inventory."""
    with open_checkpoints(tmp_path) as checkpoints:
        save(checkpoints, 1)
    (tmp_path / "checkpoints/1/sizes.json").unlink()
    with open_checkpoints(tmp_path) as checkpoints:
        same(checkpoints.restore(state(0), step=1), state(1))


def test_old_checkpoints_go_in_one_step_and_a_killed_removal_is_finished(tmp_path: Path) -> None:
    with open_checkpoints(tmp_path) as checkpoints:
        save(checkpoints, 1, 2, 3)
        assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir()) == ["1", "3"]
    (tmp_path / "checkpoints/.removed/2").mkdir(parents=True)
    with open_checkpoints(tmp_path) as checkpoints:
        assert checkpoints.step("last") == 3
    assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir()) == ["1", "3"]


def test_the_end_of_an_epoch_replaces_what_was_saved_of_it_unfinished(tmp_path: Path) -> None:
    with open_checkpoints(tmp_path) as checkpoints:
        save(checkpoints, 1)
        checkpoints.save(state(2), step=2, progress={"sums": {"loss": 0.1}, "count": 2.0})
    with open_checkpoints(tmp_path) as checkpoints:
        checkpoints.save(state(2), step=2, metrics={"loss": 0.5})
    with open_checkpoints(tmp_path, read_only=True) as checkpoints:
        assert checkpoints.step("last") == checkpoints.step("best") == 2 and checkpoints.progress(2) == {}
        same(checkpoints.restore(state(0), step=2), state(2))


def test_a_directory_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    command = [sys.executable, str(ROOT / "train.py"), *tiny.overrides(tmp_path), f"output_dir={tmp_path / 'file'}"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].startswith(f"error: {tmp_path}/file")
    assert "Traceback" not in done.stderr
    with pytest.raises(InputError, match="cannot be written"):
        Checkpoints(tmp_path / "file")


def test_a_checkpoint_without_some_of_the_models_parameters_is_one_line(tmp_path: Path) -> None:
    with open_checkpoints(tmp_path) as checkpoints:
        save(checkpoints, 1)
    wanted = {"a": jax.ShapeDtypeStruct((1024,), np.float32)}
    with open_checkpoints(tmp_path, read_only=True) as checkpoints:
        np.testing.assert_array_equal(checkpoints.params(wanted, step=1, averaged=False)["a"], state(1).params["a"])
        with pytest.raises(InputError, match="another version of InstructRL") as raised:
            checkpoints.params(wanted | {"later": {"scale": wanted["a"]}}, step=1, averaged=False)
    assert str(raised.value).startswith(f"{tmp_path}/checkpoints/1: parameter later/scale and 0 more missing")
