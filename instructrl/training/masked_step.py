"""One step of masked pretraining, and one of validation. Pure functions, compiled once for each kind of batch.

Letters: M images or sentences, P patches, L places of words.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array

from instructrl.config import PretrainingConfig
from instructrl.models.augmentation import Views, random_views, shown, whole_views
from instructrl.models.m3ae import MEAN, STD
from instructrl.models.masked import MaskedM3AE, pixel_loss, word_loss
from instructrl.models.masking import hidden_places, kept_places
from instructrl.models.pixels import normalised, patches
from instructrl.training.accumulation import mean_gradient
from instructrl.training.state import TrainState, merged
from instructrl.training.step import Metrics, compiled, everywhere, updated

TRAINING, VALIDATION = 0, 1  # numbers of their streams of random keys


class Pairs(NamedTuple):
    """Images and sentences, as a PairBatch; None for what the batch's kind does not have."""

    images: Any  # M C C 3, uint8
    tokens: Any  # M L, int32
    text_padding_mask: Any  # M L, float32, 1 where a token is padding


class Numbered(NamedTuple):
    """A batch and its number, from which all that is random about it follows."""

    number: Any  # uint32
    pairs: Pairs


class Kept(NamedTuple):
    """The places that are not hidden, the same in the whole batch."""

    image: Any  # N
    text: Any  # R


def joined(params: Any) -> Any:
    """The parameters as the model has them, encoder and decoder side by side."""
    return merged(params["encoder"], params["decoder"])


def masked_losses(
    model: MaskedM3AE, params: Any, pairs: Pairs, kept: Kept, *, options: PretrainingConfig
) -> tuple[Array, Metrics]:
    """The loss of what is hidden of a batch, and its parts: only those of what the batch has."""
    told: Any = model.apply({"params": joined(params)}, *pairs, *kept, method="reconstruct")
    pixels_MPC, logits_MLV = told
    found: Metrics = {}
    loss = jnp.zeros(())
    if pixels_MPC is not None:
        target_MPC = patches(normalised(pairs.images, MEAN, STD), model.config.patch_size)
        hidden_MP = jnp.broadcast_to(hidden_places(kept.image, target_MPC.shape[1]), target_MPC.shape[:2])
        found["pixel_loss"] = pixel_loss(pixels_MPC, target_MPC, hidden_MP)
        loss += options.image_weight * found["pixel_loss"]
    if logits_MLV is not None:
        valid_ML = hidden_places(kept.text, pairs.tokens.shape[1]) * (1 - pairs.text_padding_mask)
        found["word_loss"], found["word_accuracy"] = word_loss(logits_MLV, pairs.tokens, valid_ML)
        loss += options.text_weight * found["word_loss"]
    return loss, found | {"loss": loss}


def rows(pairs: Pairs) -> Any:
    """How many images, sentences or pairs a batch has."""
    return jnp.float32(len(jax.tree.leaves(pairs)[0]))


def drawn(key: Array, model: MaskedM3AE, pairs: Pairs, *, options: PretrainingConfig) -> Kept:
    """The places that are kept of a batch whose images are views."""
    image_key, text_key = jax.random.split(key)
    image = text = None
    if pairs.images is not None:
        count = (pairs.images.shape[1] // model.config.patch_size) ** 2
        image = kept_places(image_key, count, hidden_share=options.image_mask)
    if pairs.tokens is not None:
        text = kept_places(text_key, pairs.tokens.shape[1], hidden_share=options.text_mask)
    return Kept(image, text)


def viewed(pairs: Pairs, views: Views, *, size: int) -> Pairs:
    """A batch with views in place of its canvases."""
    return pairs._replace(images=shown(pairs.images, views, size=size))


def make_masked_train_step(
    model: MaskedM3AE,
    optimizer: optax.GradientTransformation,
    *,
    options: PretrainingConfig,
    size: int,
    seed: int,
    accumulation: int = 1,
    shardings: TrainState | None = None,
    ema: float | None = None,
) -> Callable[[TrainState, Numbered, Any], tuple[TrainState, Metrics]]:
    """The compiled step: (state, batch, nothing) -> state, metrics. The old state is given up.

    Crops, mirror images and hidden places follow from the seed and the batch's number. Images are of `size` pixels;
    the rest is as in `make_train_step`.
    """

    def train_step(state: TrainState, batch: Numbered, frozen: Any) -> tuple[TrainState, Metrics]:
        del frozen
        view_key, mask_key = keys(seed, TRAINING, batch.number)
        pairs = batch.pairs
        if pairs.images is not None:
            share = (options.crop_low, options.crop_high)
            pairs = viewed(pairs, random_views(view_key, len(pairs.images), share=share, flip=options.flip), size=size)
        kept = drawn(mask_key, model, pairs, options=options)

        def loss(params: Any, pairs: Pairs) -> Any:
            return masked_losses(model, params, pairs, kept, options=options)

        where = None if shardings is None else shardings.params
        how: dict[str, Any] = {"parts": accumulation, "shardings": where, "counted": rows}
        gradients, metrics = mean_gradient(loss, state.params, pairs, **how)
        return updated(state, gradients, metrics | {"steps": rows(pairs)}, optimizer=optimizer, ema=ema)

    return compiled(train_step, shardings)


def make_masked_eval_step(
    model: MaskedM3AE,
    *,
    options: PretrainingConfig,
    size: int,
    seed: int,
    shardings: TrainState | None = None,
) -> Callable[[Any, Numbered], Metrics]:
    """The compiled validation step: the losses of whole images; each batch has its own hidden places every time."""

    def eval_step(params: Any, batch: Numbered) -> Metrics:
        pairs, kept = looked_at(model, batch, options=options, size=size, seed=seed)
        return masked_losses(model, params, pairs, kept, options=options)[1] | {"steps": rows(pairs)}

    return jax.jit(eval_step, out_shardings=None if shardings is None else everywhere(shardings))


def looked_at(
    model: MaskedM3AE, batch: Numbered, *, options: PretrainingConfig, size: int, seed: int
) -> tuple[Pairs, Kept]:
    """What a validation step sees of a batch."""
    pairs = batch.pairs
    if pairs.images is not None:
        pairs = viewed(pairs, whole_views(len(pairs.images)), size=size)
    return pairs, drawn(keys(seed, VALIDATION, batch.number)[1], model, pairs, options=options)


def keys(seed: int, stream: int, number: Any) -> tuple[Array, Array]:
    """The keys of a batch: for its views, and for what is hidden of it."""
    key = jax.random.fold_in(jax.random.fold_in(jax.random.key(seed), stream), number)
    first, second = jax.random.split(key)
    return first, second
