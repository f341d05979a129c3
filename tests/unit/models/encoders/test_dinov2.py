"""DINOv2, with and without registers, reproduces the outputs of the transformers library, interpolation included."""

from dataclasses import replace

import jax
import numpy as np
import pytest

from data_tools.weights.dinov2 import convert
from instructrl.config.encoders import Dinov2Config
from instructrl.models.encoders.dinov2 import Dinov2
from instructrl.models.encoders.registry import encoder_shapes, layer_depths_from_top
from instructrl.models.layers.positional import interpolate_positions
from tests.fixtures.encoders import DINOV2_TINY, nested
from tests.fixtures.published_encoders import random_images, reference

pytestmark = pytest.mark.usefixtures("optimized")
close = {"rtol": 1e-5, "atol": 1e-5}
CONFIGS = {"dinov2_tiny": DINOV2_TINY, "dinov2_tiny_reg": replace(DINOV2_TINY, registers=4)}
IMAGES = random_images(2, 28)  # 7 x 7 patches, where positions were learnt for 5 x 5
TOKENS = np.zeros((2, 3), np.int32)


def flat(name: str) -> dict[str, np.ndarray]:
    return dict(filter(None, (convert(key, value) for key, value in reference(name)["tensors"].items())))


@pytest.mark.parametrize("name", CONFIGS)
def test_every_layer_is_the_references(name: str) -> None:
    golden, params = reference(name), nested(flat(name))
    config: Dinov2Config = replace(CONFIGS[name], layers="all")
    model = Dinov2(config, 1)
    vision, features = jax.jit(
        lambda images: (
            model.apply({"params": params}, images, method=Dinov2.encode_images),
            model.apply({"params": params}, images[:, None, None], TOKENS, TOKENS.astype(np.float32)),
        )
    )(IMAGES)
    for index in range(3):
        np.testing.assert_allclose(vision.hidden[index], golden[f"hidden_{index}"], **close)
    final, skip = golden["final"], 1 + config.registers
    np.testing.assert_allclose(vision.final, final, **close)
    np.testing.assert_allclose(features.patches[:, 0, 0], final[:, skip:], **close)
    layers = [golden["hidden_1"], final]
    pooled = [np.concatenate([one[:, :1], one[:, skip:]], axis=1).mean(axis=1) for one in layers]
    np.testing.assert_allclose(features.pooled[:, 0, 0], np.concatenate(pooled, axis=-1), **close)
    assert features.text.shape == (2, 0)


@pytest.mark.parametrize("name", CONFIGS)
def test_the_parameters_are_the_references_without_the_mask_token(name: str) -> None:
    assert encoder_shapes(CONFIGS[name], vocabulary_size=1) == {key: value.shape for key, value in flat(name).items()}


def test_the_class_token_can_be_what_a_policy_reads() -> None:
    model = Dinov2(replace(DINOV2_TINY, pooling="cls"), 1)
    params = nested(flat("dinov2_tiny"))
    features = model.apply({"params": params}, IMAGES[:, None, None], TOKENS, TOKENS.astype(np.float32))
    np.testing.assert_allclose(features.pooled[:, 0, 0], reference("dinov2_tiny")["final"][:, 0], **close)


def test_layers_count_from_the_top_for_their_learning_rates() -> None:
    depths = layer_depths_from_top(encoder_shapes(DINOV2_TINY, vocabulary_size=1))
    tower = "vision_model/"
    assert depths[f"{tower}post_layernorm/scale"] == 0
    assert depths[f"{tower}encoder/layers/1/layer_scale2"] == 1
    assert depths[f"{tower}encoder/layers/0/mlp/fc1/kernel"] == 2
    assert depths[f"{tower}embeddings/class_embedding"] == depths[f"{tower}embeddings/patch_embedding/bias"] == 3


@pytest.mark.parametrize("antialias", [False, True])
def test_positions_of_the_learnt_size_are_unchanged_and_a_constant_stays_one(antialias: bool) -> None:
    table = np.random.default_rng(0).normal(size=(9, 4)).astype(np.float32)
    np.testing.assert_array_equal(interpolate_positions(table, (3, 3), antialias=antialias), table)
    for shape in ((2, 2), (5, 4)):
        found = interpolate_positions(np.full((9, 4), 0.3, np.float32), shape, antialias=antialias)
        np.testing.assert_allclose(found, np.full((shape[0] * shape[1], 4), 0.3), rtol=1e-6)
