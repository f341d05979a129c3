"""The heads by kind, and the construction of the one that a configuration selects."""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from instructrl.config.model import HeadConfig
from instructrl.models.heads.discrete import DiscreteHead
from instructrl.models.heads.regression import RegressionHead
from instructrl.models.heads.spatial import SpatialHead


def make_head(config: HeadConfig, *, dtype: Any = jnp.float32) -> nn.Module:
    """Build the configured head."""
    return {"regression": RegressionHead, "discrete": DiscreteHead, "spatial": SpatialHead}[config.kind](config, dtype)


def reads_patches(config: HeadConfig) -> bool:
    """Return True if a head reads patch features."""
    return config.kind == "spatial"
