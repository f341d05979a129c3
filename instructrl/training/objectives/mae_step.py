"""Train and validation steps of masked pretraining: pure functions, compiled once per kind of batch.

Shape suffixes: M images or texts, P patches, C values per patch, L tokens, V vocabulary.
"""

from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
import optax
from jax.sharding import NamedSharding
from jaxtyping import Array, Float, Float32, Int, Int32, PRNGKeyArray, PyTree, UInt8, UInt32

from instructrl.config.training import PretrainingConfig
from instructrl.models.encoders.m3ae import MEAN, STD
from instructrl.models.encoders.m3ae_decoder import MaskedM3AE, hidden_mask, pixel_loss, visible_indices, word_loss
from instructrl.models.layers.augmentation import CropParams, crop_and_resize, full_crops, random_crops
from instructrl.models.layers.image_ops import normalize, patchify
from instructrl.training.gradient_accumulation import mean_gradient
from instructrl.training.objectives.base import EvalStep, TrainStep
from instructrl.training.objectives.bc_step import apply_gradients, jit_train_step, replicated
from instructrl.training.state import TrainState, merge_params
from instructrl.training.types import Params, StepMetrics

TRAIN_STREAM, VALIDATION_STREAM = 0, 1  # folded into the random key


class Pairs(NamedTuple):
    """Images and texts, as in PairBatch; None for the modality that the batch's kind lacks."""

    images: UInt8[Any, "M _ _ 3"] | None  # square; cropping changes the size
    tokens: Int32[Any, "M L"] | None
    text_padding_mask: Float32[Any, "M L"] | None  # 1 where a token is padding


class StepBatch(NamedTuple):
    """A batch and its step number, which determines all of its randomness."""

    number: UInt32[Any, ""]
    pairs: Pairs


class VisibleIndices(NamedTuple):
    """Indices of the visible (unmasked) patches and tokens, the same for the entire batch."""

    image: Int[Any, " N"] | None
    text: Int[Any, " R"] | None


def merge_encoder_decoder(params: Params) -> Params:
    """Parameters as the model expects them, encoder and decoder in one tree."""
    return merge_params(params["encoder"], params["decoder"])


def reconstruct(
    model: MaskedM3AE, params: Params, pairs: Pairs, visible: VisibleIndices
) -> tuple[Float[Array, "M P C"] | None, Float[Array, "M L V"] | None]:
    """The decoder's patches and the logits of its tokens; None for a modality that the pairs lack."""
    variables = {"params": merge_encoder_decoder(params)}
    outputs = model.apply(variables, *pairs, *visible, method="reconstruct")
    return cast(tuple[Float[Array, "M P C"] | None, Float[Array, "M L V"] | None], outputs)


def masked_losses(
    model: MaskedM3AE, params: Params, pairs: Pairs, visible: VisibleIndices, *, options: PretrainingConfig
) -> tuple[Float[Array, ""], StepMetrics]:
    """Reconstruction loss of the masked patches and tokens, and its terms for the modalities that the batch has."""
    pixels_MPC, logits_MLV = reconstruct(model, params, pairs, visible)
    metrics: StepMetrics = {}
    loss = jnp.zeros(())
    if pixels_MPC is not None and pairs.images is not None and visible.image is not None:
        target_MPC = patchify(normalize(pairs.images, MEAN, STD), model.config.patch_size)
        hidden_MP = jnp.broadcast_to(hidden_mask(visible.image, target_MPC.shape[1]), target_MPC.shape[:2])
        metrics["pixel_loss"] = pixel_loss(pixels_MPC, target_MPC, hidden_MP)
        loss += options.image_weight * metrics["pixel_loss"]
    if logits_MLV is not None and pairs.tokens is not None and visible.text is not None:
        hidden_L, padding_ML = hidden_mask(visible.text, pairs.tokens.shape[1]), pairs.text_padding_mask
        valid_ML = hidden_L if padding_ML is None else hidden_L * (1 - padding_ML)
        metrics["word_loss"], metrics["word_accuracy"] = word_loss(logits_MLV, pairs.tokens, valid_ML)
        loss += options.text_weight * metrics["word_loss"]
    return loss, metrics | {"loss": loss}


def num_examples(pairs: Pairs) -> Float[Array, ""]:
    """Number of images, texts or pairs in a batch."""
    return jnp.float32(len(jax.tree.leaves(pairs)[0]))


def sample_visible(key: PRNGKeyArray, model: MaskedM3AE, pairs: Pairs, *, options: PretrainingConfig) -> VisibleIndices:
    """Sample the visible patches and tokens of a batch whose images are already cropped."""
    image_key, text_key = jax.random.split(key)
    image = text = None
    if pairs.images is not None:
        count = (pairs.images.shape[1] // model.config.patch_size) ** 2
        image = visible_indices(image_key, count, mask_ratio=options.image_mask_ratio)
    if pairs.tokens is not None:
        text = visible_indices(text_key, pairs.tokens.shape[1], mask_ratio=options.text_mask_ratio)
    return VisibleIndices(image, text)


def crop_images(pairs: Pairs, views: CropParams, *, size: int) -> Pairs:
    """Replace a batch's images, if it has any, by square crops of `size` pixels."""
    return pairs if pairs.images is None else pairs._replace(images=crop_and_resize(pairs.images, views, size=size))


def make_masked_train_step(
    model: MaskedM3AE,
    optimizer: optax.GradientTransformation,
    *,
    options: PretrainingConfig,
    size: int,
    seed: int,
    accumulation: int = 1,
    shardings: PyTree[NamedSharding] | None = None,
    ema: float | None = None,
) -> TrainStep[StepBatch]:
    """The jitted train step: (state, batch, {}) -> state, metrics. The old state is donated.

    Crops, flips and masks are determined by the seed and the batch's number. Images have `size` pixels; the other
    arguments are those of `make_train_step`.
    """

    def train_step(state: TrainState, batch: StepBatch, frozen: Params) -> tuple[TrainState, StepMetrics]:
        del frozen
        view_key, mask_key = batch_keys(seed, TRAIN_STREAM, batch.number)
        pairs = batch.pairs
        if pairs.images is not None:
            share = (options.crop_low, options.crop_high)
            pairs = crop_images(
                pairs, random_crops(view_key, len(pairs.images), share=share, flip=options.flip), size=size
            )
        visible = sample_visible(mask_key, model, pairs, options=options)

        def loss(params: Params, pairs: Pairs) -> tuple[Float[Array, ""], StepMetrics]:
            return masked_losses(model, params, pairs, visible, options=options)

        gradients, metrics = mean_gradient(
            loss,
            state.params,
            pairs,
            microbatches=accumulation,
            shardings=None if shardings is None else shardings.params,
            count=num_examples,
        )
        return apply_gradients(state, gradients, metrics | {"steps": num_examples(pairs)}, optimizer=optimizer, ema=ema)

    return jit_train_step(train_step, shardings)


def make_masked_eval_step(
    model: MaskedM3AE,
    *,
    options: PretrainingConfig,
    size: int,
    seed: int,
    shardings: PyTree[NamedSharding] | None = None,
) -> EvalStep[StepBatch]:
    """The jitted validation step: losses of uncropped images; a batch's mask is the same at every validation."""

    def eval_step(params: Params, batch: StepBatch) -> StepMetrics:
        pairs, visible = validation_inputs(model, batch, options=options, size=size, seed=seed)
        return masked_losses(model, params, pairs, visible, options=options)[1] | {"steps": num_examples(pairs)}

    return jax.jit(eval_step, out_shardings=None if shardings is None else replicated(shardings))


def validation_inputs(
    model: MaskedM3AE, batch: StepBatch, *, options: PretrainingConfig, size: int, seed: int
) -> tuple[Pairs, VisibleIndices]:
    """Model inputs of a batch at validation: uncropped images and a fixed mask."""
    pairs = batch.pairs
    if pairs.images is not None:
        pairs = crop_images(pairs, full_crops(len(pairs.images)), size=size)
    return pairs, sample_visible(batch_keys(seed, VALIDATION_STREAM, batch.number)[1], model, pairs, options=options)


def batch_keys(seed: int, stream: int, number: UInt32[Any, ""]) -> tuple[PRNGKeyArray, PRNGKeyArray]:
    """Random keys of a batch: for its crops and for its mask."""
    key = jax.random.fold_in(jax.random.fold_in(jax.random.key(seed), stream), number)
    first, second = jax.random.split(key)
    return first, second
