"""Frozen encoders in training and evaluation: cached features change no result, and weights stay unchanged."""

import json
import os
import string
import subprocess
import sys

import jax
import numpy as np
import pytest

from instructrl.data.demonstrations.dataset import DemonstrationDataset
from instructrl.data.text.tokenizer import VOCABULARY
from instructrl.errors import InputError
from instructrl.inference.batched_agent import load_batched_agent
from instructrl.models.encoders.registry import encoder_shapes, flatten_params
from instructrl.models.weight_files import ENCODER_FILE, match_params, read_weights, write_weights
from instructrl.training.checkpointing.manager import open_checkpoints
from instructrl.training.monitoring.metric_writer import read_lines
from instructrl.training.objectives import behavior_cloning
from instructrl.training.objectives.bc_step import drop_tokens
from instructrl.training.preflight import check_inputs
from instructrl.types import BatchSizes, fake_batch
from tests.fixtures import tiny
from tests.paths import ROOT

M3AE = ("encoder=m3ae_tiny", "encoder.dim=16", "encoder.depth=2", "encoder.heads=2", "training.token_dropout=0")
CLIP = ("encoder=clip_b32", "encoder.dim=16", "encoder.depth=2", "encoder.heads=2", "encoder.patch_size=8",
        "encoder.image_size=16", "encoder.text_dim=8", "encoder.text_depth=2", "encoder.text_heads=2",
        "encoder.projection=12", "training.token_dropout=0")  # fmt: skip
RANDOM = "encoder.weights=null"


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return tiny.demonstrations(tmp_path_factory.mktemp("demonstrations"))


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


def random_weights(path, overrides, vocabulary, *, seed=0):
    """Write random weights for the encoder that settings describe."""
    config = tiny.config(path.parent, *overrides).encoder
    rng = np.random.default_rng(seed)
    shapes = encoder_shapes(config, vocabulary_size=vocabulary)
    arrays = {name: rng.normal(0, 0.1, shape).astype(np.float32) for name, shape in shapes.items()}
    write_weights(path, arrays, kind=config.kind, source="random")
    return arrays


SMALL_VOCABULARY = len(VOCABULARY.read_text().splitlines())  # entries of the small vocabulary
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


def same_losses(folder, data, settings, monkeypatch):
    live = tiny.trained(folder, data, *settings, "features=live", "name=live")
    cached = tiny.trained(folder, data, *settings, "name=cached")
    assert len(losses(live)) == 8
    for one, other in zip(losses(live), losses(cached), strict=True):
        assert one[:2] == other[:2]
        np.testing.assert_allclose(one[2], other[2], rtol=1e-5, atol=1e-5)
    before = losses(cached)
    with monkeypatch.context() as patch:  # a third run finds the features and reads no image
        patch.setattr(DemonstrationDataset, "_images", lambda *_: pytest.fail("an image was read"))
        again = tiny.trained(folder, data, *settings, "name=again")
    assert losses(again) == before


@pytest.mark.parametrize("case", CASES)
def test_cached_and_live_features_give_the_same_losses(tmp_path, data, case, monkeypatch):
    same_losses(tmp_path, data, (*CASES[case], f"features_dir={tmp_path / 'features'}"), monkeypatch)


@pytest.mark.parametrize("case", CLIP_CASES)
def test_so_they_do_with_clip(tmp_path, data, case, letters, monkeypatch):
    where = (f"encoder.tokenizer={letters[0]}", f"features_dir={tmp_path / 'features'}")
    same_losses(tmp_path, data, (*CLIP_CASES[case], *where), monkeypatch)


def test_a_frozen_encoder_keeps_its_weights_and_is_in_no_checkpoint(tmp_path, data):
    arrays = random_weights(tmp_path / "w.safetensors", M3AE, SMALL_VOCABULARY)
    run = tiny.trained(tmp_path, data, *M3AE, f"encoder.weights={tmp_path / 'w.safetensors'}")
    found = flatten_params(actor(run).params["encoder"])
    assert found.keys() == arrays.keys()
    for name, value in arrays.items():
        np.testing.assert_array_equal(found[name], value)
    with open_checkpoints(run, read_only=True) as checkpoints:
        saved = json.loads((run / f"checkpoints/{checkpoints.step('last')}/default/_METADATA").read_text())
    parts = {name.split("'")[3] for name in saved["tree_metadata"] if name.startswith("('params'")}
    assert parts == {"policy", "head"}


def test_weights_that_read_text_serve_an_encoder_without_text(tmp_path, data):
    arrays = random_weights(tmp_path / "w.safetensors", M3AE, SMALL_VOCABULARY)
    run = tiny.trained(tmp_path, data, *M3AE, f"encoder.weights={tmp_path / 'w.safetensors'}", "encoder.text=false")
    found = flatten_params(actor(run).params["encoder"])
    assert found.keys() == {name for name in arrays if "text" not in name}
    for name, value in found.items():
        np.testing.assert_array_equal(value, arrays[name])


def test_random_weights_that_are_frozen_are_kept_in_the_run(tmp_path, data):
    run = tiny.trained(tmp_path, data, *M3AE, RANDOM)
    before = flatten_params(actor(run).params["encoder"])
    assert (run / ENCODER_FILE).is_file()
    other = tiny.trained(tmp_path, data, *M3AE, RANDOM, "seed=1", "name=other")
    (run / ENCODER_FILE).write_bytes((other / ENCODER_FILE).read_bytes())
    with pytest.raises(InputError, match=r"its content differs from what .* was trained with"):
        actor(run)
    (run / ENCODER_FILE).unlink()
    with pytest.raises(InputError, match=str(run / ENCODER_FILE)):
        actor(run)
    assert any(np.any(value != flatten_params(actor(other).params["encoder"])[name]) for name, value in before.items())


def test_a_trained_encoder_begins_with_its_weights_and_leaves_them(tmp_path, data):
    arrays = random_weights(tmp_path / "w.safetensors", M3AE, SMALL_VOCABULARY)
    settings = (*M3AE, f"encoder.weights={tmp_path / 'w.safetensors'}", "encoder.frozen=false")
    run = tiny.trained(tmp_path, data, *settings, "optimizer.learning_rate=1e-9")
    (tmp_path / "w.safetensors").unlink()  # the checkpoint has all parameters
    for name, value in flatten_params(actor(run).params["encoder"]).items():
        np.testing.assert_allclose(value, arrays[name], atol=1e-6)
    random_weights(tmp_path / "w.safetensors", M3AE, SMALL_VOCABULARY)
    run = tiny.trained(tmp_path, data, *settings, "name=faster")
    after = flatten_params(actor(run).params["encoder"])
    assert all(np.any(after[name] != value) for name, value in arrays.items())


def test_an_interrupted_run_with_cached_features_ends_with_the_same_numbers(tmp_path, data, monkeypatch):
    whole = tiny.trained(tmp_path, data, *M3AE, RANDOM)
    from instructrl.training import train_loop

    with monkeypatch.context() as patch:
        real = train_loop.validate
        calls = []
        patch.setattr(
            train_loop, "validate", lambda *given: real(*given) if not calls.append(1) and len(calls) < 3 else 1 / 0
        )
        with pytest.raises(ZeroDivisionError):
            tiny.trained(tmp_path / "other", data, *M3AE, RANDOM)
    resumed = tiny.trained(tmp_path / "other", data, *M3AE, RANDOM)
    jax.tree.map(np.testing.assert_array_equal, actor(whole).params, actor(resumed).params)
    assert losses(whole) == losses(resumed)


def test_other_weights_under_the_same_name_are_refused(tmp_path, data):
    weights = tmp_path / "w.safetensors"
    random_weights(weights, M3AE, SMALL_VOCABULARY)
    settings = (*M3AE, f"encoder.weights={weights}")
    run = tiny.trained(tmp_path, data, *settings)
    random_weights(weights, M3AE, SMALL_VOCABULARY, seed=1)
    with pytest.raises(InputError, match="its content"):
        tiny.trained(tmp_path, data, *settings)
    with pytest.raises(InputError, match="its content"):
        actor(run)


def test_weights_of_another_size_or_vocabulary_are_named(tmp_path, data):
    weights = tmp_path / "w.safetensors"
    settings = (*M3AE, f"encoder.weights={weights}")
    random_weights(weights, (*M3AE, "encoder.dim=32"), SMALL_VOCABULARY)
    with pytest.raises(InputError, match=rf"{weights}: .*expected \(1, 1, 16\)|{weights}: .*16") as caught:
        tiny.trained(tmp_path, data, *settings)
    assert "\n" not in str(caught.value)
    random_weights(weights, M3AE, 100)
    with pytest.raises(InputError, match=rf"{SMALL_VOCABULARY} entries, the weights have 100"):
        tiny.trained(tmp_path, data, *settings)


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
    settings = (f"encoder.tokenizer={vocabulary}", "training.epochs=2", "optimizer.warmup_epochs=1")
    run = tiny.trained(tmp_path, data, *settings)
    assert actor(run).tokenizer.vocabulary_size == 5
    vocabulary.write_text("\n".join(["[PAD]", "[UNK]", "the", "blue", "red"]))
    for act in (lambda: actor(run), lambda: tiny.trained(tmp_path, data, *settings)):
        with pytest.raises(InputError, match=rf"^encoder.tokenizer={vocabulary}: its content differs from what {run} "):
            act()
    vocabulary.unlink()
    with pytest.raises(InputError, match=rf"^encoder.tokenizer: .*{vocabulary}"):
        actor(run)
    vocabulary.write_text("\r\n".join(words))  # the same content with other line ends
    assert actor(run).tokenizer.vocabulary_size == 5


class Reached(Exception):  # noqa: N818
    pass


def test_training_hides_words_but_no_markers(tmp_path, data, letters, monkeypatch):
    folder, count = letters
    seen = []

    def step(*given, **more):
        seen.append(more)
        raise Reached

    monkeypatch.setattr(behavior_cloning, "make_train_step", step)
    more = (RANDOM, "encoder.frozen=false", f"encoder.tokenizer={folder}", "training.token_dropout=0.5")
    with pytest.raises(Reached):
        tiny.trained(tmp_path, data, *CLIP, *more)
    assert [(one["token_dropout"], one["special_token_ids"]) for one in seen] == [(0.5, (count - 2, count - 1))]
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
