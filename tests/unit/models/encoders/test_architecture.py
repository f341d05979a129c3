"""Weights say with which architecture and preprocessing they were trained, and other settings are refused by name."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from instructrl.cli.entry import compose
from instructrl.config.encoders import ClipConfig, M3AEConfig
from instructrl.config.model import EncoderConfig
from instructrl.config.training import TrainConfig
from instructrl.data.text.tokenizer import make_tokenizer
from instructrl.errors import InputError
from instructrl.models.encoders.registry import encoder_shapes
from instructrl.models.weight_files import read_architecture, weights_path, write_weights
from instructrl.training.parameters.encoder_weights import read_encoder
from instructrl.training.parameters.mae_weights import init_masked_params
from instructrl.training.preflight import check_inputs, check_weights, notes_on_weights

M3AE = M3AEConfig(name="m3ae_x", kind="m3ae", dim=16, depth=1, heads=2, patch_size=8, image_size=32)
CLIP = ClipConfig(
    name="clip_x", kind="clip", dim=16, depth=1, heads=2, patch_size=8, image_size=16,
    text_dim=8, text_depth=1, text_heads=2, projection=8, text_length=9,
)  # fmt: skip
WORDS = 12


def written(path: Path, config: EncoderConfig, vocabulary: int = WORDS, **changes: Any) -> Path:
    """Weights of zeros with the architecture of a config; a change to None leaves out what it names."""
    arrays = {name: np.zeros(shape) for name, shape in encoder_shapes(config, vocabulary_size=vocabulary).items()}
    recorded = config.architecture(vocabulary=vocabulary, rendered_size=32) | changes
    kept = {key: value for key, value in recorded.items() if value is not None}
    write_weights(path, arrays, kind=config.kind, source="zeros", architecture=kept)
    return path


def refused(path: Path, config: EncoderConfig) -> str:
    with pytest.raises(InputError) as caught:
        check_weights(path, config)
    assert "\n" not in str(caught.value)
    return str(caught.value)


OTHERS: list[tuple[EncoderConfig, str, Any, str]] = [  # trained, setting, its other value, the word that mends it
    (M3AE, "heads", 4, "encoder.heads=2"),
    (M3AE, "text_length", 16, "encoder.text_length=32"),
    (CLIP, "heads", 1, "encoder.heads=2"),
    (CLIP, "text_heads", 4, "encoder.text_heads=2"),
    (CLIP, "activation", "gelu", "encoder.activation=quick_gelu"),
    (replace(CLIP, activation="gelu"), "activation", "quick_gelu", "encoder.activation=gelu"),
    (CLIP, "layer_norm_epsilon", 1e-6, "encoder.layer_norm_epsilon=1e-05"),
    (CLIP, "image_mean", [0.5, 0.5, 0.5], "'encoder.image_mean=[0.48145466,0.4578275,0.40821073]'"),
    (replace(CLIP, image_std=[0.5, 0.5, 0.25]), "image_std", [0.5, 0.5, 0.5], "'encoder.image_std=[0.5,0.5,0.25]'"),
    (M3AE, "dim", 32, "encoder.dim=16"),
    (CLIP, "depth", 2, "encoder.depth=1"),
    (CLIP, "projection", 16, "encoder.projection=8"),
]


@pytest.mark.parametrize(("trained", "key", "value", "word"), OTHERS)
def test_another_setting_is_refused_with_both_values_and_the_word_that_mends_it(
    tmp_path: Path, trained: EncoderConfig, key: str, value: Any, word: str
) -> None:
    path = written(tmp_path / "w.safetensors", trained)
    check_weights(path, trained)
    line = refused(path, replace(trained, **{key: value}))
    assert key in line and str(path) in line and line.endswith(f"set {word}")
    for number in (value, getattr(trained, key)):
        assert str(number) in line


CONSTANTS = [  # of the code, which other weights may have been trained without
    (M3AE, "activation", "quick_gelu", "gelu_tanh"),
    (M3AE, "layer_norm_epsilon", 1e-5, "1e-06"),
    (M3AE, "image_mean", [0.485, 0.456, 0.406], "[0.5762, 0.5503, 0.5213]"),
    (M3AE, "resampling", "bilinear", "bicubic"),
    (CLIP, "resampling", "bilinear", "bicubic"),
    (CLIP, "lower_case", False, "true"),
    (CLIP, "rotary", 3, "which encoder.kind=clip does not have"),
]


@pytest.mark.parametrize(("config", "key", "value", "allowed"), CONSTANTS)
def test_what_no_setting_can_change_is_refused(
    tmp_path: Path, config: EncoderConfig, key: str, value: Any, allowed: str
) -> None:
    line = refused(written(tmp_path / "w.safetensors", config, **{key: value}), config)
    assert line.startswith(f"{tmp_path}/w.safetensors: found weights with {key} ") and allowed in line


def test_the_way_in_which_an_encoder_is_used_is_free(tmp_path: Path) -> None:
    path = written(tmp_path / "w.safetensors", CLIP)
    used = {"layers": "all", "pooling": "cls", "frozen": True, "name": "other", "weights": str(path)}
    check_weights(path, replace(CLIP, **used))
    silent = replace(CLIP, text=False, text_heads=4, text_length=5)
    check_weights(path, silent)
    assert "text_heads" in refused(path, replace(silent, text=True, text_length=9))


def test_every_reader_of_weights_compares_them(tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    config = replace(M3AE, weights=str(path))
    tokenizer = make_tokenizer(config)
    written(path, config, tokenizer.vocabulary_size)
    other = replace(config, heads=4)
    like = {"cls_token": None}
    assert read_encoder(config, path, tokenizer, like=like).keys() == like.keys()
    with pytest.raises(InputError, match=r"encoder\.heads: found 4; allowed: 2"):
        read_encoder(other, path, tokenizer, like=like)
    with pytest.raises(InputError, match=r"encoder\.heads: found 4; allowed: 2"):
        init_masked_params(other, {}, tokenizer)


def test_a_published_tokenizer_is_compared_by_name(tmp_path: Path) -> None:
    path = written(tmp_path / "w.safetensors", M3AE, tokenizer="bert-base-uncased")
    check_weights(path, replace(M3AE, tokenizer="bert-base-uncased"))
    check_weights(path, replace(M3AE, tokenizer="google-bert/bert-base-uncased"))
    check_weights(path, replace(M3AE, tokenizer=str(tmp_path)))  # its content is compared elsewhere
    for name in ("small", "bert-base-cased", "no/file/vocab.txt"):
        line = refused(path, replace(M3AE, tokenizer=name))
        assert line.startswith(f"encoder.tokenizer: found {name}; allowed: bert-base-uncased")
    check_weights(path, replace(M3AE, tokenizer="small", text=False))


def test_weights_of_before_are_compared_by_their_sizes_and_said_to_be_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "w.safetensors"
    arrays = {name: np.zeros(shape) for name, shape in encoder_shapes(CLIP, vocabulary_size=WORDS).items()}
    write_weights(path, arrays, kind="clip", source="before")
    other = replace(CLIP, heads=4, weights=str(path))
    check_weights(path, other)
    [note] = notes_on_weights(path, other, rendered_size=32)
    assert note.startswith(f"{path}: does not record dim, depth, patch_size, ") and "heads" in note
    assert note.endswith("convert it again with python -m data_tools.weights")
    path = written(tmp_path / "part.safetensors", CLIP, image_mean=None, image_std=None)
    [note] = notes_on_weights(path, CLIP, rendered_size=32)
    assert note.startswith(f"{path}: does not record image_mean, image_std: ")


def test_a_record_that_cannot_be_read_is_one_line(tmp_path: Path) -> None:
    for text in ("{", "[1]", '{"heads": {"a": 1}}', "[" * 5000):
        write_weights(tmp_path / "w", {"x": np.zeros(2)}, kind="m3ae", source="", metadata={"architecture": text})
        with pytest.raises(InputError, match=r"w: damaged \(its architecture cannot be read\); convert or fetch it"):
            read_architecture(tmp_path / "w", kind="m3ae")


RESOLUTIONS: list[tuple[int | None, int, str]] = [  # encoder.image_size, sim.image_size, the note
    (32, 32, ""),
    (32, 64, ""),
    (None, 32, ""),
    (32, 16, "sim.image_size: found 16; images are enlarged to encoder.image_size=32"),
    (16, 16, "encoder.image_size: found 16, but {} was trained with images of 32 pixels"),
    (None, 128, "sim.image_size: found 128, but {} was trained with images of 32 pixels"),
]


@pytest.mark.parametrize(("read", "rendered", "expected"), RESOLUTIONS)
def test_another_resolution_is_told(tmp_path: Path, read: int | None, rendered: int, expected: str) -> None:
    path = written(tmp_path / "w.safetensors", M3AE)
    config = replace(M3AE, image_size=read)
    check_weights(path, config)
    notes = notes_on_weights(path, config, rendered_size=rendered)
    assert [note.partition(" pixels")[0] + " pixels" for note in notes if "trained" in note] == (
        [expected.format(path)] if "trained" in expected else []
    )
    assert len(notes) == bool(expected) and all(note.startswith(expected.format(path)) for note in notes)


def test_shipped_weights_have_the_record_of_their_option_and_a_note_is_a_warning(
    capsys: pytest.CaptureFixture[str],
) -> None:
    config = compose("train", TrainConfig, ["encoder=m3ae_tiny"])
    path = weights_path(config.encoder)
    assert path is not None
    vocabulary = make_tokenizer(config.encoder).vocabulary_size
    expected = config.encoder.architecture(vocabulary=vocabulary, rendered_size=96)
    assert read_architecture(path, kind="m3ae") == expected
    check_inputs(config)
    assert capsys.readouterr().err == ""
    check_inputs(compose("train", TrainConfig, ["encoder=m3ae_tiny", "sim.image_size=128"]))
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith(f"warning: sim.image_size: found 128, but {path} was trained with images of 96 pixels")
    with pytest.raises(InputError, match=r"encoder\.heads: found 6; allowed: 3, .*; set encoder\.heads=3$"):
        check_inputs(compose("train", TrainConfig, ["encoder=m3ae_tiny", "encoder.heads=6"]))
