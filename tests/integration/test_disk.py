"""File systems that are full, read-only or damaged, and concurrent trainings: one-line errors without data loss."""

import contextlib
import io
import os
import random
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from instructrl.errors import InputError, RunError, report_user_errors
from instructrl.storage.object_store import crc32c
from instructrl.training.checkpointing import integrity
from instructrl.training.checkpointing.integrity import find_damage
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


@pytest.mark.parametrize(
    "left", [{"left": 0}, {"left": 8_000}, {"files": 0}, {"files": 3}, {"files": 6}, {"files": 9}], ids=str
)
def test_training_on_a_full_disk_is_one_line_and_goes_on_when_there_is_room(
    small_disk: Path, tmp_path: Path, left: dict[str, int], capfd: pytest.CaptureFixture[str]
) -> None:
    check_full_disk(small_disk, tmp_path, capfd, **left, data={}, objective_kind=tiny_objective.kind())


def test_training_of_an_agent_on_a_full_disk(
    small_disk: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    check_full_disk(small_disk, tmp_path, capfd, left=200_000, data=tiny.shared_demonstrations())


def limit_files(disk: Path, left: int) -> None:
    """Leave room for this many files; a checkpoint may be written meanwhile."""
    code = 1
    while code:
        room = os.statvfs(disk)
        mount = ["mount", "-o", f"remount,nr_inodes={room.f_files - room.f_ffree + 1 + left}", str(disk)]
        code = subprocess.run(mount, capture_output=True, check=False).returncode


def wait_for_checkpoints(run: Path) -> None:
    """Wait until nothing is written or removed any more: what is removed later would make room."""
    seen: list[Path] | None = None
    while True:
        try:
            now = sorted((run / "checkpoints").rglob("*"))
        except FileNotFoundError:  # a folder was removed or renamed while it was listed
            now = None
        if now is not None and now == seen:
            return
        seen = now
        time.sleep(0.5)


def check_full_disk(
    disk: Path,
    folder: Path,
    capfd: pytest.CaptureFixture[str],
    *,
    left: int | None = None,
    files: int | None = None,
    **training: Any,
) -> None:
    """Assert what a training says when `left` bytes or `files` inodes are left, and that it resumes with more."""
    config = tiny.config(folder, f"output_dir={disk}", "training.epochs=3")
    run = open_run(config)

    def fill(params: Any, epoch: int) -> dict[str, float]:
        if epoch == 2 and not (disk / "ballast").exists():  # its checkpoint is complete
            wait_for_checkpoints(run)
            room = os.statvfs(disk)
            size = 0 if left is None else max(room.f_bavail * room.f_bsize - left, 0)
            with contextlib.suppress(OSError):  # a checkpoint may be written meanwhile
                (disk / "ballast").write_bytes(bytes(size))
            if files is not None:
                limit_files(disk, files)
        return {}

    config.training.rollout_every = 1
    with pytest.raises(SystemExit) as ended, report_user_errors():
        train(config, run, rollout=fill, **training)
    stderr = capfd.readouterr().err
    assert ended.value.code == 1, stderr
    assert "Traceback" not in stderr
    [line] = [line for line in stderr.splitlines() if line and "step/s" not in line and "s/step" not in line]
    assert re.match(rf"error: {run}/\S+: cannot be written \(No space left on device\); .*make room", line), line
    with open_checkpoints(run, read_only=True) as checkpoints:
        assert checkpoints.step("last") is not None
    read_lines(run / "metrics.jsonl")
    assert (run / "metrics.jsonl").read_bytes().endswith(b"}\n")
    (disk / "ballast").unlink()
    limit_files(disk, 10_000)
    config.training.rollout_every = 0
    train(config, run, **training)
    lines = read_lines(run / "metrics.jsonl")
    assert [(line["split"], line["epoch"]) for line in lines if line["split"] != "rollout"] == [
        (split, epoch) for epoch in (1, 2, 3) for split in ("train", "val")
    ]


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with checkpoints of steps 2 and 3, the latter within an epoch."""
    run = tmp_path_factory.mktemp("saved")
    with open_checkpoints(run, keep=Retention(2, 1)) as checkpoints:
        save(checkpoints, 1, 2)
        checkpoints.save(state(3), step=3, progress={"sums": {"loss": 0.1}, "count": 2.0})
    return run


def accepted(run: Path) -> bool:
    """Return True if the checkpoint of step 3 is used, unchanged; else it is refused, and training resumes from 2."""
    folder = f"{run}/checkpoints/3"
    try:
        with open_checkpoints(run, read_only=True) as checkpoints:
            same(checkpoints.restore(state(0), step=3), state(3))
            assert checkpoints.progress(3) == {"sums": {"loss": 0.1}, "count": 2.0}
        unchanged = True
    except InputError as error:
        assert str(error).startswith(f"{folder}: damaged (") and "\n" not in str(error)
        assert str(error).endswith("train again: the same command resumes from step 2")
        unchanged = False
    with contextlib.redirect_stdout(io.StringIO()) as printed, open_checkpoints(run) as checkpoints:
        last = checkpoints.step("last")
        assert last == (3 if unchanged else 2)
        same(checkpoints.restore(state(0), step=last), state(last))
    moved = f"; moved to {run}/damaged_checkpoints/3, and step 2 is used\n"
    said = printed.getvalue()
    assert said == "" if unchanged else said.startswith(f"{folder}: damaged (") and said.endswith(moved)
    return unchanged


def test_any_truncated_file_of_a_checkpoint_is_found_and_said(saved: Path, tmp_path: Path) -> None:
    last = saved / "checkpoints/3"
    files = [path.relative_to(last) for path in last.rglob("*") if path.is_file()]
    assert len(files) > 8
    silent = []
    for file in files:
        for part in (0.0, 0.5):
            run = shutil.copytree(saved, tmp_path / "run")
            damaged = run / "checkpoints/3" / file
            os.truncate(damaged, int(damaged.stat().st_size * part))
            silent += [file.name] * accepted(run)
            shutil.rmtree(run)
    assert set(silent) <= {"commit_success.txt"}, "its content is never read"


def test_no_damage_of_a_checkpoint_is_silent(saved: Path, tmp_path: Path) -> None:
    """Bits flipped, bytes zeroed, parts exchanged or repeated: 120 damages that leave the sizes as they were."""
    rng = random.Random(0)
    last = saved / "checkpoints/3"
    files = sorted(path.relative_to(last) for path in last.rglob("*") if path.is_file() and path.stat().st_size)
    arrays = [file for file in files if "d" in file.parts]
    refused = 0
    for number in range(120):
        file = rng.choice(arrays if number % 2 else files)
        whole = (last / file).read_bytes()
        content, at, length = bytearray(whole), rng.randrange(len(whole)), rng.randint(1, 64)
        kind = rng.choice(("flip", "zero", "exchange", "repeat"))
        if kind == "flip":
            content[at] ^= 1 << rng.randrange(8)
        elif kind == "zero":
            content[at : at + length] = bytes(len(content[at : at + length]))
        elif kind == "exchange":
            content = content[at:] + content[:at]
        else:
            content[at : at + length] = content[: len(content[at : at + length])]
        if content == whole:
            continue
        run = shutil.copytree(saved, tmp_path / str(number))
        (run / "checkpoints/3" / file).write_bytes(content)
        damage = find_damage(run / "checkpoints/3", contents=True)
        refused += damage is not None
        if damage is None or number % 20 == 0:
            assert accepted(run) == (damage is None)  # it compares all that is used
        if damage is None:
            assert file.name in ("commit_success.txt", "_CHECKPOINT_METADATA"), f"{kind} of {file}"
        shutil.rmtree(run)
    assert refused >= 80


def test_training_goes_on_from_the_checkpoint_before_a_damaged_one_and_ends_bit_equal(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ("training.epochs=4", "training.keep_last=2", "name=run")
    whole = tiny_objective.trained(tmp_path / "whole", *words)
    run = shutil.copytree(whole, tmp_path / "damaged/outputs/run")
    [array] = [path for path in (run / "checkpoints/12").rglob("d/*") if path.parent.parent.name == "default"]
    content = bytearray(array.read_bytes())
    content[len(content) // 2] ^= 1
    array.write_bytes(content)
    with pytest.raises(InputError, match=r"checkpoints/12: damaged \(the content of default/d/\w+ has changed\)"):
        tiny_objective.state(run)
    assert tiny_objective.trained(tmp_path / "damaged", *words) == run
    printed = capsys.readouterr().out
    assert f"{run}/checkpoints/12: damaged (the content of " in printed and "training resumed: epoch 3 of 4" in printed
    tiny_objective.assert_same_end(run, whole)


def test_a_checkpoint_that_is_replaced_while_it_is_read_is_one_line(
    saved: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = shutil.copytree(saved, tmp_path / "run")

    def replaced(path: Path) -> str:
        shutil.rmtree(run / "checkpoints/3")  # by the training, whose next checkpoint is there now
        return crc32c(path)

    with open_checkpoints(run, read_only=True) as checkpoints:
        monkeypatch.setattr(integrity, "crc32c", replaced)
        with pytest.raises(InputError, match=r"checkpoints/3: replaced by a newer checkpoint just now; run .* again$"):
            checkpoints.restore(state(0), step=3)


def test_a_damaged_checkpoint_that_cannot_be_moved_is_one_line(saved: Path, tmp_path: Path) -> None:
    run = shutil.copytree(saved, tmp_path / "run")
    os.truncate(next((run / "checkpoints/3/default").rglob("d/*")), 1)
    (run / "damaged_checkpoints").touch()
    with pytest.raises(InputError, match="cannot be written"):
        Checkpoints(run)
    assert (run / "checkpoints/3").is_dir() and (run / "checkpoints/2").is_dir()


def test_the_only_checkpoint_damaged_says_that_training_begins_anew(tmp_path: Path) -> None:
    with open_checkpoints(tmp_path) as checkpoints:
        save(checkpoints, 1)
    os.truncate(tmp_path / "checkpoints/1/metrics/metrics", 3)
    with pytest.raises(InputError, match=r"metrics/metrics has 3 bytes, not \d+.*to start from scratch"):
        Checkpoints(tmp_path)
    assert (tmp_path / "checkpoints/1").is_dir(), "nothing is moved"


def test_a_checkpoint_without_an_inventory_is_read(tmp_path: Path) -> None:
    """Read checkpoints of versions without an inventory."""
    with open_checkpoints(tmp_path) as checkpoints:
        save(checkpoints, 1)
    (tmp_path / "checkpoints/1/inventory.json").unlink()
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
