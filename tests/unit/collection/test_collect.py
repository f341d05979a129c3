"""Collection: the result is a function of the settings alone, whatever happens in between."""

import re
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from instructrl.cli.entry import compose
from instructrl.collection.collect import ensure_demonstrations
from instructrl.collection.shards import Parts
from instructrl.collection.target_file import demonstration_paths
from instructrl.config.environment import CollectConfig, DataConfig, SimConfig, TaskConfig
from instructrl.config.simulators import TabletopConfig
from instructrl.data.demonstrations.dataset import DemonstrationDataset
from instructrl.errors import InputError, RunError
from tests.fakes import collection as fakes
from tests.fakes.collection import VARIATIONS, Inline, succeeds


def sim(*, renderer: str = "raycast") -> SimConfig:
    return TabletopConfig(cameras=["front", "wrist"], image_size=16, renderer=renderer)


def collected(
    folder: Path,
    episodes: int,
    *,
    val: int = 2,
    settings: SimConfig | None = None,
    variations: list[int] | None = None,
    start: Callable[[SimConfig, str], Any] = Inline,
) -> dict[str, Path]:
    task = TaskConfig("push_button", episodes, val, variations)
    files = ensure_demonstrations(task, settings or sim(), DataConfig(str(folder)), start=start)
    return {split: path for split, [path] in files.items()}


TASKS = ["reach_target", "push_button", "pick_and_lift"]


def collected_set(
    folder: Path,
    episodes: int,
    *,
    tasks: list[str] = TASKS,
    settings: SimConfig | None = None,
    start: Callable[[SimConfig, str], Any] = Inline,
) -> dict[str, list[Path]]:
    task = TaskConfig("some", episodes, 2, tasks=tasks)
    return ensure_demonstrations(task, settings or sim(), DataConfig(str(folder)), start=start)


class NoSimulator(Inline):
    """Fails if it is started: no simulator may be needed."""

    def __init__(self, *_: object) -> None:
        pytest.fail("a simulator was started")


def names(paths: dict[str, Path]) -> list[str]:
    return sorted(entry.name for entry in paths["train"].parent.iterdir())


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


def test_appending_equals_collecting_at_once(tmp_path: Path) -> None:
    collected(tmp_path / "grown", 7)
    collected(tmp_path / "grown", 33, val=5)
    grown, whole = collected(tmp_path / "grown", 62), collected(tmp_path / "whole", 62, val=5)
    for split in grown:
        assert grown[split].read_bytes() == whole[split].read_bytes()
    assert names(grown) == [".lock", "train.hdf5", "val.hdf5"]


def test_complete_files_are_used_as_they_are(tmp_path: Path) -> None:
    paths = collected(tmp_path, 10)
    before = paths["train"].stat()
    for episodes in (10, 4):
        assert collected(tmp_path, episodes, start=NoSimulator) == paths
        assert collected(tmp_path, episodes, settings=sim(renderer="auto"), start=NoSimulator) == paths
    assert paths["train"].stat() == before


def test_killed_between_merging_and_removing(tmp_path: Path) -> None:
    paths = collected(tmp_path, 30)
    before = paths["train"].read_bytes()
    merged, ahead = (Parts(paths["train"], present=begin, wanted=begin + 25) for begin in (0, 30))
    with DemonstrationDataset(paths["train"]) as episodes:
        demonstrations = [episodes.demonstration(number) for number in range(25)]
        for parts in (merged, ahead):
            parts.write(range(parts.present, parts.wanted), demonstrations, episodes.header)
    collected(tmp_path, 30)
    assert paths["train"].read_bytes() == before
    assert [path.name for path in ahead.folder.iterdir()] == ["00000030-00000055.hdf5"]


def test_an_expert_that_always_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAKE_HOPELESS", "1")
    with pytest.raises(
        RunError,
        match=r"^push_button, variation 0, seed 99: the expert failed 100 times, last outcome: time_limit; correct",
    ):
        collected(tmp_path, 1)


def test_successes_outside_the_workspace_are_replaced_and_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("FAKE_OUTSIDE", "2")
    with DemonstrationDataset(collected(tmp_path / "inside", 6)["train"]) as episodes:
        assert not episodes.outside.any() and (episodes.contents.seed % 2 == 1).all()
    printed = capsys.readouterr().out
    found = re.search(
        r"push_button train: failed expert episodes replaced: (\d+) success outside the workspace", printed
    )
    assert found and int(found[1]) > 0
    data = DataConfig(str(tmp_path / "clipped"), outside_workspace="clip")
    [path] = ensure_demonstrations(TaskConfig("push_button", 6, 2), sim(), data, start=Inline)["train"]
    with DemonstrationDataset(path) as episodes:
        assert episodes.outside.sum() == (episodes.contents.seed % 2 == 0).sum() > 0


def test_an_expert_that_always_leaves_the_workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAKE_OUTSIDE", "1")
    monkeypatch.setattr(fakes, "succeeds", lambda seed: True)
    line = r"failed 100 times, last outcome: success outside the workspace \[-0.3,.*\]: .*, 0.1; data.outside_w"
    with pytest.raises(RunError, match=line):
        collected(tmp_path, 1)


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        (
            {"workspace": [0, 0, 0, 1, 1, 1]},
            r"demonstrations with the workspace \[-0.3,-0.5,0.6,0.7,0.5,1.6\], but sim.wo",
        ),
        (
            {"state": ["height (m)"]},
            r'demonstrations with the state \["gripper open",.*"time"\], but sim.state=\["height',
        ),
    ],
)
def test_files_of_another_world_are_one_line(tmp_path: Path, changes: dict[str, Any], line: str) -> None:
    collected(tmp_path, 2)
    with pytest.raises(InputError, match=line):
        collected(tmp_path, 2, settings=replace(sim(), **changes), start=NoSimulator)


@pytest.mark.parametrize("changes", [{"workspace": [0, 0, 0, 1, 1, 1]}, {"state": ["height (m)"]}])
def test_no_simulator_collects_in_another_world(tmp_path: Path, changes: dict[str, Any]) -> None:
    [key] = changes
    with pytest.raises(InputError, match=rf"^sim.{key}: found .*, of other demonstrations; allowed where sim=tabletop"):
        collected(tmp_path, 2, settings=replace(sim(), **changes), start=NoSimulator)
    assert not list(tmp_path.rglob("*.hdf5"))


def test_chosen_variations_have_files_of_their_own(tmp_path: Path) -> None:
    paths = collected(tmp_path, 5, variations=[2, 0])
    assert "push_button-variations0+2-16px" in str(paths["train"])
    with DemonstrationDataset(paths["train"]) as episodes:
        assert episodes.contents.variation.tolist() == [0, 2, 0, 2, 0]
    with pytest.raises(InputError, match=r"task.variations: found 3; allowed for push_button: 0 to 2"):
        collected(tmp_path, 5, variations=[0, 3])
    task = TaskConfig("push_button", 1, 1, [0, 1, 2, 5, 7, 8])
    assert "variations0..2+5+7..8" in str(demonstration_paths(task, sim(), DataConfig("x"))["train"])


def test_demonstrations_with_images_of_another_size_are_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def note(**settings: Any) -> list[str]:
        """Lines about other sizes; the simulator's images have 16 pixels, others are refused."""
        with suppress(InputError):
            collected(tmp_path, 3, settings=replace(sim(), **settings))
        return [line for line in capsys.readouterr().out.splitlines() if "use those of" in line]

    assert note() == note() == []
    assert note(image_size=40, cameras=["front"]) == []  # none with these cameras
    assert note(image_size=24) == [
        f"{tmp_path}: found no demonstrations of push_button with images of 24 pixels, which are collected now; "
        "add sim.image_size=16 to use those of 16 pixels"
    ]


def test_another_renderer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("INSTRUCTRL_GL", "egl")  # OpenGL works
    collected(tmp_path, 3)
    paths = collected(tmp_path, 6, settings=sim(renderer="auto"))  # would select opengl, the file has raycast
    assert DemonstrationDataset(paths["train"]).provenance["renderer"] == "raycast"
    for episodes in (6, 9):
        with pytest.raises(InputError, match=r"rendered by raycast, but sim.renderer=opengl is set; choose"):
            collected(tmp_path, episodes, settings=sim(renderer="opengl"))

    assert len(DemonstrationDataset(paths["train"])) == 6
    by_opengl = collected(tmp_path / "opengl", 3, settings=sim(renderer="opengl"))
    monkeypatch.setenv("INSTRUCTRL_GL", "none")
    with pytest.raises(InputError, match=r"train.hdf5: cannot be extended here: .*OpenGL does not work"):
        collected(tmp_path / "opengl", 9, settings=sim(renderer="auto"))
    assert len(DemonstrationDataset(by_opengl["train"])) == 3


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


def test_a_complete_set_is_used_as_it_is_also_in_part(tmp_path: Path) -> None:
    files = collected_set(tmp_path, 5)
    assert collected_set(tmp_path, 5, start=NoSimulator) == files
    assert collected_set(tmp_path, 3, tasks=TASKS[2:0:-1], start=NoSimulator)["train"] == files["train"][2:0:-1]
    assert collected(tmp_path, 5, start=NoSimulator)["val"] == files["val"][1]


def test_a_set_is_drawn_by_one_renderer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("INSTRUCTRL_GL", "egl")  # OpenGL works
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


def test_of_another_origin_the_message_names_the_file_that_lacks_episodes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = collected(tmp_path, 3)
    monkeypatch.setenv("FAKE_VERSION", "2")
    with pytest.raises(InputError, match=r"found 3 train episodes, requested 4; request at most 3 \(task.episodes=3\)"):
        collected(tmp_path, 4)
    paths["val"].unlink()
    with pytest.raises(InputError) as error:  # of train as many are there as are requested
        collected(tmp_path, 3)
    assert str(error.value).startswith(f"{paths['train']}: was made with version '1' (here '2'), so no episodes can")
    expected = f"{paths['val']}: found 0 val episodes, requested 2; make its val episodes with the tool that made this"
    assert expected in str(error.value)


def test_a_damaged_file_is_refused(tmp_path: Path) -> None:
    paths = collected(tmp_path, 3)
    paths["val"].write_bytes(paths["val"].read_bytes()[:-100])
    with pytest.raises(InputError, match=r"val.hdf5: truncated"):
        collected(tmp_path, 3)


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="cannot be written"):
        collected(tmp_path / "file", 3)


def test_a_dying_simulator_keeps_finished_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAKE_DEADLY", "3500")
    started: list[Inline] = []

    def start(settings: SimConfig, task: str) -> Inline:
        started.append(Inline(settings, task))
        return started[-1]

    message = r"push_button, variation 2, seed 3500.* failed 2 times: .*; the same command resumes"
    with pytest.raises(RunError, match=message):
        collected(tmp_path, 40, start=start)
    [part] = tmp_path.rglob("*-*.hdf5")
    before = part.stat().st_mtime_ns, part.stat().st_ino
    with pytest.raises(RunError, match=message):
        collected(tmp_path, 40, start=start)
    assert (part.stat().st_mtime_ns, part.stat().st_ino) == before
    assert min(start.seed for start, *_ in filter(None, started[1].calls)) == 2500, (
        "the first 25 are not collected again"
    )
    monkeypatch.delenv("FAKE_DEADLY")
    paths = collected(tmp_path, 40)
    assert paths["train"].read_bytes() == collected(tmp_path / "whole", 40)["train"].read_bytes()


def test_a_set_that_was_stopped_goes_on_at_the_task_where_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("FAKE_DEADLY", "push_button:3500")
    with pytest.raises(RunError, match=r"^push_button, variation "):
        collected_set(tmp_path / "stopped", 40)
    files = {path: path.stat() for path in tmp_path.rglob("*.hdf5")}
    assert sorted(path.name for path in files) == ["00000000-00000025.hdf5", "train.hdf5", "val.hdf5"]
    monkeypatch.delenv("FAKE_DEADLY")
    capsys.readouterr()
    stopped = collected_set(tmp_path / "stopped", 40)
    printed = capsys.readouterr().out
    assert "task 1 of 3" not in printed and "task 2 of 3: push_button" in printed
    assert all(path.stat() == before for path, before in files.items() if path.stem in ("train", "val"))
    whole = collected_set(tmp_path / "whole", 40)
    for split in whole:
        assert [path.read_bytes() for path in stopped[split]] == [path.read_bytes() for path in whole[split]]


def test_parts_of_another_version_are_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAKE_DEADLY", "3500")
    with pytest.raises(RunError):
        collected(tmp_path, 40)
    assert len(list(tmp_path.rglob("*-*.hdf5"))) == 1
    monkeypatch.delenv("FAKE_DEADLY")
    monkeypatch.setenv("FAKE_VERSION", "2")
    paths = collected(tmp_path, 40)
    assert DemonstrationDataset(paths["train"]).provenance["version"] == "2"
    assert paths["train"].read_bytes() == collected(tmp_path / "whole", 40)["train"].read_bytes()


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("episodes=0", "episodes: found 0"),
        ("episode=3", "episode: no such setting"),
        ("sim.cameras=[up]", "sim.cameras: found"),
        ("task=dance", "dance"),
    ],
)
def test_wrong_settings_are_one_line(override: str, message: str) -> None:
    with pytest.raises(InputError) as refused:
        compose("collect", CollectConfig, ["task=push_button", override])
    assert message in str(refused.value) and "\n" not in str(refused.value)
