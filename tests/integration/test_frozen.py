"""Frozen encoders in training and evaluation: cached features change no result, and weights stay unchanged."""

import json
import os
import shutil
import string
import subprocess
import sys
from dataclasses import replace
from functools import partial

import jax
import numpy as np
import pytest

from instructrl.config import model
from instructrl.data.loading.loader import Loader
from instructrl.data.text.tokenizer import make_tokenizer
from instructrl.errors import InputError
from instructrl.inference.batched_agent import load_batched_agent
from instructrl.models.agent import Agent
from instructrl.models.encoders.registry import encoder_shapes
from instructrl.models.parameter_files import flatten_params
from instructrl.models.weight_files import ENCODER_FILE, match_params, read_weights, write_weights
from instructrl.training.checkpointing.manager import open_checkpoints
from instructrl.training.model_factory import make_agent
from instructrl.training.monitoring.metric_writer import read_lines
from instructrl.training.objectives.augmentation import drop_tokens
from instructrl.training.objectives.behavior_cloning import open_demonstrations, prepare_behavior_cloning
from instructrl.training.parameters.warm_start import check_initialization
from instructrl.training.preflight import check_inputs
from instructrl.training.run_dir import open_run
from instructrl.types import BatchSizes, fake_batch
from tests.fixtures import tiny
from tests.fixtures.encoders import CLIP_TINY
from tests.fixtures.weights import SMALL_VOCABULARY, random_weights
from tests.paths import ROOT

M3AE = ("encoder=m3ae_tiny", "encoder.dim=16", "encoder.depth=2", "encoder.heads=2", "encoder.patch_size=16",
        "training.token_dropout=0")  # fmt: skip
CLIP = ("encoder=clip_b32", "encoder.dim=16", "encoder.depth=2", "encoder.heads=2", "encoder.patch_size=8",
        "encoder.image_size=16", "encoder.text_dim=8", "encoder.text_depth=2", "encoder.text_heads=2",
        "encoder.projection=12", "training.token_dropout=0")  # fmt: skip
RANDOM = "encoder.weights=null"
SHORT = ("training.epochs=1", "optimizer.warmup_epochs=0")


@pytest.fixture(scope="module")
def data():
    return tiny.shared_demonstrations()


@pytest.fixture(scope="module")
def run(data, tmp_path_factory):
    """A finished run with cached features, and the weights of its encoder."""
    folder = tmp_path_factory.mktemp("run")
    arrays = random_weights(folder / "w.safetensors", M3AE)
    return tiny.trained(folder, data, *weighted(folder)), arrays


def weighted(folder):
    """Settings of a run with the weights of a folder."""
    more = ("training.epochs=2", "training.keep_last=2", f"features_dir={folder / 'features'}")
    return (*M3AE, f"encoder.weights={folder / 'w.safetensors'}", *more)


@pytest.fixture(scope="module")
def letters(tmp_path_factory):
    """A vocabulary in CLIP's format without merges: single letters."""
    folder = tmp_path_factory.mktemp("letters")
    characters = string.ascii_lowercase + string.digits + string.punctuation
    pieces = [*characters, *(f"{one}</w>" for one in characters), "<|startoftext|>", "<|endoftext|>"]
    (folder / "vocab.json").write_text(json.dumps({piece: number for number, piece in enumerate(pieces)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    return folder, len(pieces)


def losses(run):
    return [(line["split"], line["epoch"], line["loss"]) for line in read_lines(run / "metrics.jsonl")]


def actor(run):
    return load_batched_agent(run, checkpoint="last", slots=1, steps=6, hardware=tiny.config(run).hardware)[0]


CASES = {
    "m3ae with the spatial head": (*M3AE, RANDOM),
    "m3ae with the regression head": (*M3AE, RANDOM, "head=regression", "encoder.layers=last"),
    "m3ae without text": (*M3AE, RANDOM, "encoder.text=false"),
    "m3ae, one instruction, bfloat16": (*M3AE, RANDOM, "training.max_instructions=1", "hardware.precision=bfloat16"),
    "scratch_tiny": (RANDOM, "encoder.frozen=true", "training.token_dropout=0"),
}
CLIP_CASES = {
    "clip with the spatial head": (*CLIP, RANDOM),
    "clip with the regression head": (*CLIP, RANDOM, "head=regression", "encoder.layers=[1]"),
}


def same_features(folder, *words):
    """Assert that batches have the features of their images and texts, of which no pixel is read again."""
    config, data = tiny.config(folder, *words), tiny.demonstrations(folder / "data")
    tokenizer = make_tokenizer(config.encoder)
    agent = make_agent(config, vocabulary_size=tokenizer.vocabulary_size)
    encode = jax.jit(partial(agent.apply, method=Agent.encode))
    with open_demonstrations(config, data) as splits:
        training, _ = prepare_behavior_cloning(config, open_run(config), splits)
        expected = []
        options = {"batch_size": 5, "seed": 0, "max_instructions": config.training.max_instructions}
        loaders = (training.train, *training.val.values())
        for episodes, loader in zip((*splits.train, *splits.val), loaders, strict=True):
            shuffle = loader is training.train
            live = Loader([episodes], tokenizer, steps=loader.sizes.steps, shuffle=shuffle, **options)
            for step in range(loader.steps_per_epoch):
                batch = live.batch(step)
                features = encode({"params": training.frozen}, batch.images, batch.tokens, batch.text_padding_mask)
                expected.append((features, batch.step_mask > 0))
    tiny.damage_pixels(data)
    with open_demonstrations(config, data) as splits:
        training, _ = prepare_behavior_cloning(config, open_run(config), splits)
        found = [
            loader.batch(step)
            for loader in (training.train, *training.val.values())
            for step in range(loader.steps_per_epoch)
        ]
        with pytest.raises(InputError, match="damaged pixels"):
            splits.train[0].verify()
    assert len(found) == 4
    for batch, (features, real) in zip(found, expected, strict=True):
        assert batch.images is None
        np.testing.assert_array_equal(batch.step_mask > 0, real)
        for ours, theirs, rows in zip(batch.features, features, (real, real.any(1), real), strict=True):
            if ours is not None:
                one, other = (np.asarray(part)[rows].astype(np.float32) for part in (ours, theirs))
                np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("case", CASES)
def test_batches_have_the_cached_features_of_their_images_and_texts(tmp_path, case):
    same_features(tmp_path, *CASES[case], f"features_dir={tmp_path / 'features'}")


@pytest.mark.parametrize("case", CLIP_CASES)
def test_so_they_have_with_clip(tmp_path, case, letters):
    where = (f"encoder.tokenizer={letters[0]}", f"features_dir={tmp_path / 'features'}")
    same_features(tmp_path, *CLIP_CASES[case], *where)


def test_so_they_have_with_an_image_encoder_beside_the_text_tower_of_another(tmp_path, letters, monkeypatch):
    monkeypatch.setattr(model, "named_encoder", lambda name: replace(CLIP_TINY, text_length=77))
    image = ("encoder=dinov2_s14", "encoder.dim=16", "encoder.depth=2", "encoder.heads=2", "encoder.patch_size=8",
             "encoder.image_size=16", "encoder.position_grid=3", "training.token_dropout=0")  # fmt: skip
    text = ("encoder.text=clip_b32", f"encoder.text_tokenizer={letters[0]}", f"features_dir={tmp_path / 'features'}")
    same_features(tmp_path, *image, *text, RANDOM)


def test_training_on_cached_features_gives_the_losses_of_live_ones(run, data, tmp_path):
    folder = run[0].parent.parent
    live = tiny.trained(tmp_path, data, *weighted(folder), "features=live")
    assert len(losses(live)) == 4
    for one, other in zip(losses(live), losses(run[0]), strict=True):
        assert one[:2] == other[:2]
        np.testing.assert_allclose(one[2], other[2], rtol=1e-5, atol=1e-5)


def test_training_on_features_on_the_device_gives_the_bytes_of_that_on_files(run, data, tmp_path):
    folder = run[0].parent.parent
    words = ("hardware.feature_cache=devices", f"output_dir={tmp_path}")
    resident = tiny.trained(folder, data, *weighted(folder), *words)
    assert (resident / "metrics.jsonl").read_bytes() == (run[0] / "metrics.jsonl").read_bytes()


def test_a_frozen_encoder_keeps_its_weights_and_is_in_no_checkpoint(run):
    run, arrays = run
    found = flatten_params(actor(run).params["encoder"])
    assert found.keys() == arrays.keys()
    for name, value in arrays.items():
        np.testing.assert_array_equal(found[name], value)
    with open_checkpoints(run, read_only=True) as checkpoints:
        saved = json.loads((run / f"checkpoints/{checkpoints.step('last')}/default/_METADATA").read_text())
    parts = {name.split("'")[3] for name in saved["tree_metadata"] if name.startswith("('params'")}
    assert parts == {"policy", "head"}


def test_weights_that_read_text_serve_an_encoder_without_text(tmp_path, data):
    arrays = random_weights(tmp_path / "w.safetensors", M3AE)
    run = tiny.begun(tmp_path, data, *M3AE, f"encoder.weights={tmp_path / 'w.safetensors'}", "encoder.text=false")
    found = flatten_params(actor(run).params["encoder"])
    assert found.keys() == {name for name in arrays if "text" not in name}
    for name, value in found.items():
        np.testing.assert_array_equal(value, arrays[name])


def test_random_weights_that_are_frozen_are_kept_in_the_run(tmp_path, data):
    run = tiny.begun(tmp_path, data, *M3AE, RANDOM)
    before = flatten_params(actor(run).params["encoder"])
    assert (run / ENCODER_FILE).is_file()
    other = tiny.begun(tmp_path, data, *M3AE, RANDOM, "seed=1", "name=other")
    (run / ENCODER_FILE).write_bytes((other / ENCODER_FILE).read_bytes())
    with pytest.raises(InputError, match=r"its content differs from what .* was trained with"):
        actor(run)
    (run / ENCODER_FILE).unlink()
    with pytest.raises(InputError, match=str(run / ENCODER_FILE)):
        actor(run)
    assert any(np.any(value != flatten_params(actor(other).params["encoder"])[name]) for name, value in before.items())


def test_a_trained_encoder_begins_with_its_weights_and_leaves_them(tmp_path, data):
    arrays = random_weights(tmp_path / "w.safetensors", M3AE)
    settings = (*M3AE, f"encoder.weights={tmp_path / 'w.safetensors'}", "encoder.frozen=false", *SHORT)
    run = tiny.begun(tmp_path, data, *settings)
    run_after = tiny.trained(tmp_path, data, *settings, "name=after")
    (tmp_path / "w.safetensors").unlink()  # the checkpoint has all parameters
    before, after = (flatten_params(actor(one).params["encoder"]) for one in (run, run_after))
    for name, value in arrays.items():
        np.testing.assert_array_equal(before[name], value)
        assert np.any(after[name] != value), name


def test_an_interrupted_run_with_cached_features_ends_with_the_same_numbers(run, data, tmp_path):
    whole, _ = run
    stopped = shutil.copytree(whole, tmp_path / "outputs" / whole.name)
    shutil.rmtree(stopped / "checkpoints/6")  # as killed in its second epoch
    resumed = tiny.trained(tmp_path, data, *weighted(whole.parent.parent))
    assert resumed == stopped
    jax.tree.map(np.testing.assert_array_equal, actor(whole).params, actor(resumed).params)
    assert losses(whole) == losses(resumed)


def test_other_weights_under_the_same_name_are_refused(run, tmp_path, data):
    folder = run[0].parent.parent
    for part in ("outputs", "features", "w.safetensors"):
        copy = shutil.copytree if (folder / part).is_dir() else shutil.copy
        copy(folder / part, tmp_path / part)
    random_weights(tmp_path / "w.safetensors", M3AE, seed=1)
    with pytest.raises(InputError, match="its content"):
        tiny.trained(tmp_path, data, *weighted(tmp_path))
    copied = tmp_path / "outputs" / run[0].name
    settings = (copied / "config.yaml").read_text()
    (copied / "config.yaml").write_text(settings.replace(str(folder), str(tmp_path)))
    with pytest.raises(InputError, match="its content"):
        actor(copied)


def test_weights_of_another_size_or_vocabulary_are_named(tmp_path, data):
    weights = tmp_path / "w.safetensors"
    settings = (*M3AE, f"encoder.weights={weights}")
    random_weights(weights, (*M3AE, "encoder.dim=32"))
    with pytest.raises(InputError, match=rf"{weights}: .*expected \(1, 1, 16\)|{weights}: .*16") as caught:
        tiny.trained(tmp_path, data, *settings)
    assert "\n" not in str(caught.value)
    random_weights(weights, M3AE, 100)
    with pytest.raises(InputError, match=rf"{SMALL_VOCABULARY} entries, the weights have 100"):
        tiny.trained(tmp_path, data, *settings)


def test_weights_with_one_other_shape_are_refused_before_there_is_a_run(tmp_path):
    arrays = random_weights(tmp_path / "w.safetensors", M3AE)
    settings = tiny.config(tmp_path, *M3AE, f"encoder.weights={tmp_path / 'w.safetensors'}")
    check_initialization(settings, tmp_path / "run")
    arrays["cls_token"] = arrays["cls_token"][..., :-1]
    write_weights(tmp_path / "w.safetensors", arrays, kind="m3ae", source="a test")
    with pytest.raises(InputError, match=rf"{tmp_path / 'w.safetensors'}: cls_token: found .*15.*, expected .*16"):
        check_initialization(settings, tmp_path / "run")


def test_a_run_whose_weights_moved_goes_on_and_acts(tmp_path, data):
    random_weights(tmp_path / "w.safetensors", M3AE)
    tiny.trained(tmp_path, data, *M3AE, f"encoder.weights={tmp_path / 'w.safetensors'}")
    moved = (tmp_path / "w.safetensors").rename(tmp_path / "moved.safetensors")
    run = tiny.trained(tmp_path, data, *M3AE, f"encoder.weights={moved}")
    assert actor(run).params["encoder"]


def test_weights_with_fewer_or_more_places_for_tokens_name_the_setting(tmp_path):
    random_weights(tmp_path / "w.safetensors", CLIP, 80)
    weights = read_weights(tmp_path / "w.safetensors", kind="clip")
    for length in (64, 78):
        config = tiny.config(tmp_path, *CLIP, f"encoder.text_length={length}").encoder
        said = rf"found \(77, 8\), expected \({length}, 8\).*set encoder.text_length=77$"
        with pytest.raises(InputError, match=said):
            match_params(weights, encoder_shapes(config, vocabulary_size=80))
    shapes = encoder_shapes(tiny.config(tmp_path, *CLIP).encoder, vocabulary_size=81)
    with pytest.raises(InputError, match=r"encoder.tokenizer has 81 entries, the weights have 80"):
        match_params(weights, shapes)


def test_a_misfit_of_tokenizer_and_weights_is_told_before_any_work(tmp_path, letters):
    folder, count = letters
    more = (*CLIP, f"encoder.weights={tmp_path / 'w.safetensors'}", f"encoder.tokenizer={folder}")
    random_weights(tmp_path / "w.safetensors", CLIP, count)
    check_inputs(tiny.config(tmp_path, *more))
    message = r"^encoder.text_length: found 64; allowed: 77, the number of positions in .*w.safetensors"
    with pytest.raises(InputError, match=message):
        check_inputs(tiny.config(tmp_path, *more, "encoder.text_length=64"))
    random_weights(tmp_path / "w.safetensors", CLIP, count + 1)
    with pytest.raises(InputError, match=rf"vocabulary of {count + 1} entries.*tokenizer={folder} has {count}; choose"):
        check_inputs(tiny.config(tmp_path, *more))
    check_inputs(tiny.config(tmp_path, *more, "encoder.text=false", "encoder.tokenizer=small"))


def test_another_vocabulary_under_the_same_name_is_refused(tmp_path, data):
    vocabulary, words = tmp_path / "vocab.txt", ["[PAD]", "[UNK]", "the", "red", "blue"]
    vocabulary.write_text("\n".join(words))
    settings = (f"encoder.tokenizer={vocabulary}",)
    run = tiny.begun(tmp_path, data, *settings)
    assert actor(run).tokenizer.vocabulary_size == 5
    vocabulary.write_text("\n".join(["[PAD]", "[UNK]", "the", "blue", "red"]))
    for act in (lambda: actor(run), lambda: tiny.trained(tmp_path, data, *settings)):
        with pytest.raises(
            InputError,
            match=rf"^encoder.tokenizer={vocabulary}: its content (differs from what|has changed since) {run} ",
        ):
            act()
    vocabulary.unlink()
    with pytest.raises(InputError, match=rf"^encoder.tokenizer: .*{vocabulary}"):
        actor(run)
    vocabulary.write_text("\r\n".join(words))  # the same content with other line ends
    assert actor(run).tokenizer.vocabulary_size == 5


def test_training_hides_words_but_no_markers(tmp_path, data, letters):
    folder, count = letters
    config = tiny.config(
        tmp_path, f"encoder.tokenizer={folder}", "encoder.text_length=64", "training.token_dropout=0.9"
    )
    with open_demonstrations(config, data) as splits:
        training, state = prepare_behavior_cloning(config, open_run(config), splits)
        batch, key = training.train.batch(0), jax.random.fold_in(jax.random.key(config.seed), 0)
        hidden, all_hidden = (
            drop_tokens(batch, key, share=0.9, special_token_ids=markers) for markers in ((count - 2, count - 1), ())
        )
        expected, other, whole = (
            float(training.eval_step(training.params(state), one)["loss"]) for one in (hidden, all_hidden, batch)
        )
        found = float(training.train_step(state, batch, training.frozen)[1]["loss"])
    assert found == pytest.approx(expected, rel=1e-6)
    assert len({expected, other, whole}) == 3


def test_words_are_hidden_as_often_as_asked_for():
    for share in (0.5, 0.9):
        assert_drops(share, (7, 9))
        assert_drops(share, ())


def assert_drops(share, special_token_ids):
    """Assert which tokens are dropped from many padded texts `7 1 ... 6 9`."""
    tokens = np.tile(np.array([7, 1, 2, 3, 4, 5, 6, 9, 0, 0], np.int32), (400, 1))
    padding = np.float32(np.tile(np.arange(10) >= 8, (400, 1)))
    batch = fake_batch(BatchSizes(400, 1, 1, 8, 10))._replace(tokens=tokens, text_padding_mask=padding)
    dropped = drop_tokens(batch, jax.random.key(0), share=share, special_token_ids=special_token_ids)
    hidden = np.asarray(dropped.text_padding_mask)
    assert set(np.unique(hidden)) == {0, 1} and np.all(hidden[:, 8:] == 1)
    kept = np.isin(tokens, special_token_ids)
    assert not hidden[kept].any()
    assert abs(hidden[:, :8][~kept[:, :8]].mean() - share) < 0.05


def test_missing_weights_are_told_in_one_line_before_anything_is_made(tmp_path):
    command = [sys.executable, str(ROOT / "train.py"), "encoder=m3ae_b16", "policy=vit_base", "task=reach_target"]
    done = subprocess.run(command, cwd=tmp_path, env=os.environ, capture_output=True, text=True, check=False)
    assert done.returncode == 2, done.stderr
    [line] = done.stderr.splitlines()
    assert "weights/m3ae_b16.safetensors" in line and "python -m data_tools.weights" in line
    assert not list(tmp_path.iterdir())
