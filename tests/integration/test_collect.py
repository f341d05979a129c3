"""Collection in processes: the result is that of a single process, whatever is killed and whoever else collects."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from instructrl.collection.collect import ensure_demonstrations, start_workers
from instructrl.collection.target_file import demonstration_paths
from instructrl.config.environment import DataConfig, SimConfig, TaskConfig
from instructrl.config.simulators import TabletopConfig
from instructrl.data.demonstrations.dataset import DemonstrationDataset
from instructrl.errors import RunError
from instructrl.storage.file_lock import exclusive_lock
from tests.fakes.collection import Inline, start_processes
from tests.paths import ROOT


def sim(*, workers: int = 2) -> SimConfig:
    return TabletopConfig(cameras=["front", "wrist"], image_size=16, renderer="raycast", workers=workers)


def collected(
    folder: Path, episodes: int, *, settings: SimConfig | None = None, start=start_processes
) -> dict[str, Path]:
    task = TaskConfig("push_button", episodes, 2, None)
    files = ensure_demonstrations(task, settings or sim(), DataConfig(str(folder)), start=start)
    return {split: path for split, [path] in files.items()}


def names(folder: Path) -> list[str]:
    return sorted(entry.name for entry in folder.iterdir())


def command(folder: Path, episodes: int) -> list[str]:
    return [sys.executable, "-m", "tests.fakes.collection", str(folder), str(episodes)]


def test_processes_do_not_matter(tmp_path: Path) -> None:
    one = collected(tmp_path / "one", 60, start=Inline)
    three = collected(tmp_path / "three", 60, settings=sim(workers=3))
    for split in one:
        assert one[split].read_bytes() == three[split].read_bytes()


def test_killed_at_any_moment(tmp_path: Path) -> None:
    moments = random.Random(0)
    folder = tmp_path / "killed"
    for parts in range(4):  # of five: killed some time after this many exist
        with subprocess.Popen(
            command(folder, 120),
            cwd=ROOT,
            env={**os.environ, "FAKE_SLEEP": "0.01"},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        ) as process:
            while len(list(folder.rglob("*-*.hdf5"))) < parts:
                assert process.poll() is None
                time.sleep(0.01)
            time.sleep(moments.uniform(0.0, 0.2))
            process.kill()
        assert process.returncode == -signal.SIGKILL
    assert len(list(folder.rglob("*-*.hdf5"))) >= 3 and not list(folder.rglob("train.hdf5"))
    killed, whole = collected(folder, 120, start=Inline), collected(tmp_path / "whole", 120, start=Inline)
    for split in killed:
        assert killed[split].read_bytes() == whole[split].read_bytes()
    assert names(killed["train"].parent) == [".lock", "train.hdf5", "val.hdf5"]


def test_a_process_that_dies_twice_ends_the_collection_and_keeps_finished_parts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAKE_DEADLY", "3500")
    message = r"push_button, variation 2, seed 3500.*code 7; the same command resumes"
    with pytest.raises(RunError, match=message):
        collected(tmp_path, 40)
    assert len(list(tmp_path.rglob("*-*.hdf5"))) == 1
    monkeypatch.delenv("FAKE_DEADLY")
    paths = collected(tmp_path, 40, start=Inline)
    assert paths["train"].read_bytes() == collected(tmp_path / "whole", 40, start=Inline)["train"].read_bytes()


def test_one_collector_at_a_time(tmp_path: Path) -> None:
    folder = demonstration_paths(TaskConfig("push_button"), sim(), DataConfig(str(tmp_path)))["train"].parent
    with exclusive_lock(folder, activity="collects", busy_hint="choose another data.dir"):
        waiting, stopped = (
            subprocess.Popen(command(tmp_path, 3), cwd=ROOT, text=True, stdout=subprocess.PIPE, stderr=end)
            for end in (subprocess.STDOUT, subprocess.PIPE)
        )
        for process in (waiting, stopped):
            assert process.stdout
            assert process.stdout.readline() == f"{folder}: another process collects here; waiting for it\n"
        stopped.terminate()
        printed = stopped.communicate(timeout=60)[1]
        assert stopped.returncode == 75 and printed.count("\n") == 1 and "SIGTERM" in printed
        assert waiting.poll() is None and names(folder) == [".lock"]
    started, collecting = waiting.communicate(timeout=60)[0].splitlines()[:2]
    assert started.startswith("starting the simulators of push_button") and collecting.startswith("collecting 3 train")
    assert waiting.returncode == 0
    with DemonstrationDataset(folder / "train.hdf5") as episodes:
        assert len(episodes) == 3


def test_the_embedded_simulator(tmp_path: Path) -> None:
    one = collected(tmp_path / "one", 6, settings=sim(workers=1), start=start_workers)
    two = collected(tmp_path / "two", 6, start=start_workers)
    assert one["train"].read_bytes() == two["train"].read_bytes()
    with DemonstrationDataset(one["train"]) as episodes:
        assert (episodes.task, episodes.provenance["simulator"], episodes.steps) == ("push_button", "tabletop", 2)
        assert len({episodes.episode(number).images.tobytes() for number in range(6)}) == 6
