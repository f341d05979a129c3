"""Masked pretraining: the objective is the published one, and runs resume, fail and export like any training."""

import json
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import h5py
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from instructrl.cli.entry import compose
from instructrl.config.training import PretrainingConfig, TrainConfig
from instructrl.data.text.tokenizer import make_tokenizer
from instructrl.errors import InputError
from instructrl.models.encoders.m3ae_decoder import MaskedM3AE, hidden_mask, visible_count, visible_indices
from instructrl.models.layers.augmentation import CropParams, crop_and_resize, full_crops, random_crops
from instructrl.models.parameter_files import flatten_params
from instructrl.models.weight_files import read_weights, write_weights
from instructrl.preemption import handle_signals
from instructrl.training.checkpointing.manager import open_checkpoints
from instructrl.training.model_factory import make_masked_model, random_masked_params, split_encoder_decoder
from instructrl.training.monitoring.metric_writer import read_lines
from instructrl.training.objectives.mae_step import Pairs, VisibleIndices, masked_losses
from instructrl.training.preflight import check_inputs
from instructrl.training.run_dir import open_run, read_config
from instructrl.training.train_loop import train
from tests.fixtures import encoders, pretraining
from tests.fixtures.encoders import M3AE_TINY, M3AE_WORDS
from tests.paths import ROOT

GOLDEN = encoders.golden("m3ae_tiny")
MODEL = MaskedM3AE(M3AE_TINY, M3AE_WORDS, decoder_dim=48, decoder_depth=2, decoder_heads=4)
PARAMS = split_encoder_decoder(encoders.nested(encoders.published(GOLDEN)))
PAIRS = Pairs(*(GOLDEN[key] for key in ("image", "text", "text_padding_mask")))
KEPT = VisibleIndices(*(np.flatnonzero(GOLDEN[f"pre_{half}_mask"][0] == 0) for half in ("image", "text")))
OPTIONS = PretrainingConfig()
EPOCHS = 20
MIXED = ("pretraining.pair_rate=2", "pretraining.image_rate=1", "pretraining.text_rate=1")
LONG = (f"training.epochs={EPOCHS}", "optimizer.learning_rate=2e-2", *MIXED)


# The objective.


def test_the_losses_are_the_published_ones():
    loss, found = masked_losses(MODEL, PARAMS, PAIRS, KEPT, options=OPTIONS)
    expected = {"pixel_loss": "image_loss", "word_loss": "text_loss", "word_accuracy": "text_accuracy"}
    for name, recorded in expected.items():
        np.testing.assert_allclose(found[name], GOLDEN[f"pre_{recorded}"], rtol=1e-5)
    np.testing.assert_allclose(loss, GOLDEN["pre_image_loss"] + 0.5 * GOLDEN["pre_text_loss"], rtol=1e-5)


@given(length=st.integers(1, 300), share=st.floats(0.01, 0.99), seed=st.integers(0, 2**31 - 1))
@settings(max_examples=25)
def test_as_many_places_are_hidden_as_the_share_says_and_none_twice(length, share, seed):
    with jax.disable_jit():
        kept = np.asarray(visible_indices(jax.random.key(seed), length, mask_ratio=share))
        hidden = np.asarray(hidden_mask(kept, length))
    assert len(set(kept.tolist())) == len(kept) == visible_count(length, share) == int(length * (1 - share))
    assert set(kept.tolist()) <= set(range(length))
    assert hidden.sum() == length - len(kept) and not hidden[kept].any()


def test_published_counts():
    assert (visible_count(256, 0.75), visible_count(64, 0.75), visible_count(4, 0.75)) == (64, 16, 1)


@given(seed=st.integers(0, 2**31 - 1), words=st.integers(0, 12))
@settings(max_examples=10)
def test_padding_is_never_in_the_loss(seed, words):
    numbers = np.random.default_rng(seed)
    padding = np.broadcast_to(np.arange(12) >= words, PAIRS.tokens.shape).astype(np.float32)
    other = np.where(padding > 0, numbers.integers(0, M3AE_WORDS, padding.shape), PAIRS.tokens).astype(np.int32)
    loss = jax.jit(lambda pairs: masked_losses(MODEL, PARAMS, pairs, KEPT, options=OPTIONS)[1])
    one, two = (loss(Pairs(PAIRS.images, tokens, padding)) for tokens in (PAIRS.tokens, other))
    for name in one:
        assert one[name] == two[name], name
    if words == 0:
        assert one["word_loss"] == one["word_accuracy"] == 0


@pytest.mark.parametrize(
    ("pairs", "kept", "others"),
    [
        (PAIRS._replace(images=None), KEPT._replace(image=None), ("image",)),
        (PAIRS._replace(tokens=None, text_padding_mask=None), KEPT._replace(text=None), ("text",)),
    ],
    ids=["text alone", "images alone"],
)
def test_a_batch_of_one_half_leaves_the_gradients_of_the_other_at_zero(pairs, kept, others):
    def loss(params: Any) -> Any:
        return masked_losses(MODEL, params, pairs, kept, options=OPTIONS)[0]

    [other] = others
    leaves = jax.tree_util.tree_leaves_with_path(jax.jit(jax.grad(loss))(PARAMS))
    of_other = {jax.tree_util.keystr(path): leaf for path, leaf in leaves if other in jax.tree_util.keystr(path)}
    assert len(of_other) >= 5
    assert not any(np.any(leaf) for leaf in of_other.values())
    rest = [path for path, leaf in leaves if jax.tree_util.keystr(path) not in of_other and not np.any(leaf)]
    assert not rest, "all else learns"


# Augmentation.


def test_a_whole_view_is_the_canvas_itself():
    images = np.random.default_rng(0).integers(0, 256, (3, 40, 40, 3), np.uint8)
    np.testing.assert_array_equal(crop_and_resize(images, full_crops(3), size=40), images)
    mirrored = full_crops(3)._replace(mirrored=jnp.array([True, False, True]))
    found = np.asarray(crop_and_resize(images, mirrored, size=40))
    np.testing.assert_array_equal(found[0], images[0, :, ::-1])
    np.testing.assert_array_equal(found[1], images[1])


def test_a_view_is_what_pillow_makes_of_the_same_box():
    rows, columns = np.mgrid[0:64, 0:64]
    smooth = np.stack([4 * columns, 4 * rows, 2 * (rows + columns)], axis=-1).astype(np.uint8)
    views = CropParams(*(jnp.array([share]) for share in (0.25, 0.125, 0.5, 0.75)), jnp.array([False]))
    found = np.asarray(crop_and_resize(smooth[None], views, size=24))[0].astype(int)
    box = (0.125 * 64, 0.25 * 64, 0.875 * 64, 0.75 * 64)
    expected = Image.fromarray(smooth).resize((24, 24), Image.Resampling.BILINEAR, box=box)
    assert np.abs(found - np.asarray(expected, int))[1:-1, 1:-1].max() <= 2  # at its edges Pillow reads beyond the box


@given(seed=st.integers(0, 2**31 - 1), low=st.floats(0.05, 1))
@settings(max_examples=20)
def test_crops_lie_within_the_canvas_and_have_the_area_that_was_asked_for(seed, low):
    views = random_crops(jax.random.key(seed), 64, share=(low, 1.0), flip=True)
    area = np.asarray(views.height * views.width)
    for start, length in ((views.top, views.height), (views.left, views.width)):
        assert (np.asarray(start) >= 0).all() and (np.asarray(start + length) <= 1 + 1e-6).all()
    assert (area <= 1 + 1e-6).all() and (area >= low * 3 / 4 - 1e-6).all()  # elongated crops are limited by the image
    assert not np.asarray(random_crops(jax.random.key(seed), 64, share=(low, 1.0), flip=False).mirrored).any()


# A run.


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return pretraining.write_images(tmp_path_factory.mktemp("images"))


def trained(folder: Path, data: Path, *more: str, on_saved: Any = None) -> Path:
    config = pretraining.config(folder, data, *more)
    run = open_run(config)
    with handle_signals():
        train(config, run, data={}, on_saved=on_saved)
    return run


def weights(run: Path) -> dict[str, np.ndarray]:
    return read_weights(run / "encoder.safetensors", kind="m3ae").arrays


def same_end(run: Path, other: Path) -> None:
    ours, theirs = weights(run), weights(other)
    assert ours.keys() == theirs.keys()
    for name in ours:
        np.testing.assert_array_equal(ours[name], theirs[name])
    assert (run / "metrics.jsonl").read_bytes() == (other / "metrics.jsonl").read_bytes()


@pytest.fixture(scope="module")
def undisturbed(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return trained(tmp_path_factory.mktemp("undisturbed"), data, *LONG)


def test_both_losses_fall_and_everything_is_noted(undisturbed: Path) -> None:
    lines = [line for line in read_lines(undisturbed / "metrics.jsonl") if line["split"] == "val"]
    assert len(lines) == EPOCHS
    first, last = lines[0], lines[-1]
    assert last["pixel_loss"] < 0.8 * first["pixel_loss"] and last["word_loss"] < 0.6 * first["word_loss"]
    assert last["word_accuracy"] > 0.5 > first["word_accuracy"]
    assert {f"loss/{kind}" for kind in ("pair", "image", "text")} <= last.keys()
    [train_line, *_] = [line for line in read_lines(undisturbed / "metrics.jsonl") if line["split"] == "train"]
    assert {"pixel_loss", "word_loss", "word_accuracy", "gradient_norm", "learning_rate"} <= train_line.keys()
    known = json.loads((undisturbed / "data.json").read_text())
    assert known.keys() == {"train/0", "val/0", "tokenizer"} and all(entry["checksum"] for entry in known.values())


def test_what_is_told_of_hidden_patches_and_words_is_drawn(undisturbed: Path) -> None:
    images = sorted((undisturbed / "reconstructions").glob("*.png"))
    assert 2 <= len(images) <= 5
    with Image.open(images[-1]) as sheet:
        assert sheet.size[0] > sheet.size[1] / 2 and len(sheet.getcolors(1 << 20)) > 20
    texts = json.loads(images[-1].with_suffix(".json").read_text())
    assert len(texts) == 4
    for lines in texts:
        assert re.fullmatch(r"reach the \w+ ball", lines["text"])
        assert "_" in lines["visible"] and len(lines["visible"].split()) == len(lines["predicted"].split()) == 4


def test_the_weights_are_those_of_the_last_step_and_fit_an_agents_frozen_encoder(
    undisturbed: Path, data: Path, tmp_path: Path
) -> None:
    path = undisturbed / "encoder.safetensors"
    model = make_masked_model(
        read_config(undisturbed), vocabulary_size=make_tokenizer(read_config(undisturbed).encoder).vocabulary_size
    )
    abstract = jax.eval_shape(lambda: random_masked_params(model, size=32, length=8, seed=0))
    with open_checkpoints(undisturbed, read_only=True) as checkpoints:
        assert checkpoints.step("last") == EPOCHS * 8
        params = checkpoints.params(abstract, step=EPOCHS * 8, averaged=False)
    found, saved = weights(undisturbed), flatten_params(params["encoder"])
    assert found.keys() == saved.keys() and not any(name.startswith("decoder") for name in found)
    for name, array in saved.items():
        np.testing.assert_array_equal(found[name], array)
    words = ["encoder=m3ae_tiny", f"encoder.weights={path}", "encoder.dim=16", "encoder.depth=2", "encoder.heads=2",
             "encoder.patch_size=8", "encoder.text_length=8", "policy=vit_debug", "sim.image_size=32"]  # fmt: skip
    check_inputs(compose("train", TrainConfig, words))
    with pytest.raises(InputError, match=r"encoder.safetensors: .*encoder.depth|encoder.safetensors"):
        check_inputs(compose("train", TrainConfig, [*words, "encoder.depth=3"]))
    whole, tokenizer = tmp_path / "whole.safetensors", read_weights(path, kind="m3ae").tokenizer
    both = saved | flatten_params(params["decoder"])
    write_weights(whole, both, kind="m3ae", source="a test", metadata={"tokenizer": tokenizer})
    with pretraining.prepared(tmp_path, data, f"encoder.weights={whole}") as (training, state):
        training.finish(state, step=0)
    begun = weights(tmp_path / "outputs/run")
    assert begun.keys() == found.keys()
    for name, array in begun.items():
        np.testing.assert_array_equal(array, found[name])


def test_a_mesh_gives_the_same_losses(undisturbed: Path, data: Path, tmp_path: Path) -> None:
    def stop() -> None:
        raise KeyboardInterrupt

    words = (*LONG, "hardware.local_devices=8", "hardware.fsdp=2", "hardware.accumulation=2")
    with pytest.raises(KeyboardInterrupt):
        trained(tmp_path, data, *words, on_saved=stop)  # after an epoch
    found = read_lines(tmp_path / "outputs/run/metrics.jsonl")
    assert [line["split"] for line in found] == ["train", "val"]
    for ours, theirs in zip(found, read_lines(undisturbed / "metrics.jsonl"), strict=False):
        for key in ("loss", "pixel_loss", "word_loss"):
            assert theirs[key] == pytest.approx(ours[key], rel=1e-5), (key, ours["split"])


def test_killed_within_an_epoch_the_same_command_ends_bit_equal(undisturbed: Path, data: Path, tmp_path: Path) -> None:
    words = [*LONG, "training.save_every=50", "training.keep_last=3"]
    command = [sys.executable, str(ROOT / "train.py"), *pretraining.overrides(tmp_path, data, *words)]
    log = tmp_path / "log"
    with log.open("w") as out:
        process = subprocess.Popen(command, cwd=tmp_path, stdout=out, stderr=out)
    while not (tmp_path / "outputs/run/checkpoints/50").exists():
        assert process.poll() is None, log.read_text()
        time.sleep(0.005)
    process.kill()
    process.wait()
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "resumed" in done.stdout and "encoder weights: " in done.stdout
    same_end(tmp_path / "outputs/run", undisturbed)


def test_pictures_that_cannot_be_read_are_counted(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    images = pretraining.write_images(tmp_path / "images")
    with h5py.File(images / "train.hdf5", "r+") as file:
        for index in (3, 40):
            file["jpg"][index] = np.frombuffer(b"not a JPEG", np.uint8)
    with pretraining.prepared(tmp_path, images) as (training, state):
        for step in range(training.train.steps_per_epoch):
            training.train.batch(step)
        training.finish(state, step=0)
    assert "2 images could not be read and were replaced by others" in capsys.readouterr().out


# Bad input.


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["encoder=clip_b16"], "encoder.kind: found clip; allowed with objective=masked_pretraining: m3ae"),
        (["encoder.text=false"], "encoder.text: found false; allowed: true with objective=masked_pretraining"),
        (["encoder.joint=false"], "encoder.joint: found false; allowed: true with objective=masked_pretraining"),
        (["pretraining.val=null"], "pretraining.val: found null; allowed: a list of files or data sets"),
        (["encoder.image_size=64"], "sim.image_size: found 32; allowed with objective=masked_pretraining: 64, as enc"),
        (["pretraining.pair_rate=0"], "pretraining.pair_rate: found 0 as all three rates"),
        (
            ["pretraining.crop_low=0.9", "pretraining.crop_high=0.5"],
            "pretraining.crop_low: found 0.9; allowed: at",
        ),
        (["pretraining.decoder_heads=3"], "pretraining.decoder_heads: found 3; allowed: a divisor of"),
        (["pretraining.image_weight=0", "pretraining.text_weight=0"], "pretraining.image_weight: found 0"),
        (["pretraining.image_mask_ratio=1"], "pretraining.image_mask_ratio: found 1"),
        (["training.rollout_every=2"], "training.rollout_every: found 2; allowed: 0 with objective=masked_pretraining"),
        (["objective=behavior_cloning"], "pretraining.train: found"),
    ],
)
def test_settings_that_do_not_fit_are_one_line(words: list[str], line: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=re.escape(line)) as error:
        pretraining.config(tmp_path, tmp_path, *words)
    assert "\n" not in str(error.value)


def test_data_that_is_not_there_or_not_the_same_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"nowhere/train.hdf5"):
        trained(tmp_path / "none", tmp_path / "nowhere")
    with pretraining.prepared(tmp_path, pretraining.write_images(tmp_path / "data")):
        pass
    pretraining.write_images(tmp_path / "data", count=32)
    with pytest.raises(InputError, match=r"train") as error:
        trained(tmp_path, tmp_path / "data")
    assert "\n" not in str(error.value)
