"""Published T5, whole or its encoder, is converted with its record; wrong files are one line."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from data_tools.weights import __main__ as weights
from instructrl.errors import InputError
from instructrl.models.weight_files import read_weights
from instructrl.training.preflight import check_vocabulary, check_weights, weights_hint
from tests.fixtures.encoders import T5_TINY, T5_WORDS
from tests.fixtures.published_encoders import Tensors, reference

GOLDEN = reference("t5_tiny")
SETTINGS, TENSORS = GOLDEN["settings"], GOLDEN["tensors"]
BIAS = "encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight"


def published(folder: Path, tensors: Tensors = TENSORS, **changes: Any) -> Path:
    """A folder with the tiny encoder, and settings that differ from it."""
    folder.mkdir()
    save_file(tensors, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(SETTINGS | changes))
    return folder


def converted(src: Path) -> Path:
    out = src.parent / "out.safetensors"
    weights.convert(weights.ConvertConfig(kind="t5", src=str(src), out=str(out)))
    return out


def refused(src: Path) -> str:
    with pytest.raises(InputError) as caught:
        converted(src)
    assert "\n" not in str(caught.value) and not (src.parent / "out.safetensors").exists()
    return str(caught.value)


def test_the_record_is_that_of_the_settings(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = converted(published(tmp_path / "a"))
    found = read_weights(out, kind="t5")
    assert found.architecture == T5_TINY.architecture(vocabulary=T5_WORDS, rendered_size=0)
    printed = capsys.readouterr()
    assert printed.err == "" and "t5 of a size without an option, vocabulary 128, 2 blocks, 16 wide, che" in printed.out
    check_weights(out, T5_TINY)
    check_vocabulary(out, T5_TINY, 100)  # the last rows of its table are of no entry
    with pytest.raises(InputError, match=r"for a vocabulary of 128 entries, but encoder\.tokenizer=small has 1"):
        check_vocabulary(out, T5_TINY, 129)


def test_of_all_of_t5_and_of_shards_the_encoder_is_taken(tmp_path: Path) -> None:
    decoder = {"decoder.block.0.layer.0.layer_norm.weight": np.ones(16, np.float32), "lm_head.weight": np.ones((2, 2))}
    copy = {"encoder.embed_tokens.weight": TENSORS["shared.weight"]}
    alone = read_weights(converted(published(tmp_path / "a")), kind="t5")
    (tmp_path / "out.safetensors").unlink()
    both = read_weights(converted(published(tmp_path / "b", TENSORS | decoder | copy)), kind="t5")
    assert alone.checksum == both.checksum
    (tmp_path / "out.safetensors").unlink()
    names = sorted(TENSORS)
    src = published(tmp_path / "c")
    (src / "model.safetensors").unlink()
    for number, part in enumerate((names[:5], names[5:]), 1):
        save_file({name: TENSORS[name] for name in part}, src / f"model-0000{number}-of-00002.safetensors")
    shards = {name: f"model-0000{1 + (name in names[5:])}-of-00002.safetensors" for name in names}
    (src / "model.safetensors.index.json").write_text(json.dumps({"weight_map": shards}))
    assert read_weights(converted(src), kind="t5").checksum == alone.checksum
    (tmp_path / "out.safetensors").unlink()
    (src / "model-00002-of-00002.safetensors").unlink()
    assert "model-00002-of-00002.safetensors: missing; " in refused(src)


WRONG: list[tuple[dict[str, Any], str]] = [
    ({"model_type": "mt5"}, "config.json: model_type: found mt5; allowed: t5"),
    (
        {"num_heads": 4, "d_kv": 4},
        "found parameters with heads 2, but its settings say 4; use the parameters and the set",
    ),
    ({"d_kv": 64}, "config.json: d_kv: found 64; allowed: 8, d_model / num_heads"),
    ({"feed_forward_proj": "gated-silu"}, "feed_forward_proj: found gated-silu; allowed: relu, gated-gelu"),
    ({"feed_forward_proj": "gated-gelu"}, "mlp/gate/kernel: found none, expected (16, 40)"),
    ({"relative_attention_num_buckets": 64}, "relative_attention_num_buckets: found 64; allowed: 32"),
    ({"d_ff": 48}, "found parameters with mlp_dim 40, but its settings say 48"),
    ({"num_layers": 3}, "found parameters with depth 2, but its settings say 3"),
    ({"layer_norm_epsilon": 0}, "layer_norm_epsilon: found 0; allowed: above 0"),
]


@pytest.mark.parametrize(("changes", "line"), WRONG)
def test_wrong_settings_are_one_line(tmp_path: Path, changes: dict[str, Any], line: str) -> None:
    assert line in refused(published(tmp_path / "a", **changes))


def test_wrong_parameters_are_one_line(tmp_path: Path) -> None:
    without = {name: value for name, value in TENSORS.items() if name != BIAS}
    assert "found no parameters of t5 that determine heads" in refused(published(tmp_path / "a", without))
    more = TENSORS | {"encoder.block.0.layer.0.SelfAttention.q.bias": np.zeros(16, np.float32)}
    assert "text_model/encoder/layers/0/self_attn/q_proj/bias: found (16,)" in refused(published(tmp_path / "b", more))
    half = {name: value.astype(np.int8) for name, value in TENSORS.items()}
    assert "found numbers of type I8; allowed:" in refused(published(tmp_path / "c", half))


def test_the_option_says_where_its_weights_are() -> None:
    encoder = weights.encoder_option("t5_base")
    assert encoder.repository == "google-t5/t5-base"
    hint = weights_hint(Path(str(encoder.weights)), encoder)
    assert hint.endswith("data_tools.weights fetch kind=t5 name=base")
    assert weights.downloadable_options("t5") == ["base"]
