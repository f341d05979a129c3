"""M3AE's pretraining: hide most patches and words, tell them from the rest.

The published weights hold this decoder too. Letters as in `m3ae`; N kept patches, R kept words, V vocabulary,
C values of a patch, E decoder width.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, UInt8

from instructrl.models.m3ae import M3AE, Transformer, small, xavier
from instructrl.models.positions import sinusoid, sinusoid_2d


class MaskedM3AE(M3AE):
    """Encoder and decoder. The kept places are the same for the whole batch, in any order."""

    decoder_dim: int = 512
    decoder_depth: int = 8
    decoder_heads: int = 16

    def setup(self) -> None:
        super().setup()
        width = (1, 1, self.decoder_dim)
        self.decoder_input_projection = nn.Dense(self.decoder_dim, kernel_init=xavier, dtype=self.dtype)
        self.decoder_image_type_embedding = self.param("decoder_image_type_embedding", small, width)
        self.decoder_text_type_embedding = self.param("decoder_text_type_embedding", small, width)
        self.image_mask_embedding = self.param("image_mask_embedding", small, width)
        self.text_mask_embedding = self.param("text_mask_embedding", small, width)
        self.decoder = Transformer(self.decoder_depth, self.decoder_heads, self.dtype, self.strategy)
        self.decoder_image_output = Output(3 * self.config.patch_size**2)
        self.decoder_text_output = Output(self.vocabulary_size)

    def reconstruct(
        self,
        images: UInt8[Array, "M H W 3"] | None,
        tokens: Int[Array, "M L"] | None,
        text_padding_mask: Float[Array, "M L"] | None,
        kept_image: Int[Array, " N"] | None,
        kept_text: Int[Array, " R"] | None,
    ) -> tuple[Float[Array, "M P C"] | None, Float[Array, "M L V"] | None]:
        """Normalised patches and logits of words, told from what is kept; without images or words, none of them."""
        image_MPD = None if images is None else self.embed_image(images)
        text_MLD = None if tokens is None else self.embed_text(tokens)
        image_MND = None if image_MPD is None else image_MPD[:, kept_image]
        text_MRD = None if text_MLD is None else text_MLD[:, kept_text]
        padding_MR = None if text_padding_mask is None or tokens is None else text_padding_mask[:, kept_text]
        outputs, _ = self.outputs(image_MND, text_MRD, padding_MR)
        x_MSE = self.decoder_input_projection(outputs.final)
        count, split = len(x_MSE), 1 if image_MND is None else 1 + image_MND.shape[1]
        parts: list[Any] = [x_MSE[:, :1]]
        padding: list[Any] = [jnp.zeros((count, 1))]
        if image_MPD is not None:
            image_MPE = self.restore(x_MSE[:, 1:split], kept_image, self.image_mask_embedding, image_MPD.shape[1])
            place = sinusoid_2d(round(image_MPD.shape[1] ** 0.5), self.decoder_dim)[None]
            parts.append(image_MPE + place + self.decoder_image_type_embedding)
            padding.append(jnp.zeros(image_MPD.shape[:2]))
        if text_MLD is not None:
            text_MLE = self.restore(x_MSE[:, split:], kept_text, self.text_mask_embedding, text_MLD.shape[1])
            place = sinusoid(np.arange(text_MLD.shape[1]), self.decoder_dim)[None]
            parts.append(text_MLE + place + self.decoder_text_type_embedding)
            padding.append(text_padding_mask)
        x_MSE = jnp.concatenate(parts, axis=1).astype(self.dtype)
        x_MSE, split = self.decoder(x_MSE, jnp.concatenate(padding, axis=1)).final, parts[0].shape[1]
        end = split if image_MPD is None else split + image_MPD.shape[1]
        return (
            None if image_MPD is None else self.decoder_image_output(x_MSE[:, split:end]),
            None if text_MLD is None else self.decoder_text_output(x_MSE[:, end:]),
        )

    def restore(self, kept: Array, places: Any, blank: Array, length: int) -> Array:
        """Kept tokens back in their places among `length`, a learnt blank in all others."""
        full = jnp.broadcast_to(blank.astype(kept.dtype), (kept.shape[0], length, kept.shape[2]))
        return full.at[:, places].set(kept)


class Output(nn.Module):
    """A linear layer; its name is the published one."""

    size: int

    @nn.compact
    def __call__(self, x: Float[Array, "M S E"]) -> Float[Array, "M S size"]:
        return nn.Dense(self.size, kernel_init=xavier, name="Dense_0")(x)


def pixel_loss(predicted: Float[Array, "M P C"], patches: Float[Array, "M P C"], masked: Float[Array, "M P"]) -> Array:
    """Mean squared error over masked patches, averaged per image, then over images."""
    error = jnp.mean((predicted - patches) ** 2, axis=-1)
    return jnp.mean(jnp.sum(error * masked, axis=-1) / jnp.sum(masked, axis=-1))


def word_loss(
    logits: Float[Array, "M L V"], tokens: Int[Array, "M L"], valid: Float[Array, "M L"]
) -> tuple[Array, Array]:
    """Cross-entropy and accuracy over valid words (masked, no padding), averaged per sentence, then over sentences.

    A sentence without a valid word counts as zero, as in the published objective.
    """
    count = jnp.maximum(valid.sum(axis=-1), 1e-5)
    chance = jnp.take_along_axis(jax.nn.log_softmax(logits, axis=-1), tokens[..., None], axis=-1)[..., 0]
    right = jnp.argmax(logits, axis=-1) == tokens
    return jnp.mean(-jnp.sum(chance * valid, axis=-1) / count), jnp.mean(jnp.sum(right * valid, axis=-1) / count)
