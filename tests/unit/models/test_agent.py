"""The agent refuses features that its head cannot read."""

import jax
import numpy as np
import pytest

from instructrl.config.encoders import ScratchTinyConfig
from instructrl.config.heads import RegressionConfig, SpatialConfig
from instructrl.config.model import HeadConfig, PolicyConfig
from instructrl.errors import InputError
from instructrl.models.agent import Agent
from instructrl.types import BatchSizes, Features, fake_batch
from instructrl.workspace import RLBENCH_WORKSPACE

SIZE, PATCH = 32, 8


def predict(head: HeadConfig, patches: int | None, *, pooling: str = "mean") -> None:
    """Trace the prediction from features with some number of patches of each image."""
    encoder = ScratchTinyConfig("tiny", "scratch_tiny", dim=8, depth=1, patch_size=PATCH, pooling=pooling)
    agent = Agent(encoder, PolicyConfig("tiny", dim=8, depth=1, heads=1), head, 50, SIZE, RLBENCH_WORKSPACE)
    cached = None if patches is None else np.zeros((1, 2, 1, patches, 8), np.float32)
    features = Features(np.zeros((1, 2, 1, 8), np.float32), np.zeros((1, 8), np.float32), cached)
    batch = fake_batch(BatchSizes(1, 2, 1, SIZE, 4))._replace(images=None, features=features)
    jax.eval_shape(agent.init, jax.random.key(0), batch)


REGRESSION, SPATIAL = RegressionConfig("regression", "regression"), SpatialConfig("spatial", "spatial")
WITHOUT_SLOTS = RegressionConfig("regression", "regression", slots=0)


@pytest.mark.parametrize("patches", [None, 12, 25])
@pytest.mark.parametrize(("head", "pooling"), [(REGRESSION, "mean"), (SPATIAL, "mean"), (WITHOUT_SLOTS, "slots")])
def test_an_encoder_without_a_grid_of_patches_is_refused_by_heads_that_read_them(
    patches: int | None, head: HeadConfig, pooling: str
) -> None:
    found = f"encoder.kind: found scratch_tiny with {patches or 0} patches of an image; allowed: a square grid, here 16"
    with pytest.raises(InputError, match=found):
        predict(head, patches, pooling=pooling)


def test_other_heads_need_no_patches() -> None:
    predict(WITHOUT_SLOTS, None)
    predict(WITHOUT_SLOTS, 12)
    predict(REGRESSION, 16, pooling="slots")
