"""Tools of data_tools as commands of a shell: processes, a full disk, and trainings on what was converted."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from data_tools.convert.__main__ import convert, parse
from data_tools.frames.__main__ import PROG, make_frames
from data_tools.frames.renderer import FrameRenderer, FramesConfig
from instructrl.cli.args import parse_settings
from instructrl.collection.collect import ensure_demonstrations
from instructrl.config.training import TrainConfig
from instructrl.errors import InputError
from instructrl.training.run_dir import open_run
from instructrl.training.train_loop import train
from tests.fakes.inline_pool import InlinePool
from tests.fixtures import demonstrations as samples
from tests.fixtures import stored, tiny
from tests.paths import ROOT

FEW = ("frames=11", "val_frames=5", "image_size=32", "tasks=[reach_target,push_buttons]", "renderer=raycast")


def command(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *words], cwd=ROOT, capture_output=True, text=True, timeout=300)


@pytest.mark.parametrize("module", ["convert", "inspect", "rlds", "stats", "weights"])
def test_wrong_words_are_one_line_in_a_shell(module: str) -> None:
    refused = command("-m", f"data_tools.{module}", "--nonsense")
    assert refused.returncode == 2 and refused.stderr.count("\n") == 1, refused.stderr


def test_tensorflow_datasets_waits_until_it_is_needed() -> None:
    ran = command("-c", "import sys, data_tools.rlds, data_tools.convert; print('tensorflow_datasets' in sys.modules)")
    assert ran.stdout.strip() == "False", ran.stderr


def test_rlds_on_a_full_disk_is_one_line_and_leaves_nothing(tmp_path: Path) -> None:
    file = samples.write(tmp_path / "one.hdf5", [samples.demonstration(seed) for seed in range(40)])
    program = (
        "import resource, sys; resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000));"
        "from data_tools.rlds.__main__ import main; main()"
    )
    ran = command("-c", program, "export", f"src={file}", f"out={tmp_path / 'rlds'}")
    assert ran.returncode == 2 and len(ran.stderr.splitlines()) == 1, ran.stderr
    assert ran.stderr.startswith("error: ")
    assert [path.name for path in tmp_path.iterdir()] == ["one.hdf5"]


def test_frames_follow_from_the_settings_whatever_the_number_of_processes(tmp_path: Path) -> None:
    def config(name: str) -> FramesConfig:
        return parse_settings([*FEW, "workers=2", f"out={tmp_path / name}"], FramesConfig, prog=PROG)

    one = make_frames(config("one"), start=lambda settings: InlinePool(FrameRenderer(settings)))
    for split, path in make_frames(config("two")).items():
        assert path.read_bytes() == one[split].read_bytes()


def test_frames_from_a_shell(tmp_path: Path) -> None:
    """Its worker processes import the module, so it must not run on import."""
    words = ["frames=2", "val_frames=0", "image_size=16", "tasks=[reach_target]", "renderer=raycast", "workers=1"]
    done = command("-m", "data_tools.frames", *words, f"out={tmp_path}")
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    assert done.stdout.splitlines()[-1] == f"train: {tmp_path / 'train.hdf5'}"


# From the demonstrations of others to a trained agent.


def settings(out: Path, task: str, *more: str) -> TrainConfig:
    words = [f"task.name={task}", "sim=rlbench", "sim.image_size=16", "sim.renderer=auto", "task.episodes=5",
             "task.val_episodes=1", "training.epochs=1", "optimizer.warmup_epochs=0"]  # fmt: skip
    return tiny.config(out, *words, *more)


def found(config: TrainConfig) -> dict[str, list[Path]]:
    """The files that a training uses; no simulator may be needed."""
    return ensure_demonstrations(
        config.task, config.sim, config.data, start=lambda *_: pytest.fail("a simulator was started")
    )


def test_training_finds_what_was_converted_and_learns_from_it(tmp_path: Path) -> None:
    views = "cameras=[front,left_shoulder]"
    for task, layout, episodes in (("close_jar", stored.original, 3), ("place_cups", stored.peract, 6)):
        src = layout(tmp_path / task, variations=2, episodes=episodes)
        convert(parse(["kind=rlbench", f"src={src}", f"out={tmp_path / 'data'}", views]))
        config = settings(tmp_path, task, f"name={task}")
        assert all(path.exists() for paths in found(config).values() for path in paths)
    run = open_run(config)
    train(config, run, data=found(config), rollout=None)
    assert len((run / "metrics.jsonl").read_text().splitlines()) == 2


def test_windows_train_every_head_but_the_one_that_needs_to_know_the_cameras(tmp_path: Path) -> None:
    src = stored.windows(tmp_path / "windows.hdf5", [3, 4, 5, 6, 7, 8])
    convert(parse(["kind=windows", f"src={src}", f"out={tmp_path / 'data'}", "cameras=[front,left_shoulder]"]))
    config = settings(tmp_path, "reach_target")
    with pytest.raises(InputError, match="converted without camera matrices"):
        train(config, open_run(config), data=found(config), rollout=None)
    config = settings(tmp_path, "reach_target", "head=regression", "name=regression")
    run = open_run(config)
    train(config, run, data=found(config), rollout=None)
    assert [json.loads(line)["split"] for line in (run / "metrics.jsonl").read_text().splitlines()] == ["train", "val"]
