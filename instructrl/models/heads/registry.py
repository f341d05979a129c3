"""The heads by kind, and the construction of the one that a configuration selects."""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from instructrl.config.model import HeadConfig
from instructrl.registry import load_implementation


def make_head(config: HeadConfig, *, dtype: Any = jnp.float32) -> nn.Module:
    """Build the configured head."""
    return load_implementation(f"head.kind={config.kind}", type(config))(config, dtype)
