"""Published DINOv2 files are converted with their record and licence, and wrong ones are refused in one line."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import save_file

from data_tools.weights import __main__ as weights
from data_tools.weights.published import read_published
from instructrl.errors import InputError
from instructrl.models.weight_files import read_weights
from instructrl.training.preflight import check_weights, weights_hint
from tests.fixtures.encoders import DINOV2_TINY
from tests.fixtures.published_encoders import reference

TINY, REG = reference("dinov2_tiny"), reference("dinov2_tiny_reg")
PREPROCESSOR = {
    "crop_size": {"height": 28, "width": 28},
    "image_mean": [0.485, 0.456, 0.406],
    "image_std": [0.229, 0.224, 0.225],
    "resample": 3,
    "size": {"shortest_edge": 32},
}
FILE, INDEX = "model.safetensors", "model.safetensors.index.json"


def published(folder: Path, golden: dict[str, Any] = TINY, **settings: Any) -> Path:
    """A folder with a published encoder, and settings that differ from it."""
    folder.mkdir()
    save_file(golden["tensors"], folder / FILE)
    (folder / "config.json").write_text(json.dumps(golden["settings"] | settings))
    (folder / "preprocessor_config.json").write_text(json.dumps(PREPROCESSOR))
    (folder / "README.md").write_text("---\nlicense: apache-2.0\ntags:\n- dino\n---\n# DINOv2\nlicense: other\n")
    return folder


def converted(src: Path, **settings: Any) -> Any:
    out = src.parent / "out.safetensors"
    weights.convert(weights.ConvertConfig(kind="dinov2", src=str(src), out=str(out), overwrite=True, **settings))
    return read_weights(out, kind="dinov2")


def refused(src: Path) -> str:
    with pytest.raises(InputError) as caught:
        converted(src)
    assert "\n" not in str(caught.value) and not (src.parent / "out.safetensors").exists()
    return str(caught.value)


@pytest.mark.parametrize(("golden", "registers"), [(TINY, 0), (REG, 4)])
def test_the_record_is_that_of_the_settings(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], golden: dict[str, Any], registers: int
) -> None:
    config = replace(DINOV2_TINY, registers=registers)
    found = converted(published(tmp_path / "a", golden))
    expected = config.architecture(vocabulary=0, rendered_size=28)
    assert found.architecture == {key: expected[key] for key in found.architecture}
    assert expected.keys() - found.architecture.keys() == {"text_length", "vocabulary", "lower_case"}
    check_weights(found.path, config)
    printed = capsys.readouterr()
    assert printed.err == "" and "2 blocks, 16 wide, patches of 4" in printed.out
    assert found.licence == "apache-2.0" and printed.out.endswith("from a, licence apache-2.0\n")
    other = replace(config, registers=4 - registers)
    with pytest.raises(InputError, match=f"found weights with registers {registers}, expected {4 - registers}, as in"):
        check_weights(found.path, other)


def test_a_licence_that_no_card_states_is_said_and_can_be_given(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = published(tmp_path / "a")
    (folder / "README.md").unlink()
    assert converted(folder).licence == "" and "licence not stated" in capsys.readouterr().out
    assert converted(folder, licence="cc-by-nc-4.0").licence == "cc-by-nc-4.0"


def test_shards_are_read_like_one_file(tmp_path: Path) -> None:
    folder = published(tmp_path / "a")
    one, names = read_published(folder, "dinov2"), sorted(TINY["tensors"])
    (folder / FILE).unlink()
    places = {}
    for number in range(2):
        shard = f"model-{number + 1:05}-of-00002.safetensors"
        save_file({name: TINY["tensors"][name] for name in names[number::2]}, folder / shard)
        places |= dict.fromkeys(names[number::2], shard)
    (folder / INDEX).write_text(json.dumps({"weight_map": places}))
    found = read_published(folder, "dinov2")
    assert found.arrays.keys() == one.arrays.keys()
    assert all(np.array_equal(found.arrays[name], one.arrays[name]) for name in one.arrays)
    (folder / "model-00002-of-00002.safetensors").unlink()
    assert f"model-00002-of-00002.safetensors: missing; {folder / INDEX} names it" in refused(folder)


WRONG: list[tuple[dict[str, Any], str]] = [
    ({"model_type": "vit"}, "config.json: model_type: found vit; allowed: dinov2, dinov2_with_registers"),
    ({"hidden_act": "quick_gelu"}, "weights with activation quick_gelu; allowed: gelu, the only one of encoder.kind=d"),
    ({"hidden_act": "silu"}, "config.json: hidden_act: found silu; allowed: quick_gelu, gelu, "),
    ({"num_attention_heads": 3}, "encoder.heads: found 3; allowed: a divisor of encoder.dim=16"),
    ({"num_attention_heads": None}, "config.json: num_attention_heads: found null; expected a positive integer"),
    ({"num_hidden_layers": 3}, "found parameters with depth 2, but its settings say 3"),
    ({"image_size": 28}, "found parameters with position_grid 5, but its settings say 7"),
    ({"mlp_ratio": 2}, "config.json: mlp_ratio: found 2; allowed: 4"),
    ({"use_swiglu_ffn": True}, "config.json: use_swiglu_ffn: found true; allowed: false"),
    ({"layer_norm_eps": 1e-5}, "weights with layer_norm_epsilon 1e-05; allowed: 1e-06, the only one of"),
    ({"model_type": "dinov2_with_registers"}, "found parameters with registers 0, but its settings say 4"),
]


@pytest.mark.parametrize(("settings", "message"), WRONG)
def test_settings_of_another_architecture_are_refused_by_name(
    tmp_path: Path, settings: dict[str, Any], message: str
) -> None:
    assert message in refused(published(tmp_path / "a", **settings))


def test_another_number_of_heads_is_known_by_the_record(tmp_path: Path) -> None:
    found = converted(published(tmp_path / "a", num_attention_heads=4))
    with pytest.raises(InputError, match=r"^encoder\.heads: found 2; allowed: 4, .*set encoder\.heads=4$"):
        check_weights(found.path, DINOV2_TINY)


def without(tensors: dict[str, Any], name: str) -> dict[str, Any]:
    return {key: value for key, value in tensors.items() if key != name}


FILES: list[tuple[Callable[[dict[str, Any]], dict[str, Any]], str]] = [
    (lambda one: without(one, "layernorm.bias"), "vision_model/post_layernorm/bias: found none, expected (16,)"),
    (lambda one: without(one, "embeddings.cls_token"), "found no parameters of dinov2 that determine dim"),
    (lambda one: one | {"classifier.weight": one["layernorm.bias"]}, "classifier/scale: found (16,), expected none"),
    (lambda one: one | {"layernorm.bias": np.full(16, np.nan, np.float32)}, "layernorm.bias: found numbers that are"),
    (
        lambda one: one | {"layernorm.bias": np.ones(16, ml_dtypes.float8_e4m3fn)},
        "layernorm.bias: found numbers of type F8_E4M3; allowed: F64, F32, F16, BF16",
    ),
]


@pytest.mark.parametrize(("change", "message"), FILES)
def test_wrong_parameters_are_refused_by_name(
    tmp_path: Path, change: Callable[[dict[str, Any]], dict[str, Any]], message: str
) -> None:
    folder = published(tmp_path / "a")
    save_file(change(TINY["tensors"]), folder / FILE)
    assert message in refused(folder)


def test_files_that_are_missing_or_of_another_kind(tmp_path: Path) -> None:
    folder = published(tmp_path / "a")
    (folder / "config.json").unlink()
    assert refused(folder).startswith(f"{folder / 'config.json'}: missing; it tells what the weights do not")
    (folder / FILE).write_bytes(b"PK\x03\x04 and more")
    assert "found a PyTorch pickle" in refused(folder)
    (folder / FILE).write_bytes(b"plain text")
    assert f"not a safetensors file; use {FILE}" in refused(folder)
    (folder / FILE).unlink()
    assert f"found neither {FILE}" in refused(folder)


def test_missing_weights_of_an_option_name_the_command_that_fetches_them() -> None:
    for option in ("dinov2_s14", "dinov2_l14_reg"):
        encoder = weights.encoder_option(option)
        name = option.removeprefix("dinov2_")
        assert weights_hint(Path(str(encoder.weights)), encoder).endswith(f"fetch kind=dinov2 name={name}")
        assert name in weights.downloadable_options("dinov2")
    assert weights.encoder_option("dinov2_l14_reg").repository == "facebook/dinov2-with-registers-large"
