"""The policy: a block-causal transformer over keyframe steps.

Shape suffixes: B sequences, T steps, K cameras, F pooled feature width, G text feature width, A state values, E policy
width, S tokens.
"""

from enum import IntEnum
from functools import partial
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from instructrl.actions import rotation_matrix
from instructrl.config.model import PolicyConfig
from instructrl.models.layers.block_stack import DEFAULT_EXECUTION, ExecutionConfig, run_blocks
from instructrl.models.layers.positional import sinusoid
from instructrl.models.layers.transformer import Block
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
    ) -> Float[Array, "B T E"]:
        batch, steps, cameras, _ = features.pooled.shape
        observations = cameras + state.shape[-1]
        x_BTSE = self.embed(features, state, actions)
        x_BTSE = x_BTSE + jnp.asarray(sinusoid(np.arange(steps), self.config.dim), self.dtype)[None, :, None]
        x_BSE = x_BTSE.reshape(batch, -1, self.config.dim)
        mask = jnp.asarray(attention_mask(steps, observations, window=self.config.window))
        make = partial(Block, self.config.heads, self.config.mlp_ratio, self.dtype, self.execution.attention)
        *names, last = (f"block_{index}" for index in range(self.config.depth))
        x_BSE, _ = run_blocks(self, make, names, x_BSE, mask, execution=self.execution)
        predictions = slice(observations, None, x_BTSE.shape[2])  # other outputs of the last block are unused
        x_BTE, _ = run_blocks(self, make, [last], x_BSE, mask, predictions, execution=self.execution)
        return nn.LayerNorm(dtype=self.dtype, name="norm")(x_BTE)

    def embed(self, features: Features, state: Array, actions: Array) -> Float[Array, "B T S E"]:
        """One token per camera and state value, a prediction and an action token, each with a kind embedding."""
        batch, steps, cameras, _ = features.pooled.shape
        width, values = self.config.dim, state.shape[-1]
        init = nn.initializers.normal(0.02)
        text = jnp.broadcast_to(features.text[:, None, None], (batch, steps, cameras, features.text.shape[-1]))
        views = jnp.concatenate([features.pooled, text], axis=-1)
        views = nn.Dense(width, dtype=self.dtype, name="embed_camera")(views)
        direction = self.param("state_direction", init, (values, width)).astype(self.dtype)
        numbers = state.astype(self.dtype)[..., None] * direction
        predict = jnp.zeros((batch, steps, 1, width), self.dtype)
        if features.text.shape[-1]:  # the prediction begins with the sentence, which heads need to choose patches by
            predict += nn.Dense(width, dtype=self.dtype, name="embed_text")(features.text)[:, None, None]
        action = action_features(actions, self.workspace)
        action = nn.Dense(width, dtype=self.dtype, name="embed_action")(action)[:, :, None]
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


class TokenKind(IntEnum):
    """Kind of a token."""

    OBSERVATION = 0  # a camera or a state value
    PREDICTION = 1
    ACTION = 2


def step_kinds(observations: int) -> np.ndarray:
    """Kinds of one step's tokens: `observations` times OBSERVATION, then PREDICTION, then ACTION."""
    return np.array([TokenKind.OBSERVATION] * observations + [TokenKind.PREDICTION, TokenKind.ACTION])


def attention_mask(steps: int, observations: int, *, window: int | None = None) -> np.ndarray:
    """Block-causal mask, bool [S, S]: True if the row's token attends to the column's.

    Every token attends to the observations of its own step and to the observations and actions of all earlier steps.
    Prediction and action tokens also attend to themselves. No other token attends to a prediction, nor to the action
    of its own step, so that a prediction never sees its target. With a `window`, only predictions attend to earlier
    steps (`window - 1` of them): otherwise older steps would leak through the layers.
    """
    kind = np.tile(step_kinds(observations), steps)
    step = np.repeat(np.arange(steps), observations + 2)
    age = step[:, None] - step[None, :]
    past = (age > 0) & (kind != TokenKind.PREDICTION)[None, :]
    if window is not None:
        past &= (age < window) & (kind == TokenKind.PREDICTION)[:, None]
    present = (age == 0) & (kind == TokenKind.OBSERVATION)[None, :]
    return past | present | np.eye(len(kind), dtype=bool)
