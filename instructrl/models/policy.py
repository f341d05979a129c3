"""The policy: a block-causal transformer over keyframe steps.

Shape suffixes: B sequences, T steps, K cameras, F pooled feature width, G text feature width, A state values, E policy
width, S tokens.
"""

from dataclasses import replace
from functools import partial
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from instructrl.actions import rotation_matrix
from instructrl.config.model import PolicyConfig
from instructrl.models.layers.block_stack import DEFAULT_EXECUTION, ExecutionConfig, run_blocks
from instructrl.models.layers.initializers import Dense, normal
from instructrl.models.layers.positional import sinusoid
from instructrl.models.layers.transformer import Block
from instructrl.models.policy_memory import NextStep
from instructrl.models.token_order import attention_mask
from instructrl.types import Features
from instructrl.workspace import Workspace


class Policy(nn.Module):
    """Maps camera features, state and past actions to one vector per step, the input of the head."""

    config: PolicyConfig
    workspace: Workspace
    dtype: Any = jnp.float32
    execution: ExecutionConfig = DEFAULT_EXECUTION

    @nn.compact
    def __call__(
        self,
        features: Features,
        state: Float[Array, "B T A"],
        actions: Float[Array, "B T 8"],
        step: NextStep | None = None,
    ) -> Float[Array, "B T E"]:
        """The vector of every step of whole sequences; or of one more step (T = 1), of which `actions` is the last."""
        batch, steps, cameras, _ = features.pooled.shape
        observations = cameras + state.shape[-1]
        x_BTSE = self.embed(features, state, actions)
        if step is None:
            position = sinusoid(np.arange(steps), self.config.dim)[None, :, None]
            mask = jnp.asarray(attention_mask(steps, observations, window=self.config.window))[None]
            execution = self.execution
        else:
            position, mask = step.position[:, None], step.mask
            execution = replace(self.execution, remat=False, scan=False)  # each block has a memory of its own
        x_BTSE = x_BTSE + jnp.asarray(position, self.dtype)
        x_BSE = x_BTSE.reshape(batch, -1, self.config.dim)
        make = partial(
            Block, self.config.heads, self.config.mlp_ratio, self.dtype, self.execution.attention, step is not None
        )
        *names, last = (f"block_{index}" for index in range(self.config.depth))
        x_BSE, _ = run_blocks(self, make, names, x_BSE, mask, execution=execution)
        predictions = slice(observations, None, x_BTSE.shape[2])  # other outputs of the last block are unused
        x_BTE, _ = run_blocks(self, make, [last], x_BSE, mask, predictions, execution=execution)
        return nn.LayerNorm(dtype=self.dtype, name="norm")(x_BTE)

    def embed(self, features: Features, state: Array, actions: Array) -> Float[Array, "B T S E"]:
        """One token per camera and state value, a prediction and an action token, each with a kind embedding."""
        batch, steps, cameras, _ = features.pooled.shape
        width, values = self.config.dim, state.shape[-1]
        init = normal(0.02)
        text = jnp.broadcast_to(features.text[:, None, None], (batch, steps, cameras, features.text.shape[-1]))
        views = jnp.concatenate([features.pooled, text], axis=-1)
        views = Dense(width, dtype=self.dtype, name="embed_camera")(views)
        direction = self.param("state_direction", init, (values, width)).astype(self.dtype)
        numbers = state.astype(self.dtype)[..., None] * direction
        predict = jnp.zeros((batch, steps, 1, width), self.dtype)
        if features.text.shape[-1]:  # the prediction begins with the sentence, which heads need to choose patches by
            predict += Dense(width, dtype=self.dtype, name="embed_text")(features.text)[:, None, None]
        action = action_features(actions, self.workspace)
        action = Dense(width, dtype=self.dtype, name="embed_action")(action)[:, :, None]
        kinds = self.param("token_kind", init, (cameras + values + 2, width)).astype(self.dtype)
        return jnp.concatenate([views, numbers, predict, action], axis=2) + kinds


def action_features(actions: Float[Array, "... 8"], workspace: Workspace) -> Float[Array, "... 10"]:
    """Input features of actions: position in the workspace, two columns of the rotation matrix, gripper.

    A predicted quaternion and the expert's may differ in sign, especially for half turns (w near 0) such as a
    gripper that points down; the matrix does not (six numbers as in Zhou et al. 2019).
    """
    columns = rotation_matrix(actions[..., 3:7])[..., :, :2]
    flat = columns.reshape(*columns.shape[:-2], 6)
    return jnp.concatenate([workspace.normalize(actions[..., :3]), flat, actions[..., 7:]], axis=-1)
