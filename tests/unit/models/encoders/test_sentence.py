"""The encoder that reads the instruction alone."""

import jax
import numpy as np
import pytest

from instructrl.config.encoders import SentenceConfig
from instructrl.models.encoders.sentence import Sentence

IMAGES = np.zeros((2, 3, 1, 16, 16, 3), np.uint8)
TOKENS = np.array([[4, 5, 0], [4, 6, 7]], np.int32)
PADDING = np.array([[0, 0, 1], [0, 0, 0]], np.float32)


@pytest.mark.parametrize("text", [True, False])
def test_features_follow_from_the_words_and_from_nothing_else(text: bool) -> None:
    config = SentenceConfig("words", "sentence", dim=8, depth=0, patch_size=4, text=text)
    encoder = Sentence(config, 10)
    params = encoder.init(jax.random.key(0), IMAGES, TOKENS, PADDING)

    def features(images: np.ndarray, tokens: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        found = encoder.apply(params, images, tokens, PADDING)
        assert found.patches is None
        return np.asarray(found.pooled), np.asarray(found.text)

    pooled, words = features(IMAGES, TOKENS)
    assert pooled.shape == (2, 3, 1, 1) and words.shape == (2, 8) and words.any() == text
    others = features(IMAGES + np.uint8(200), TOKENS + np.array([[0, 0, 1], [0, 0, 0]], np.int32))  # and of padding
    np.testing.assert_array_equal(others[0], pooled)
    np.testing.assert_array_equal(others[1], words)
    assert np.array_equal(features(IMAGES, TOKENS + 1)[1], words) != text
