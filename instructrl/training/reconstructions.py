"""Pictures of what a pretraining tells of what it does not see: input, what is left of it, what is told, the target.

Letters: M pairs, P patches, L words, S pixels along an image.
"""

import json
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from instructrl.config import PretrainingConfig
from instructrl.data.tokenizer import Tokenizer
from instructrl.models.m3ae import MEAN, STD
from instructrl.models.masked import MaskedM3AE
from instructrl.models.masking import hidden_places
from instructrl.models.pixels import normalised, patches
from instructrl.training.masked_step import Numbered, joined, looked_at

FOLDER = "reconstructions"  # in the run
KEPT = 4  # pictures of earlier validations that stay beside the last one
COLUMNS = ("hidden", "told", "together", "target")
TILE, GAP, LINE, MARGIN = 160, 6, 15, 12  # pixels
PAPER, INK, FAINT, GREY = "white", "black", "#666666", 160


class Told(NamedTuple):
    """What is told of some pairs; images uint8."""

    hidden: Any  # M S S 3: what the encoder sees, grey where a patch is hidden
    output: Any  # M S S 3: what the decoder tells
    together: Any  # M S S 3: the same, with what was seen in its place
    target: Any  # M S S 3
    words: Any  # of each sentence: said, seen, told


class Source(Protocol):
    """Where numbered batches come from."""

    def batch(self, step: int) -> Numbered: ...


class Reconstructions:
    """Draws what is told of the first pairs of a loader."""

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
        self._tokenizer, self._folder, self._count = tokenizer, run / FOLDER, options.pictures
        seen: Any = {"options": options, "size": size, "seed": seed}

        def tell(params: Any, batch: Numbered) -> Any:
            pairs, kept = looked_at(model, batch, **seen)
            told: Any = model.apply({"params": joined(params)}, *pairs, *kept, method="reconstruct")
            pixels, logits = told
            target = patches(normalised(pairs.images, MEAN, STD), model.config.patch_size)
            hidden = hidden_places(kept.image, target.shape[1])[None, :, None]
            grey = jnp.asarray([(GREY / 255 - m) / s for m, s in zip(MEAN, STD, strict=True)])
            grey = jnp.tile(grey, model.config.patch_size**2)
            stages = (jnp.where(hidden > 0, grey, target), pixels, jnp.where(hidden > 0, pixels, target), target)
            images = [picture(part, model.config.patch_size) for part in stages]
            return images, pairs, jnp.argmax(logits, axis=-1), hidden_places(kept.text, pairs.tokens.shape[1])

        self._tell = jax.jit(tell)

    def told(self, params: Any, source: Source) -> Told:
        """What is told of the first pairs of a source."""
        batch = source.batch(0)
        few = batch._replace(pairs=jax.tree.map(lambda leaf: leaf[: self._count], batch.pairs))
        images, pairs, guessed, hidden = jax.device_get(self._tell(params, few))
        words = [
            self._words(tokens, padding, guess, hidden)
            for tokens, padding, guess in zip(pairs.tokens, pairs.text_padding_mask, guessed, strict=True)
        ]
        hidden_images, output, together, target = images
        return Told(hidden_images, output, together, target, words)

    def _words(self, tokens: Any, padding: Any, guess: Any, hidden: Any) -> dict[str, str]:
        """A sentence, the same with gaps, and with what is told in the gaps."""
        lines: dict[str, list[str]] = {"said": [], "seen": [], "told": []}
        for token, word, gap in zip(tokens[padding == 0], guess[padding == 0], hidden[padding == 0], strict=True):
            said, told = (self._tokenizer.decode(np.array([one])) or "?" for one in (token, word))
            lines["said"].append(said)
            lines["seen"].append("_" if gap else said)
            lines["told"].append(said if not gap or said == told else f"*{told}*")
        return {key: " ".join(parts) for key, parts in lines.items()}

    def draw(self, params: Any, source: Source, *, step: int) -> dict[str, Path]:
        """Write a picture and its sentences, named after the step; those of a few earlier ones stay."""
        told = self.told(params, source)
        self._folder.mkdir(parents=True, exist_ok=True)
        path = self._folder / f"step-{step:09d}.png"
        grid(told).save(path)
        path.with_suffix(".json").write_text(json.dumps(told.words, indent=2) + "\n")
        for old in thinned(sorted(self._folder.glob("step-*.png"))):
            old.unlink()
            old.with_suffix(".json").unlink(missing_ok=True)
        return {FOLDER: path}


def thinned(paths: list[Path]) -> list[Path]:
    """Which pictures are too many: the first and the last ones stay."""
    return paths[1:-KEPT] if len(paths) > KEPT + 1 else []


def picture(x_MPC: Any, side: int) -> Any:
    """Normalised patches as images [M, S, S, 3] uint8."""
    count, length, _ = x_MPC.shape
    across = round(length**0.5)
    x = x_MPC.reshape(count, across, across, side, side, 3).swapaxes(2, 3)
    x = x.reshape(count, across * side, across * side, 3) * jnp.asarray(STD) + jnp.asarray(MEAN)
    return jnp.clip(jnp.round(255 * x), 0, 255).astype(jnp.uint8)


def grid(told: Told) -> Image.Image:
    """A row for each pair: its stages side by side, and the sentence below them."""
    count, across = len(told.target), len(COLUMNS) * (TILE + GAP)
    row = TILE + 3 * LINE + 2 * GAP
    sheet = Image.new("RGB", (across + 2 * MARGIN, count * row + LINE + 2 * MARGIN), PAPER)
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(11)
    for column, name in enumerate(COLUMNS):
        draw.text((MARGIN + column * (TILE + GAP), MARGIN), name, FAINT, font=font)
    for index in range(count):
        top = MARGIN + LINE + index * row
        for column, stage in enumerate(told[: len(COLUMNS)]):
            tile = Image.fromarray(stage[index]).resize((TILE, TILE), Image.Resampling.NEAREST)
            sheet.paste(tile, (MARGIN + column * (TILE + GAP), top))
        for place, key in enumerate(("said", "seen", "told")):
            text = shortened(f"{key}: {told.words[index][key]}", across, draw, font)
            draw.text((MARGIN, top + TILE + 2 + place * LINE), text, FAINT if key == "seen" else INK, font=font)
    return sheet


def shortened(text: str, width: int, draw: Any, font: Any) -> str:
    """A text that fits into a width."""
    while draw.textlength(text, font=font) > width:
        text = text[:-2].rstrip(" .") + "…"
    return text
