"""Slots of attention as heads without heatmaps of their own use them: inputs of the head's MLP, and a loss.

Shapes as in `base`; P patches, Z inputs.
"""

from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Float

from instructrl.config.heads import SlotsConfig
from instructrl.models.heads.base import CameraParams
from instructrl.models.heads.heatmap import heatmap_loss, heatmap_targets
from instructrl.models.patch_reader import PatchReader


def read_with_slots(
    config: SlotsConfig, hidden: Float[Array, "B T E"], patches: Array, dtype: Any
) -> tuple[Float[Array, "B T Z"], Array | None]:
    """Inputs of a head's MLP, and the first slot's scores [B, T, K, P+1]; called within the head's compact method.

    Without slots these are the policy's output alone, as in the published method.
    """
    if not config.slots:
        return hidden, None
    reading = PatchReader(config.slots, config.dim, dtype, name="reader")(hidden, patches)
    summary = reading.summary.reshape(*hidden.shape[:-1], -1)
    return jnp.concatenate([hidden, summary], axis=-1), reading.scores[..., 0, :]


def slot_targets(config: SlotsConfig, actions: Float[Array, "B T 8"], cameras: CameraParams) -> Array | None:
    """Shares [B, T, K, P+1] of what the first slot shall attend to; None if it is not supervised."""
    return heatmap_targets(actions[..., :3], cameras).shares if config.supervises_slots else None


def slot_loss(config: SlotsConfig, scores: Array | None, shares: Array | None) -> Float[Array, "B T"] | float:
    """Weighted loss of the first slot's scores; zero if it is not supervised."""
    if scores is None or shares is None:
        return 0.0
    return config.heatmap_weight * heatmap_loss(scores, shares)
