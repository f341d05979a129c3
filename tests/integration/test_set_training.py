"""A set of tasks at the doors of training: what is recorded and measured, and that an interruption changes nothing."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from instructrl.collection.collect import ensure_demonstrations
from instructrl.data.demonstrations.dataset import DemonstrationDataset
from instructrl.data.loading.loader import Loader
from instructrl.data.text.tokenizer import make_tokenizer
from instructrl.errors import InputError
from instructrl.evaluation.run_checks import recorded_renderer
from instructrl.inference.batched_agent import load_batched_agent
from instructrl.training import train_loop
from instructrl.training.monitoring.metric_writer import read_lines
from instructrl.training.objectives.behavior_cloning import open_demonstrations, prepare_behavior_cloning
from instructrl.training.run_dir import open_run
from instructrl.training.train_loop import train, validate
from tests.fixtures import tiny
from tests.integration.test_frozen import M3AE, SMALL_VOCABULARY, random_weights
from tests.paths import ROOT

TASKS = ("pick_and_lift", "push_button")
SET = (f"task.tasks=[{','.join(TASKS)}]", "task.name=pair")
FROZEN = ("encoder.frozen=true", "training.token_dropout=0")
SHORT = ("training.epochs=1", "optimizer.warmup_epochs=0")
Data = dict[str, list[Path]]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Data:
    each = [tiny.demonstrations(tmp_path_factory.mktemp(task), task=task) for task in TASKS]
    return {split: [path for files in each for path in files[split]] for split in ("train", "val")}


def trained(folder: Path, data: Data, *more: str) -> Path:
    return tiny.trained(folder, data, *SET, *more)


def params(run: Path) -> Any:
    return load_batched_agent(run, checkpoint="last", slots=1, steps=6, hardware=tiny.config(run).hardware)[0].params


@pytest.fixture(scope="module")
def undisturbed(data: Data, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return trained(tmp_path_factory.mktemp("undisturbed"), data)


def test_each_tasks_demonstrations_are_recorded(undisturbed: Path, data: Data) -> None:
    recorded = json.loads((undisturbed / "data.json").read_text())
    keys = [f"{split}/{task}" for split in ("train", "val") for task in TASKS]
    assert set(recorded) == {*keys, "tokenizer"}
    assert [recorded[key]["path"] for key in keys] == [str(path) for path in (*data["train"], *data["val"])]
    assert len({recorded[key]["checksum"] for key in keys}) == 4
    assert recorded_renderer(undisturbed) == "raycast"


def test_the_loss_of_each_task_is_measured(undisturbed: Path, data: Data) -> None:
    lines = read_lines(undisturbed / "metrics.jsonl")
    assert [(line["split"], line["epoch"], line["step"]) for line in lines] == [
        (split, epoch, 5 * epoch) for epoch in (1, 2, 3, 4) for split in ("train", "val")
    ]
    keyframes = {"pick_and_lift": 4 * 4, "push_button": 4 * 2}  # in four episodes each
    for line in lines[1::2]:
        losses = {task: line[f"loss/{task}"] for task in TASKS}
        mean = sum(losses[task] * keyframes[task] for task in TASKS) / sum(keyframes.values())
        assert line["loss"] == pytest.approx(mean, rel=1e-6) and len(set(losses.values())) == 2
    assert not any("/" in key for line in lines[::2] for key in line)


def test_a_tasks_loss_is_that_of_its_own_demonstrations(data: Data, tmp_path: Path) -> None:
    config = tiny.config(tmp_path, *SET)
    with open_demonstrations(config, data) as sets:
        training, state = prepare_behavior_cloning(config, open_run(config), sets)
        losses = validate(training, state)
        for task, episodes in zip(TASKS, sets.val, strict=True):
            tokenizer = make_tokenizer(config.encoder)
            alone = Loader([episodes], tokenizer, batch_size=5, seed=0, steps=training.train.sizes.steps, shuffle=False)
            found = training.eval_step(training.params(state), alone.batch(0))["loss"]
            assert losses[f"loss/{task}"] == pytest.approx(float(found), rel=1e-6)


@pytest.mark.parametrize(("more", "validations"), [((), 3), (("task.weights=[1,3]",), 1), (FROZEN, 2)])
def test_an_interrupted_run_ends_with_the_same_numbers(
    undisturbed: Path,
    data: Data,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    more: tuple[str, ...],
    validations: int,
) -> None:
    whole, calls = trained(tmp_path / "whole", data, *more) if more else undisturbed, []

    def stopped(*given: Any) -> dict[str, float]:
        calls.append(given)
        if len(calls) > validations:
            raise KeyboardInterrupt
        return validate(*given)

    with monkeypatch.context() as patch:
        patch.setattr(train_loop, "validate", stopped)
        with pytest.raises(KeyboardInterrupt):
            trained(tmp_path / "stopped", data, *more)
    run = trained(tmp_path / "stopped", data, *more)
    jax.tree.map(np.testing.assert_array_equal, params(run), params(whole))
    assert read_lines(run / "metrics.jsonl") == read_lines(whole / "metrics.jsonl")


def test_weights_decide_what_is_learnt_and_a_set_of_one_is_its_task(
    undisturbed: Path, data: Data, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    weighted = trained(tmp_path, data, "task.weights=[1,3]", *SHORT)
    assert "  pick_and_lift                              6\n  push_button                               18\n" in (
        capsys.readouterr().out
    )
    assert read_lines(weighted / "metrics.jsonl")[0] != read_lines(undisturbed / "metrics.jsonl")[0]
    first = {split: files[:1] for split, files in data.items()}
    runs = []
    for words in (("task=pick_and_lift",), ("task.tasks=[pick_and_lift]", "task.name=one")):
        config = tiny.config(tmp_path / str(len(runs)), *words, *SHORT)
        runs.append(open_run(config))
        train(config, runs[-1], data=first)
    task, set_of_one = (
        [json.loads((run / "data.json").read_text()), read_lines(run / "metrics.jsonl")] for run in runs
    )
    assert set(task[0]) == {"train", "val", "tokenizer"} and task[0] == set_of_one[0]
    assert not any("/" in key for line in set_of_one[1] for key in line)
    assert task[1][0]["loss"] == set_of_one[1][0]["loss"]


def test_cached_features_of_a_set_give_the_losses_of_live_ones(data: Data, tmp_path: Path) -> None:
    where = f"features_dir={tmp_path / 'features'}"
    live, cached = (
        trained(tmp_path, data, *FROZEN, where, f"features={kind}", f"name={kind}", *SHORT)
        for kind in ("live", "cached")
    )
    for one, other in zip(*(read_lines(run / "metrics.jsonl") for run in (live, cached)), strict=True):
        for key in {key for key in one if key.startswith("loss")}:
            assert other[key] == pytest.approx(one[key], rel=1e-5, abs=1e-5)
    assert len(list((tmp_path / "features").rglob("index.json"))) == 4


def test_features_of_a_set_are_computed_ahead_by_one_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    random_weights(tmp_path / "w.safetensors", M3AE, SMALL_VOCABULARY)
    words = (*SET, *M3AE, f"encoder.weights={tmp_path / 'w.safetensors'}", *SHORT)
    command = [sys.executable, "-m", "data_tools.features", *tiny.overrides(tmp_path, *words)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("rows written") == 4 and "task 2 of 2: push_button" in done.stdout
    config = tiny.config(tmp_path, *words)
    files = ensure_demonstrations(config.task, config.sim, config.data)
    monkeypatch.setattr(DemonstrationDataset, "_images", lambda *_: pytest.fail("an image was read"))
    assert len(read_lines(trained(tmp_path, files, *words[len(SET) :]) / "metrics.jsonl")) == 2


def test_demonstrations_drawn_otherwise_are_refused_before_anything_is_learnt(
    data: Data, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from instructrl.data.demonstrations import dataset

    real = dataset.read

    def read(path: Path) -> Any:
        header, contents = real(path)
        if path == data["val"][1]:
            header.provenance["renderer"] = "opengl"
        return header, contents

    monkeypatch.setattr(dataset, "read", read)
    with pytest.raises(InputError, match=r"val.hdf5: renderer opengl, but .*train.hdf5 has raycast; collect them"):
        trained(tmp_path, data)
    assert not list(tmp_path.rglob("data.json"))


def test_a_record_of_several_renderers_or_none_is_refused(tmp_path: Path) -> None:
    for renderers in (("raycast", "opengl"), ()):
        entries = {f"train/{number}": {"provenance": {"renderer": one}} for number, one in enumerate(renderers)}
        (tmp_path / "data.json").write_text(json.dumps(entries))
        with pytest.raises(InputError, match="does not say which renderer drew the training data"):
            recorded_renderer(tmp_path)
