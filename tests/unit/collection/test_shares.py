"""Collection by several jobs, of which each has a share: the files are those of one process."""

import fcntl
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from instructrl.collection.collect import ensure_demonstrations
from instructrl.config.environment import DataConfig, SimConfig, TaskConfig
from instructrl.config.share import Share
from instructrl.config.simulators import TabletopConfig
from instructrl.errors import RunError
from instructrl.storage.file_lock import try_share
from tests.fakes.collection import Inline

TASKS = ["push_button", "reach_target"]
EPISODES, VAL = 40, 3  # more than one part of a file; the expert fails with about one seed in five


def collected(
    folder: Path,
    share: Share | None = None,
    *,
    start: Callable[[SimConfig, str], Any] = Inline,
    episodes: int = EPISODES,
    tasks: list[str] = TASKS,
) -> list[Path]:
    sim = TabletopConfig(cameras=["front", "wrist"], image_size=16, renderer="raycast")
    task = TaskConfig("some", episodes, VAL, tasks=tasks)
    files = ensure_demonstrations(task, sim, DataConfig(str(folder)), start=start, share=share)
    return [path for paths in files.values() for path in paths]


class Counted:
    """Starts simulators, and records the seeds at which an episode began."""

    def __init__(self) -> None:
        self._pools: list[Inline] = []

    def __call__(self, sim: SimConfig, task: str) -> Inline:
        self._pools.append(Inline(sim, task))
        return self._pools[-1]

    @property
    def seeds(self) -> list[int]:
        return [call[0].seed for pool in self._pools for call in pool.calls if call]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> list[bytes]:
    """The files of one process."""
    return [path.read_bytes() for path in collected(tmp_path_factory.mktemp("whole"))]


@pytest.mark.parametrize("jobs", [1, 3])
def test_jobs_that_share_the_episodes_change_no_bit(tmp_path: Path, whole: list[bytes], jobs: int) -> None:
    for job in range(jobs, 0, -1):
        counted = Counted()
        paths = collected(tmp_path, Share(job, jobs), start=counted)
        assert not any(path.exists() for path in paths)
        share = sum(map(len, Share(job, jobs).ranges([EPISODES, VAL, EPISODES, VAL])))
        assert len([seed for seed in counted.seeds if seed % 100 == 0]) == share, "first attempts"
    nothing_left = Counted()
    paths = collected(tmp_path, start=nothing_left)
    assert [path.read_bytes() for path in paths] == whole and not nothing_left.seeds
    assert {entry.name for path in paths for entry in path.parent.iterdir()} == {".lock", "train.hdf5", "val.hdf5"}


def test_a_job_that_was_killed_repeats_only_what_it_had_not_finished(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, whole: list[bytes]
) -> None:
    monkeypatch.setenv("FAKE_DEADLY", "push_button:3500")  # episode 35, in the second part of the first share of two
    with pytest.raises(RunError, match="the same command resumes"):
        collected(tmp_path, Share(1, 2))
    monkeypatch.delenv("FAKE_DEADLY")
    again = Counted()
    collected(tmp_path, Share(1, 2), start=again)
    assert min(seed // 100 for seed in again.seeds) == 25, "a part of 25 episodes was finished"
    collected(tmp_path, Share(2, 2))
    assert [path.read_bytes() for path in collected(tmp_path)] == whole


def test_parts_of_another_division_are_used(tmp_path: Path, whole: list[bytes]) -> None:
    collected(tmp_path, Share(2, 3))
    counted = Counted()
    for job in (1, 2):
        collected(tmp_path, Share(job, 2), start=counted)
    share = sum(map(len, Share(2, 3).ranges([EPISODES, VAL, EPISODES, VAL])))
    assert len({(seed // 100) for seed in counted.seeds}) < 2 * (EPISODES + VAL) - share
    assert [path.read_bytes() for path in collected(tmp_path)] == whole


def test_parts_that_overlap_are_used_once(tmp_path: Path, whole: list[bytes]) -> None:
    """As two commands with other numbers of jobs can write them at a time."""
    collected(tmp_path / "two", Share(1, 2))
    collected(tmp_path / "three", Share(2, 3))
    shutil.copytree(tmp_path / "three", tmp_path / "two", dirs_exist_ok=True)
    assert [path.read_bytes() for path in collected(tmp_path / "two")] == whole


def test_jobs_share_what_is_added_to_a_file(tmp_path: Path, whole: list[bytes]) -> None:
    collected(tmp_path, episodes=11)
    for job in (1, 2):
        collected(tmp_path, Share(job, 2))
    nothing_left = Counted()
    assert [path.read_bytes() for path in collected(tmp_path, start=nothing_left)] == whole and not nothing_left.seeds


@pytest.mark.parametrize("counts", [[1], [7], [3, 0, 9, 1], [40, 3]])
def test_shares_are_all_episodes_once_and_of_about_one_size(counts: list[int]) -> None:
    for jobs in range(1, sum(counts) + 1):
        shares = [Share(job, jobs).ranges(counts) for job in range(1, jobs + 1)]
        for group, count in enumerate(counts):
            assert [number for share in shares for number in share[group]] == list(range(count))
        sizes = [sum(map(len, share)) for share in shares]
        assert max(sizes) - min(sizes) <= 1


@pytest.mark.parametrize(("share", "beside"), [(Share(1, 2), True), (None, False)])
def test_a_process_that_collects_all_waits_for_the_jobs_and_they_not_for_each_other(
    tmp_path: Path, share: Share | None, beside: bool
) -> None:
    found = []

    def start(sim: SimConfig, task: str) -> Inline:
        [path] = tmp_path.glob(f"*/{task}-*/.lock")
        with path.open("rb") as file, path.open("rb") as other:
            found.append(try_share(file.fileno()))
            with pytest.raises(BlockingIOError):
                fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return Inline(sim, task)

    collected(tmp_path, share, start=start, episodes=2)
    assert set(found) == {beside}
