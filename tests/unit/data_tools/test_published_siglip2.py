"""Published SigLIP 2, as safetensors and as big_vision's .npz, is converted alike; wrong files are one line."""

import io
import json
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import save_file

from data_tools.weights import __main__ as weights
from data_tools.weights.published import read_published
from data_tools.weights.siglip2 import read_siglip2
from instructrl.errors import InputError
from instructrl.models.weight_files import read_weights
from instructrl.training.preflight import check_weights, weights_hint
from tests.fixtures.encoders import SIGLIP2_TINY, SIGLIP2_WORDS
from tests.fixtures.published_encoders import Tensors, reference

GOLDEN = reference("siglip2_tiny")
SETTINGS, TENSORS = GOLDEN["settings"], GOLDEN["tensors"]
PREPROCESSOR = {
    "do_resize": True, "do_rescale": True, "do_normalize": True, "image_mean": [0.5] * 3, "image_std": [0.5] * 3,
    "resample": 2, "rescale_factor": 1 / 255, "size": {"height": 20, "width": 20},
}  # fmt: skip


def published(folder: Path, tower: str = "", preprocessor: dict[str, Any] | None = None, **changes: Any) -> Path:
    """A folder with the tiny encoder, and settings, of a tower if one is named, that differ from it."""
    folder.mkdir()
    save_file(TENSORS, folder / "model.safetensors")
    changed = SETTINGS | ({tower: SETTINGS[tower] | changes} if tower else changes)
    (folder / "config.json").write_text(json.dumps(changed))
    (folder / "preprocessor_config.json").write_text(json.dumps(PREPROCESSOR | (preprocessor or {})))
    return folder


def big_vision(*, stacked: bool, heads: int = 2) -> Tensors:
    """The tiny encoder by the names and in the layout of big_vision."""
    named = {"vision_model": "img/Transformer", "text_model": "txt/Encoder_0"}
    found: Tensors = {
        "t": TENSORS["logit_scale"].reshape(()),
        "b": TENSORS["logit_bias"].reshape(()),
        "img/embedding/kernel": TENSORS["vision_model.embeddings.patch_embedding.weight"].transpose(2, 3, 1, 0),
        "img/embedding/bias": TENSORS["vision_model.embeddings.patch_embedding.bias"],
        "img/pos_embedding": TENSORS["vision_model.embeddings.position_embedding.weight"][None],
        "txt/pos_embedding": TENSORS["text_model.embeddings.position_embedding.weight"][None],
        "txt/Embed_0/embedding": TENSORS["text_model.embeddings.token_embedding.weight"],
        "txt/head/kernel": TENSORS["text_model.head.weight"].T,
        "txt/head/bias": TENSORS["text_model.head.bias"],
        "img/MAPHead_0/probe": TENSORS["vision_model.head.probe"],
    }

    def add(place: str, source: str, query: dict[str, tuple[np.ndarray, np.ndarray]]) -> None:
        for name, (kernel, bias) in query.items():
            shape = (*kernel.shape[:1], heads, -1)
            found[f"{place}MultiHeadDotProductAttention_0/{name}/kernel"] = kernel.T.reshape(shape)
            found[f"{place}MultiHeadDotProductAttention_0/{name}/bias"] = bias.reshape(heads, -1)
        out = TENSORS[f"{source}.out_proj.weight"].T
        found[f"{place}MultiHeadDotProductAttention_0/out/kernel"] = out.reshape(heads, -1, out.shape[-1])
        found[f"{place}MultiHeadDotProductAttention_0/out/bias"] = TENSORS[f"{source}.out_proj.bias"]

    def add_mlp(place: str, source: str) -> None:
        for index in (0, 1):
            found[f"{place}MlpBlock_0/Dense_{index}/kernel"] = TENSORS[f"{source}.fc{index + 1}.weight"].T
            found[f"{place}MlpBlock_0/Dense_{index}/bias"] = TENSORS[f"{source}.fc{index + 1}.bias"]

    def add_norm(place: str, source: str) -> None:
        found[f"{place}/scale"], found[f"{place}/bias"] = TENSORS[f"{source}.weight"], TENSORS[f"{source}.bias"]

    for tower, ours in named.items():
        for index in (0, 1):
            place, source = f"{ours}/encoderblock_{index}/", f"{tower}.encoder.layers.{index}."
            names = {"query": "q", "key": "k", "value": "v"}
            add(place, f"{source}self_attn", {
                name: (TENSORS[f"{source}self_attn.{one}_proj.weight"], TENSORS[f"{source}self_attn.{one}_proj.bias"])
                for name, one in names.items()
            })  # fmt: skip
            add_mlp(place, f"{source}mlp")
            add_norm(f"{place}LayerNorm_0", f"{source}layer_norm1")
            add_norm(f"{place}LayerNorm_1", f"{source}layer_norm2")
    pooled = zip(
        np.split(TENSORS["vision_model.head.attention.in_proj_weight"], 3),
        np.split(TENSORS["vision_model.head.attention.in_proj_bias"], 3),
        strict=True,
    )
    head = "vision_model.head"
    add("img/MAPHead_0/", f"{head}.attention", dict(zip(("query", "key", "value"), pooled, strict=True)))
    add_mlp("img/MAPHead_0/", f"{head}.mlp")
    add_norm("img/MAPHead_0/LayerNorm_0", f"{head}.layernorm")
    add_norm("img/Transformer/encoder_norm", "vision_model.post_layernorm")
    add_norm("txt/Encoder_0/encoder_norm", "text_model.final_layer_norm")
    if stacked:
        for name in [name for name in found if "encoderblock_0" in name]:
            one, other = found.pop(name), found.pop(name.replace("block_0", "block_1"))
            found[name.replace("encoderblock_0", "encoderblock")] = np.stack([one, other])
    return {f"params/{name}": value for name, value in found.items()}


def refused(src: Path) -> str:
    out = src.parent / "out.safetensors"
    with pytest.raises(InputError) as caught:
        weights.convert(weights.ConvertConfig(kind="siglip2", src=str(src), out=str(out)))
    assert "\n" not in str(caught.value) and not out.exists()
    return str(caught.value)


def test_the_record_is_that_of_the_settings(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out.safetensors"
    src = published(tmp_path / "a")
    weights.convert(weights.ConvertConfig(kind="siglip2", src=str(src), out=str(out), licence="apache-2.0"))
    found = read_weights(out, kind="siglip2")
    expected = SIGLIP2_TINY.architecture(vocabulary=SIGLIP2_WORDS, rendered_size=20)
    assert found.architecture == expected | {"image_size": 20} and found.licence == "apache-2.0"
    assert capsys.readouterr().err == ""
    check_weights(out, SIGLIP2_TINY)


@pytest.mark.parametrize("stacked", [False, True])
def test_an_npz_gives_the_same_parameters(tmp_path: Path, stacked: bool) -> None:
    expected = read_published(published(tmp_path / "a"), "siglip2")
    np.savez(tmp_path / "siglip2.npz", **big_vision(stacked=stacked))
    found = read_published(tmp_path / "siglip2.npz", "siglip2")
    assert found.arrays.keys() == expected.arrays.keys()
    for name, value in expected.arrays.items():
        np.testing.assert_array_equal(found.arrays[name], value, err_msg=name)
    assert found.config.heads == found.config.text_heads == 2  # type: ignore[attr-defined]
    assert expected.architecture.items() >= found.architecture.items() and found.unknown == []


def test_an_npz_of_bfloat16_is_read(tmp_path: Path) -> None:
    half = {name: value.astype(ml_dtypes.bfloat16) for name, value in big_vision(stacked=True).items()}
    np.savez(tmp_path / "siglip2.npz", **half)
    found = read_published(tmp_path / "siglip2.npz", "siglip2")
    expected = TENSORS["text_model.head.bias"].astype(ml_dtypes.bfloat16).astype(np.float32)
    np.testing.assert_array_equal(found.arrays["text_model/head/bias"], expected)


WRONG: list[tuple[dict[str, Any], str]] = [
    ({"model_type": "siglip2"}, "config.json: model_type: found siglip2; allowed: siglip, that of SigLIP 2 with a fix"),
    ({"model_type": "clip"}, "config.json: model_type: found clip; allowed: siglip"),
    ({"tower": "vision_config", "hidden_act": "quick_gelu"}, "text_config: found activation gelu_tanh; allowed: that"),
    ({"tower": "text_config", "hidden_act": "relu"}, "text_config.hidden_act: found relu; allowed: quick_gelu, gelu, "),
    (
        {"tower": "text_config", "num_attention_heads": 3},
        "encoder.text_heads: found 3; allowed: a divisor of encoder.t",
    ),
    ({"tower": "vision_config", "intermediate_size": 64}, "found parameters with mlp_dim 40, but its settings say 64"),
    ({"tower": "text_config", "vocab_size": 29}, "found parameters with vocabulary 30, but its settings say 29"),
    ({"tower": "text_config", "max_position_embeddings": 9}, "found parameters with text_length 8, but its settings"),
    ({"preprocessor": {"resample": 3}}, "found weights with resampling bicubic; allowed: bilinear, the only one of"),
    ({"preprocessor": {"image_mean": [0.4, 0.5, 0.5]}}, "found weights with image_mean [0.4, 0.5, 0.5]; allowed: ["),
    ({"preprocessor": {"do_center_crop": True}}, "do_center_crop: found true; allowed: false"),
    ({"preprocessor": {"size": {"height": 24, "width": 24}}}, "size: found {'height': 24, 'width': 24}; allowed: 20"),
]


@pytest.mark.parametrize(("changes", "message"), WRONG)
def test_other_settings_are_refused_by_name(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    assert message in refused(published(tmp_path / "a", **changes))


def without(name: str) -> Callable[[Tensors], Tensors]:
    return lambda arrays: {key: value for key, value in arrays.items() if key != name}


NPZ: list[tuple[Callable[[Tensors], Tensors], str]] = [
    (without("params/img/MAPHead_0/probe"), "vision_model/head/probe: found none, expected (16,)"),
    (without("params/txt/Embed_0/embedding"), "found no parameters of siglip2 that determine vocabulary, text_dim"),
    (lambda one: one | {"params/img/cls": np.ones(3, np.float32)}, "img/cls: found (3,), expected none"),
    (lambda one: one | {"params/t": np.float32(np.inf)}, "params/t: found numbers that are not finite"),
    (lambda one: one | {"params/t": np.int8(1)}, "params/t: found dtype int8, expected an array of floating-point"),
]


@pytest.mark.parametrize(("change", "message"), NPZ)
def test_wrong_arrays_of_an_npz_are_refused_by_name(
    tmp_path: Path, change: Callable[[Tensors], Tensors], message: str
) -> None:
    np.savez(tmp_path / "siglip2.npz", **change(big_vision(stacked=False)))
    assert message in refused(tmp_path / "siglip2.npz")


def test_what_is_no_npz_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "siglip2.npz"
    assert refused(path).startswith(f"{path}: cannot be read")
    path.write_bytes(b"PK\x03\x04 and more")
    assert refused(path).startswith(f"{path}: damaged or not an .npz of arrays")
    np.savez(path, a=np.array([{"pickle": 1}], dtype=object))
    assert refused(path).startswith(f"{path}: damaged or not an .npz of arrays (ValueError)")


@settings(max_examples=60)
@given(data=st.data())
def test_damaged_files_give_one_line_or_arrays(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    path = tmp_path_factory.getbasetemp() / "damaged.npz"
    whole = zipped(big_vision(stacked=True), compressed=data.draw(st.booleans()))
    place = data.draw(st.integers(0, len(whole) - 1))
    change = data.draw(st.binary(min_size=1, max_size=4))
    path.write_bytes(data.draw(st.sampled_from([whole[:place], whole[:place] + change + whole[place + len(change) :]])))
    with suppress(InputError):
        assert read_siglip2(path).arrays


def zipped(arrays: Tensors, *, compressed: bool) -> bytes:
    file = io.BytesIO()
    (np.savez_compressed if compressed else np.savez)(file, **arrays)
    return file.getvalue()


def test_zeros_without_end_are_not_read(tmp_path: Path) -> None:
    path = tmp_path / "siglip2.npz"
    path.write_bytes(zipped({"params/t": np.zeros(10**6, np.float32)}, compressed=True))
    assert refused(path).startswith(f"{path}: found arrays of 4000128 bytes in a much smaller file; it is not read")


def test_another_number_of_heads_and_eight_bit_floats_are_refused(tmp_path: Path) -> None:
    out, src = tmp_path / "out.safetensors", published(tmp_path / "a", "vision_config", num_attention_heads=4)
    weights.convert(weights.ConvertConfig(kind="siglip2", src=str(src), out=str(out)))
    with pytest.raises(InputError, match=r"^encoder\.heads: found 2; allowed: 4, .*set encoder\.heads=4$"):
        check_weights(out, SIGLIP2_TINY)
    out.unlink()
    save_file(TENSORS | {"logit_bias": np.ones(1, ml_dtypes.float8_e4m3fn)}, src / "model.safetensors")
    assert "logit_bias: found numbers of type F8_E4M3; allowed: F64, F32, F16, BF16" in refused(src)


def test_missing_weights_name_the_command_that_fetches_them() -> None:
    encoder = weights.encoder_option("siglip2_so400m")
    assert encoder.repository == "google/siglip2-so400m-patch14-224"
    assert weights_hint(Path(str(encoder.weights)), encoder).endswith("fetch kind=siglip2 name=so400m")
