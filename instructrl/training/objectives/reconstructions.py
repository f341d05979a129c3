"""Visualizations of masked pretraining: masked input, reconstruction, both combined, and the target.

Shape suffixes: M pairs, P patches, C values per patch, L tokens, S pixels along an image.
"""

import json
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, UInt8
from PIL import Image, ImageDraw, ImageFont

from instructrl.config.training import PretrainingConfig
from instructrl.data.text.tokenizer import Tokenizer
from instructrl.models.encoders.m3ae import MEAN, STD
from instructrl.models.encoders.m3ae_decoder import MaskedM3AE, hidden_mask
from instructrl.models.layers.image_ops import normalize, patchify
from instructrl.training.objectives.base import BatchLoader
from instructrl.training.objectives.mae_step import Pairs, StepBatch, reconstruct, validation_inputs
from instructrl.training.types import Params

FOLDER = "reconstructions"  # in the run
MAX_EARLIER = 4  # images of earlier validations that are kept, besides the first and the latest
COLUMNS = ("masked input", "predicted", "combined", "target")
LINES = ("text", "visible", "predicted")  # keys of the JSON file and labels in the image
TILE, GAP, LINE, MARGIN = 160, 6, 15, 12  # pixels
BACKGROUND, FOREGROUND, MUTED, GREY = "white", "black", "#666666", 160


class Reconstruction(NamedTuple):
    """Reconstructions of some pairs."""

    masked: UInt8[np.ndarray, "M S S 3"]  # input of the encoder, grey where a patch is masked
    predicted: UInt8[np.ndarray, "M S S 3"]  # output of the decoder
    combined: UInt8[np.ndarray, "M S S 3"]  # visible patches from the input, masked ones from the decoder
    target: UInt8[np.ndarray, "M S S 3"]
    texts: list[dict[str, str]]  # per text: the original (said), the visible part (seen) and the prediction (told)

    def images(self) -> tuple[UInt8[np.ndarray, "M S S 3"], ...]:
        """The images in the order of COLUMNS."""
        return self.masked, self.predicted, self.combined, self.target


class Reconstructions:
    """Draws reconstructions of the first pairs of a loader."""

    def __init__(
        self,
        model: MaskedM3AE,
        tokenizer: Tokenizer,
        run: Path,
        *,
        options: PretrainingConfig,
        size: int,
        seed: int,
    ) -> None:
        self._tokenizer, self._folder, self._count = tokenizer, run / FOLDER, options.num_visualized

        def stages_of(
            params: Params, batch: StepBatch
        ) -> tuple[list[UInt8[Array, "M S S 3"]], Pairs, Int[Array, "M L"], Float[Array, " L"]]:
            pairs, visible = validation_inputs(model, batch, options=options, size=size, seed=seed)
            pixels, logits = reconstruct(model, params, pairs, visible)
            (image, text), tokens = visible, pairs.tokens
            if pairs.images is None or tokens is None or image is None or text is None:
                raise ValueError("only pairs of an image and a text are visualized")
            if pixels is None or logits is None:
                raise ValueError("the model reconstructs only images or only texts")
            target = patchify(normalize(pairs.images, MEAN, STD), model.config.patch_size)
            hidden = hidden_mask(image, target.shape[1])[None, :, None]
            grey = jnp.asarray([(GREY / 255 - m) / s for m, s in zip(MEAN, STD, strict=True)])
            grey = jnp.tile(grey, model.config.patch_size**2)
            stages = (jnp.where(hidden > 0, grey, target), pixels, jnp.where(hidden > 0, pixels, target), target)
            images = [unpatchify(part, model.config.patch_size) for part in stages]
            return images, pairs, jnp.argmax(logits, axis=-1), hidden_mask(text, tokens.shape[1])

        self._stages = jax.jit(stages_of)

    def reconstruct(self, params: Params, source: BatchLoader[StepBatch]) -> Reconstruction:
        """Reconstruct the first pairs of a source."""
        batch = source.batch(0)
        first = batch._replace(pairs=jax.tree.map(lambda leaf: leaf[: self._count], batch.pairs))
        images, pairs, predicted, hidden = jax.device_get(self._stages(params, first))
        texts = [
            self._decode(tokens, padding, prediction, hidden)
            for tokens, padding, prediction in zip(pairs.tokens, pairs.text_padding_mask, predicted, strict=True)
        ]
        masked, prediction, combined, target = images
        return Reconstruction(masked, prediction, combined, target, texts)

    def _decode(
        self,
        tokens: Int[np.ndarray, " L"],
        padding: Float[np.ndarray, " L"],
        predicted: Int[np.ndarray, " L"],
        hidden: Float[np.ndarray, " L"],
    ) -> dict[str, str]:
        """A text, the text with gaps for masked tokens, and with predictions in the gaps (starred if wrong)."""
        lines: dict[str, list[str]] = {key: [] for key in LINES}
        real = padding == 0
        for token, prediction, masked in zip(tokens[real], predicted[real], hidden[real], strict=True):
            word, guess = (self._tokenizer.decode(np.array([one])) or "?" for one in (token, prediction))
            lines["text"].append(word)
            lines["visible"].append("_" if masked else word)
            lines["predicted"].append(word if not masked or word == guess else f"*{guess}*")
        return {key: " ".join(parts) for key, parts in lines.items()}

    def draw(self, params: Params, source: BatchLoader[StepBatch], *, step: int) -> dict[str, Path]:
        """Write an image and its texts, named after the step; images of outdated steps are deleted."""
        reconstruction = self.reconstruct(params, source)
        self._folder.mkdir(parents=True, exist_ok=True)
        path = self._folder / f"step-{step:09d}.png"
        draw_grid(reconstruction).save(path)
        path.with_suffix(".json").write_text(json.dumps(reconstruction.texts, indent=2) + "\n", encoding="utf-8")
        for old in outdated(sorted(self._folder.glob("step-*.png"))):
            old.unlink()
            old.with_suffix(".json").unlink(missing_ok=True)
        return {FOLDER: path}


def outdated(paths: list[Path]) -> list[Path]:
    """Images to delete: all but the first and the latest ones."""
    return paths[1:-MAX_EARLIER] if len(paths) > MAX_EARLIER + 1 else []


def unpatchify(x_MPC: Float[Array, "M P C"], side: int) -> UInt8[Array, "M S S 3"]:
    """Convert normalised patches to images."""
    count, length, _ = x_MPC.shape
    across = round(length**0.5)
    x = x_MPC.reshape(count, across, across, side, side, 3).swapaxes(2, 3)
    x = x.reshape(count, across * side, across * side, 3) * jnp.asarray(STD) + jnp.asarray(MEAN)
    return jnp.clip(jnp.round(255 * x), 0, 255).astype(jnp.uint8)


def draw_grid(reconstruction: Reconstruction) -> Image.Image:
    """Draw one row per pair: masked input, prediction, both combined and target, with the texts below."""
    count, across = len(reconstruction.target), len(COLUMNS) * (TILE + GAP)
    row = TILE + 3 * LINE + 2 * GAP
    sheet = Image.new("RGB", (across + 2 * MARGIN, count * row + LINE + 2 * MARGIN), BACKGROUND)
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(11)
    for column, name in enumerate(COLUMNS):
        draw.text((MARGIN + column * (TILE + GAP), MARGIN), name, MUTED, font=font)
    for index in range(count):
        top = MARGIN + LINE + index * row
        for column, images in enumerate(reconstruction.images()):
            tile = Image.fromarray(images[index]).resize((TILE, TILE), Image.Resampling.NEAREST)
            sheet.paste(tile, (MARGIN + column * (TILE + GAP), top))
        for line, key in enumerate(LINES):
            text = truncate(f"{key}: {reconstruction.texts[index][key]}", across, draw, font)
            color = MUTED if key == "visible" else FOREGROUND
            draw.text((MARGIN, top + TILE + 2 + line * LINE), text, color, font=font)
    return sheet


def truncate(
    text: str, width: int, draw: ImageDraw.ImageDraw, font: ImageFont.FreeTypeFont | ImageFont.ImageFont
) -> str:
    """Shorten a text with an ellipsis to a width in pixels."""
    while draw.textlength(text, font=font) > width:
        text = text[:-2].rstrip(" .") + "…"
    return text
