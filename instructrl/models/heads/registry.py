"""The heads by kind, and the construction of the one that a configuration selects."""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from instructrl.config.model import HeadConfig
from instructrl.models.modules import make_module
from instructrl.workspace import Workspace


def make_head(config: HeadConfig, workspace: Workspace, *, dtype: Any = jnp.float32) -> nn.Module:
    """Build the configured head, which predicts positions in a workspace."""
    return make_module(config, workspace=workspace, dtype=dtype)
