"""Architecture and preprocessing in published files are recorded with the converted weights, or refused."""

import json
import pickle
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
from instructrl.data.text.tokenizer import make_tokenizer
from instructrl.errors import InputError
from instructrl.models.weight_files import read_weights
from instructrl.training.preflight import check_weights
from tests.fixtures import encoders
from tests.fixtures.clip_files import clip_preprocessor, clip_settings
from tests.fixtures.encoders import CLIP_TINY, CLIP_WORDS, M3AE_TINY

CLIP_TORCH = {
    name: np.array(value, order="C") for name, value in encoders.published(encoders.golden("clip_tiny")).items()
}
M3AE_TREE = encoders.nested(encoders.published(encoders.golden("m3ae_tiny")))
FLAT = {"patch_size": 16, "m3ae.model_type": None, "m3ae.emb_dim": 64, "m3ae.depth": 3, "m3ae.num_heads": 8}
DATA = {
    "data.tokenizer": "bert-base-uncased",
    "data.tokenizer_max_length": 64,
    "data.image_size": 256,
    "data.image_normalization": "cc12m",
}


def converted(folder: Path, kind: str, src: Path) -> Any:
    out = folder / "out.safetensors"
    weights.convert(weights.ConvertConfig(kind=kind, src=str(src), out=str(out), overwrite=True))
    return read_weights(out, kind=kind)


def refused(folder: Path, kind: str, src: Path) -> str:
    with pytest.raises(InputError) as caught:
        converted(folder, kind, src)
    assert "\n" not in str(caught.value) and not (folder / "out.safetensors").exists()
    return str(caught.value)


# CLIP.


def clip_folder(
    folder: Path,
    config: dict[str, Any] | None = None,
    preprocessor: dict[str, Any] | None = None,
) -> Path:
    """A folder of the recorded CLIP with these settings; those of a tower are merged, None leaves a setting out."""

    def both_dicts(one: Any, other: Any) -> bool:
        return isinstance(one, dict) and isinstance(other, dict)

    def changed(content: dict[str, Any], changes: dict[str, Any] | None) -> dict[str, Any]:
        for key, value in (changes or {}).items():
            content[key] = changed(content[key], value) if both_dicts(content.get(key), value) else value
        return {key: value for key, value in content.items() if value is not None}

    folder.mkdir(exist_ok=True)
    save_file(CLIP_TORCH, folder / "model.safetensors")
    written = {
        "config.json": changed(clip_settings(CLIP_TINY, CLIP_WORDS), config),
        "preprocessor_config.json": changed(clip_preprocessor(CLIP_TINY), preprocessor),
    }
    for name, content in written.items():
        (folder / name).write_text(json.dumps(content))
    return folder


def test_the_record_of_clip_is_that_of_its_settings(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = converted(tmp_path, "clip", clip_folder(tmp_path / "a"))
    assert found.architecture == CLIP_TINY.architecture(vocabulary=CLIP_WORDS, rendered_size=64)
    assert capsys.readouterr().err == ""
    check_weights(found.path, CLIP_TINY)
    towers = {tower: {"hidden_act": "gelu", "layer_norm_eps": 1e-6} for tower in ("text_config", "vision_config")}
    more = {"image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.25, 0.5]}
    other = converted(tmp_path, "clip", clip_folder(tmp_path / "a", towers, more))
    assert other.checksum == found.checksum
    expected = replace(CLIP_TINY, activation="gelu", layer_norm_epsilon=1e-6, **more)
    assert other.architecture == expected.architecture(vocabulary=CLIP_WORDS, rendered_size=64)
    with pytest.raises(InputError, match=r"encoder\.activation: found quick_gelu; allowed: gelu, .*activation=gelu$"):
        check_weights(other.path, CLIP_TINY)


def test_heads_of_the_file_are_those_of_the_record(tmp_path: Path) -> None:
    folder = clip_folder(tmp_path / "a", {"vision_config": {"num_attention_heads": 8}})
    found = converted(tmp_path, "clip", folder)
    with pytest.raises(InputError, match=r"^encoder\.heads: found 4; allowed: 8, .*set encoder\.heads=8$"):
        check_weights(found.path, CLIP_TINY)
    check_weights(found.path, replace(CLIP_TINY, heads=8))


def test_a_setting_that_is_left_out_has_the_default_of_the_format(tmp_path: Path) -> None:
    left_out = {"hidden_act": None, "layer_norm_eps": None}
    found = converted(tmp_path, "clip", clip_folder(tmp_path / "a", {"text_config": left_out}))
    assert (found.architecture["activation"], found.architecture["layer_norm_epsilon"]) == ("quick_gelu", 1e-5)
    former = {"text_config": left_out, "vision_config": left_out, "vision_config_dict": {"hidden_act": "gelu"}}
    assert "text_config.hidden_act: found quick_gelu; allowed: gelu" in refused_in(tmp_path / "b", former)
    line = refused_in(tmp_path / "c", {"vision_config": {"hidden_size": None, "num_attention_heads": None}})
    assert "found parameters with dim 64, but its settings say 768" in line


def refused_in(folder: Path, config: dict[str, Any] | None = None, preprocessor: Any = None) -> str:
    folder.mkdir()
    return refused(folder, "clip", clip_folder(folder / "a", config, preprocessor))


WRONG_CONFIG: list[tuple[dict[str, Any], str]] = [
    ({"model_type": "siglip"}, "config.json: model_type: found siglip; allowed: clip"),
    ({"vision_config": {"hidden_act": "relu"}}, "vision_config.hidden_act: found relu; allowed: quick_gelu, gelu, "),
    ({"vision_config": {"hidden_act": ["gelu"]}}, "vision_config.hidden_act: found [gelu]; allowed: "),
    ({"text_config": {"layer_norm_eps": 1e-12}}, "text_config.layer_norm_eps: found 1e-12; allowed: 1e-05, as in vi"),
    ({"text_config": {"layer_norm_eps": "0"}}, "text_config.layer_norm_eps: found 0; allowed: above 0"),
    ({"text_config": {"eos_token_id": 7}}, "text_config.eos_token_id: found 7; allowed: 99, the last entry"),
    ({"vision_config": {"num_attention_heads": "4"}}, "vision_config.num_attention_heads: found 4; expected a positi"),
    ({"vision_config": {"num_attention_heads": 0}}, "vision_config.num_attention_heads: found 0; expected a positive"),
    ({"vision_config": {"num_attention_heads": 5}}, "encoder.heads: found 5; allowed: a divisor of encoder.dim=64"),
    ({"vision_config": {"hidden_size": 128}}, "found parameters with dim 64, but its settings say 128"),
    ({"vision_config": {"image_size": 32}}, "preprocessor_config.json: size: found {'shortest_edge': 64}; allowed: 32"),
    ({"text_config": {"vocab_size": 99}}, "found parameters with vocabulary 100, but its settings say 99"),
    ({"projection_dim": 64}, "found parameters with projection 32, but its settings say 64"),
    ({"text_config": 3}, "config.json: text_config: found 3; expected settings"),
]


@pytest.mark.parametrize(("changes", "message"), WRONG_CONFIG)
def test_a_setting_that_is_not_supported_is_refused_by_name(
    tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    if changes.get("text_config") == 3:
        folder = clip_folder(tmp_path / "a")
        (folder / "config.json").write_text(json.dumps(changes))
        assert message in refused(tmp_path, "clip", folder)
    else:
        assert message in refused(tmp_path, "clip", clip_folder(tmp_path / "a", changes))


WRONG_PREPROCESSOR: list[tuple[dict[str, Any], str]] = [
    ({"resample": 2}, "found weights with resampling bilinear; allowed: bicubic, the only one of encoder.kind=clip"),
    ({"resample": [3]}, "resample: found [3]; allowed: 3"),
    ({"size": 72}, "preprocessor_config.json: size: found 72; allowed: 64, the image_size in config.json"),
    ({"crop_size": {"height": 64, "width": 48}}, "crop_size: found {'height': 64, 'width': 48}; allowed: 64"),
    ({"do_normalize": False}, "do_normalize: found false; allowed: true"),
    ({"rescale_factor": 1}, "rescale_factor: found 1; allowed: 1/255"),
    ({"rescale_factor": "x"}, "rescale_factor: found x; allowed: 1/255"),
    ({"image_mean": [0.5]}, "image_mean: found [0.5]; allowed: three numbers from 0 to 1"),
    ({"image_std": [0.5, 0.5, 0]}, "image_std: found [0.5, 0.5, 0]; allowed: three numbers from 0 to 1"),
]


@pytest.mark.parametrize(("changes", "message"), WRONG_PREPROCESSOR)
def test_a_preprocessing_that_is_not_supported_is_refused_by_name(
    tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    assert message in refused(tmp_path, "clip", clip_folder(tmp_path / "a", None, changes))


def test_files_beside_the_weights_are_missing_or_damaged(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = clip_folder(tmp_path / "a")
    (folder / "preprocessor_config.json").unlink()
    found = converted(tmp_path, "clip", folder)
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith(f"warning: {folder}: does not say image_mean, image_std, resampling, which ")
    assert not {"image_mean", "image_std", "resampling"} & set(found.architecture)
    found.path.unlink()
    (folder / "config.json").write_text("{")
    assert "config.json: damaged or not a JSON object" in refused(tmp_path, "clip", folder)
    (folder / "config.json").unlink()
    assert "config.json: missing; it tells what the weights do not, such as attention heads" in refused(
        tmp_path, "clip", folder
    )


def test_the_tokenizer_beside_clip_is_recorded(tmp_path: Path) -> None:
    folder = clip_folder(tmp_path / "a")
    assert converted(tmp_path, "clip", folder).tokenizer == ""
    pieces = [*"abc", *(f"{letter}</w>" for letter in "abc"), "<|startoftext|>", "<|endoftext|>"]
    (folder / "vocab.json").write_text(json.dumps({piece: number for number, piece in enumerate(pieces)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    found = converted(tmp_path, "clip", folder)
    assert found.tokenizer == make_tokenizer(replace(CLIP_TINY, tokenizer=str(folder))).checksum
    (folder / "tokenizer_config.json").write_text('{"do_lower_case": false}')
    found.path.unlink()
    assert "found weights with lower_case false; allowed: true" in refused(tmp_path, "clip", folder)


# Shards.

INDEX = "model.safetensors.index.json"


def sharded(folder: Path, *, count: int = 3) -> tuple[Path, dict[str, str]]:
    """The recorded CLIP in several files, and the content of their index."""
    clip_folder(folder)
    (folder / "model.safetensors").unlink()
    names, places = sorted(CLIP_TORCH), {}
    for number in range(count):
        file, part = f"model-{number + 1:05}-of-{count:05}.safetensors", names[number::count]
        save_file({name: CLIP_TORCH[name] for name in part}, folder / file)
        places |= dict.fromkeys(part, file)
    (folder / INDEX).write_text(json.dumps({"metadata": {"total_size": 1}, "weight_map": places}))
    return folder, places


def test_shards_are_read_like_one_file(tmp_path: Path) -> None:
    one = converted(tmp_path, "clip", clip_folder(tmp_path / "a"))
    for count in (1, 3):
        folder, _ = sharded(tmp_path / f"b{count}", count=count)
        for src in (folder, folder / INDEX):
            found = converted(tmp_path, "clip", src)
            assert (found.checksum, found.architecture) == (one.checksum, one.architecture)


def break_shards(folder: Path, places: dict[str, str], case: str) -> str:
    """Damage shards or their index in some way; returns what is said."""
    first = folder / "model-00001-of-00003.safetensors"
    name = next(iter(places))
    changed: Any = dict(places)
    if case == "missing":
        first.unlink()
        return f"{first}: missing; {folder / INDEX} names it: download it too"
    if case == "truncated":
        first.write_bytes(first.read_bytes()[:-8])
        return f"{first}: damaged or not a safetensors file"
    if case == "absent":
        changed["logit_scale_2"] = first.name
        message = f"{first}: found no parameter logit_scale_2, which {folder / INDEX} names"
    elif case == "incomplete":
        del changed[name]
        message = "found none, expected"
    elif case == "empty":
        changed, message = {}, f"{folder / INDEX}: weight_map: found no file name for each parameter"
    elif case == "numbers":
        changed, message = {name: 3}, f"{folder / INDEX}: weight_map: found no file name for each parameter"
    else:
        changed[name] = case
        message = f"{folder / INDEX}: weight_map: found the file "
    (folder / INDEX).write_text(json.dumps({"weight_map": changed}))
    return message


CASES = ["missing", "truncated", "absent", "incomplete", "empty", "numbers"]
CASES += ["../x.safetensors", "/etc/passwd", "..", "a/b", ""]  # as the name of a file


@pytest.mark.parametrize("case", CASES)
def test_damaged_shards_are_one_line(tmp_path: Path, case: str) -> None:
    folder, places = sharded(tmp_path / "a")
    message = break_shards(folder, places, case)
    line = refused(tmp_path, "clip", folder)
    assert message in line and len(line) < 600


def test_a_single_shard_and_a_damaged_index_are_one_line(tmp_path: Path) -> None:
    folder, _ = sharded(tmp_path / "a")
    shard = folder / "model-00002-of-00003.safetensors"
    assert refused(tmp_path, "clip", shard).startswith(f"{shard}: found one shard of several; give {INDEX}")
    (folder / INDEX).write_text('{"weight_map": ')
    assert refused(tmp_path, "clip", folder).startswith(f"{folder / INDEX}: damaged or not a JSON object")


def float8(folder: Path, dtype: Any) -> Path:
    name = "logit_scale"
    save_file(CLIP_TORCH | {name: np.ones((), dtype)}, clip_folder(folder) / "model.safetensors")
    return folder


TYPES: list[tuple[Callable[[], Any], str]] = [
    (lambda: ml_dtypes.float8_e4m3fn, "F8_E4M3"),
    (lambda: ml_dtypes.float8_e5m2, "F8_E5M2"),
    (lambda: np.int8, "I8"),
    (lambda: np.bool_, "BOOL"),
]


@pytest.mark.parametrize(("dtype", "name"), TYPES)
def test_numbers_of_another_type_are_refused_by_name(tmp_path: Path, dtype: Callable[[], Any], name: str) -> None:
    folder = float8(tmp_path / "a", dtype())
    line = refused(tmp_path, "clip", folder)
    assert line.startswith(
        f"{folder / 'model.safetensors'}: logit_scale: found numbers of type {name}; allowed: F64, F32, F16, BF16"
    )


# M3AE.


def m3ae_file(folder: Path, **content: Any) -> Path:
    path = folder / "model.pkl"
    path.write_bytes(pickle.dumps({"step": 1, **content, "state": {"params": M3AE_TREE}}))
    return path


def test_the_settings_of_m3ae_s_training_are_recorded(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    expected = replace(M3AE_TINY, heads=8, text_length=64).architecture(vocabulary=120, rendered_size=256)
    nested = {"m3ae": {"model_type": None, "emb_dim": 64, "depth": 3, "num_heads": 8}, "patch_size": 16, **DATA}
    for content in ({"variant": FLAT | DATA}, {"variant": nested}, {"config": nested}):
        found = converted(tmp_path, "m3ae", m3ae_file(tmp_path, **content))
        assert found.architecture == expected | {"tokenizer": "bert-base-uncased"}
    assert capsys.readouterr().err == ""
    trained_with = {"tokenizer": "bert-base-uncased", "text_length": 64}
    with pytest.raises(InputError, match=r"^encoder\.heads: found 4; allowed: 8, as in .*; set encoder\.heads=8$"):
        check_weights(found.path, replace(M3AE_TINY, heads=4, **trained_with))
    check_weights(found.path, replace(M3AE_TINY, heads=8, **trained_with))


def test_a_named_model_type_decides_over_the_sizes_beside_it(tmp_path: Path) -> None:
    stale = {"m3ae.emb_dim": 1024, "m3ae.depth": 24, "m3ae.num_heads": 4, "patch_size": 16}
    path = m3ae_file(tmp_path, variant={"m3ae.model_type": "large", **stale, **DATA})
    assert read_published(path, "m3ae").architecture["heads"] == 16


def test_what_a_pickle_does_not_say_is_told_and_not_recorded(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for content in ({}, {"variant": {"m3ae.model_type": "unknown"}}, {"variant": [1]}):
        found = converted(tmp_path, "m3ae", m3ae_file(tmp_path, **content))
        [line] = capsys.readouterr().err.splitlines()
        for key in ("heads", "image_size", "text_length", "image_mean"):
            assert key in line and key not in found.architecture
        assert found.architecture["dim"] == 64 and found.architecture["vocabulary"] == 120


WRONG_VARIANT: list[tuple[dict[str, Any], str]] = [
    ({"m3ae.num_heads": 6}, "encoder.heads: found 6; allowed: a divisor of encoder.dim=64"),
    ({"m3ae.num_heads": "8"}, "variant: m3ae.num_heads: found 8, expected an integer"),
    ({"m3ae.emb_dim": 128}, "found parameters with dim 64, but its settings say 128"),
    ({"m3ae.depth": 12}, "found parameters with depth 3, but its settings say 12"),
    ({"patch_size": 8}, "found parameters with patch_size 16, but its settings say 8"),
    (
        {"data.image_normalization": "imagenet"},
        "found weights with image_mean [0.485, 0.456, 0.406]; allowed: [0.5762,",
    ),
    ({"data.image_normalization": "x"}, "data.image_normalization: found x; allowed: cc12m, imagenet, none, custom"),
    ({"data.image_normalization": "custom", "data.custom_image_mean": "a-b"}, "found custom; allowed: cc12m"),
    ({"data.transform_type": "resize_only"}, "found weights with image_mean [0.0, 0.0, 0.0]; allowed: [0.5762"),
    ({"data.tokenizer": "bert-base-cased"}, "found weights with lower_case false; allowed: true"),
]


@pytest.mark.parametrize(("changes", "message"), WRONG_VARIANT)
def test_a_training_that_is_not_supported_is_refused_by_name(
    tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    path = m3ae_file(tmp_path, variant=FLAT | DATA | changes)
    line = refused(tmp_path, "m3ae", path)
    assert line.startswith(str(path)) and message in line


def test_weights_without_a_record_get_one_when_they_are_converted_again(tmp_path: Path) -> None:
    src, out = m3ae_file(tmp_path, variant=FLAT | DATA), tmp_path / "out.safetensors"
    words = {"kind": "m3ae", "src": str(src), "out": str(out)}
    weights.convert(weights.ConvertConfig(**words))
    recorded = read_weights(out, kind="m3ae")
    weights.write_weights(out, recorded.arrays, kind="m3ae", source="before")
    assert read_weights(out, kind="m3ae").architecture == {}
    weights.convert(weights.ConvertConfig(**words))  # without overwrite=true, as these are the same weights
    assert read_weights(out, kind="m3ae").architecture == recorded.architecture
