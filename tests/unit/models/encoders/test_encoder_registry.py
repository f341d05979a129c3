"""Every encoder option has the published number of parameters."""

import math

import pytest

from instructrl.cli.entry import compose
from instructrl.cli.overrides import options
from instructrl.config.training import TrainConfig
from instructrl.models.encoders.registry import encoder_shapes

BERT, CLIP, GEMMA, T5, OURS = (
    30_522,
    49_408,
    256_000,
    32_100,
    2_864,
)  # entries of vocabularies; ours of an earlier version
COUNTS = {
    # the public code's models of these sizes, without the decoder of pretraining
    "m3ae_s16": (BERT, 33_311_232),
    "m3ae_b16": (BERT, 109_089_792),
    "m3ae_l16": (BERT, 334_356_480),
    "m3ae_h16": (BERT, 669_736_960),
    # openai/clip-vit-base-patch32, -base-patch16, -large-patch14
    "clip_b32": (CLIP, 151_277_313),
    "clip_b16": (CLIP, 149_620_737),
    "clip_l14": (CLIP, 427_616_513),
    # facebook/dinov2-small, -base, -large and with-registers, without the mask token of their pretraining
    "dinov2_s14": (1, 22_056_576 - 384),
    "dinov2_s14_reg": (1, 22_058_112 - 384),
    "dinov2_b14": (1, 86_580_480 - 768),
    "dinov2_b14_reg": (1, 86_583_552 - 768),
    "dinov2_l14": (1, 304_368_640 - 1024),
    "dinov2_l14_reg": (1, 304_372_736 - 1024),
    # google/siglip2-base-patch16-224, -so400m-patch14-224
    "siglip2_b16": (GEMMA, 375_187_970),
    "siglip2_so400m": (GEMMA, 1_135_463_602),
    # the encoder of google-t5/t5-base
    "t5_base": (T5, 109_628_544),
    # ours
    "m3ae_tiny": (OURS, 853_152),
    "scratch_s16": (OURS, 22_690_560),
    "scratch_b16": (OURS, 87_848_448),
    "scratch_tiny": (OURS, 295_184),
    "sentence": (OURS, 186_160),
}


def chosen(option):
    return compose("train", TrainConfig, [f"encoder={option}"]).encoder


def test_there_is_a_count_for_every_option():
    assert set(COUNTS) == set(options("encoder"))


@pytest.mark.parametrize("option", COUNTS)
def test_the_number_of_parameters_is_the_published_one(option):
    vocabulary, count = COUNTS[option]
    shapes = encoder_shapes(chosen(option), vocabulary_size=vocabulary)
    assert sum(math.prod(shape) for shape in shapes.values()) == count


@pytest.mark.parametrize(
    "option", [option for option in COUNTS if option.startswith(("m3ae_", "scratch_")) and "tiny" not in option]
)
def test_the_count_of_m3ae_follows_from_the_sizes_in_its_paper(option):
    vocabulary, count = COUNTS[option]
    dim, depth = {"s": (384, 12), "b": (768, 12), "l": (1024, 24), "h": (1280, 32)}[option[-3]]
    attention, mlp, norms = 4 * dim * dim + 4 * dim, 8 * dim * dim + 5 * dim, 4 * dim
    embeddings = vocabulary * dim + (16 * 16 * 3 + 1) * dim + 3 * dim  # words, patches, class token, two types
    assert depth * (attention + mlp + norms) + 2 * dim + embeddings == count


def test_only_encoders_that_read_the_sentence_with_the_image_do_so_jointly():
    assert chosen("m3ae_b16").reads_jointly and chosen("scratch_tiny").reads_jointly
    assert not chosen("clip_b16").reads_jointly and not chosen("siglip2_b16").reads_jointly
    for word in ("encoder.text=false", "encoder.joint=false"):
        assert not compose("train", TrainConfig, ["encoder=m3ae_b16", word]).encoder.reads_jointly
