"""The agent: encoder, policy and head in sequence, from a batch to features to an action.

Shapes: B sequences, T steps, K cameras, H W pixels, L tokens, E policy width, C actions of a chunk, A numbers of an
action.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Float32, Int32, UInt8

from instructrl.config.heads import chunk_size
from instructrl.config.model import EncoderConfig, HeadConfig, PolicyConfig
from instructrl.errors import InputError
from instructrl.models.encoders.registry import make_encoder
from instructrl.models.heads.base import CameraParams, action_errors, flag_loss
from instructrl.models.heads.registry import make_head
from instructrl.models.layers.block_stack import DEFAULT_EXECUTION, ExecutionConfig
from instructrl.models.layers.transformer import Mlp
from instructrl.models.modules import Shape, check_features, check_of_head
from instructrl.models.patch_reader import PatchReader
from instructrl.models.policy import Policy
from instructrl.models.policy_memory import NextStep
from instructrl.types import ACTION_SIZE, Batch, Features
from instructrl.workspace import Workspace

POOLING_SLOTS, POOLING_DIM = 4, 64  # of encoder.pooling=slots


class Agent(nn.Module):
    """Predicts an action, or a chunk of dense ones, at each step of a batch of histories.

    `predict` takes images or their features, so that a rollout encodes each frame once.
    """

    encoder_config: EncoderConfig
    policy_config: PolicyConfig
    head_config: HeadConfig
    vocabulary_size: int
    image_size: int  # pixels of the rendered images, to which the camera intrinsics refer
    workspace: Workspace  # in which it acts
    collisions: bool = False  # actions have a ninth number, whether the path to them may collide
    dtype: Any = jnp.float32
    execution: ExecutionConfig = DEFAULT_EXECUTION

    @property
    def reads_patches(self) -> bool:
        """True if patch features are needed besides pooled ones."""
        return self.head_config.reads_patches or self.encoder_config.pooling == "slots"

    @property
    def patch_side(self) -> int:
        """Patches along an edge of the image."""
        return (self.encoder_config.image_size or self.image_size) // self.encoder_config.patch_size

    def setup(self) -> None:
        self.encoder = make_encoder(
            self.encoder_config, vocabulary_size=self.vocabulary_size, dtype=self.dtype, execution=self.execution
        )
        if self.encoder_config.pooling == "slots":
            self.pooling = PatchReader(POOLING_SLOTS, POOLING_DIM, self.dtype)
        self.policy = Policy(self.policy_config, self.workspace, dtype=self.dtype, execution=self.execution)
        self.head = make_head(self.head_config, self.workspace, dtype=self.dtype)
        if self.collisions:
            self.collision_head = Mlp(self.head_config.dim, 1, self.dtype)

    def encode(
        self,
        images: UInt8[Array | np.ndarray, "B T K H W 3"],
        tokens: Int32[Array | np.ndarray, "B L"],
        text_padding_mask: Float32[Array | np.ndarray, "B L"],
    ) -> Features:
        """Encode images and instructions."""
        features = self.encoder(images, tokens, text_padding_mask)
        return check_features(self.encoder_config, self.encoder, features, views=images.shape[:3])

    def predict(self, batch: Batch, step: NextStep | None = None) -> tuple[Any, Float[Array, "B T"] | None]:
        """The head's prediction for every step of a batch, and the logit of a path that may collide (see `collision`).

        `step` as in `act`.
        """
        features = self.features(batch)
        hidden = self.hidden(features, batch, step)
        return self.head(hidden, features.patches, self.cameras(batch)), self.collision(hidden)

    def hidden(self, features: Features, batch: Batch, step: NextStep | None = None) -> Float[Array, "B T E"]:
        """The policy's output at every step of a batch, as in `predict`."""
        if self.reads_patches:
            self.check_patches(features)
        features = features._replace(pooled=self.pooled(features))
        return self.policy(features, batch.state, batch.actions[..., :ACTION_SIZE], step)

    def collision(self, hidden: Float[Array, "B T E"]) -> Float[Array, "B T"] | None:
        """The logit of a path that may collide; None if actions have no such flag."""
        return self.collision_head(hidden)[..., 0].astype(jnp.float32) if self.collisions else None

    def decode(
        self, predicted: Any, collision: Float[Array, "B T"] | None, cameras: CameraParams
    ) -> Float[Array, "B T *C A"]:
        """The actions of a head's prediction, with the flag of the logit `collision` if there is one."""
        chunk = chunk_size(self.head_config)
        shape = (*cameras.intrinsics.shape[:2], *([] if chunk is None else [chunk]), ACTION_SIZE)
        decoded = self.of_head("decode", self.head.decode(predicted, cameras), shape)
        if collision is None:
            return decoded
        return jnp.concatenate([decoded, (collision > 0).astype(decoded.dtype)[..., None]], axis=-1)

    def of_head(self, name: str, value: Any, shape: Shape) -> Any:
        """Return what the head's method `name` gave; raises InputError unless it has this shape."""
        return check_of_head(self.head_config, self.head, name, value, shape)

    def check_patches(self, features: Features) -> None:
        """Raise InputError unless the encoder gives a square grid of patches, which the head or the pooling reads."""
        found = 0 if features.patches is None else features.patches.shape[-2]
        if found != self.patch_side**2:
            raise InputError(
                f"encoder.kind: found {self.encoder_config.kind} with {found} patches of an image; allowed: a square "
                f"grid, here {self.patch_side**2}, or encoder.pooling=mean and a head that reads no patches, such as "
                "head=regression head.slots=0"
            )

    def pooled(self, features: Features) -> Float[Array, "B T K Z"]:
        """The policy's input for every image: pooled features; with encoder.pooling=slots, also those of slots."""
        if self.encoder_config.pooling != "slots":
            return features.pooled
        assert features.patches is not None
        summary = self.pooling(features.text[:, None], features.patches).summary
        return jnp.concatenate([features.pooled, summary], axis=-1)

    def act(self, batch: Batch, step: NextStep) -> tuple[Float[Array, "B *C A"], Float[Array, "B K R P"] | None]:
        """The action, or the chunk of C, at one more step of every episode, with the memory of those before.

        See `policy_memory.py`. Also returns where the head sees the action's position: shares of the rows R and columns
        P of patches; None for heads without heatmaps.

        Args:
            batch: of one step (T = 1), whose `actions` are those of the step before.
            step: its place in the episodes.
        """
        (predicted, collision), heatmaps = self.predict(batch, step), None
        if self.head_config.has_heatmaps:
            shares = self.heatmaps(predicted, batch)[:, 0]
            heatmaps = shares.reshape(*shares.shape[:-1], self.patch_side, self.patch_side)
        return self.decode(predicted, collision, self.cameras(batch))[:, 0], heatmaps

    def heatmaps(self, predicted: Any, batch: Batch) -> Float[Array, "B T K P"]:
        """The shares of patches in a head's prediction for a batch."""
        shape = (*batch.intrinsics.shape[:3], self.patch_side**2)
        found: Float[Array, "B T K P"] = self.of_head("heatmaps", self.head.heatmaps(predicted), shape)
        return found

    def head_outputs(
        self, hidden: Float[Array, "B T E"], patches: Float[Array, "B T K P D"] | None, batch: Batch
    ) -> dict[str, Array]:
        """The results of the head's methods for these inputs, by the names of the methods."""
        predicted = self.head(hidden, patches, self.cameras(batch))
        found = {"loss": self.head_loss(predicted, batch), "decode": self.decode(predicted, None, self.cameras(batch))}
        return found | ({"heatmaps": self.heatmaps(predicted, batch)} if self.head_config.has_heatmaps else {})

    def step_losses(self, batch: Batch) -> tuple[Float[Array, "B T *C"], Any, Float[Array, "B T"] | None]:
        """The loss of every action of a batch, before what `predict` returns for it.

        Every parameter takes part, and nothing is decoded: the trace from which parameters are drawn.
        """
        predicted, collision = self.predict(batch)
        loss = self.head_loss(predicted, batch)
        if collision is not None:
            loss += self.head_config.collision_weight * flag_loss(collision, actions_of(batch)[..., ACTION_SIZE])
        return loss, predicted, collision

    def head_loss(self, predicted: Any, batch: Batch) -> Float[Array, "B T *C"]:
        """The head's loss of every action of a batch."""
        actions, cameras = actions_of(batch), self.cameras(batch)
        seeds = {"seeds": batch.seeds} if self.head_config.draws_noise else {}
        loss = self.head.loss(predicted, self.head.targets(actions[..., :ACTION_SIZE], cameras), **seeds)
        checked: Float[Array, "B T *C"] = self.of_head("loss", loss, actions.shape[:-1])
        return checked

    def loss(self, batch: Batch) -> tuple[Array, dict[str, Array]]:
        """Mean loss over unpadded steps, and the same with the decoded actions' errors (cm, degrees)."""
        loss, *outputs = self.step_losses(batch)
        predicted, collision = jax.lax.stop_gradient(outputs)  # errors are looked at, not descended
        actions, cameras = actions_of(batch), self.cameras(batch)
        decoded = self.decode(predicted, collision, cameras)
        errors = action_errors(decoded, actions)
        if hasattr(self.head, "error_parts"):
            parts = self.head.error_parts(predicted, decoded[..., :3], actions[..., :3], cameras)
            errors |= self.of_head("error_parts", parts, actions.shape[:-1])
        values = {"loss": loss, **errors}
        if batch.chunk_mask is not None:
            values = {key: masked_mean(value, batch.chunk_mask, axis=-1) for key, value in values.items()}
        means = {key: masked_mean(value, batch.step_mask) for key, value in values.items()}
        return means["loss"], means

    def __call__(self, batch: Batch) -> tuple[Array, dict[str, Array]]:
        return self.loss(batch)

    def features(self, batch: Batch) -> Features:
        """A batch's precomputed features, or those of its images."""
        if batch.features is not None:
            return batch.features
        if batch.images is None:
            raise ValueError("a batch needs images or features")
        return self.encode(batch.images, batch.tokens, batch.text_padding_mask)

    def cameras(self, batch: Batch) -> CameraParams:
        """Camera matrices of the batch, and the side length of the encoder's patch grid."""
        return CameraParams(batch.intrinsics, batch.extrinsics, self.image_size, self.patch_side)


def actions_of(batch: Batch) -> Float[Any, "B T *C A"]:
    """The actions that are learned: those of the steps, or their chunks."""
    return batch.actions if batch.chunks is None else batch.chunks


def masked_mean(values: Array, mask: Array | np.ndarray, *, axis: int | None = None) -> Array:
    """The mean of the values at which the mask, of the same shape, is above 0; zero where there are none."""
    exists = mask > 0
    return jnp.sum(jnp.where(exists, values, 0), axis) / jnp.maximum(exists.sum(axis), 1)
