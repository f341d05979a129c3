"""M3AE pretraining: mask most patches and tokens, reconstruct them from the rest.

The published weights include this decoder. Shape suffixes as in `m3ae`; N visible patches, R visible text tokens,
V vocabulary, C values of a patch, E decoder width.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, UInt8

from instructrl.models.encoders.m3ae import M3AE, Transformer, small
from instructrl.models.layers.initializers import xavier_uniform
from instructrl.models.layers.positional import sinusoid, sinusoid_2d


class MaskedM3AE(M3AE):
    """M3AE encoder and decoder. The visible indices are the same for the entire batch, in any order."""

    decoder_dim: int = 512
    decoder_depth: int = 8
    decoder_heads: int = 16

    def setup(self) -> None:
        super().setup()
        width = (1, 1, self.decoder_dim)
        self.decoder_input_projection = nn.Dense(self.decoder_dim, kernel_init=xavier_uniform, dtype=self.dtype)
        self.decoder_image_type_embedding = self.param("decoder_image_type_embedding", small, width)
        self.decoder_text_type_embedding = self.param("decoder_text_type_embedding", small, width)
        self.image_mask_embedding = self.param("image_mask_embedding", small, width)
        self.text_mask_embedding = self.param("text_mask_embedding", small, width)
        self.decoder = Transformer(self.decoder_depth, self.decoder_heads, self.dtype, self.execution)
        self.decoder_image_output = Output(3 * self.config.patch_size**2)
        self.decoder_text_output = Output(self.vocabulary_size)

    def reconstruct(
        self,
        images: UInt8[Array, "M H W 3"] | None,
        tokens: Int[Array, "M L"] | None,
        text_padding_mask: Float[Array, "M L"] | None,
        visible_image: Int[Array, " N"] | None,
        visible_text: Int[Array, " R"] | None,
    ) -> tuple[Float[Array, "M P C"] | None, Float[Array, "M L V"] | None]:
        """Reconstruct normalised patches and token logits from the visible ones; None for a missing modality."""
        image_MPD = None if images is None else self.embed_image(images)
        text_MLD = None if tokens is None else self.embed_text(tokens)
        image_MND = None if image_MPD is None else image_MPD[:, visible_image]
        text_MRD = None if text_MLD is None else text_MLD[:, visible_text]
        padding_MR = None if text_padding_mask is None or tokens is None else text_padding_mask[:, visible_text]
        outputs, _ = self.outputs(image_MND, text_MRD, padding_MR)
        x_MSE = self.decoder_input_projection(outputs.final)
        count, split = len(x_MSE), 1 if image_MND is None else 1 + image_MND.shape[1]
        parts: list[Any] = [x_MSE[:, :1]]
        padding: list[Any] = [jnp.zeros((count, 1))]
        if image_MPD is not None:
            image_MPE = self.insert_mask_tokens(
                x_MSE[:, 1:split], visible_image, self.image_mask_embedding, image_MPD.shape[1]
            )
            position = sinusoid_2d(round(image_MPD.shape[1] ** 0.5), self.decoder_dim)[None]
            parts.append(image_MPE + position + self.decoder_image_type_embedding)
            padding.append(jnp.zeros(image_MPD.shape[:2]))
        if text_MLD is not None:
            text_MLE = self.insert_mask_tokens(
                x_MSE[:, split:], visible_text, self.text_mask_embedding, text_MLD.shape[1]
            )
            position = sinusoid(np.arange(text_MLD.shape[1]), self.decoder_dim)[None]
            parts.append(text_MLE + position + self.decoder_text_type_embedding)
            padding.append(text_padding_mask)
        x_MSE = jnp.concatenate(parts, axis=1).astype(self.dtype)
        x_MSE, split = self.decoder(x_MSE, jnp.concatenate(padding, axis=1)).final, parts[0].shape[1]
        end = split if image_MPD is None else split + image_MPD.shape[1]
        return (
            None if image_MPD is None else self.decoder_image_output(x_MSE[:, split:end]),
            None if text_MLD is None else self.decoder_text_output(x_MSE[:, end:]),
        )

    def insert_mask_tokens(self, visible: Array, indices: Any, mask_token: Array, length: int) -> Array:
        """Scatter visible tokens to their indices in a sequence of `length`; all others are the mask token."""
        full = jnp.broadcast_to(mask_token.astype(visible.dtype), (visible.shape[0], length, visible.shape[2]))
        return full.at[:, indices].set(visible)


class Output(nn.Module):
    """A linear layer, nested as in the published weights."""

    size: int

    @nn.compact
    def __call__(self, x: Float[Array, "M S E"]) -> Float[Array, "M S size"]:
        return nn.Dense(self.size, kernel_init=xavier_uniform, name="Dense_0")(x)


def pixel_loss(predicted: Float[Array, "M P C"], patches: Float[Array, "M P C"], masked: Float[Array, "M P"]) -> Array:
    """Mean squared error over masked patches, averaged per image and then over images."""
    error = jnp.mean((predicted - patches) ** 2, axis=-1)
    return jnp.mean(jnp.sum(error * masked, axis=-1) / jnp.sum(masked, axis=-1))


def word_loss(
    logits: Float[Array, "M L V"], tokens: Int[Array, "M L"], valid: Float[Array, "M L"]
) -> tuple[Array, Array]:
    """Cross-entropy and accuracy over valid tokens (masked, not padding), averaged per text and then over texts.

    A text without valid tokens counts as zero, as in the published objective.
    """
    count = jnp.maximum(valid.sum(axis=-1), 1e-5)
    log_probability = jnp.take_along_axis(jax.nn.log_softmax(logits, axis=-1), tokens[..., None], axis=-1)[..., 0]
    correct = jnp.argmax(logits, axis=-1) == tokens
    loss = jnp.mean(-jnp.sum(log_probability * valid, axis=-1) / count)
    return loss, jnp.mean(jnp.sum(correct * valid, axis=-1) / count)


def visible_count(length: int, mask_ratio: float) -> int:
    """Number of visible positions out of `length`, rounded down."""
    return int(length * (1 - mask_ratio))


def visible_indices(key: Array, length: int, *, mask_ratio: float) -> Int[Array, " N"]:
    """Sample the visible positions out of `length` without replacement, in ascending order."""
    return jnp.sort(jax.random.permutation(key, length)[: visible_count(length, mask_ratio)])


def hidden_mask(visible: Int[Array, " N"], length: int) -> Float[Array, " length"]:
    """Mask with 1 at hidden positions and 0 at visible ones."""
    return jnp.ones(length).at[visible].set(0)
