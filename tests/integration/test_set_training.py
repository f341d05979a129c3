"""A set of tasks at the doors of training: what is recorded and measured, and that an interruption changes nothing."""

import json
import shutil
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from instructrl.collection.collect import ensure_demonstrations
from instructrl.data.demonstrations.dataset import DemonstrationDataset
from instructrl.data.demonstrations.writer import Writer
from instructrl.data.loading import lengths
from instructrl.data.loading.loader import Loader
from instructrl.data.text.tokenizer import make_tokenizer
from instructrl.errors import InputError
from instructrl.evaluation.run_checks import recorded_renderer
from instructrl.inference.batched_agent import load_batched_agent
from instructrl.training.monitoring.metric_writer import read_lines
from instructrl.training.objectives.behavior_cloning import (
    BehaviorCloning,
    open_demonstrations,
    prepare_behavior_cloning,
)
from instructrl.training.run_dir import open_run
from instructrl.training.train_loop import validate
from tests.fixtures import tiny
from tests.fixtures.weights import random_weights
from tests.paths import ROOT

TASKS = ("pick_and_lift", "push_button")
SET = (f"task.tasks=[{','.join(TASKS)}]", "task.name=pair")
M3AE = ("encoder=m3ae_tiny", "encoder.dim=16", "encoder.depth=2", "encoder.heads=2", "encoder.patch_size=16",
        "training.token_dropout=0")  # fmt: skip
FROZEN = ("encoder.frozen=true", "training.token_dropout=0")
WEIGHTED = ("task.weights=[1,3]", "training.epochs=2", "training.keep_last=2")
Data = dict[str, list[Path]]


@pytest.fixture(scope="module")
def data() -> Data:
    return together(tiny.shared_demonstrations(task=task) for task in TASKS)


def together(each: Iterable[Data]) -> Data:
    """The files of all tasks by split."""
    found = list(each)
    return {split: [path for files in found for path in files[split]] for split in ("train", "val")}


def params(run: Path) -> Any:
    return load_batched_agent(run, checkpoint="last", slots=1, steps=6, hardware=tiny.config(run).hardware)[0].params


@pytest.fixture(scope="module")
def undisturbed(data: Data, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.trained(tmp_path_factory.mktemp("undisturbed"), data, *SET, *WEIGHTED)


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
        (split, epoch, 5 * epoch) for epoch in (1, 2) for split in ("train", "val")
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


def test_batches_of_short_sequences_are_short_and_their_losses_the_same(
    data: Data, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    words = (
        *SET,
        "training.batch_size=1",
        "training.token_dropout=0",
        "training.epochs=1",
        "optimizer.warmup_epochs=0",
    )
    padded = tiny.first_losses(tmp_path, data, *words, "name=padded")
    monkeypatch.setattr(lengths, "MANY_BATCHES", 1)
    np.testing.assert_allclose(tiny.first_losses(tmp_path, data, *words, "name=short"), padded, rtol=1e-5)
    capsys.readouterr()
    run = tiny.trained(tmp_path, data, *words, "training.log_every=1")
    assert "steps of a batch: 2, 4, as its longest sequence needs; " in capsys.readouterr().out
    speeds = read_lines(run / "speed.jsonl")
    assert len({line["batch_bytes"] for line in speeds}) == 2
    assert all(np.isfinite(line["loss"]) for line in read_lines(run / "metrics.jsonl"))


def test_an_interrupted_run_ends_with_the_same_numbers(undisturbed: Path, data: Data, tmp_path: Path) -> None:
    stopped = shutil.copytree(undisturbed, tmp_path / "outputs" / undisturbed.name)
    shutil.rmtree(stopped / "checkpoints/10")  # as killed in its second epoch
    assert tiny.trained(tmp_path, data, *SET, *WEIGHTED) == stopped
    jax.tree.map(np.testing.assert_array_equal, params(stopped), params(undisturbed))
    assert read_lines(stopped / "metrics.jsonl") == read_lines(undisturbed / "metrics.jsonl")


def test_weights_decide_what_is_learnt_and_a_set_of_one_is_its_task(data: Data, tmp_path: Path) -> None:
    def prepared(data: Data, *words: str) -> tuple[BehaviorCloning, dict[str, float], set[str], Any]:
        config = tiny.config(tmp_path / str(len(list(tmp_path.iterdir()))), *words)
        with open_demonstrations(config, data) as sets:
            training, state = prepare_behavior_cloning(config, open_run(config), sets)
            recorded = json.loads((Path(config.output_dir) / config.name / "data.json").read_text())
            return training, validate(training, state), set(recorded), training.train.batch(0)

    plain, losses, _, batch = prepared(data, *SET)
    weighted, same_losses, _, other_batch = prepared(data, *SET, "task.weights=[1,3]")
    assert "  pick_and_lift                              6\n  push_button                               18" in (
        weighted.summary()
    )
    assert plain.summary() != weighted.summary() and np.any(batch.actions != other_batch.actions)
    assert losses == same_losses, "weights are of training"
    first = {split: files[:1] for split, files in data.items()}
    (_, loss, recorded, batch), (_, of_set, of_one, batch_of_set) = (
        prepared(first, *words) for words in (("task=pick_and_lift",), ("task.tasks=[pick_and_lift]", "task.name=one"))
    )
    assert recorded == of_one == {"train", "val", "tokenizer"}
    assert loss == of_set and not any("/" in key for key in loss)
    jax.tree.map(np.testing.assert_array_equal, batch, batch_of_set)


def test_cached_features_of_a_set_give_the_losses_of_live_ones(data: Data, tmp_path: Path) -> None:
    where = f"features_dir={tmp_path / 'features'}"
    live, cached = (
        tiny.first_losses(tmp_path, data, *SET, *FROZEN, where, f"features={kind}", f"name={kind}")
        for kind in ("live", "cached")
    )
    assert len(live) == 5 + 2
    assert cached == pytest.approx(live, rel=1e-5, abs=1e-5)
    assert len(list((tmp_path / "features").rglob("index.json"))) == 4


def test_features_of_a_set_are_computed_ahead_by_one_command(tmp_path: Path) -> None:
    random_weights(tmp_path / "w.safetensors", M3AE)
    words = (*SET, *M3AE, f"encoder.weights={tmp_path / 'w.safetensors'}")
    command = [sys.executable, "-m", "data_tools.features", *tiny.overrides(tmp_path, *words)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("rows written") == 4 and "task 2 of 2: push_button" in done.stdout
    config = tiny.config(tmp_path, *words)
    files: Any = ensure_demonstrations(config.task, config.sim, config.data)
    tiny.damage_pixels(files)
    assert len(tiny.first_losses(tmp_path, files, *words)) == 5 + 2, "no image is read"


def test_demonstrations_drawn_otherwise_are_refused_before_anything_is_learnt(tmp_path: Path) -> None:
    data = together(tiny.demonstrations(tmp_path / task, task=task) for task in TASKS)
    drawn_otherwise = data["val"][1]
    with DemonstrationDataset(drawn_otherwise) as episodes:
        header = replace(episodes.header, provenance={**episodes.provenance, "renderer": "opengl"})
        demonstrations = [episodes.demonstration(number) for number in range(len(episodes))]
    with Writer(drawn_otherwise, header) as writer:
        for demonstration in demonstrations:
            writer.add(demonstration)
    with pytest.raises(InputError, match=r"val.hdf5: renderer opengl, but .*train.hdf5 has raycast; collect them"):
        tiny.trained(tmp_path, data, *SET)
    assert not list(tmp_path.rglob("data.json"))


def test_a_record_of_several_renderers_or_none_is_refused(tmp_path: Path) -> None:
    for renderers in (("raycast", "opengl"), ()):
        entries = {f"train/{number}": {"provenance": {"renderer": one}} for number, one in enumerate(renderers)}
        (tmp_path / "data.json").write_text(json.dumps(entries))
        with pytest.raises(InputError, match="does not record which renderer was used for the training data"):
            recorded_renderer(tmp_path)
