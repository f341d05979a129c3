"""Heatmaps over images, and films of what sentences made the arm do, as animated GIFs."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from instructrl.evaluation.report.video import wrapped
from instructrl.play.session import Sight
from instructrl.storage.atomic import atomic_path

HEAT = (255, 60, 0)  # colour of the hottest patch
STRONGEST = 0.7  # opacity of that patch
SIZE, GAP, LINE, FONT = 240, 4, 18, 13  # pixels: side of a scene, between images, line of a caption, its letters
FRAME_MS, LAST = 80, 14  # duration of a frame, and the repetitions of the last one
COLORS = 96
PAGE, INK = (20, 22, 27), (245, 246, 248)


def heat_layer(heatmap: np.ndarray) -> Image.Image:
    """A layer [S, S] of shares in one colour, the more opaque the larger they are, to be drawn over an image."""
    side = len(heatmap)
    layer = np.empty((side, side, 4), np.uint8)
    layer[..., :3] = HEAT
    layer[..., 3] = 255 * STRONGEST * heatmap / max(float(heatmap.max()), 1e-9)
    return Image.fromarray(layer)


def with_heatmap(image: np.ndarray, heatmap: np.ndarray | None, *, size: int) -> Image.Image:
    """An image [H, W, 3] under its heatmap, if any."""
    drawn = Image.fromarray(image).resize((size, size), Image.Resampling.BICUBIC)
    if heatmap is not None:
        layer = heat_layer(heatmap).resize((size, size), Image.Resampling.BILINEAR)
        drawn.paste(layer, mask=layer)
    return drawn


class Film:
    """The film of one sentence: the scene in motion, and below it the images that the agent saw meanwhile."""

    def __init__(self, sentence: str) -> None:
        """Begin without images."""
        self.sentence = sentence
        self.frames: list[tuple[np.ndarray, Sight]] = []
        self._sight: Sight | None = None

    def see(self, sight: Sight) -> None:
        """Take what the agent sees from now on."""
        self._sight = sight

    def add(self, image: np.ndarray) -> None:
        """Take the next image [SIZE, SIZE, 3] of the scene, after the first sight."""
        assert self._sight is not None
        self.frames.append((image, self._sight))

    def draw(self, number: int, caption: list[str]) -> Image.Image:
        """A frame, the last one for numbers beyond it, above what the agent saw and the lines of its caption."""
        scene, sight = self.frames[min(number, len(self.frames) - 1)]
        count = len(sight.images)
        small = (SIZE - GAP * (count - 1)) // count
        image = Image.new("RGB", (SIZE, SIZE + GAP + small + LINE * (len(caption) + 1)), PAGE)
        image.paste(Image.fromarray(scene))
        heatmaps = sight.heatmaps if sight.heatmaps is not None else [None] * count
        for column, (seen, heatmap) in enumerate(zip(sight.images, heatmaps, strict=True)):
            image.paste(with_heatmap(seen, heatmap, size=small), (column * (small + GAP), SIZE + GAP))
        draw = ImageDraw.Draw(image)
        for row, text in enumerate(caption):
            middle = (SIZE / 2, image.height - LINE * (len(caption) - row))
            draw.text(middle, text, INK, ImageFont.load_default(FONT), anchor="mm")
        return image


def write_gif(path: Path, films: Sequence[Film]) -> None:
    """Write films side by side.

    Raises:
        OSError: the file cannot be written.
    """
    font = ImageFont.load_default(FONT)
    captions = [wrapped(film.sentence, font, SIZE - 4 * GAP) for film in films]
    lines = max(map(len, captions))
    captions = [lines_of + [""] * (lines - len(lines_of)) for lines_of in captions]
    length = max(len(film.frames) for film in films) + LAST
    frames = []
    for number in range(length):
        panels = [film.draw(number, caption) for film, caption in zip(films, captions, strict=True)]
        row = Image.new("RGB", (SIZE * len(films) + GAP * (len(films) - 1), panels[0].height), PAGE)
        for column, panel in enumerate(panels):
            row.paste(panel, (column * (SIZE + GAP), 0))
        frames.append(row.quantize(COLORS))
    with atomic_path(path) as temporary:
        frames[0].save(
            temporary, "GIF", save_all=True, append_images=frames[1:], duration=FRAME_MS, loop=0, optimize=True
        )
