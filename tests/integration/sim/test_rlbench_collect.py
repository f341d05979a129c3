"""Collecting from RLBench with the command of every simulator, against the stand-in: faults, kills, resumption."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from instructrl.collection.collect import MAX_LOST, ensure_demonstrations
from instructrl.config.environment import DataConfig, TaskConfig
from instructrl.data.demonstrations.dataset import DemonstrationDataset
from instructrl.errors import InputError, RunError
from instructrl.sim import EpisodeStart, make_env
from instructrl.sim.vector import heartbeat
from instructrl.sim.vector.pool import Workers
from tests.fakes.rlbench_stand_in import StandIn, installed, settings
from tests.paths import ROOT


@pytest.fixture
def stand_in(tmp_path: Path) -> Iterator[StandIn]:
    with installed(tmp_path) as made:
        yield made


def collected(folder: Path, episodes: int, *, task: str = "close_jar", **changes: Any) -> dict[str, Path]:
    sim = settings(image_size=16, **changes)
    files = ensure_demonstrations(TaskConfig(task, episodes, 2, None), sim, DataConfig(str(folder)))
    return {split: path for split, [path] in files.items()}


def command(folder: Path, *words: str) -> list[str]:
    return [
        *(sys.executable, "-m", "data_tools.collect", "task=close_jar", "sim=rlbench", f"data.dir={folder}"),
        *("sim.image_size=16", "sim.workers=2", "episodes=9", "val_episodes=2", *words),
    ]


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}


def run(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command(folder, *words), cwd=ROOT, env=environment(), capture_output=True, text=True, timeout=120
    )


def test_the_same_command_collects_on_rlbench(stand_in: StandIn, tmp_path: Path) -> None:
    done = run(tmp_path / "data")
    assert done.returncode == 0, done.stderr
    train = tmp_path / "data" / "rlbench" / "close_jar-16px-front+left_shoulder+right_shoulder" / "train.hdf5"
    assert f"train: {train}" in done.stdout and "oracle rate 1.000" in done.stdout
    assert "CoppeliaSim" not in done.stdout
    with DemonstrationDataset(train, task="close_jar") as episodes:
        assert len(episodes) == 9 and episodes.steps == 4
        assert episodes.contents.variation.tolist() == [0, 1, 2] * 3
        assert episodes.contents.text[:3] == ["touch point 0", "visit point 0", "go to point 0"]
        assert episodes.provenance["simulator"] == "rlbench" and episodes.provenance["variant"] == "original"
        assert episodes.provenance["renderer"] == "rlbench_opengl3"
        episodes.verify()
    stand_in.faults("launch@any=exit")
    again = run(tmp_path / "data")
    assert again.returncode == 0, "complete: no simulator is needed"
    assert "collecting" not in again.stdout


def test_a_collected_file_tells_which_scenes_it_shows(stand_in: StandIn, tmp_path: Path) -> None:
    """Seed and rejected placements restore the scene of each episode, although the planner rejects at random."""
    stand_in.patch.setenv("FAKE_RLBENCH_INFEASIBLE", "0.7")
    paths = collected(tmp_path / "data", 9)
    sim = settings(workers=1, image_size=16)
    with (
        DemonstrationDataset(paths["train"]) as episodes,
        Workers(partial(make_env, sim, "close_jar"), 1, timeout=60) as workers,
    ):
        assert max(episodes.contents.rejected_placements) > 0 and min(episodes.contents.rejected_placements) >= 0
        for index in range(len(episodes)):
            one = episodes.demonstration(index)
            start = EpisodeStart(one.variation, one.seed, rejected_placements=one.rejected_placements)
            seen = workers.call({0: ("reset", (start,))})[0]
            assert (seen.images == one.images[0]).all()


def test_failures_are_counted_apart_and_replaced(
    stand_in: StandIn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Failures of the expert, the planner or the simulator each cost one seed, and collection continues."""
    monkeypatch.setattr(heartbeat, "SILENCE", 1.5)
    monkeypatch.setattr(heartbeat, "_BEAT", 0.05)
    # three tries of the expert, three of the planner, two processes for a call: so many faults are one failure
    stand_in.faults("demo@0=DemoError*3", "step@1=path*3", "step@2=segfault*2", "reset@1=hang*1")
    paths = collected(tmp_path / "data", 9, workers=1)
    printed = capsys.readouterr().out
    assert "failed expert episodes replaced: 1 expert_failure, 1 planner_failure, 1 simulator_error" in printed
    assert "9 episodes, 3 failed ones of the expert replaced, oracle rate 0.750" in printed
    with DemonstrationDataset(paths["train"]) as episodes:
        assert sorted(seed % 100 for seed in episodes.contents.seed.tolist()) == [0] * 6 + [1] * 3
        assert episodes.contents.variation.tolist() == [0, 1, 2] * 3


def test_replays_that_do_not_succeed_are_not_kept(stand_in: StandIn, tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"place_cups, .*: the expert failed 100 times, last outcome: time_limit"):
        collected(tmp_path / "data", 1, task="place_cups")
    assert not list(tmp_path.rglob("*.hdf5"))


def test_a_simulator_that_only_dies_ends_the_collection_and_keeps_what_is_there(
    stand_in: StandIn, tmp_path: Path
) -> None:
    stand_in.faults("demo@2=exit")  # variations 0 and 1 are made meanwhile
    died = run(tmp_path, "sim.workers=1")
    assert died.returncode == 1 and died.stderr.count("\n") == 1, died.stderr
    assert "close_jar, variation 2, seed " in died.stderr
    assert "failed 2 times: it exited with code 3; the same command resumes" in died.stderr
    assert stand_in.calls("fault demo@2=exit") == 2 * MAX_LOST
    kept = [path.name for path in tmp_path.rglob("0*.hdf5")]
    assert sorted(kept) == ["00000000-00000001.hdf5", "00000001-00000002.hdf5"]
    stand_in.faults()
    assert run(tmp_path, "sim.workers=1").returncode == 0
    assert stand_in.calls("demo 0") == stand_in.calls("demo 1") == 3 and stand_in.calls("demo 2") == 3


def test_killed_in_the_middle_it_goes_on_with_what_is_there(stand_in: StandIn, tmp_path: Path) -> None:
    """Every episode is saved as soon as it is finished, since a demonstration on RLBench takes minutes."""
    stand_in.faults("reset@2=hang")  # episodes 2, 5 and 8 never end
    folder = tmp_path / "data"
    with subprocess.Popen(
        command(folder, "sim.workers=3"), cwd=ROOT, env=environment(), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    ) as process:
        while len(list(folder.rglob("0*.hdf5"))) < 3:
            assert process.poll() is None, process.stderr and process.stderr.read()
            time.sleep(0.05)
        process.kill()
    assert process.returncode == -signal.SIGKILL
    kept = {path.name: path.stat().st_mtime_ns for path in folder.rglob("0*.hdf5")}
    assert len(kept) >= 3
    stand_in.faults()
    done = run(folder)
    assert done.returncode == 0, done.stderr
    assert stand_in.calls("demo 0") + stand_in.calls("demo 1") + stand_in.calls("demo 2") == 11 - len(kept)
    whole = collected(tmp_path / "whole", 9)
    with DemonstrationDataset(next(folder.rglob("train.hdf5"))) as one, DemonstrationDataset(whole["train"]) as other:
        assert one.contents.seed.tolist() == other.contents.seed.tolist()
        for number in range(9):
            ours, theirs = one.demonstration(number), other.demonstration(number)
            assert np.array_equal(ours.images, theirs.images) and np.array_equal(ours.actions, theirs.actions)


def test_another_renderer_or_version_is_not_mixed_in(stand_in: StandIn, tmp_path: Path) -> None:
    collected(tmp_path, 2, renderer="auto")
    for changes, message in (
        ({"renderer": "rlbench_opengl"}, "rendered by rlbench_opengl3, but sim.renderer=rlbench_opengl is set"),
        ({"renderer": "raycast"}, "rendered by rlbench_opengl3, but sim.renderer=raycast is set"),
    ):
        with pytest.raises(InputError, match=message):
            collected(tmp_path, 4, **changes)
    stand_in.install("peract")
    with pytest.raises(InputError, match=r"was made with variant 'original' \(here 'peract'\)"):
        collected(tmp_path, 4)
    stand_in.install("original")
    with DemonstrationDataset(collected(tmp_path, 4, renderer="auto")["train"]) as episodes:
        assert len(episodes) == 4


def test_a_variation_or_task_that_is_not_there_is_one_line(stand_in: StandIn, tmp_path: Path) -> None:
    for word, message in (
        ("task.variations=[3]", "task.variations: found 3; allowed for close_jar: 0 to 2"),
        ("task.name=close_jars", "task.name: found close_jars; not one of RLBench's 3; similar: close_jar"),
        ("task.name=Close-Jar", "task.name: found Close-Jar; allowed: the name of a task of RLBench, like close_jar"),
        ("sim.renderer=raycast", "sim.renderer: found raycast; allowed: auto, rlbench_opengl, rlbench_opengl3"),
    ):
        refused = run(tmp_path, word)
        assert refused.returncode == 2 and refused.stderr.count("\n") == 1, refused.stderr
        assert message in refused.stderr
    assert not list(tmp_path.rglob("*.hdf5"))
