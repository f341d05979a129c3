"""Published weights are converted exactly, and other files are identified in the error."""

import json
import os
import pickle
import re
import shlex
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import flax.serialization
import jax
import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import save, save_file

from data_tools.weights import __main__ as weights
from data_tools.weights import download
from data_tools.weights.m3ae import read_m3ae
from data_tools.weights.published import read_published
from instructrl.config.encoders import ClipConfig, M3AEConfig
from instructrl.data.text.tokenizer import make_tokenizer
from instructrl.errors import InputError
from instructrl.models.encoders.clip import Clip
from instructrl.models.encoders.m3ae import M3AE
from instructrl.models.encoders.m3ae_decoder import MaskedM3AE
from instructrl.models.encoders.registry import encoder_shapes
from instructrl.models.weight_files import DECODER, match_params, read_weights, write_weights
from instructrl.training.monitoring.metric_writer import read_lines
from instructrl.training.preflight import M3AE_PAGE, check_weights
from tests.fakes.file_server import COMMIT, serving
from tests.fixtures import encoders, tiny
from tests.fixtures.clip_files import write_clip_settings
from tests.fixtures.encoders import CLIP_TINY, CLIP_WORDS, DINOV2_TINY, M3AE_TINY, M3AE_WORDS
from tests.fixtures.pickles import PARAMS, frozen, published_pickle
from tests.fixtures.published_encoders import reference
from tests.paths import ROOT

M3AE_GOLDEN, CLIP_GOLDEN = encoders.golden("m3ae_tiny"), encoders.golden("clip_tiny")
M3AE_FLAT, CLIP_FLAT = encoders.published(M3AE_GOLDEN), encoders.clip_params(CLIP_GOLDEN)
CLIP_TORCH = encoders.published(CLIP_GOLDEN)
close = {"rtol": 1e-5, "atol": 1e-5}


def run(*words):
    """Run `python -m data_tools.weights` in this process; errors are raised as InputError."""
    command_config = weights.parse(list(words))
    (weights.convert if isinstance(command_config, weights.ConvertConfig) else weights.fetch)(command_config)


def converted(folder, kind, src, name="out.safetensors"):
    weights.convert(weights.ConvertConfig(kind=kind, src=str(src), out=str(folder / name)))
    return read_weights(folder / name, kind=kind)


def same(found, expected):
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert found[name].dtype == np.float32 and found[name].shape == value.shape, name
        np.testing.assert_array_equal(found[name], value)


def written(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


# M3AE.

TREES = {
    "nested dicts": (PARAMS, False),
    "FrozenDict": (frozen(PARAMS), False),
    "init's answer": ({"params": PARAMS}, False),
    "jax arrays": (jax.tree.map(jax.numpy.asarray, PARAMS), True),
}


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
@pytest.mark.parametrize("by_reference", [False, True])
@pytest.mark.parametrize("tree", TREES)
def test_every_form_of_the_published_pickle_gives_its_parameters(tmp_path, tree, by_reference, protocol):
    params, keep = TREES[tree]
    content = published_pickle(params, protocol=protocol, by_reference=by_reference, keep=keep)
    assert b"apply" in content and b"ScaleByAdamState" in content and b"M3AETrainState" in content
    same(read_m3ae(written(tmp_path / "model.pkl", content)).arrays, M3AE_FLAT)


def test_a_state_that_is_a_plain_dict_too(tmp_path):
    content = flax.serialization.to_state_dict({"params": PARAMS, "step": 1})
    for one in (
        {"step": 1, "state": content},
        {"step": 1, "state": {"params": {"params": PARAMS}}},
        {"params": PARAMS},
    ):
        import pickle

        same(read_m3ae(written(tmp_path / "model.pkl", pickle.dumps(one))).arrays, M3AE_FLAT)


def test_the_converted_m3ae_gives_the_published_outputs(tmp_path, capsys):
    found = converted(tmp_path, "m3ae", written(tmp_path / "model.pkl", published_pickle()))
    printed = capsys.readouterr().out.splitlines()[-1]  # above it, if reading took more than a second, how long
    assert printed == (
        f"{tmp_path}/out.safetensors: m3ae of a size without an option, vocabulary 120, 3 blocks, 64 wide, "
        f"patches of 16, checksum {found.checksum[:12]}, from model.pkl, licence not stated"
    )
    inputs = [M3AE_GOLDEN[key] for key in ("image", "text", "text_padding_mask")]
    params = match_params(found, encoder_shapes(M3AE_TINY, vocabulary_size=M3AE_WORDS), ignore=DECODER)
    outputs = M3AE(M3AE_TINY, M3AE_WORDS).apply(
        {"params": params}, *inputs,
        method=lambda model, image, text, pad: model.outputs(model.embed_image(image), model.embed_text(text), pad)[0],
    )  # fmt: skip
    for index, block in enumerate(outputs.blocks):
        np.testing.assert_allclose(block, M3AE_GOLDEN[f"block_{index}"], **close)
    np.testing.assert_allclose(outputs.final, M3AE_GOLDEN["output"], **close)
    masked = MaskedM3AE(M3AE_TINY, M3AE_WORDS, decoder_dim=48, decoder_depth=2, decoder_heads=4)
    kept = [np.flatnonzero(M3AE_GOLDEN[f"pre_{name}_mask"][0] == 0) for name in ("image", "text")]
    tree = encoders.nested(found.arrays)  # includes the decoder
    pixels, logits = masked.apply({"params": tree}, *inputs, *kept, method=MaskedM3AE.reconstruct)
    np.testing.assert_allclose(pixels, M3AE_GOLDEN["pre_image_output"], **close)
    np.testing.assert_allclose(logits, M3AE_GOLDEN["pre_text_output"], **close)


def lacking(*parts):
    """The published parameters without those whose names begin like this."""
    return {"params": encoders.nested({name: M3AE_FLAT[name] for name in M3AE_FLAT if not name.startswith(parts)})}


def with_param(name, value):
    return {"params": encoders.nested({**M3AE_FLAT, name: value})}


TEXT_NAMES = tuple(name for name in M3AE_FLAT if "text" in name)
CLS = (1, 1, 64)
WRONG_M3AE = {
    "another pickle": (
        {"weights": 1, "optimizer": 2},
        "found a pickle without params: weights, optimizer; expected M3AE's",
    ),
    "a list": ([1, 2], "found a pickle without params: list"),
    "no arrays": ({"state": {"params": {}}}, "that determine dim, depth, patch_size, vocabulary; found: nothing"),
    "others": (
        {"params": {"text_encoder": {"kernel": np.ones((2, 2), np.float32)}}},
        "no parameters of m3ae that determine dim, depth, patch_size, vocabulary; found: text_encoder/kernel",
    ),
    "MAE": (lacking(*TEXT_NAMES), "it seems to be MAE, which has no text encoder: use the file of M3AE"),
    "devices": ({"params": jax.tree.map(lambda leaf: np.stack([leaf] * 2), PARAMS)}, "has a leading device axis"),
    "a block missing": (
        lacking("encoder/Block_1/"),
        r"Block_1/Attention_0/Dense_0/bias: found none, expected \(192,\) \(and 11 more\) in a m3ae of 3 blocks",
    ),
    "one missing": (lacking("encoder/LayerNorm_0/bias"), r"encoder/LayerNorm_0/bias: found none, expected \(64,\) in"),
    "no blocks": (lacking("encoder/Block"), "determine depth"),
    "very many": (with_param("encoder/Block_99999/LayerNorm_0/bias", np.ones(2, np.float32)), "found 100000 blocks"),
    "one too many": (
        with_param("encoder/surplus", np.ones(2, np.float32)),
        r"encoder/surplus: found \(2,\), expected none",
    ),
    "another shape": (
        with_param("image_embedding/bias", np.ones(63, np.float32)),
        r"image_embedding/bias: found \(63,\), expected \(64,\)",
    ),
    "integers": (with_param("cls_token", np.ones(CLS, np.int32)), "cls_token: found dtype int32, expected an array of"),
    "no array": (with_param("cls_token", "x"), "cls_token: found str, expected an array"),
    "not finite": (with_param("cls_token", np.full(CLS, np.nan, np.float32)), "cls_token: found numbers that are not"),
    "no name": ({"params": {"a/b": np.ones(2, np.float32)}}, "found a key a/b; expected parameter names"),
    "a number": ({"params": {3: np.ones(2, np.float32)}}, "found a key int; expected"),
}


@pytest.mark.parametrize("case", WRONG_M3AE)
def test_what_is_no_m3ae_is_named(tmp_path, case):
    content, message = WRONG_M3AE[case]
    src = written(tmp_path / "model.pkl", pickle.dumps(content))
    with pytest.raises(InputError, match=message) as caught:
        converted(tmp_path, "m3ae", src)
    assert str(caught.value).startswith(str(src)) and "\n" not in str(caught.value)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model.pkl"]


# CLIP.


def torch_file(folder, arrays=CLIP_TORCH, dtype=np.float32, *, config=CLIP_TINY, vocabulary=CLIP_WORDS):
    write_clip_settings(folder, config, vocabulary)
    buffers = {f"{tower}_model.embeddings.position_ids": np.arange(9)[None] for tower in ("text", "vision")}
    path = folder / "model.safetensors"
    folder.mkdir(exist_ok=True)
    whole = {name: np.array(value, dtype, order="C") for name, value in arrays.items()}
    save_file(whole | buffers, path, metadata={"format": "pt"})
    return path


def flax_file(folder, arrays=CLIP_FLAT, *, wrap=lambda tree: tree, config=CLIP_TINY, vocabulary=CLIP_WORDS):
    write_clip_settings(folder, config, vocabulary)
    tree = encoders.nested({name: np.asarray(value) for name, value in arrays.items()})
    return written(folder / "flax_model.msgpack", flax.serialization.msgpack_serialize(wrap(tree)))


def clip_gives_the_published_outputs(found):
    params = match_params(found, encoder_shapes(CLIP_TINY, vocabulary_size=CLIP_WORDS))
    model, pad = Clip(CLIP_TINY, CLIP_WORDS), np.zeros(CLIP_GOLDEN["text"].shape, np.float32)
    image, text = model.apply(
        {"params": params}, CLIP_GOLDEN["image"], CLIP_GOLDEN["text"], pad, method=Clip.embed_pairs
    )
    np.testing.assert_allclose(image, CLIP_GOLDEN["image_embedding"], **close)
    np.testing.assert_allclose(text, CLIP_GOLDEN["text_embedding"], **close)


def test_both_files_of_clip_give_the_published_outputs_and_the_same_checksum(tmp_path, capsys):
    torch = converted(tmp_path, "clip", torch_file(tmp_path / "a"))
    assert (
        "clip of a size without an option, vocabulary 100, 2 blocks, 64 wide, patches of 16" in capsys.readouterr().out
    )
    flax = converted(tmp_path, "clip", flax_file(tmp_path / "b"), "other.safetensors")
    same(torch.arrays, CLIP_FLAT)
    same(flax.arrays, CLIP_FLAT)
    assert torch.checksum == flax.checksum
    clip_gives_the_published_outputs(torch)
    clip_gives_the_published_outputs(flax)


def test_a_folder_of_either(tmp_path):
    torch_file(tmp_path / "a")
    flax_file(tmp_path / "b")
    for folder in "ab":
        same(converted(tmp_path, "clip", tmp_path / folder, f"{folder}.safetensors").arrays, CLIP_FLAT)


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16, np.float64])
def test_other_precisions_become_float32(tmp_path, dtype):
    expected = {name: value.astype(dtype).astype(np.float32) for name, value in CLIP_FLAT.items()}
    same(converted(tmp_path, "clip", torch_file(tmp_path / "a", dtype=dtype)).arrays, expected)
    halves = {name: value.astype(dtype) for name, value in CLIP_FLAT.items()}
    same(converted(tmp_path, "clip", flax_file(tmp_path / "b", halves), "b.safetensors").arrays, expected)


def test_msgpack_in_its_other_forms(tmp_path, monkeypatch):
    monkeypatch.setattr(flax.serialization, "MAX_CHUNK_SIZE", 1000)  # arrays in pieces, as those beyond 2 GB are
    path = flax_file(tmp_path / "a")
    assert b"__msgpack_chunked_array__" in path.read_bytes()
    same(converted(tmp_path, "clip", path, "a.safetensors").arrays, CLIP_FLAT)
    monkeypatch.undo()
    places = {**CLIP_FLAT, "text_model/embeddings/position_ids": np.arange(16)[None]}
    path = flax_file(tmp_path / "b", places, wrap=lambda tree: {"params": tree})
    same(converted(tmp_path, "clip", path, "b.safetensors").arrays, CLIP_FLAT)
    scalar = {**CLIP_FLAT, "logit_scale": np.float32(CLIP_FLAT["logit_scale"])}
    write_clip_settings(tmp_path, CLIP_TINY, CLIP_WORDS)
    path = written(tmp_path / "c.msgpack", flax.serialization.msgpack_serialize(encoders.nested(scalar)))
    same(converted(tmp_path, "clip", path, "c.safetensors").arrays, CLIP_FLAT)


NAMES = "model.safetensors or flax_model.msgpack"


def torch_in(folder, arrays):
    return torch_file(folder / "a", arrays)


def without(arrays, part):
    return {name: value for name, value in arrays.items() if part not in name}


WRONG_CLIP = {
    "PyTorch's pickle": (
        lambda at: written(at / "pytorch_model.bin", b"PK\x03\x04" + b"x" * 99),
        f"PyTorch pickle; use {NAMES}",
    ),
    "an old one": (lambda at: written(at / "x.bin", b"\x80\x02\x8a\nl\xfc\x9c"), "found a PyTorch pickle"),
    "a folder without": (
        lambda at: written(at / "a/pytorch_model.bin", b"PK").parent,
        "found neither model.safetensors nor",
    ),
    "nothing": (lambda at: at / "missing", "missing: no such file"),
    "an empty file": (lambda at: written(at / "x", b""), "damaged or not one of"),
    "text": (lambda at: written(at / "x", b"hello, world, this is no model"), "damaged or not one of"),
    "half a safetensors": (
        lambda at: written(at / "x", torch_file(at / "a").read_bytes()[:-9]),
        "damaged or not a safetensors file",
    ),
    "half a msgpack": (lambda at: written(at / "x", flax_file(at).read_bytes()[:-9]), "damaged or not one of"),
    "the vision tower alone": (
        lambda at: torch_in(at, without(CLIP_TORCH, "text")),
        "no parameters of clip that determine vocabulary, text_dim, text_depth, text_length; found: ",
    ),
    "one missing": (
        lambda at: torch_in(at, without(CLIP_TORCH, "layers.1.mlp.fc1.bias")),
        r"layers/1/mlp/fc1/bias: found none, expected \(192,\) \(and 1 more\)",
    ),
    "one too many": (
        lambda at: torch_in(at, {**CLIP_TORCH, "extra": np.ones(1, np.float32)}),
        r"extra: found \(1,\), expected none in a clip of 2 blocks",
    ),
    "msgpack of a list": (lambda at: written(at / "x", flax.serialization.msgpack_serialize([1, 2])), "found list"),
    "msgpack very deep": (lambda at: written(at / "x", b"\x81\xa1a" * 900 + b"\x01"), "too deep"),
    "msgpack that claims": (lambda at: written(at / "x", b"\xdf\xff\xff\xff\xff" * 3), "damaged or not one of"),
    "msgpack of text": (lambda at: flax_file(at, {}, wrap=lambda _: {"a": "x"}), "a: found str, expected an array"),
}


@pytest.mark.parametrize("case", WRONG_CLIP)
def test_what_is_no_clip_is_named(tmp_path, case):
    make, message = WRONG_CLIP[case]
    src = make(tmp_path)
    with pytest.raises(InputError, match=message) as caught:
        converted(tmp_path, "clip", src)
    assert str(caught.value).startswith(str(src)) and "\n" not in str(caught.value) and len(str(caught.value)) < 600
    assert not (tmp_path / "out.safetensors").exists()


@settings(max_examples=60)
@given(data=st.data(), kind=st.sampled_from(["torch", "flax"]))
def test_damaged_files_of_clip_give_one_line_or_arrays(tmp_path_factory, data, kind):
    folder = tmp_path_factory.getbasetemp() / "damaged"
    small = {name: value for name, value in (CLIP_TORCH if kind == "torch" else CLIP_FLAT).items() if value.size < 99}
    content = bytearray((torch_file if kind == "torch" else flax_file)(folder, small).read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, min(len(content) - 1, 4000)))] = data.draw(st.integers(0, 255))
    path = written(folder / "x", bytes(content[: data.draw(st.integers(0, len(content)))]))
    with pytest.raises(InputError) as caught:  # at the latest because parameters are missing
        read_published(path, "clip")
    assert "\n" not in str(caught.value)


# Both.

sizes = st.fixed_dictionaries(
    {"dim": st.sampled_from([8, 12, 32]), "depth": st.integers(1, 3), "patch_size": st.sampled_from([4, 8, 16])}
)
towers = st.fixed_dictionaries({
    "text_dim": st.sampled_from([8, 16]), "text_depth": st.integers(1, 3), "projection": st.integers(8, 12),
    "side": st.integers(1, 3), "text_length": st.integers(2, 9),
})  # fmt: skip


def random_arrays(config, vocabulary, seed):
    numbers = np.random.default_rng(seed)
    shapes = encoder_shapes(config, vocabulary_size=vocabulary)
    return {name: numbers.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}


def in_torch(arrays):
    """Ours by PyTorch's names: what the test's own mapping turns back into them."""
    found = {}
    for name, value in arrays.items():
        *folders, last = name.split("/")
        if last == "kernel":
            value = value.transpose(3, 2, 0, 1) if value.ndim == 4 else value.T
        found[".".join([*folders, "weight" if last in ("kernel", "scale", "embedding") else last])] = value
    back = encoders.clip_params({f"param/{name}": value for name, value in found.items()})
    same(back, arrays)
    return found


@settings(max_examples=5)
@given(size=sizes, vocabulary=st.integers(2, 50), seed=st.integers(0, 99), protocol=st.integers(2, 5))
def test_converting_changes_no_bit_of_any_m3ae(tmp_path_factory, size, vocabulary, seed, protocol):
    config, folder = M3AEConfig(name="x", kind="m3ae", **size), tmp_path_factory.mktemp("m3ae")
    arrays = random_arrays(config, vocabulary, seed)
    state = {"params": frozen(encoders.nested(arrays)), "opt_state": [np.int32(7)]}
    src = written(folder / "x.pkl", pickle.dumps({"step": 1, "state": state}, protocol))
    found = converted(folder, "m3ae", src)
    same(found.arrays, arrays)
    published = read_published(src, "m3ae")
    assert published.vocabulary == vocabulary and published.config == replace(config, name="m3ae")


@settings(max_examples=5)
@given(size=sizes, tower=towers, vocabulary=st.integers(2, 50), seed=st.integers(0, 99))
def test_converting_changes_no_bit_of_any_clip(tmp_path_factory, size, tower, vocabulary, seed):
    folder, side = tmp_path_factory.mktemp("clip"), tower.pop("side")
    config = ClipConfig(name="x", kind="clip", text_heads=1, image_size=side * size["patch_size"], **size, **tower)
    arrays = random_arrays(config, vocabulary, seed)
    settings = {"config": config, "vocabulary": vocabulary}
    torch = torch_file(folder / "a", in_torch(arrays), **settings)
    same(converted(folder, "clip", torch).arrays, arrays)
    flax = converted(folder, "clip", flax_file(folder, arrays, **settings), "flax")
    same(flax.arrays, arrays)
    published = read_published(torch, "clip")
    assert published.vocabulary == vocabulary and published.config == replace(config, name="clip")


def test_a_file_says_where_it_comes_from(tmp_path):
    from safetensors import safe_open

    src = torch_file(tmp_path / "a")
    converted(tmp_path, "clip", tmp_path / "a")
    with safe_open(tmp_path / "out.safetensors", "numpy") as file:
        about = file.metadata()
    assert about["source"] == "a" and about["source_sha256"] == download.sha256(src) and about["kind"] == "clip"


def test_what_is_there_is_not_replaced_unless_asked(tmp_path):
    src, out = written(tmp_path / "model.pkl", published_pickle()), tmp_path / "out.safetensors"
    words = ("convert", "kind=m3ae", f"src={src}", f"out={out}")
    run(*words)
    first, stat = out.read_bytes(), out.stat().st_mtime_ns
    run(*words)  # the same weights: nothing to do
    assert out.stat().st_mtime_ns == stat
    other = written(
        tmp_path / "other.pkl", published_pickle(with_param("cls_token", np.ones(CLS, np.float32))["params"])
    )
    again = ("convert", "kind=m3ae", f"src={other}", f"out={out}")
    with pytest.raises(InputError, match=r"out.safetensors: found another file; .* overwrite=true"):
        run(*again)
    assert out.read_bytes() == first
    run(*again, "overwrite=true")
    assert (read_weights(out, kind="m3ae").arrays["cls_token"] == 1).all()
    out.write_bytes(first[:-1])  # damaged
    with pytest.raises(InputError, match="found another file"):
        run(*words)
    run(*words, "overwrite=true")
    same(read_weights(out, kind="m3ae").arrays, M3AE_FLAT)
    with pytest.raises(InputError, match="found the source file"):
        run("convert", "kind=m3ae", f"src={src}", f"out={src}", "overwrite=true")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model.pkl", "other.pkl", "out.safetensors"]


WRONG_WORDS = {
    "": "command: found nothing; allowed: convert, fetch",
    "train": "command: found train; allowed: convert, fetch",
    "convert m3ae": "m3ae: cannot be read as key=value",
    "convert kind=vit src=a out=b": "kind: found vit; allowed: m3ae, clip",
    "convert kind=m3ae out=b": r"src: no value given; write src=\.\.\.",
    "convert kind=m3ae src=a out=b url=c": "url: no such setting",
    "convert kind=m3ae src=a out=b overwrite=perhaps": "overwrite: found perhaps; allowed: true or false",
    "fetch kind=m3ae": "name: found null; allowed for m3ae: b16, h16, l16, s16",
    "fetch kind=clip name=tiny": "name: found tiny; allowed for clip: b16, b32, l14",
    "fetch kind=m3ae name=tiny": "name: found tiny",
    "fetch kind=m3ae name=b16 url=http://127.0.0.1/x sha256=abc": "sha256: found abc; allowed: 64 hexadecimal digits",
}


@pytest.mark.parametrize("words", WRONG_WORDS)
def test_a_wrong_command_is_answered_in_one_line(tmp_path, monkeypatch, words):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=WRONG_WORDS[words]) as caught:
        run(*words.split())
    assert "\n" not in str(caught.value) and not list(tmp_path.iterdir())


def test_the_command_line(tmp_path):
    src = written(tmp_path / "model.pkl", published_pickle())

    def command(*words):
        line = [sys.executable, "-m", "data_tools.weights", *words]
        return subprocess.run(line, capture_output=True, text=True, cwd=ROOT, check=False)

    done = command("convert", "kind=m3ae", f"src={src}", f"out={tmp_path}/out.safetensors")
    assert done.returncode == 0 and "vocabulary 120" in done.stdout and not done.stderr
    same(read_weights(tmp_path / "out.safetensors", kind="m3ae").arrays, M3AE_FLAT)
    done = command("convert", "kind=clip", f"src={src}", f"out={tmp_path}/clip.safetensors")
    assert done.returncode == 2 and done.stderr.startswith("error: ") and len(done.stderr.splitlines()) == 1
    done = command("--help")
    assert done.returncode == 0 and "of clip: b16, b32, l14" in done.stdout


# Errors of training that name the command.


@pytest.mark.parametrize("option", [*weights.options_of("m3ae"), *weights.options_of("clip")])
def test_the_command_that_a_missing_file_names_is_the_right_one(tmp_path, option):
    encoder = weights.encoder_option(option)
    for path in (Path(encoder.weights), tmp_path / "a b.safetensors"):
        with pytest.raises(InputError, match="no encoder weights found") as caught:
            check_weights(path, encoder)
        _, found, command = str(caught.value).partition("get them with ")
        if encoder.tokenizer == "small":
            assert not found and "encoder.weights=null" in str(caught.value)
            continue
        if encoder.kind == "m3ae":  # published without a fixed address
            _, _, command = str(caught.value).partition(
                f"the folder that {M3AE_PAGE} links under Pre-trained Model Weights, and run "
            )
            command_config = weights.parse(shlex.split(command)[3:])
            assert (command_config.kind, Path(command_config.out)) == ("m3ae", path)
            continue
        words = shlex.split(command)
        assert words[:4] == ["python", "-m", "data_tools.weights", "fetch"]
        command_config = weights.parse(words[3:])
        assert (
            f"{command_config.kind}_{command_config.name}" == option
            and command_config.name in weights.downloadable_options(command_config.kind)
        )
        assert Path(command_config.out or weights.encoder_option(option).weights) == path


OTHER_SIZES = [
    (M3AE_TINY, {"dim": 32}, "dim 64, expected 32"),
    (M3AE_TINY, {"depth": 2}, "depth 3, expected 2"),
    (M3AE_TINY, {"patch_size": 8}, "patch_size 16, expected 8"),
    (CLIP_TINY, {"dim": 32}, "dim 64, expected 32"),
    (CLIP_TINY, {"image_size": 32}, "image_size 64, expected 32"),
    (CLIP_TINY, {"text_depth": 3}, "text_depth 2, expected 3"),
    (CLIP_TINY, {"projection": 8}, "projection 32, expected 8"),
]


@pytest.mark.parametrize(("config", "change", "key"), OTHER_SIZES)
def test_weights_of_another_size_are_named_before_any_work(tmp_path, config, change, key):
    path = tmp_path / "w.safetensors"
    write_weights(path, random_arrays(config, 9, 0), kind=config.kind, source="random")
    check_weights(path, config)
    with pytest.raises(InputError, match=f"{path}: found weights with {key}, as in encoder={config.name}"):
        check_weights(path, replace(config, **change))


def test_the_text_towers_size_is_of_no_interest_without_text(tmp_path):
    path = tmp_path / "w.safetensors"
    write_weights(path, random_arrays(CLIP_TINY, CLIP_WORDS, 0), kind="clip", source="random")
    check_weights(path, replace(CLIP_TINY, text=False, text_depth=3))


# fetch.


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A hub with the tiny recorded CLIP and the tokenizers, for the default output paths."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr(download, "BACKOFF", 0.001)
    monkeypatch.setattr(download, "CHUNK", 1 << 12)
    real = weights.encoder_option
    tiny = {"m3ae_b16": M3AE_TINY, "clip_b16": CLIP_TINY}

    def option(name):
        encoder = real(name)
        keys = (
            "dim",
            "depth",
            "heads",
            "patch_size",
            "image_size",
            "text_dim",
            "text_depth",
            "projection",
            "text_length",
        )
        if name not in tiny:
            return encoder
        return replace(encoder, **{key: getattr(tiny[name], key) for key in keys if hasattr(encoder, key)})

    monkeypatch.setattr(weights, "encoder_option", option)
    with serving() as server:
        monkeypatch.setenv("HF_ENDPOINT", server.url)
        server.files[f"{CLIP}/model.safetensors"] = torch_file(tmp_path / "source").read_bytes()
        server.files[f"{CLIP}/flax_model.msgpack"] = flax_file(tmp_path / "source").read_bytes()
        server.files[f"{CLIP}/tokenizer.json"] = server.files[f"{BERT}/tokenizer.json"] = b'{"version": "1.0"}'
        for name in ("config.json", "preprocessor_config.json"):
            server.files[f"{CLIP}/{name}"] = (tmp_path / "source" / name).read_bytes()
        server.files["/model.pkl"] = published_pickle()
        yield server


CLIP, BERT = "/openai/clip-vit-base-patch16/resolve/main", "/bert-base-uncased/resolve/main"
CLIP_OUT, M3AE_OUT = Path("weights/clip_b16.safetensors"), Path("weights/m3ae_b16.safetensors")
CLIP_WORDS_FILE = Path("weights/tokenizers/openai--clip-vit-base-patch16/tokenizer.json")
BERT_WORDS_FILE = Path("weights/tokenizers/bert-base-uncased/tokenizer.json")


def fetch(*words):
    weights.fetch(weights.parse(["fetch", *words]))


def files_in(folder=Path("weights")):
    """All files except locks."""
    return sorted(path for path in folder.rglob("*") if path.is_file() and path.name != ".lock")


def test_fetching_clip_brings_weights_and_tokenizer_to_their_places(hub, capsys):
    fetch("kind=clip", "name=b16")
    same(read_weights(CLIP_OUT, kind="clip").arrays, CLIP_FLAT)
    assert CLIP_WORDS_FILE.read_bytes() == b'{"version": "1.0"}'
    assert files_in() == sorted([CLIP_OUT, CLIP_WORDS_FILE])
    printed = capsys.readouterr().out
    assert f"from openai/clip-vit-base-patch16@{COMMIT}/model.safetensors" in printed and "clip b16" in printed
    hub.requests.clear()
    fetch("kind=clip", "name=b16")  # everything is present
    assert hub.requests == [] and "exists already" in capsys.readouterr().out


def test_fetching_an_encoder_of_images_brings_no_tokenizer_but_the_licence(hub, monkeypatch, capsys):
    golden, keys = reference("dinov2_tiny"), ("dim", "depth", "heads", "patch_size", "image_size", "position_grid")
    tiny_sizes = {key: getattr(DINOV2_TINY, key) for key in keys}
    tiny_option = replace(weights.encoder_option("dinov2_s14"), **tiny_sizes)
    monkeypatch.setattr(type(tiny_option), "repository", "facebook/dinov2-small")
    monkeypatch.setattr(weights, "encoder_option", lambda name: tiny_option)
    for name, content in (
        ("model.safetensors", save(golden["tensors"])),
        ("config.json", json.dumps(golden["settings"]).encode()),
        ("README.md", b"---\nlicense: apache-2.0\n---\n"),
    ):
        hub.files[f"/facebook/dinov2-small/resolve/main/{name}"] = content
    fetch("kind=dinov2", "name=s14")
    out = Path("weights/dinov2_s14.safetensors")
    assert files_in() == [out] and read_weights(out, kind="dinov2").licence == "apache-2.0"
    assert f"from facebook/dinov2-small@{COMMIT}/model.safetensors, licence apache-2.0" in capsys.readouterr().out
    hub.files.clear()
    out.unlink()
    with pytest.raises(InputError) as caught:
        fetch("kind=dinov2", "name=s14")
    line = str(caught.value)
    assert "facebook/dinov2-small: the repository has no config.json; download " in line and "tokenizer" not in line


def test_a_fetch_that_broke_off_goes_on(hub):
    size = len(hub.files[f"{CLIP}/model.safetensors"])
    hub.break_after = [*[10**6] * 3, size // 2, *[0] * 20]  # tokenizer and settings are complete
    with pytest.raises(InputError, match="the same command resumes it"):
        fetch("kind=clip", "name=b16")
    hub.break_after, hub.requests = [], []
    fetch("kind=clip", "name=b16")
    starts = [
        start for method, path, start in hub.requests if (method, Path(path).name) == ("GET", "model.safetensors")
    ]
    assert len(starts) == 1 and starts[0] > size // 4
    same(read_weights(CLIP_OUT, kind="clip").arrays, CLIP_FLAT)
    assert files_in() == sorted([CLIP_OUT, CLIP_WORDS_FILE])


def test_a_repository_without_safetensors_has_msgpack(hub):
    del hub.files[f"{CLIP}/model.safetensors"]
    fetch("kind=clip", "name=b16")
    same(read_weights(CLIP_OUT, kind="clip").arrays, CLIP_FLAT)
    CLIP_OUT.unlink()
    del hub.files[f"{CLIP}/flax_model.msgpack"]
    with pytest.raises(InputError, match=r"has neither model\.safetensors nor flax_model\.msgpack; download "):
        fetch("kind=clip", "name=b16")


def shard_weights(hub):
    """Replace the hub's single file by two shards and their index."""
    del hub.files[f"{CLIP}/model.safetensors"]
    names, places = sorted(CLIP_TORCH), {}
    for number in range(2):
        part = {name: np.array(CLIP_TORCH[name], order="C") for name in names[number::2]}
        file = f"model-0000{number + 1}-of-00002.safetensors"
        hub.files[f"{CLIP}/{file}"] = save(part)
        places |= dict.fromkeys(part, file)
    hub.files[f"{CLIP}/model.safetensors.index.json"] = json.dumps({"weight_map": places}).encode()


def test_a_repository_with_shards(hub):
    shard_weights(hub)
    second = hub.files.pop(f"{CLIP}/model-00002-of-00002.safetensors")
    with pytest.raises(InputError, match=r"has no model-00002-of-00002\.safetensors, which its .*index\.json names$"):
        fetch("kind=clip", "name=b16")
    hub.files[f"{CLIP}/model-00002-of-00002.safetensors"] = second
    hub.requests.clear()
    fetch("kind=clip", "name=b16")
    assert [path for method, path, _ in hub.requests if method == "GET" and "-of-" in path] == [
        f"{CLIP}/model-00002-of-00002.safetensors"  # the first one is there already
    ]
    found = read_weights(CLIP_OUT, kind="clip")
    same(found.arrays, CLIP_FLAT)
    assert found.architecture["heads"] == CLIP_TINY.heads
    assert files_in() == sorted([CLIP_OUT, CLIP_WORDS_FILE])


def test_clip_from_a_direct_link_with_the_settings_beside_it(hub):
    url = f"{hub.url}{CLIP}/flax_model.msgpack?download=true"
    hub.files[f"{CLIP}/flax_model.msgpack?download=true"] = hub.files[f"{CLIP}/flax_model.msgpack"]
    fetch("kind=clip", "name=b16", f"url={url}")
    found = read_weights(CLIP_OUT, kind="clip")
    same(found.arrays, CLIP_FLAT)
    assert found.architecture == CLIP_TINY.architecture(vocabulary=CLIP_WORDS, rendered_size=64)
    del hub.files[f"{CLIP}/config.json"]
    with pytest.raises(InputError, match=r"/config\.json: the server has no such file, which belongs to the weights"):
        fetch("kind=clip", "name=b16", f"url={url}", "overwrite=true")
    same(read_weights(CLIP_OUT, kind="clip").arrays, CLIP_FLAT)


def test_a_wrong_checksum_of_the_hub(hub):
    hub.etags[f"{CLIP}/model.safetensors"] = "0" * 64
    with pytest.raises(InputError, match="it was deleted"):
        fetch("kind=clip", "name=b16")
    assert not CLIP_OUT.exists() and not list(Path("weights").rglob("model.safetensors"))


def test_m3ae_from_a_direct_link(hub):
    digest = hub.etag("/model.pkl")
    fetch("kind=m3ae", "name=b16", f"url={hub.url}/model.pkl", f"sha256={digest.upper()}")
    same(read_weights(M3AE_OUT, kind="m3ae").arrays, M3AE_FLAT)
    assert files_in() == sorted([M3AE_OUT, BERT_WORDS_FILE])
    with pytest.raises(InputError, match="it was deleted"):
        fetch("kind=m3ae", "name=b16", f"url={hub.url}/model.pkl", f"sha256={'0' * 64}", "overwrite=true")
    with pytest.raises(InputError, match=f"{hub.url}/missing.pkl: the server has no such file"):
        fetch("kind=m3ae", "name=b16", f"url={hub.url}/missing.pkl", "overwrite=true")
    same(read_weights(M3AE_OUT, kind="m3ae").arrays, M3AE_FLAT)


def test_m3ae_of_another_size_is_refused_and_kept(hub):
    with pytest.raises(
        InputError,
        match=r"/m3ae_l16.download: found weights with dim 64, expected 1024, as in encoder=m3",
    ):
        fetch("kind=m3ae", "name=l16", f"url={hub.url}/model.pkl")
    assert Path("weights/downloads/m3ae_l16.download").read_bytes() == hub.files["/model.pkl"]
    assert not Path("weights/m3ae_l16.safetensors").exists()


def commands(message):
    """Parse the commands in a message."""
    found = re.findall(r"python -m data_tools\.weights ([^;]*?)(?:, or |;|$)", message)
    return [weights.parse(shlex.split(words)) for words in found]


@pytest.mark.parametrize("name", weights.downloadable_options("m3ae"))
def test_m3ae_without_a_link_says_where_it_is_and_what_then_to_do(hub, name):
    """And says the same as a training whose weights are missing."""
    encoder = weights.encoder_option(f"m3ae_{name}")
    with pytest.raises(InputError) as missing:
        check_weights(Path(encoder.weights), encoder)
    _, _, steps = str(missing.value).partition("no encoder weights found; ")
    size = {"s16": "small", "b16": "base", "l16": "large", "h16": "huge"}[name]
    assert steps.startswith(f"download the pickle of M3AE {size} (not of MAE) from the folder that {M3AE_PAGE} links ")
    with pytest.raises(InputError) as caught:
        fetch("kind=m3ae", f"name={name}")
    assert steps in str(caught.value) and "tokenizer" not in str(caught.value)
    [command_config] = commands(str(caught.value))
    assert command_config == weights.ConvertConfig(kind="m3ae", src="FILE", out=encoder.weights)
    assert files_in() == [BERT_WORDS_FILE]


@pytest.mark.parametrize(("kind", "out"), [("clip", CLIP_OUT), ("m3ae", M3AE_OUT)])
def test_weights_that_cannot_be_replaced_are_named_with_the_command_that_replaces_them(hub, kind, out):
    write_weights(out, CLIP_FLAT if kind == "clip" else M3AE_FLAT, kind=kind, source="test")
    hub.shutdown()
    hub.server_close()
    with pytest.raises(InputError) as caught:
        fetch(f"kind={kind}", "name=b16", "overwrite=true")
    [command_config] = commands(str(caught.value))
    assert command_config == weights.ConvertConfig(kind=kind, src="FILE", out=str(out), overwrite=True)


def test_an_encoder_of_ones_own_is_not_sent_to_a_command_that_does_not_know_it(tmp_path):
    encoder = replace(weights.encoder_option("clip_b16"), name="mine")
    with pytest.raises(InputError, match=r"no encoder weights found; convert published ones with ") as caught:
        check_weights(tmp_path / "w.safetensors", encoder)
    [command_config] = commands(str(caught.value))
    assert command_config == weights.ConvertConfig(kind="clip", src="FILE", out=f"{tmp_path}/w.safetensors")


@pytest.mark.parametrize(
    ("kind", "out", "tokenizer"), [("clip", CLIP_OUT, CLIP_WORDS_FILE), ("m3ae", M3AE_OUT, BERT_WORDS_FILE)]
)
def test_without_a_network_one_line_says_which_file_goes_where(hub, monkeypatch, kind, out, tokenizer):
    hub.shutdown()
    hub.server_close()
    with pytest.raises(InputError) as caught:
        fetch(f"kind={kind}", "name=b16")
    message = str(caught.value)
    assert "\n" not in message and f"/tokenizer.json at {tokenizer}" in message and files_in() == []
    [command_config] = commands(message)
    assert command_config == weights.ConvertConfig(kind=kind, src="FILE", out=str(out))
    if kind == "clip":
        assert (
            f"download {hub.url}{CLIP}/model.safetensors, {hub.url}{CLIP}/config.json" in message
            and "cannot be reached" in message
        )


def test_files_that_were_put_there_by_hand_are_taken(hub):
    hub.shutdown()
    hub.server_close()
    run("convert", "kind=clip", "src=source", f"out={CLIP_OUT}")
    written(CLIP_WORDS_FILE, b"{}")
    fetch("kind=clip", "name=b16")
    assert CLIP_WORDS_FILE.read_bytes() == b"{}"


def test_another_place(hub):
    fetch("kind=clip", "name=b16", "out=there/w.safetensors")
    same(read_weights(Path("there/w.safetensors"), kind="clip").arrays, CLIP_FLAT)
    assert Path("there/tokenizers/openai--clip-vit-base-patch16/tokenizer.json").exists()


def test_only_one_process_downloads(hub):
    from instructrl.storage.file_lock import exclusive_lock

    with (
        exclusive_lock(Path("weights/downloads"), activity="", busy_hint=""),
        pytest.raises(InputError, match="another process downloads"),
    ):
        fetch("kind=clip", "name=b16")


def test_the_command_fetches_from_the_hub_that_the_environment_names(hub, tmp_path):
    (tmp_path / "weights").mkdir()
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "HF_HUB_DISABLE_PROGRESS_BARS": "1"}
    command = [sys.executable, "-m", "data_tools.weights", "fetch", "kind=clip", "name=b16"]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 2 and len(done.stderr.splitlines()) == 1, (
        done.stderr
    )  # it is not as large as it should be
    assert "found weights with dim 64, expected 768, as in encoder=clip_b16" in done.stderr
    assert CLIP_WORDS_FILE.exists() and json.loads(CLIP_WORDS_FILE.read_text())


# From a published file to a trained agent.


def test_train_py_trains_with_a_converted_pickle(tmp_path):
    size = M3AEConfig(name="x", kind="m3ae", dim=16, depth=2, heads=2, patch_size=16)
    words = make_tokenizer(size).vocabulary_size
    masked = MaskedM3AE(size, words, decoder_dim=16, decoder_depth=1, decoder_heads=2)
    image, text = np.zeros((1, 32, 32, 3), np.uint8), np.zeros((1, 32), np.int32)
    given = (image, text, np.zeros((1, 32), np.float32), np.arange(2), np.arange(16))
    params = masked.init(jax.random.key(0), *given, method=MaskedM3AE.reconstruct)["params"]
    variant = {"m3ae.model_type": None, "m3ae.num_heads": 2, "data.tokenizer_max_length": 32, "data.image_size": 32}
    src = written(tmp_path / "model.pkl", published_pickle(jax.device_get(params), variant=variant))
    out = tmp_path / "w.safetensors"
    settings = tiny.overrides(
        tmp_path, "encoder=m3ae_b16", "encoder.dim=16", "encoder.depth=2", "encoder.heads=2", "encoder.tokenizer=small",
        "encoder.text_length=32", "encoder.image_size=32", f"encoder.weights={out}", "training.epochs=2",
        "training.token_dropout=0", "name=run",
    )  # fmt: skip

    def command(*words):
        return subprocess.run([sys.executable, *words], capture_output=True, text=True, cwd=ROOT, check=False)

    missing = command("train.py", *settings)
    assert missing.returncode == 2 and missing.stderr == (
        f"error: {out}: no encoder weights found; none are published for it: "
        "name a file of your own, or use encoder.weights=null for random ones\n"
    )
    done = command("-m", "data_tools.weights", "convert", "kind=m3ae", f"src={src}", f"out={out}")
    assert done.returncode == 0, done.stderr
    other = command("train.py", *settings, "encoder.heads=4")
    assert other.returncode == 2 and other.stderr == (
        f"error: encoder.heads: found 4; allowed: 2, as in the training of {out}; set encoder.heads=2\n"
    )
    assert not (tmp_path / "data").exists()
    done = command("train.py", *settings)
    assert done.returncode == 0, done.stderr
    run = tmp_path / "outputs/run"
    assert [line["epoch"] for line in read_lines(run / "metrics.jsonl") if line["split"] == "val"] == [1, 2]
    recorded = json.loads((run / "data.json").read_text())["encoder"]["checksum"]
    assert recorded == read_weights(out, kind="m3ae").checksum
