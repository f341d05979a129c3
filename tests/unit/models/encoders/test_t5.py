"""T5's encoder reproduces the outputs of the transformers library, with ReLU and gated."""

from dataclasses import replace
from typing import Any

import jax
import numpy as np
import pytest

from data_tools.weights.t5 import convert
from instructrl.cli.entry import compose
from instructrl.config.training import TrainConfig
from instructrl.errors import InputError
from instructrl.models.encoders.registry import encoder_shapes, layer_depths_from_top
from instructrl.models.encoders.t5 import T5, distance_buckets
from instructrl.training.preflight import check_inputs
from tests.fixtures.encoders import T5_TINY, T5_WORDS, nested
from tests.fixtures.published_encoders import random_images, random_tokens, reference

pytestmark = pytest.mark.usefixtures("optimized")
close = {"rtol": 1e-5, "atol": 1e-5}
CASES = [("t5_tiny", T5_TINY), ("t5_tiny_gated", replace(T5_TINY, activation="gated_gelu"))]
TEXT = random_tokens(2, 24, T5_WORDS)
PADDING = (TEXT == 0).astype(np.float32)


def flat(golden: dict[str, Any]) -> dict[str, np.ndarray]:
    return dict(filter(None, (convert(name, value) for name, value in golden["tensors"].items())))


@pytest.mark.parametrize(("name", "config"), CASES, ids=["relu", "gated"])
def test_every_layer_is_the_references(name: str, config: Any) -> None:
    golden = reference(name)
    params = nested(flat(golden))
    tower = jax.jit(
        lambda *given: T5(config, T5_WORDS).apply(
            {"params": params}, *given, method=lambda model, *given: model.text_model(*given)
        )
    )(TEXT, PADDING)
    for index in range(2):
        np.testing.assert_allclose(tower.hidden[index], golden[f"text_hidden_{index}"], **close)
    np.testing.assert_allclose(tower.final, golden["text_final"], **close)
    np.testing.assert_allclose(tower.pooled, golden["text_pooled"], **close)
    shapes = encoder_shapes(config, vocabulary_size=T5_WORDS)
    assert shapes == {name: value.shape for name, value in flat(golden).items()}


def test_features_are_means_of_words_and_what_is_dropped_is_not_read() -> None:
    golden = reference("t5_tiny")
    model, params = T5(replace(T5_TINY, layers="all"), T5_WORDS), nested(flat(golden))
    read = jax.jit(lambda *given: model.apply({"params": params}, *given))
    images = random_images(2, 16)[:, None, None]
    features = read(images, TEXT, PADDING)
    words = (PADDING == 0)[..., None]
    first = (golden["text_hidden_1"] * words).sum(axis=1) / words.sum(axis=1)
    np.testing.assert_allclose(features.text, np.concatenate([first, golden["text_pooled"]], axis=-1), **close)
    assert features.pooled.shape == (2, 1, 1, 0) and features.patches.shape == (2, 1, 1, 0, 1)
    dropped, other = PADDING.copy(), TEXT.copy()
    dropped[:, 0], other[:, 0] = 1, np.where(TEXT[:, 0] == 5, 6, 5)
    np.testing.assert_array_equal(read(images, TEXT, dropped).text, read(images, other, dropped).text)
    assert abs(np.asarray(read(images, TEXT, dropped).text - features.text)).max() > 1e-3


def test_far_words_share_a_distance_and_those_ahead_differ_from_those_behind() -> None:
    buckets = distance_buckets(200)
    assert buckets[50, 43:58].tolist() == [7, 6, 5, 4, 3, 2, 1, 0, 17, 18, 19, 20, 21, 22, 23]
    assert buckets[0, [8, 11, 12, 16, 23, 32, 64, 127, 128, 199]].tolist() == [24, 24, 25, 26, 27, 28, 30, 31, 31, 31]


def test_the_table_has_unused_rows_and_parameters_their_depth_for_learning_rates() -> None:
    assert [T5_TINY.table_rows(size) for size in (32_100, 32_128, 1)] == [32_128, 32_128, 128]
    depths = layer_depths_from_top(encoder_shapes(T5_TINY, vocabulary_size=100))
    assert depths["text_model/final_layer_norm/scale"] == 0
    assert depths["text_model/encoder/layers/0/mlp/fc1/kernel"] == 2
    assert depths["text_model/encoder/relative_attention_bias/embedding"] == 3


def test_it_is_no_encoder_of_images() -> None:
    line = "^encoder: found t5_base, which reads no images; allowed: an encoder of images, .* encoder.text=t5_base$"
    with pytest.raises(InputError, match=line):
        check_inputs(compose("train", TrainConfig, ["encoder=t5_base"]))
