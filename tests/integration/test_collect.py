"""Collection: the result is a function of the settings alone, whatever happens in between."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import data_tools.collect
import instructrl.collection.target_file
from instructrl.collection.collect import ensure_demonstrations
from instructrl.collection.shards import Parts
from instructrl.collection.target_file import demonstration_paths
from instructrl.config.environment import DataConfig, SimConfig, TaskConfig
from instructrl.data.demonstrations.dataset import DemonstrationDataset
from instructrl.errors import InputError, RunError
from instructrl.storage.file_lock import exclusive_lock
from tests.fakes.collection import VARIATIONS, make_fake, succeeds
from tests.paths import ROOT


@pytest.fixture(autouse=True)
def fake_simulator(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(data_tools.collect, "make_env", make_fake)


def sim(*, workers: int = 2, renderer: str = "raycast") -> SimConfig:
    return SimConfig(cameras=["front", "wrist"], image_size=16, renderer=renderer, workers=workers)


def collected(
    folder: Path, episodes: int, *, val: int = 2, settings: SimConfig | None = None, variations: list[int] | None = None
) -> dict[str, Path]:
    task = TaskConfig("push_button", episodes, val, variations)
    files = ensure_demonstrations(task, settings or sim(), DataConfig(str(folder)))
    return {split: path for split, [path] in files.items()}


TASKS = ["reach_target", "push_button", "pick_and_lift"]


def collected_set(
    folder: Path, episodes: int, *, tasks: list[str] = TASKS, settings: SimConfig | None = None
) -> dict[str, list[Path]]:
    task = TaskConfig("some", episodes, 2, tasks=tasks)
    return ensure_demonstrations(task, settings or sim(), DataConfig(str(folder)))


def names(paths: dict[str, Path]) -> list[str]:
    return sorted(entry.name for entry in paths["train"].parent.iterdir())


def command(folder: Path, *overrides: str, episodes: int = 40) -> list[str]:
    return [
        *(sys.executable, "-m", "tests.fakes.collection", "task=push_button", f"data.dir={folder}"),
        *("sim.cameras=[front,wrist]", "sim.image_size=16", "sim.renderer=raycast", "sim.workers=2"),
        *(f"episodes={episodes}", "val_episodes=2", *overrides),
    ]


def run(folder: Path, *overrides: str, **environment: str) -> subprocess.CompletedProcess[str]:
    variables = {**os.environ, **environment}
    return subprocess.run(command(folder, *overrides), cwd=ROOT, capture_output=True, text=True, env=variables)


def test_only_successes_balanced_over_variations(tmp_path: Path) -> None:
    paths = collected(tmp_path, 61, val=7)
    assert paths["train"] == tmp_path / "tabletop" / "push_button-16px-front+wrist" / "train.hdf5"
    for split, count, first in (("train", 61, 0), ("val", 7, 10**9)):
        with DemonstrationDataset(paths[split], task="push_button") as episodes:
            assert (len(episodes), episodes.header.split) == (count, split)
            assert episodes.contents.variation.tolist() == [number % VARIATIONS for number in range(count)]
            for number, seed in enumerate(episodes.contents.seed.tolist()):
                attempts = range(first + number * 100, seed + 1)
                assert [succeeds(one) for one in attempts] == [False] * (len(attempts) - 1) + [True]
            assert episodes.provenance["renderer"] == "raycast" and episodes.provenance["suite"]
            episodes.verify()
    assert names(paths) == [".lock", "train.hdf5", "val.hdf5"]


def test_failed_episodes_are_reported(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with DemonstrationDataset(collected(tmp_path, 30)["train"]) as episodes:
        replaced = sum(seed % 100 for seed in episodes.contents.seed.tolist())
    printed = capsys.readouterr().out
    assert replaced > 0
    assert f"30 episodes, {replaced} failed ones of the expert replaced" in printed
    assert f"failed expert episodes replaced: {replaced} unreachable" in printed


def test_processes_do_not_matter(tmp_path: Path) -> None:
    one = collected(tmp_path / "one", 60, settings=sim(workers=1))
    three = collected(tmp_path / "three", 60, settings=sim(workers=3))
    for split in one:
        assert one[split].read_bytes() == three[split].read_bytes()


def test_appending_equals_collecting_at_once(tmp_path: Path) -> None:
    collected(tmp_path / "grown", 7)
    collected(tmp_path / "grown", 33, val=5)
    grown, whole = collected(tmp_path / "grown", 62), collected(tmp_path / "whole", 62, val=5)
    for split in grown:
        assert grown[split].read_bytes() == whole[split].read_bytes()
    assert names(grown) == [".lock", "train.hdf5", "val.hdf5"]


def test_complete_files_are_used_as_they_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paths = collected(tmp_path, 10)
    before = paths["train"].stat()
    monkeypatch.setattr(data_tools.collect, "Workers", None)  # no simulator may be needed
    for episodes in (10, 4):
        assert collected(tmp_path, episodes) == paths
        assert collected(tmp_path, episodes, settings=sim(renderer="auto")) == paths
    assert paths["train"].stat() == before


@pytest.mark.parametrize("seed", [0, pytest.param(1, marks=pytest.mark.slow), pytest.param(2, marks=pytest.mark.slow)])
def test_killed_at_any_moment(tmp_path: Path, seed: int) -> None:
    moments = random.Random(seed)
    folder = tmp_path / "killed"
    for parts in range(4):  # of five: killed some time after this many exist
        with subprocess.Popen(
            command(folder, episodes=120),
            cwd=ROOT,
            env={**os.environ, "FAKE_SLEEP": "0.03"},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        ) as process:
            while len(list(folder.rglob("*-*.hdf5"))) < parts:
                assert process.poll() is None
                time.sleep(0.01)
            time.sleep(moments.uniform(0.0, 0.5))
            process.kill()
        assert process.returncode == -signal.SIGKILL
    assert len(list(folder.rglob("*-*.hdf5"))) >= 3 and not list(folder.rglob("train.hdf5"))
    killed, whole = collected(folder, 120), collected(tmp_path / "whole", 120)
    for split in killed:
        assert killed[split].read_bytes() == whole[split].read_bytes()
    assert names(killed) == [".lock", "train.hdf5", "val.hdf5"]


def test_killed_between_merging_and_removing(tmp_path: Path) -> None:
    paths = collected(tmp_path, 30)
    before = paths["train"].read_bytes()
    merged, ahead = (Parts(paths["train"], present=begin, wanted=begin + 25) for begin in (0, 30))
    with DemonstrationDataset(paths["train"]) as episodes:
        demonstrations = [episodes.demonstration(number) for number in range(25)]
        for parts in (merged, ahead):
            parts.write(parts.ranges()[0], demonstrations, episodes.header)
    collected(tmp_path, 30)
    assert paths["train"].read_bytes() == before
    assert [path.name for path in ahead.folder.iterdir()] == ["00000030-00000055.hdf5"]


def test_a_dying_simulator_keeps_finished_parts(tmp_path: Path) -> None:
    crashed = run(tmp_path, FAKE_DEADLY="3500")
    assert crashed.returncode == 1
    assert crashed.stderr.count("\n") == 1 and "push_button, EpisodeStart(variation=2, seed=3500" in crashed.stderr
    assert "the same command resumes" in crashed.stderr
    [part] = tmp_path.rglob("*-*.hdf5")
    before = part.stat().st_mtime_ns, part.stat().st_ino
    code = run(tmp_path, FAKE_DEADLY="3500", FAKE_SLEEP="0.001").returncode
    assert code == 1 and (part.stat().st_mtime_ns, part.stat().st_ino) == before  # not collected again
    resumed = run(tmp_path)
    assert resumed.returncode == 0, resumed.stderr
    paths = collected(tmp_path, 40)
    assert paths["train"].read_bytes() == collected(tmp_path / "whole", 40)["train"].read_bytes()


def test_an_expert_that_always_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAKE_HOPELESS", "1")
    with pytest.raises(RunError, match="the expert failed 100 times, last outcome: time_limit"):
        collected(tmp_path, 1)


def test_one_collector_at_a_time(tmp_path: Path) -> None:
    folder = demonstration_paths(TaskConfig("push_button"), sim(), DataConfig(str(tmp_path)))["train"].parent
    with exclusive_lock(folder, activity="collects", busy_hint="choose another data.dir"):
        waiting, stopped = (
            subprocess.Popen(command(tmp_path, episodes=3), cwd=ROOT, text=True, stdout=subprocess.PIPE, stderr=end)
            for end in (subprocess.STDOUT, subprocess.PIPE)
        )
        for process in (waiting, stopped):
            assert process.stdout
            assert process.stdout.readline() == f"{folder}: another process collects here; waiting for it\n"
        stopped.terminate()
        printed = stopped.communicate(timeout=60)[1]
        assert stopped.returncode == 75 and printed.count("\n") == 1 and "SIGTERM" in printed
        assert waiting.poll() is None and names({"train": folder / "train.hdf5"}) == [".lock"]
    assert waiting.communicate(timeout=60)[0].startswith("collecting 3 train episodes")
    assert waiting.returncode == 0
    with DemonstrationDataset(folder / "train.hdf5") as episodes:
        assert len(episodes) == 3


def test_chosen_variations_have_files_of_their_own(tmp_path: Path) -> None:
    paths = collected(tmp_path, 5, variations=[2, 0])
    assert "push_button-variations0+2-16px" in str(paths["train"])
    with DemonstrationDataset(paths["train"]) as episodes:
        assert episodes.contents.variation.tolist() == [0, 2, 0, 2, 0]
    with pytest.raises(InputError, match=r"task.variations: found 3; allowed for push_button: 0 to 2"):
        collected(tmp_path, 5, variations=[0, 3])
    task = TaskConfig("push_button", 1, 1, [0, 1, 2, 5, 7, 8])
    assert "variations0..2+5+7..8" in str(demonstration_paths(task, sim(), DataConfig("x"))["train"])


def test_another_renderer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        instructrl.collection.target_file, "available_renderer", lambda wanted: "opengl" if wanted == "auto" else wanted
    )
    collected(tmp_path, 3)
    paths = collected(
        tmp_path, 6, settings=sim(renderer="auto")
    )  # this machine would select opengl, the file has raycast
    assert DemonstrationDataset(paths["train"]).provenance["renderer"] == "raycast"
    for episodes in (6, 9):
        with pytest.raises(InputError, match=r"rendered by raycast, but sim.renderer=opengl is set; choose"):
            collected(tmp_path, episodes, settings=sim(renderer="opengl"))

    def nothing_works(wanted: str) -> str:
        raise InputError("no renderer")

    monkeypatch.setattr(instructrl.collection.target_file, "available_renderer", nothing_works)
    with pytest.raises(InputError, match=r"train.hdf5: cannot be extended here: no renderer"):
        collected(tmp_path, 9, settings=sim(renderer="auto"))
    assert len(DemonstrationDataset(paths["train"])) == 6


def test_a_set_has_the_files_of_its_tasks(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    alone = collected(tmp_path / "alone", 30)
    collected(tmp_path / "set", 30)  # one exists already
    capsys.readouterr()
    files = collected_set(tmp_path / "set", 30)
    printed = capsys.readouterr().out
    assert [line for line in printed.splitlines() if line.startswith("task ")] == [
        "task 1 of 3: reach_target",
        "task 3 of 3: pick_and_lift",
    ]
    for split, paths in files.items():
        assert [path.name for path in paths] == [f"{split}.hdf5"] * 3
        assert [DemonstrationDataset(path).task for path in paths] == TASKS
        assert [len(DemonstrationDataset(path)) for path in paths] == [30 if split == "train" else 2] * 3
        assert paths[1].read_bytes() == alone[split].read_bytes()
        assert paths[1].relative_to(tmp_path / "set") == alone[split].relative_to(tmp_path / "alone")


def test_a_complete_set_is_used_as_it_is_also_in_part(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = collected_set(tmp_path, 5)
    monkeypatch.setattr(data_tools.collect, "Workers", None)  # no simulator may be needed
    assert collected_set(tmp_path, 5) == files
    assert collected_set(tmp_path, 3, tasks=TASKS[2:0:-1])["train"] == files["train"][2:0:-1]
    assert collected(tmp_path, 5)["val"] == files["val"][1]


def test_a_set_that_was_stopped_goes_on_at_the_task_where_it_was(tmp_path: Path) -> None:
    words = (f"task.tasks=[{','.join(TASKS)}]", "task.name=some")
    crashed = run(tmp_path / "stopped", *words, FAKE_DEADLY="push_button:3500")
    assert (
        crashed.returncode == 1 and crashed.stderr.count("\n") == 1 and "push_button, EpisodeStart(" in crashed.stderr
    )
    files = {path: path.stat() for path in tmp_path.rglob("*.hdf5")}
    assert sorted(path.name for path in files) == ["00000000-00000025.hdf5", "train.hdf5", "val.hdf5"]
    resumed = run(tmp_path / "stopped", *words)
    assert resumed.returncode == 0, resumed.stderr
    assert "task 1 of 3" not in resumed.stdout and "task 2 of 3: push_button" in resumed.stdout
    assert all(path.stat() == before for path, before in files.items() if path.stem in ("train", "val"))
    stopped, whole = collected_set(tmp_path / "stopped", 40), collected_set(tmp_path / "whole", 40)
    assert resumed.stdout.splitlines()[-6:] == [f"{split}: {path}" for split in stopped for path in stopped[split]]
    for split in whole:
        assert [path.read_bytes() for path in stopped[split]] == [path.read_bytes() for path in whole[split]]


def test_a_set_is_drawn_by_one_renderer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        instructrl.collection.target_file, "available_renderer", lambda wanted: "opengl" if wanted == "auto" else wanted
    )
    settings = sim(renderer="auto")
    collected(tmp_path, 3)  # by raycast; this machine would select opengl
    for path in collected_set(tmp_path, 3, settings=settings)["train"]:
        assert DemonstrationDataset(path).provenance["renderer"] == "raycast"
    collected_set(tmp_path / "mixed", 3, tasks=["push_button"])
    collected_set(tmp_path / "mixed", 3, tasks=["reach_target"], settings=settings)
    for tasks in (["push_button", "reach_target"], TASKS):  # complete, and with a task to be collected
        with pytest.raises(
            InputError, match=r"rendered by (opengl|raycast), but .* by (opengl|raycast); files that are trained"
        ):
            collected_set(tmp_path / "mixed", 3, tasks=tasks, settings=settings)
    assert not list((tmp_path / "mixed").rglob("*pick_and_lift*"))  # refused before anything is collected


def test_another_version_is_not_mixed_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paths = collected(tmp_path, 3)
    monkeypatch.setenv("FAKE_VERSION", "2")
    collected(tmp_path, 3)  # complete: no simulator is needed
    with pytest.raises(InputError, match=r"train.hdf5: was made with version '1' \(here '2'\)"):
        collected(tmp_path, 4)
    assert len(DemonstrationDataset(paths["train"])) == 3


def test_parts_of_another_version_are_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert run(tmp_path, FAKE_DEADLY="3500").returncode == 1
    assert len(list(tmp_path.rglob("*-*.hdf5"))) == 1
    monkeypatch.setenv("FAKE_VERSION", "2")
    paths = collected(tmp_path, 40)
    assert DemonstrationDataset(paths["train"]).provenance["version"] == "2"
    assert paths["train"].read_bytes() == collected(tmp_path / "whole", 40)["train"].read_bytes()


def test_a_damaged_file_is_refused(tmp_path: Path) -> None:
    paths = collected(tmp_path, 3)
    paths["val"].write_bytes(paths["val"].read_bytes()[:-100])
    with pytest.raises(InputError, match=r"val.hdf5: truncated"):
        collected(tmp_path, 3)


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="cannot be written"):
        collected(tmp_path / "file", 3)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("episodes=0", "episodes: found 0"),
        ("episode=3", "episode: no such setting"),
        ("sim.cameras=[up]", "sim.cameras: found"),
        ("task=dance", "dance"),
        ("task.variations=[50]", "task.variations: found 50"),
    ],
)
def test_wrong_settings_are_one_line(tmp_path: Path, override: str, message: str) -> None:
    refused = run(tmp_path, override)
    assert refused.returncode == 2
    assert refused.stderr.count("\n") == 1 and message in refused.stderr, refused.stderr


def test_the_embedded_simulator(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    one = collected(tmp_path / "one", 6, settings=sim(workers=1))
    two = collected(tmp_path / "two", 6, settings=sim(workers=2))
    assert one["train"].read_bytes() == two["train"].read_bytes()
    with DemonstrationDataset(one["train"]) as episodes:
        assert (episodes.task, episodes.provenance["simulator"], episodes.steps) == ("push_button", "tabletop", 2)
        assert len({episodes.episode(number).images.tobytes() for number in range(6)}) == 6
