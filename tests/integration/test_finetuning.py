"""Finetuning: warm start from another run, frozen parameters, and one-line errors for incompatible agents."""

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from instructrl.config.training import HardwareConfig, TrainConfig
from instructrl.errors import InputError
from instructrl.models.parameter_files import flatten_params, read_parameters, write_parameters
from instructrl.models.weight_files import ENCODER_FILE
from instructrl.training.checkpointing.manager import open_checkpoints
from instructrl.training.model_factory import dummy_batch, make_agent, random_params
from instructrl.training.monitoring.metric_writer import read_lines
from instructrl.training.parameters.load_agent import FROZEN_FILE, export_agent, load_agent
from instructrl.training.parameters.training_words import read_words
from instructrl.training.parameters.warm_start import abstract_agent, check_initialization, init_params, record_words
from instructrl.training.run_dir import open_run
from instructrl.training.train_loop import train
from tests.fixtures import tiny
from tests.paths import ROOT

HARDWARE = HardwareConfig("auto")
SHORT = ("training.epochs=1", "optimizer.warmup_epochs=0")
FROZEN = "training.freeze=[encoder/block_0,'policy/block_[0-3]','*/bias']"
Data = dict[str, list[Path]]


@pytest.fixture(scope="module")
def data() -> Data:
    return tiny.shared_demonstrations()


def trained(folder: Path, data: Data, *more: str) -> Path:
    config = tiny.config(folder, *more)
    check_initialization(config, Path(config.output_dir) / config.name)
    run = open_run(config)
    train(config, run, data=data)
    return run


def begun(folder: Path, data: Data, *more: str) -> Path:
    """A run as before its first step, after the checks of the command line."""
    config = tiny.config(folder, *more)
    check_initialization(config, Path(config.output_dir) / config.name)
    return tiny.begun(folder, data, *more)


def params(run: Path, which: str = "last") -> dict[str, np.ndarray]:
    return flatten_params(load_agent(run, checkpoint=which, hardware=HARDWARE).params)


@pytest.fixture(scope="module")
def source() -> Path:
    return tiny.shared_run()


@pytest.fixture(scope="module")
def partly_frozen(data: Data, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return trained(tmp_path_factory.mktemp("frozen"), data, *SHORT, FROZEN)


def initial_params(config: TrainConfig) -> dict[str, np.ndarray]:
    """The parameters before the first step, re-initialized ones filled with sevens."""
    tokenizer, shapes = abstract_agent(config)
    sevens = jax.tree.map(lambda leaf: np.full(leaf.shape, 7, leaf.dtype), shapes)
    return flatten_params(init_params(config, sevens, tokenizer, run=Path(config.output_dir), resuming=False)[0])


def refused(*given: Any) -> str:
    with pytest.raises(InputError) as caught:
        trained(*given)
    line = str(caught.value)
    assert "\n" not in line
    return line


# Warm start.


def test_a_run_begins_with_anothers_parameters_on_other_tasks_and_records_it(
    source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other_data = tiny.shared_demonstrations(task="push_button")
    run = begun(tmp_path, other_data, "task=push_button", f"init_from={source}", "init_checkpoint=last")
    found, expected = params(run), params(source)
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_array_equal(found[name], value, err_msg=name)
    entry = json.loads((run / "data.json").read_text())["init_from"]
    assert entry["path"] == str(source) and entry["step"] == 12 and len(entry["checksum"]) == 64
    printed = capsys.readouterr().out
    assert (
        f"warm start from {source} (last checkpoint, step 12): {len(found)} arrays loaded, 0 re-initialized" in printed
    )
    assert "task.name: reach_target -> push_button" in printed


@pytest.mark.parametrize(
    ("settings", "reinit"),
    [(("head=regression",), ["head"]), (("policy.depth=2",), ["policy/block_1"]),
     (("encoder.dim=24", "encoder.depth=2"),
      ["encoder", "head", "policy/embed_camera/kernel", "policy/embed_text/kernel"])],
)  # fmt: skip
def test_another_agent_is_refused_by_its_parameters_until_they_begin_anew(
    source: Path, data: Data, tmp_path: Path, settings: tuple[str, ...], reinit: list[str]
) -> None:
    given = (*settings, f"init_from={source}", "name=other")
    line = refused(tmp_path, data, *given)
    assert (
        line.startswith(f"init_from: the parameters of {source} do not match: ") and settings[0].split("=")[0] in line
    )
    assert not (tmp_path / "outputs" / "other").exists()
    advice = line.split("'")[1]  # the setting that the message suggests
    found, expected = initial_params(tiny.config(tmp_path, *given, advice)), params(source, "best")
    loaded = [name for name in found if name in expected and np.array_equal(found[name], expected[name])]
    others = set(found) - set(loaded)
    assert loaded and all(any(name.startswith(part) for part in reinit) for name in others)
    if reinit == ["head"]:  # both heads read patches in the same way: that is kept
        assert {name for name in loaded if name.startswith("head/")} == {
            f"head/reader/{part}" for part in ("film/kernel", "key/kernel", "place/kernel", "read/kernel")
        } | {name for name in loaded if name.startswith("head/reader/") and name.endswith("bias")}


def test_other_cameras_ask_for_their_parameters_anew(source: Path, data: Data, tmp_path: Path) -> None:
    line = refused(tmp_path, data, "sim.cameras=[front]", f"init_from={source}")
    assert "sim.cameras: ['front', 'left_shoulder'] -> ['front']" in line
    advice = "training.reinit=[head/pose/expand/kernel,policy/token_kind]"  # what depends on the number of cameras
    assert line.endswith(f"'{advice}'")
    config = tiny.config(tmp_path, "sim.cameras=[front]", f"init_from={source}", advice)
    check_initialization(config, tmp_path / "nowhere")


def test_another_image_size_is_told_and_may_be(source: Path, tmp_path: Path, data: Data) -> None:
    check_initialization(tiny.config(tmp_path, "sim.image_size=64", f"init_from={source}"), tmp_path / "nowhere")


def test_another_vocabulary_is_refused_until_its_words_begin_anew(source: Path, data: Data, tmp_path: Path) -> None:
    vocabulary = tmp_path / "vocab.txt"
    vocabulary.write_text("\n".join(["[PAD]", "[UNK]", "the", "red", "blue"]))
    given = (f"encoder.tokenizer={vocabulary}", f"init_from={source}")
    line = refused(tmp_path, data, *given)
    found = f"encoder.tokenizer: found {vocabulary} with 5 entries"
    assert line.startswith(f"{found}, but {source} was trained with small, which has ")
    assert "'training.reinit=[encoder/word_weight,encoder/words]'" in line
    words = initial_params(tiny.config(tmp_path, *given, line.split("'")[1]))["encoder/words/embedding"]
    assert words.shape[0] == 5 and np.all(words == 7)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("training.reinit=[heat]",), "training.reinit: found heat, which no parameter matches here or there"),
        (("training.reinit=['*']",), "training.reinit: found [*], which leaves nothing of init_from"),
        (("init_from={folder}/none",), "init_from: found no directory "),
        (("init_from={folder}",), "no config.yaml found"),
        (("init_from={folder}/begun",), "has no checkpoint yet; train it first"),
        (("init_from={folder}/cut",), "agent.safetensors: damaged or not a safetensors file ("),
    ],
)
def test_what_cannot_be_begun_with_is_one_line_before_anything_is_made(
    source: Path, data: Data, tmp_path: Path, words: tuple[str, ...], message: str
) -> None:
    for name in ("begun", "cut"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.yaml").write_bytes((source / "config.yaml").read_bytes())
    (tmp_path / "cut" / "agent.safetensors").write_bytes(b"\0")
    words = tuple(word.format(folder=tmp_path) for word in words)
    given = [f"init_from={source}", *words] if words[0].startswith("training") else words
    assert message in refused(tmp_path, data, *given)
    assert not (tmp_path / "outputs").exists()


def test_the_same_command_resumes_its_own_checkpoints_without_the_other_run(
    source: Path, data: Data, tmp_path: Path
) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(source, copy)
    given = (f"init_from={copy}", "training.freeze=[policy/block_0]", "training.epochs=2", "training.keep_last=2")
    whole = trained(tmp_path / "whole", data, *given)
    stopped = shutil.copytree(whole, tmp_path / "stopped/outputs" / whole.name)
    shutil.rmtree(stopped / "checkpoints/6")  # as killed in its second epoch
    shutil.rmtree(copy)
    resumed = trained(tmp_path / "stopped", data, *given)
    assert resumed == stopped
    assert json.loads((resumed / "data.json").read_text())["init_from"]["path"] == str(copy)
    found, expected = params(resumed), params(whole)
    assert all(np.array_equal(found[name], expected[name]) for name in expected)
    assert read_lines(resumed / "metrics.jsonl") == read_lines(whole / "metrics.jsonl")


def test_a_run_that_began_but_has_no_checkpoint_refuses_another_content(
    source: Path, data: Data, tmp_path: Path
) -> None:
    copy, agent = tmp_path / "copy", load_agent(source, checkpoint="last", hardware=HARDWARE)
    export_agent(copy, agent)
    given = (f"init_from={copy}", "training.freeze=[encoder]")
    run = begun(tmp_path, data, *given)
    shutil.rmtree(run / "checkpoints")
    before = (run / FROZEN_FILE).read_bytes()
    shutil.rmtree(copy)
    export_agent(copy, agent._replace(params=jax.tree.map(lambda leaf: leaf + 1, agent.params)))
    assert f"init_from: {copy} has changed since {run} started from it (step " in refused(tmp_path, data, *given)
    assert (run / FROZEN_FILE).read_bytes() == before


def test_a_trained_encoder_is_frozen_in_the_next_run_with_features_computed_once(
    source: Path, data: Data, tmp_path: Path
) -> None:
    given = (f"init_from={source}", "encoder.frozen=true", "training.token_dropout=0")
    run = begun(tmp_path, data, *given, f"features_dir={tmp_path / 'features'}")
    assert (run / ENCODER_FILE).is_file() and list((tmp_path / "features").rglob("index.json"))
    found, expected = params(run), params(source, "best")
    assert all(np.array_equal(found[name], expected[name]) for name in found)


def test_an_exported_agent_begins_a_run(source: Path, data: Data, tmp_path: Path) -> None:
    export_agent(tmp_path / "agent", load_agent(source, checkpoint="best", hardware=HARDWARE))
    assert {path.name for path in (tmp_path / "agent").iterdir()} == {"agent.safetensors", "config.yaml"}
    first = params(begun(tmp_path, data, f"init_from={tmp_path / 'agent'}"))
    assert all(np.array_equal(value, first[name]) for name, value in params(source, "best").items())


def test_a_run_knows_the_words_of_the_one_that_it_starts_from(source: Path, data: Data, tmp_path: Path) -> None:
    agent = load_agent(source, checkpoint="last", hardware=HARDWARE)
    for name, before in (("known", frozenset({"zorblax"})), ("unknown", None)):
        export_agent(tmp_path / name, agent._replace(words=before))
        run = begun(tmp_path / f"of-{name}", data, f"init_from={tmp_path / name}")
        assert read_words(run) == (before and before | (read_words(source) or frozenset()))
    shutil.rmtree(tmp_path / "known")
    (tmp_path / "of-known" / "outputs" / source.name / "words.json").unlink()  # begun before words were recorded
    config = tiny.config(tmp_path / "of-known", f"init_from={tmp_path / 'known'}")
    record_words(config, Path(config.output_dir) / config.name, frozenset(), resuming=True)


# Frozen parts.


def test_frozen_parts_stay_are_in_no_checkpoint_and_have_no_optimizer_state(
    partly_frozen: Path, tmp_path: Path
) -> None:
    run = partly_frozen
    found = params(run)
    config = tiny.config(tmp_path)
    tokenizer, _ = abstract_agent(config)
    agent = make_agent(config, vocabulary_size=tokenizer.vocabulary_size)
    first = flatten_params(random_params(agent, dummy_batch(config, tokenizer), seed=config.seed))
    frozen = {name for name in found if name.startswith(("encoder/block_0", "policy/block_")) or name.endswith("/bias")}
    assert all(np.array_equal(found[name], first[name]) == (name in frozen) for name in found)
    with open_checkpoints(run, read_only=True) as checkpoints:
        saved = (run / f"checkpoints/{checkpoints.step('last')}/default/_METADATA").read_text()
    names = ["/".join(name.split("'")[1::2]) for name in json.loads(saved)["tree_metadata"]]
    assert any(name.startswith("params/") for name in names) and any(name.startswith("opt_state/") for name in names)
    assert not any(part in name for name in names for part in ("encoder/block_0", "policy/block_", "/bias"))


@pytest.mark.parametrize(
    ("patterns", "message"),
    [
        ("[policy/blok_0]", "training.freeze: found policy/blok_0, which no parameter matches; there are encoder/"),
        ("[encoder,policy,head]", "which leaves no parameter to train; the parts are encoder, head, policy"),
    ],
)
def test_patterns_that_freeze_nothing_or_all_are_refused(
    data: Data, tmp_path: Path, patterns: str, message: str
) -> None:
    assert message in refused(tmp_path, data, f"training.freeze={patterns}")
    assert not (tmp_path / "outputs").exists()


def test_frozen_parts_that_were_lost_or_changed_are_told(partly_frozen: Path, data: Data, tmp_path: Path) -> None:
    run = shutil.copytree(partly_frozen, tmp_path / "outputs" / partly_frozen.name)
    frozen, _ = read_parameters(run / FROZEN_FILE, hint="")
    write_parameters(run / FROZEN_FILE, jax.tree.map(lambda leaf: leaf + 1, frozen), metadata={})
    with pytest.raises(InputError, match=r"frozen.safetensors: its content differs from what .* was trained with"):
        params(run)
    assert "its content differs from what" in refused(tmp_path, data, *SHORT, FROZEN)
    (run / FROZEN_FILE).write_bytes(b"short")
    with pytest.raises(InputError, match=r"frozen.safetensors: damaged"):
        params(run)
    (run / FROZEN_FILE).unlink()
    with pytest.raises(InputError, match=r"frozen.safetensors: missing"):
        params(run)


def test_parts_frozen_by_pattern_beside_a_frozen_encoder(data: Data, tmp_path: Path, capsys: Any) -> None:
    given = ("encoder.frozen=true", "training.token_dropout=0", "training.freeze=[encoder,policy/block_0]")
    run = begun(tmp_path, data, *given, f"features_dir={tmp_path / 'features'}")
    printed = capsys.readouterr().out
    assert "frozen" in next(line for line in printed.splitlines() if line.startswith("  encoder"))
    assert next(line for line in printed.splitlines() if line.startswith("  policy")).endswith(" frozen")
    assert params(run).keys() == flatten_params(abstract_agent(tiny.config(tmp_path))[1]).keys()


def test_by_the_command_line_nothing_is_collected_before_a_misfit_is_told(source: Path, tmp_path: Path) -> None:
    words = tiny.overrides(tmp_path, "head=regression", f"init_from={source}")
    done = subprocess.run([sys.executable, "train.py", *words], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 2 and done.stderr.startswith("error: init_from: ") and len(done.stderr.splitlines()) == 1
    assert not list(tmp_path.iterdir())
