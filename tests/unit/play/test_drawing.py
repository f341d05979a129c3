"""Heatmaps over images, and films as animated GIFs."""

from pathlib import Path

import numpy as np
from PIL import Image

from instructrl.play.drawing import SIZE, Film, heat_layer, with_heatmap, write_gif
from instructrl.play.session import Sight


def test_a_heatmap_covers_most_where_its_share_is_largest() -> None:
    heatmap = np.zeros((12, 12), np.float32)
    heatmap[3, 8], heatmap[3, 9] = 0.6, 0.3
    alpha = np.asarray(heat_layer(heatmap))[..., 3]
    assert alpha[3, 8] == alpha.max() > alpha[3, 9] > 0 and np.count_nonzero(alpha) == 2
    assert not np.asarray(heat_layer(np.zeros((12, 12))))[..., 3].any()  # out of view
    image = np.full((24, 24, 3), 100, np.uint8)
    drawn = np.asarray(with_heatmap(image, heatmap, size=24)).astype(int)
    changed = np.abs(drawn - 100).sum(axis=-1)
    assert np.unravel_index(changed.argmax(), changed.shape) in {(y, x) for y in (6, 7) for x in (16, 17)}
    assert np.array_equal(np.asarray(with_heatmap(image, None, size=24)), image)


def test_a_film_shows_scenes_side_by_side_above_their_sentences(tmp_path: Path) -> None:
    films = [Film("reach the red ball"), Film("pick up the rose block and lift it to the target")]
    for film, length in zip(films, (2, 5), strict=True):
        film.see(Sight(np.zeros((3, 8, 8, 3), np.uint8), np.full((3, 4, 4), 0.05, np.float32)))
        for number in range(length):
            film.add(np.full((SIZE, SIZE, 3), 40 * number, np.uint8))
    write_gif(tmp_path / "out.gif", films)
    with Image.open(tmp_path / "out.gif") as image:
        assert image.is_animated and image.width == 2 * SIZE + 4 and image.height > SIZE * 4 / 3
