"""An image encoder reads the image, and the text tower of another one the instruction, with the weights of both."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from instructrl.config import model
from instructrl.config.encoders import ScratchTinyConfig
from instructrl.config.model import TEXT_ENCODERS, EncoderConfig, named_encoder
from instructrl.data.text.tokenizer import make_tokenizer
from instructrl.errors import InputError
from instructrl.models.encoders.registry import encoder_shapes, layer_depths_from_top, make_encoder
from instructrl.models.initialization import draw_params
from instructrl.models.weight_files import write_weights
from instructrl.training.parameters.encoder_weights import load_encoder_weights, store_frozen_encoder, weight_source
from tests.fixtures.encoders import CLIP_TINY, DINOV2_TINY, M3AE_TINY, SIGLIP2_TINY, T5_TINY, nested
from tests.fixtures.published_encoders import random_images

pytestmark = pytest.mark.usefixtures("optimized")
SCRATCH = ScratchTinyConfig(name="scratch", kind="scratch_tiny", dim=16, depth=1, patch_size=4, image_size=28)
IMAGE_ENCODERS = [SCRATCH, replace(M3AE_TINY, patch_size=4), CLIP_TINY, SIGLIP2_TINY, DINOV2_TINY]
WORDS = 40  # entries of a vocabulary


def paired(
    monkeypatch: pytest.MonkeyPatch, image: EncoderConfig, text: EncoderConfig, **settings: Any
) -> EncoderConfig:
    """The settings of an image encoder with the text tower of another one, as if that were an option."""
    monkeypatch.setattr(model, "named_encoder", lambda name: text)
    return replace(image, text="siglip2_b16", **settings)


@pytest.mark.parametrize("text", [CLIP_TINY, SIGLIP2_TINY, T5_TINY], ids=lambda one: one.kind)
@pytest.mark.parametrize("image", IMAGE_ENCODERS, ids=lambda one: one.kind)
def test_any_image_encoder_goes_with_any_text_tower(
    monkeypatch: pytest.MonkeyPatch, image: EncoderConfig, text: EncoderConfig
) -> None:
    config = paired(monkeypatch, image, text)
    shapes, alone = (encoder_shapes(one, vocabulary_size=WORDS) for one in (config, replace(image, text=False)))
    assert {name: shapes[f"image/{name}"] for name in alone} == alone
    read = {name.removeprefix("text/") for name in shapes} - {f"image/{name}" for name in alone}
    assert read == {name for name in encoder_shapes(text, vocabulary_size=WORDS) if not name.startswith("vis")}
    assert not config.reads_jointly


def test_features_are_those_of_each(monkeypatch: pytest.MonkeyPatch) -> None:
    config = paired(monkeypatch, replace(DINOV2_TINY, layers="all"), SIGLIP2_TINY)
    images, tokens = random_images(2, 28)[:, None, None], np.full((2, 8), 3, np.int32)
    inputs = (images, tokens, np.zeros((2, 8), np.float32))
    pair = make_encoder(config, vocabulary_size=WORDS)
    params = draw_params(pair, jax.random.key(0), *inputs)
    found = pair.apply({"params": params}, *inputs)
    image = make_encoder(replace(DINOV2_TINY, layers="all"), vocabulary_size=1)
    expected = image.apply({"params": params["image"]}, *inputs)
    np.testing.assert_array_equal(found.pooled, expected.pooled)
    np.testing.assert_array_equal(found.patches, expected.patches)
    text = make_encoder(replace(SIGLIP2_TINY, layers="all"), vocabulary_size=WORDS)
    read = text.apply({"params": params["text"]}, *inputs[1:], method="text_features")
    np.testing.assert_array_equal(found.text, read)
    depths = layer_depths_from_top(encoder_shapes(config, vocabulary_size=WORDS))
    assert depths["image/vision_model/encoder/layers/1/layer_scale1"] == 1
    assert depths["text/text_model/head/kernel"] == 0
    assert depths["text/text_model/embeddings/token_embedding/embedding"] == 3


def arrays_of(config: EncoderConfig, seed: int, words: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    shapes = encoder_shapes(config, vocabulary_size=words)
    return {name: rng.normal(0, 0.1, shape).astype(np.float32) for name, shape in shapes.items()}


def test_weights_come_from_both_files(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    config = paired(
        monkeypatch,
        DINOV2_TINY,
        replace(CLIP_TINY, tokenizer="small"),
        weights=str(tmp_path / "image.safetensors"),
        text_weights=str(tmp_path / "text.safetensors"),
    )
    monkeypatch.setattr(type(CLIP_TINY), "tokens", "")  # the small vocabulary will do
    tokenizer = make_tokenizer(config)
    assert tokenizer.length == CLIP_TINY.text_length
    files = {"image": arrays_of(DINOV2_TINY, 0, 1), "text": arrays_of(CLIP_TINY, 1, tokenizer.vocabulary_size)}
    for name, kind in (("image", "dinov2"), ("text", "clip")):
        write_weights(tmp_path / f"{name}.safetensors", files[name], kind=kind, source="random")
    shapes = encoder_shapes(config, vocabulary_size=tokenizer.vocabulary_size)
    params = {"encoder": nested({name: np.zeros(shape, np.float32) for name, shape in shapes.items()})}
    loaded = load_encoder_weights(config, params, tokenizer)["encoder"]
    assert jax.tree.structure(loaded) == jax.tree.structure(params["encoder"])
    kernel = loaded["text"]["text_projection"]["kernel"]
    np.testing.assert_array_equal(kernel, files["text"]["text_projection/kernel"])
    found = loaded["image"]["vision_model"]["embeddings"]["class_embedding"]
    np.testing.assert_array_equal(found, files["image"]["vision_model/embeddings/class_embedding"])
    before = weight_source(config, tmp_path)
    write_weights(tmp_path / "text.safetensors", arrays_of(CLIP_TINY, 2, 9), kind="clip", source="random")
    assert weight_source(config, tmp_path).checksum != before.checksum


def test_random_frozen_weights_of_both_are_kept_in_the_run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    config = paired(monkeypatch, DINOV2_TINY, replace(CLIP_TINY, tokenizer="small"))
    monkeypatch.setattr(type(CLIP_TINY), "tokens", "")
    tokenizer = make_tokenizer(config)
    flat = arrays_of(config, 0, tokenizer.vocabulary_size)
    stored, origin = store_frozen_encoder(
        config, {"encoder": nested(flat)}, tokenizer,
        run=tmp_path, rendered_size=28, resuming=False, seed=0, init_from=None,
    )  # fmt: skip
    assert origin.path.parent == tmp_path
    again = weight_source(config, tmp_path)
    assert again == origin
    np.testing.assert_array_equal(stored["encoder"]["text"]["logit_scale"], flat["text/logit_scale"])


WRONG: list[tuple[dict[str, Any], str]] = [
    (
        {"text": True},
        r"^encoder\.text: found true; allowed for encoder\.kind=dinov2, which reads images: false, clip_b32",
    ),
    (
        {"text_weights": "a"},
        r"^encoder\.text_weights: found a; allowed: null, or name its encoder, such as encoder\.text",
    ),
    ({"text_tokenizer": "a"}, r"^encoder\.text_tokenizer: found a; allowed: null, or name its encoder"),
    (
        {"text": "clip_b16", "text_weights": "a"},
        r"^encoder\.text_weights: found a; allowed: null with encoder\.weights=n",
    ),
]


@pytest.mark.parametrize(("settings", "line"), WRONG)
def test_settings_of_the_text_that_do_not_fit_are_one_line(settings: dict[str, Any], line: str) -> None:
    with pytest.raises(InputError, match=line):
        replace(DINOV2_TINY, **settings).check(28)


def test_a_missing_tokenizer_of_the_text_is_named_by_its_own_setting() -> None:
    config = replace(DINOV2_TINY, text="siglip2_b16", text_tokenizer="/none/tokenizer.json")
    with pytest.raises(
        InputError, match=r"^encoder\.text_tokenizer: found '/none/tokenizer\.json', which is not a file"
    ):
        make_tokenizer(config)


def test_every_name_is_an_option_with_a_text_tower_of_its_own() -> None:
    for name in TEXT_ENCODERS:
        config = named_encoder(name)
        assert config.name == name and config.text is True and not config.fuses_text
    pair = replace(DINOV2_TINY, text="siglip2_b16", weights="weights/a.safetensors")
    assert pair.reader.tokenizer == "google/siglip2-base-patch16-224" and pair.reader.text_length == 64
    assert pair.reader.weights == "weights/siglip2_b16.safetensors"
    assert pair.parts["image"].weights == "weights/a.safetensors" and pair.parts["image"].text is False
