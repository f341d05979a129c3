"""CLIP reproduces the reference outputs, from parameters named as in Hugging Face's flax model."""

import math
from dataclasses import replace

import jax
import numpy as np
import pytest
from PIL import Image

from instructrl.config.model import text_layers
from instructrl.models.encoders.clip import Clip
from instructrl.models.encoders.registry import encoder_shapes
from instructrl.models.layers.block_stack import DEFAULT_EXECUTION
from instructrl.models.layers.image_ops import resize
from instructrl.models.layers.vit import Block, BlockConfig
from tests.fixtures import encoders
from tests.fixtures.encoders import CLIP_TINY, CLIP_WORDS

pytestmark = pytest.mark.usefixtures("optimized")
GOLDEN = encoders.golden("clip_tiny")
FLAT = encoders.clip_params(GOLDEN)
PARAMS = encoders.nested(FLAT)
IMAGES, TEXT = GOLDEN["image"], GOLDEN["text"]
ALL = np.zeros(TEXT.shape, np.float32)  # the reference has no padding mask
close = {"rtol": 1e-5, "atol": 1e-5}


def model(**changes):
    return Clip(replace(CLIP_TINY, **changes), CLIP_WORDS)


def applied(model, *inputs, params=PARAMS, **options):
    """The result of a model as one compiled program."""
    return jax.jit(lambda *arrays: model.apply({"params": params}, *arrays, **options))(*inputs)


def test_every_layer_of_both_towers_is_the_references():
    vision = applied(model(), IMAGES, method=Clip.encode_images)
    read = applied(model(), TEXT, ALL, method=lambda model, *given: model.text_model(*given))
    for index in range(3):
        np.testing.assert_allclose(vision.hidden[index], GOLDEN[f"vision_hidden_{index}"], **close)
        np.testing.assert_allclose(read.hidden[index], GOLDEN[f"text_hidden_{index}"], **close)
    np.testing.assert_allclose(vision.hidden[-1], GOLDEN["vision_last_hidden"], **close)
    np.testing.assert_allclose(read.final, GOLDEN["text_last_hidden"], **close)


@pytest.mark.parametrize("padding", [ALL, (TEXT == 0).astype(np.float32)])
def test_embeddings_in_the_common_space_are_the_references(padding):
    image, text = applied(model(), IMAGES, TEXT, padding, method=Clip.embed_pairs)
    np.testing.assert_allclose(image, GOLDEN["image_embedding"], **close)
    np.testing.assert_allclose(text, GOLDEN["text_embedding"], **close)


def exact_gelu(x):
    return x * np.vectorize(lambda value: (1 + math.erf(value / math.sqrt(2))) / 2)(x)


def tanh_gelu(x):
    return x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))) / 2


ACTIVATIONS = {
    "quick_gelu": lambda x: x / (1 + np.exp(-1.702 * x)),
    "gelu": exact_gelu,
    "gelu_tanh": tanh_gelu,
}


def normed(x, weights, epsilon):
    centred = x - x.mean(axis=-1, keepdims=True)
    return centred / np.sqrt((centred**2).mean(axis=-1, keepdims=True) + epsilon) * weights["scale"] + weights["bias"]


def dense(x, weights):
    return x @ np.float64(weights["kernel"]) + weights["bias"]


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_activation_and_epsilon_are_those_of_the_settings(activation):
    """A block without attention, whose output is switched off, by formulas in float64."""
    epsilon, weights = 0.03, PARAMS["vision_model"]["encoder"]["layers"]["0"]
    silent = {**weights, "self_attn": jax.tree.map(np.zeros_like, weights["self_attn"])}
    x = np.random.default_rng(0).normal(size=(2, 5, 64)).astype(np.float32)
    config = BlockConfig(4, 256, activation, epsilon, np.float32, DEFAULT_EXECUTION)
    found = Block(config).apply({"params": silent}, x, None)
    hidden = ACTIVATIONS[activation](
        dense(normed(np.float64(x), weights["layer_norm2"], epsilon), weights["mlp"]["fc1"])
    )
    np.testing.assert_allclose(found, x + dense(hidden, weights["mlp"]["fc2"]), **close)


def test_images_are_normalized_by_the_settings():
    mean, std = [0.5, 0.25, 0.0], [0.5, 0.25, 1.0]
    ours = applied(model(image_mean=mean, image_std=std), IMAGES, method=Clip.encode_images)
    default = model()
    shifted = (IMAGES / 255 - np.array(mean)) / np.array(std) * default.config.image_std + default.config.image_mean
    other = applied(default, (shifted * 255).astype(np.float32), method=Clip.encode_images)
    np.testing.assert_allclose(ours.pooled, other.pooled, rtol=1e-4, atol=1e-4)


def test_features_of_all_layers():
    features = applied(model(layers="all"), IMAGES[:, None, None], TEXT, ALL)
    end = np.arange(3), TEXT.argmax(axis=1)
    vision = [GOLDEN["vision_hidden_1"].mean(axis=1), GOLDEN["image_embedding"]]
    text = [GOLDEN["text_hidden_1"][end], GOLDEN["text_embedding"]]
    np.testing.assert_allclose(features.pooled[:, 0, 0], np.concatenate(vision, axis=-1), **close)
    np.testing.assert_allclose(features.text, np.concatenate(text, axis=-1), **close)
    assert features.patches.shape == (3, 1, 1, 16, 64)


def test_without_the_instruction_only_the_image_is_read():
    vision = {name: PARAMS[name] for name in ("vision_model", "visual_projection")}
    features = applied(model(text=False), IMAGES[:, None, None], TEXT, ALL, params=vision)
    np.testing.assert_allclose(features.pooled[:, 0, 0], GOLDEN["image_embedding"], **close)
    assert features.text.shape == (3, 0)


def test_the_parameters_are_the_references():
    assert encoder_shapes(CLIP_TINY, vocabulary_size=CLIP_WORDS) == {name: np.shape(FLAT[name]) for name in FLAT}


@pytest.mark.parametrize(("layers", "depth", "expected"), [
    ("all", 24, tuple(range(12))), ("last", 24, (11,)), ([0, 11, 23], 24, (0, 5, 11)), ([3, 1], 12, (3, 1)),
])  # fmt: skip
def test_the_text_towers_layers_stand_at_the_same_relative_depth(layers, depth, expected):
    assert text_layers(replace(CLIP_TINY, layers=layers, depth=depth), 12) == expected


def test_words_after_the_end_and_padding_say_nothing():
    padding = (TEXT == 0).astype(np.float32)
    other = np.where(padding > 0, 7, TEXT)
    apply = jax.jit(lambda text: model(layers="all").apply({"params": PARAMS}, IMAGES[:, None, None], text, padding))
    np.testing.assert_array_equal(apply(TEXT).text, apply(other).text)


def test_a_hidden_word_is_not_read():
    hidden = ALL.copy()
    hidden[:, 2] = 1
    other = TEXT.copy()
    other[:, 2] = 5
    read = [applied(model(), IMAGES[:, None, None], text, hidden).text for text in (TEXT, other)]
    np.testing.assert_array_equal(*read)
    assert abs(np.asarray(read[0]) - GOLDEN["text_embedding"]).max() > 1e-3


@pytest.mark.parametrize(("size", "to"), [(256, 224), (128, 224), (96, 64), (64, 64)])
def test_images_are_resized_as_pil_does(size, to):
    smooth = np.random.default_rng(0).integers(0, 256, (12, 12, 3), np.uint8)
    for image in (np.asarray(Image.fromarray(smooth).resize((size, size))), np.kron(smooth, np.ones((22, 22, 1)))):
        image = np.uint8(image[:size, :size])
        expected = np.asarray(Image.fromarray(image).resize((to, to), Image.Resampling.BICUBIC), np.int64)
        found = np.asarray(resize(image[None], to))[0]
        assert abs(found - expected).max() <= 2
        assert (found == expected).mean() > 0.94


def test_images_of_another_size_are_brought_to_clips():
    images = np.random.default_rng(0).integers(0, 256, (1, 2, 1, 96, 96, 3), np.uint8)
    features = applied(model(), images, TEXT[:1], ALL[:1])
    assert features.patches.shape == (1, 2, 1, 16, 64)
