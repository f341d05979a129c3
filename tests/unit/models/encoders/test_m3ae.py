"""M3AE reproduces the published code's outputs, from parameters with the published names."""

from dataclasses import replace

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from instructrl.models.encoders.m3ae import M3AE, MEAN, STD
from instructrl.models.encoders.m3ae_decoder import MaskedM3AE, pixel_loss, word_loss
from instructrl.models.encoders.registry import encoder_shapes
from instructrl.models.layers.image_ops import normalize, patchify
from tests.fixtures import encoders
from tests.fixtures.encoders import M3AE_TINY, M3AE_WORDS

pytestmark = pytest.mark.usefixtures("optimized")
GOLDEN = encoders.golden("m3ae_tiny")
PARAMS = encoders.nested(encoders.published(GOLDEN))
INPUTS = tuple(GOLDEN[key] for key in ("image", "text", "text_padding_mask"))
close = {"rtol": 1e-5, "atol": 1e-5}


def model(**changes):
    return M3AE(replace(M3AE_TINY, **changes), M3AE_WORDS)


def applied(model, *inputs, params=PARAMS, **options):
    """The result of a model as one compiled program."""
    return jax.jit(lambda *arrays: model.apply({"params": params}, *arrays, **options))(*inputs)


def tokens(model, images, words, padding, *, text=True):
    """Outputs of every block and the last, for images of one camera."""
    seen = model.embed_image(images)
    return model.outputs(seen, model.embed_text(words), padding)[0] if text else model.outputs(seen, None, None)[0]


def test_every_block_and_the_output_are_the_published_ones():
    outputs = applied(model(), *INPUTS, method=tokens)
    assert len(outputs.blocks) == 3
    for index, block in enumerate(outputs.blocks):
        np.testing.assert_allclose(block, GOLDEN[f"block_{index}"], **close)
    np.testing.assert_allclose(outputs.final, GOLDEN["output"], **close)


def test_without_text_the_output_is_the_published_one_of_the_image_alone():
    outputs = applied(model(), *INPUTS, text=False, method=tokens)
    np.testing.assert_allclose(outputs.final, GOLDEN["output_image_only"], **close)
    wordless = {name: PARAMS[name] for name in PARAMS if not name.startswith(("text_emb", "encoder_text"))}
    features = applied(model(text=False), INPUTS[0][:, None, None], *INPUTS[1:], params=wordless)
    np.testing.assert_allclose(features.pooled[:, 0, 0], GOLDEN["output_image_only"].mean(axis=1), **close)


@pytest.mark.parametrize("layers", ["last", "all", [0, 2], [1]])
def test_features_are_means_over_tokens_that_are_no_padding_of_the_chosen_layers(layers):
    features = applied(model(layers=layers), INPUTS[0][:, None, None], *INPUTS[1:])
    recorded = [GOLDEN["block_0"], GOLDEN["block_1"], GOLDEN["output"]]
    exists = np.concatenate([np.ones((4, 17)), 1 - GOLDEN["text_padding_mask"]], axis=1)[..., None]
    chosen = {"last": [2], "all": [0, 1, 2]}.get(layers, layers) if isinstance(layers, str) else layers
    expected = np.concatenate([(recorded[i] * exists).sum(1) / exists.sum(1) for i in chosen], axis=-1)
    np.testing.assert_allclose(features.pooled[:, 0, 0], expected, **close)
    np.testing.assert_allclose(features.patches[:, 0, 0], GOLDEN["output"][:, 1:17], **close)


def test_text_features_are_the_mean_of_the_embeddings_of_the_words():
    padding = np.array(INPUTS[2])
    padding[0] = 1
    text = applied(model(), INPUTS[0][:, None, None], INPUTS[1], padding).text
    embeddings = np.asarray(PARAMS["text_embedding"]["embedding"])
    counts = []
    for row, exists in enumerate(padding == 0):
        words = embeddings[INPUTS[1][row][exists]]
        np.testing.assert_allclose(text[row], words.sum(axis=0) / max(len(words), 1), **close)
        counts.append(len(words))
    assert min(counts) == 0 and max(counts) > 1


def test_an_image_without_its_text_gives_its_published_output():
    features = applied(model(joint=False), INPUTS[0][:, None, None], *INPUTS[1:])
    alone = GOLDEN["output_image_only"]
    np.testing.assert_allclose(features.pooled[:, 0, 0], alone.mean(axis=1), **close)
    np.testing.assert_allclose(features.patches[:, 0, 0], alone[:, 1:17], **close)
    together = applied(model(), INPUTS[0][:, None, None], *INPUTS[1:])
    np.testing.assert_array_equal(features.text, together.text)


def test_the_class_token_can_stand_for_an_image():
    features = applied(model(layers=[0, 2], pooling="cls"), INPUTS[0][:, None, None], *INPUTS[1:])
    expected = np.concatenate([GOLDEN["block_0"][:, 0], GOLDEN["output"][:, 0]], axis=-1)
    np.testing.assert_allclose(features.pooled[:, 0, 0], expected, **close)


def test_text_features_depend_on_the_sentence_alone():
    encode = jax.jit(lambda *inputs: model().apply({"params": PARAMS}, *inputs).text)
    images, words, padding = INPUTS[0][:, None, None], INPUTS[1], np.zeros_like(INPUTS[2])
    text = encode(images, words, padding)
    np.testing.assert_array_equal(encode(255 - images, words, padding), text)
    other = words.copy()
    other[:, 3] = (other[:, 3] + 1) % M3AE_WORDS
    assert (np.abs(encode(images, other, padding) - text).max(axis=-1) > 1e-3).all()


def test_the_pretraining_pass_gives_the_published_outputs_and_losses():
    masked = MaskedM3AE(M3AE_TINY, M3AE_WORDS, decoder_dim=48, decoder_depth=2, decoder_heads=4)
    image_mask, text_mask = GOLDEN["pre_image_mask"], GOLDEN["pre_text_mask"]
    kept = [np.flatnonzero(mask[0] == 0) for mask in (image_mask, text_mask)]
    images, words, padding = INPUTS
    pixels, logits = applied(masked, *INPUTS, *kept, method=MaskedM3AE.reconstruct)
    np.testing.assert_allclose(pixels, GOLDEN["pre_image_output"], **close)
    np.testing.assert_allclose(logits, GOLDEN["pre_text_output"], **close)
    seen = patchify(normalize(images, MEAN, STD), 16)
    np.testing.assert_allclose(pixel_loss(pixels, seen, image_mask), GOLDEN["pre_image_loss"], **close)
    loss, accuracy = word_loss(logits, words, text_mask * (1 - padding))
    np.testing.assert_allclose(loss, GOLDEN["pre_text_loss"], **close)
    np.testing.assert_allclose(accuracy, GOLDEN["pre_text_accuracy"], **close)


def test_the_masked_model_has_exactly_the_published_parameters():
    masked = MaskedM3AE(M3AE_TINY, M3AE_WORDS, decoder_dim=48, decoder_depth=2, decoder_heads=4)
    kept = (np.arange(4), np.arange(3))
    init = jax.eval_shape(lambda: masked.init(jax.random.key(0), *INPUTS, *kept, method=MaskedM3AE.reconstruct))
    assert jax.tree.map(np.shape, PARAMS) == jax.tree.map(lambda leaf: leaf.shape, init["params"])


def test_the_encoder_has_the_published_parameters_but_the_decoders():
    published = encoders.published(GOLDEN)
    decoder = ("decoder", "image_mask_embedding", "text_mask_embedding")
    expected = {name: value.shape for name, value in published.items() if not name.startswith(decoder)}
    assert encoder_shapes(M3AE_TINY, vocabulary_size=M3AE_WORDS) == expected


features_of_two_cameras = jax.jit(lambda *inputs: model().apply({"params": PARAMS}, *inputs))


@settings(max_examples=10)
@given(seed=st.integers(0, 2**32 - 1), words=st.integers(0, 12))
def test_padding_says_nothing(seed, words):
    numbers = np.random.default_rng(seed)
    images = numbers.integers(0, 256, (1, 1, 2, 32, 32, 3), np.uint8)
    text = numbers.integers(0, M3AE_WORDS, (1, 12), np.int32)
    padding = (np.arange(12) >= words).astype(np.float32)[None]
    other = np.where(padding > 0, numbers.integers(0, M3AE_WORDS, (1, 12), np.int32), text)
    found = [features_of_two_cameras(images, words, padding) for words in (text, other)]
    for one, two in zip(*map(jax.tree.leaves, found), strict=True):
        np.testing.assert_array_equal(one, two)


@pytest.mark.parametrize("size", [16, 32, 80, 128])
def test_any_image_size_that_the_patch_divides(size):
    images = np.zeros((2, 3, 1, size, size, 3), np.uint8)
    features = applied(model(layers="all"), images, *(part[:2] for part in INPUTS[1:]))
    assert features.pooled.shape == (2, 3, 1, 3 * 64)
    assert features.patches.shape == (2, 3, 1, (size // 16) ** 2, 64)
    assert np.isfinite(features.pooled).all()


def test_each_camera_image_is_encoded_by_itself_under_its_sequences_sentence():
    numbers = np.random.default_rng(0)
    images = numbers.integers(0, 256, (2, 2, 2, 32, 32, 3), np.uint8)
    words, padding = INPUTS[1][:2], INPUTS[2][:2]
    together = applied(model(), images, words, padding).pooled
    encode = jax.jit(lambda *inputs: model().apply({"params": PARAMS}, *inputs).pooled)
    for place in np.ndindex(2, 2, 2):
        row = slice(place[0], place[0] + 1)
        alone = encode(images[place][None, None, None], words[row], padding[row])
        np.testing.assert_allclose(together[place], alone[0, 0, 0], **close)
