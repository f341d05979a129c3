"""Functions at the borders refuse arrays of other shapes and dtypes than their annotations name (see conftest.py)."""

from typing import Any

import jax
import numpy as np
import pytest
from jaxtyping import TypeCheckError

from instructrl.config.model import EncoderConfig, HeadConfig, PolicyConfig
from instructrl.models.agent import Agent
from instructrl.training.objectives.augmentation import drop_tokens
from instructrl.training.objectives.mae_step import Pairs, num_examples
from instructrl.types import Batch, BatchSizes, Features, FeatureSizes, fake_batch
from instructrl.workspace import RLBENCH_WORKSPACE

SIZES = BatchSizes(batch=2, steps=3, cameras=2, image_size=8, tokens=5)
CACHED = BatchSizes(2, 3, 2, 8, 5, features=FeatureSizes(pooled=6, text=4, patches=(9, 3), dtype="bfloat16"))
PAIRS = Pairs(np.zeros((2, 8, 8, 3), np.uint8), np.zeros((2, 5), np.int32), np.zeros((2, 5), np.float32))
POOLED = np.zeros((2, 3, 2, 6), np.float32)


def dropped(batch: Batch) -> Batch:
    return drop_tokens(batch, jax.random.key(0), share=0.5)


@pytest.mark.parametrize("sizes", [SIZES, CACHED])
def test_batches_as_they_are_described_are_taken(sizes: BatchSizes) -> None:
    assert dropped(fake_batch(sizes)).text_padding_mask.shape == (2, 5)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("state", np.zeros((2, 4), np.float32)),  # no steps
        ("actions", np.zeros((2, 3, 7), np.float32)),  # neither 8 values nor 9
        ("tokens", np.zeros((2, 5), np.int64)),
        ("tokens", np.zeros((3, 5), np.int32)),  # another number of sequences than the other arrays
        ("step_mask", np.ones((2, 4), np.float32)),  # another number of steps
        ("images", np.zeros((2, 3, 2, 8, 8, 3), np.float32)),
        ("features", Features(POOLED, np.zeros((2, 4, 1), np.float32), None)),
        ("features", Features(POOLED[:, :2], np.zeros((2, 4), np.float32), None)),
    ],
)
def test_a_batch_of_another_shape_or_dtype_is_refused(field: str, value: Any) -> None:
    with pytest.raises(TypeCheckError, match="drop_tokens"):
        dropped(fake_batch(SIZES)._replace(**{field: value}))


def test_the_arrays_of_all_arguments_agree() -> None:
    encoder = EncoderConfig("any", "scratch_tiny", dim=8, depth=1, patch_size=4)
    encode = Agent(
        encoder, PolicyConfig("any", 8, 1, 1), HeadConfig("any", "regression"), 11, 8, RLBENCH_WORKSPACE
    ).encode
    images, tokens = np.zeros((2, 3, 2, 8, 8, 3), np.uint8), np.zeros((2, 5), np.int32)
    with pytest.raises(TypeCheckError, match="text_padding_mask"):
        encode(images, tokens, np.zeros((2, 6), np.float32))
    with pytest.raises(TypeCheckError, match="tokens"):
        encode(images[:1], tokens, np.zeros((2, 5), np.float32))


@pytest.mark.parametrize("change", [{"tokens": PAIRS.tokens[:1]}, {"text_padding_mask": PAIRS.tokens}])
def test_pairs_of_another_shape_or_dtype_are_refused(change: dict[str, Any]) -> None:
    assert num_examples(PAIRS) == num_examples(PAIRS._replace(images=None)) == 2
    with pytest.raises(TypeCheckError):
        num_examples(PAIRS._replace(**change))
