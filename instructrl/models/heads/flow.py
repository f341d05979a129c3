"""The flow head: the next dense actions at once, by conditional flow matching.

Along the straight line x(t) = (1 - t) noise + t actions the velocity is actions - noise, which a network learns to tell
from x, t and what was seen; from noise, Euler steps along it lead to a sample. Sources: Lipman et al. 2022 (Flow
Matching, arXiv:2210.02747, with their sigma_min = 0) and, for chunks of actions, Black et al. 2024 (pi0,
arXiv:2410.24164), whose other distribution of times is not used: here t is uniform.

Shapes as in `base`; C actions of a chunk, Z inputs. An action has ten numbers: position in the workspace, two columns
of the rotation matrix, gripper; here the gripper is -1 or 1.
"""

from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, UInt32

from instructrl.actions import quaternion_from_columns
from instructrl.config.heads import FlowConfig
from instructrl.models.heads.base import CameraParams, join_action
from instructrl.models.heads.slots import read_with_slots, slot_loss, slot_targets
from instructrl.models.layers.initializers import Dense
from instructrl.models.layers.transformer import Mlp
from instructrl.models.policy import action_features
from instructrl.workspace import Workspace

NUMBERS = 10  # of an action
BLOCKS = 2  # of the network of velocities
FREQUENCIES = np.pi * 2.0 ** np.arange(4, dtype=np.float32)  # of the time as an input


class FlowPrediction(NamedTuple):
    """The condition of the flow, and the shares of the patches to which the first slot attends."""

    condition: Any  # B T Z
    scores: Any  # B T K P+1, as of `SlotPose`


class FlowTargets(NamedTuple):
    """The actions as numbers, and the target shares of the first slot."""

    actions: Any  # B T C 10
    scores: Any  # B T K P+1, or None


class Velocity(nn.Module):
    """The velocity of a noisy chunk."""

    config: FlowConfig
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self, noisy: Float[Array, "B T C 10"], time: Float[Array, "B T"], condition: Float[Array, "B T Z"]
    ) -> Float[Array, "B T C 10"]:
        width, angles = self.config.dim, time[..., None] * FREQUENCIES
        waves = jnp.concatenate([jnp.sin(angles), jnp.cos(angles)], axis=-1)
        parts = {"actions": noisy.reshape(*time.shape, -1), "time": waves, "condition": condition}
        x = sum(Dense(width, dtype=self.dtype, name=f"embed_{name}")(part) for name, part in parts.items())
        for number in range(BLOCKS):
            inputs = nn.LayerNorm(dtype=self.dtype, name=f"norm_{number}")(x)
            x = x + Mlp(2 * width, width, self.dtype, name=f"mlp_{number}")(inputs)
        out = Dense(noisy.shape[-2] * NUMBERS, dtype=self.dtype, name="velocity")(nn.LayerNorm(dtype=self.dtype)(x))
        return out.astype(jnp.float32).reshape(noisy.shape)


class FlowHead(nn.Module):
    """Samples a chunk of actions; always from the same noise, so that it follows from what is seen."""

    config: FlowConfig
    workspace: Workspace
    dtype: Any = jnp.float32

    def setup(self) -> None:
        self.velocity = Velocity(self.config, self.dtype)

    @nn.compact
    def __call__(self, hidden: Float[Array, "B T E"], patches: Array, cameras: CameraParams) -> FlowPrediction:
        del cameras
        return FlowPrediction(*read_with_slots(self.config, hidden, patches, self.dtype))

    def targets(self, actions: Float[Array, "B T C 8"], cameras: CameraParams) -> FlowTargets:
        """The actions as numbers; the first slot attends to where the chunk ends."""
        numbers = action_features(actions, self.workspace)
        numbers = jnp.concatenate([numbers[..., :-1], 2 * numbers[..., -1:] - 1], axis=-1)
        return FlowTargets(numbers, slot_targets(self.config, actions[..., -1, :], cameras))

    def loss(
        self, predicted: FlowPrediction, targets: FlowTargets, *, seeds: UInt32[Array | np.ndarray, "B 2"]
    ) -> Float[Array, "B T C"]:
        """Weighted squared errors of the velocity at a random time of each step, parts as in an action.

        What follows the end of an episode is seen, as the last pose held, although its errors are not counted.
        """
        config, actions = self.config, targets.actions
        time, noise = jax.vmap(lambda seed: draw(seed, actions.shape[1:]))(jnp.asarray(seeds))
        share = time[..., None, None]
        found = self.velocity((1 - share) * noise + share * actions, time, predicted.condition)
        squares = (found - (actions - noise)) ** 2
        position, rotation, gripper = squares[..., :3].mean(-1), squares[..., 3:9].mean(-1), squares[..., 9]
        loss = config.position_weight * position + config.rotation_weight * rotation + config.gripper_weight * gripper
        return loss + jnp.expand_dims(slot_loss(config, predicted.scores, targets.scores), -1)

    def decode(self, predicted: FlowPrediction, cameras: CameraParams) -> Float[Array, "B T C 8"]:
        """The actions to which the noise flows."""
        del cameras
        shape = (self.config.chunk, NUMBERS)
        batch = predicted.condition.shape[:-1]
        x = jnp.broadcast_to(jax.random.normal(jax.random.key(0), shape), (*batch, *shape))
        for step in range(self.config.steps):
            time = jnp.full(batch, step / self.config.steps)
            x = x + self.velocity(x, time, predicted.condition) / self.config.steps
        position = self.workspace.denormalize(x[..., :3])
        quaternion = quaternion_from_columns(x[..., 3:9].reshape(*x.shape[:-1], 3, 2))
        return join_action(position, quaternion, x[..., 9], self.workspace)


def draw(seed: UInt32[Array, " 2"], shape: tuple[int, ...]) -> tuple[Float[Array, " T"], Float[Array, "T C 10"]]:
    """A time in [0, 1) for each of T steps, and noise of a shape [T C 10]."""
    key = jax.random.wrap_key_data(seed, impl="threefry2x32")
    for_time, for_noise = jax.random.split(key)
    return jax.random.uniform(for_time, shape[:1]), jax.random.normal(for_noise, shape)
