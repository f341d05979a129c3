"""SigLIP 2 reproduces the outputs of the transformers library in both towers, interpolated positions included."""

from dataclasses import replace
from typing import Any

import jax
import numpy as np
import pytest
from PIL import Image

from data_tools.weights.clip import to_flax
from data_tools.weights.siglip2 import split_pooling
from instructrl.models.encoders.registry import encoder_shapes, layer_depths_from_top
from instructrl.models.encoders.siglip2 import Siglip2
from instructrl.models.layers.image_ops import resize
from tests.fixtures.encoders import SIGLIP2_TINY, SIGLIP2_WORDS, nested
from tests.fixtures.published_encoders import random_images, random_tokens, reference

pytestmark = pytest.mark.usefixtures("optimized")
close = {"rtol": 1e-5, "atol": 1e-5}
GOLDEN = reference("siglip2_tiny")
FLAT = split_pooling(dict(to_flax(name, value) for name, value in GOLDEN["tensors"].items()))
PARAMS = nested(FLAT)
IMAGES = random_images(2, 28)  # 7 x 7 patches, where positions were learnt for 5 x 5
TEXT = random_tokens(2, 8, SIGLIP2_WORDS)
PADDING = (TEXT == 0).astype(np.float32)


def applied(model: Siglip2, *inputs: Any, **options: Any) -> Any:
    return jax.jit(lambda *arrays: model.apply({"params": PARAMS}, *arrays, **options))(*inputs)


def test_every_layer_of_both_towers_is_the_references() -> None:
    model = Siglip2(SIGLIP2_TINY, SIGLIP2_WORDS)
    vision = applied(model, IMAGES, method=Siglip2.encode_images)
    text = applied(model, TEXT, PADDING, method=lambda model, *given: model.text_model(*given))
    for tower, prefix in ((vision, ""), (text, "text_")):
        for index in range(3):
            np.testing.assert_allclose(tower.hidden[index], GOLDEN[f"{prefix}hidden_{index}"], **close)
        np.testing.assert_allclose(tower.final, GOLDEN[f"{prefix}final"], **close)
        np.testing.assert_allclose(tower.pooled, GOLDEN[f"{prefix}pooled"], **close)


def test_features_are_means_of_patches_last_text_tokens_and_the_two_embeddings() -> None:
    model = Siglip2(replace(SIGLIP2_TINY, layers="all"), SIGLIP2_WORDS)
    features = applied(model, IMAGES[:, None, None], TEXT, PADDING)
    pooled = [GOLDEN["hidden_1"].mean(axis=1), GOLDEN["pooled"]]
    text = [GOLDEN["text_hidden_1"][:, -1], GOLDEN["text_pooled"]]
    np.testing.assert_allclose(features.pooled[:, 0, 0], np.concatenate(pooled, axis=-1), **close)
    np.testing.assert_allclose(features.text, np.concatenate(text, axis=-1), **close)
    np.testing.assert_allclose(features.patches[:, 0, 0], GOLDEN["final"], **close)


def test_a_word_that_is_dropped_in_training_is_not_read() -> None:
    model, dropped, other = Siglip2(SIGLIP2_TINY, SIGLIP2_WORDS), PADDING.copy(), TEXT.copy()
    dropped[:, 0], other[:, 0] = 1, np.where(TEXT[:, 0] == 5, 6, 5)
    read = [applied(model, text, dropped, method=Siglip2.text_features) for text in (TEXT, other)]
    np.testing.assert_array_equal(*read)
    assert abs(np.asarray(read[0]) - GOLDEN["text_pooled"]).max() > 1e-3


def test_the_parameters_are_the_references() -> None:
    shapes = encoder_shapes(SIGLIP2_TINY, vocabulary_size=SIGLIP2_WORDS)
    assert shapes == {name: value.shape for name, value in FLAT.items()}
    without = encoder_shapes(replace(SIGLIP2_TINY, text=False), vocabulary_size=SIGLIP2_WORDS)
    assert without == {name: shape for name, shape in shapes.items() if name.startswith("vision_model/")}


def test_heads_and_embeddings_are_the_ends_of_the_layers_for_learning_rates() -> None:
    depths = layer_depths_from_top(encoder_shapes(SIGLIP2_TINY, vocabulary_size=SIGLIP2_WORDS))
    for name in ("vision_model/head/probe", "text_model/head/bias", "logit_bias", "vision_model/post_layernorm/bias"):
        assert depths[name] == 0, name
    assert depths["text_model/embeddings/position_embedding/embedding"] == 3


def test_images_are_resized_bilinearly_as_pil_does() -> None:
    image = np.asarray(Image.fromarray(random_images(1, 7)[0]).resize((96, 96)))
    expected = np.asarray(Image.fromarray(image).resize((64, 64), Image.Resampling.BILINEAR), np.int64)
    found = np.asarray(resize(image[None], 64, method="linear"))[0]
    assert abs(found - expected).max() <= 1 and (found == expected).mean() > 0.94
