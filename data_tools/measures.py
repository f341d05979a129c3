"""What a file of demonstrations holds, in numbers. Pixels are read in pieces: memory does not grow with the file."""

from collections import Counter
from dataclasses import dataclass

import numpy as np
from tqdm import tqdm

from data_tools.duplicates import Marked, marked
from data_tools.outliers import Outlier, outliers
from instructrl.actions import normalize_position
from instructrl.data.episodes import Episodes
from instructrl.data.format import Header
from instructrl.data.storage import Place, size_of

CELLS = 10  # along each side of the workspace
PIECE = 2**23  # bytes of pixels looked at together, if a frame is not larger
NUMBERS = ("x", "y", "z", "qx", "qy", "qz", "qw", "gripper")  # of an action


@dataclass(frozen=True)
class Measures:
    """What one file holds.

    Attributes:
        lengths: keyframes of each episode [E]; `frames`: all its frames [E].
        variations: episodes of each variation.
        sentences: episodes that can be asked for with each sentence, the most frequent first.
        actions: least, mean, standard deviation and largest of each of an action's numbers [4,8].
        reached: keyframes in each cell of the workspace [10,10,10] (x, y, z).
        outside: keyframes outside the workspace.
        pixels: mean and standard deviation of each camera and channel [2,K,3], in 0 to 255.
    """

    path: Place
    size: int  # bytes
    header: Header
    lengths: np.ndarray
    frames: np.ndarray
    seeds: int  # distinct ones
    variations: dict[int, int]
    sentences: list[tuple[str, int]]
    actions: np.ndarray
    reached: np.ndarray
    outside: int
    pixels: np.ndarray
    outliers: list[Outlier]
    marked: Marked

    @property
    def coverage(self) -> float:
        """The share of the workspace's cells in which there is a keyframe."""
        return float((self.reached > 0).mean())


def measure(path: Place) -> Measures:
    """Read a file once, to the last pixel.

    Raises:
        InputError: it is damaged.
    """
    with Episodes(path) as episodes:
        contents = episodes.contents
        positions, values = contents.action[:, :3], contents.action.astype(np.float64)
        reached, outside = cells(positions)
        pixels, brightness, contrast = pixel_statistics(episodes)
        said = Counter(sentence for number in range(len(episodes)) for sentence in {*episodes.sentences(number)})
        return Measures(
            path=path,
            size=size_of(path),
            header=episodes.header,
            lengths=contents.keyframes,
            frames=contents.frames,
            seeds=len(np.unique(contents.seed)),
            variations=dict(sorted(Counter(contents.variation.tolist()).items())),
            sentences=sorted(said.items(), key=lambda entry: (-entry[1], entry[0])),
            actions=np.stack([values.min(0), values.mean(0), values.std(0), values.max(0)]),
            reached=reached,
            outside=outside,
            pixels=pixels,
            outliers=outliers(episodes, brightness, contrast),
            marked=marked(path, episodes.header, contents),
        )


def cells(positions: np.ndarray) -> tuple[np.ndarray, int]:
    """How many positions [M,3] lie in each cell of the workspace [10,10,10], and how many outside."""
    share = (normalize_position(positions.astype(np.float64)) + 1) / 2
    inside = ((share >= 0) & (share <= 1)).all(1)
    places = np.minimum((share[inside] * CELLS).astype(int), CELLS - 1)
    flat = np.ravel_multi_index(tuple(places.T), (CELLS,) * 3)
    return np.bincount(flat, minlength=CELLS**3).reshape((CELLS,) * 3), int((~inside).sum())


def pixel_statistics(episodes: Episodes) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Mean and standard deviation of each camera and channel [2,K,3], and of each frame's pictures [N,K] both.

    Sums are of whole numbers: the result does not depend on the pieces.

    Raises:
        InputError: pixels are damaged.
    """
    count, views, size = len(episodes.contents.state), len(episodes.cameras), episodes.image_size
    sums, squares, pixels = np.zeros((views, 3), object), np.zeros((views, 3), object), size * size  # of any size
    brightness, contrast = np.empty((count, views), np.float32), np.empty((count, views), np.float32)
    step = max(1, PIECE // (views * pixels * 3))
    with tqdm(
        total=count, desc=str(episodes.path), unit="frame", dynamic_ncols=True, delay=1, disable=None
    ) as progress:
        for begin in range(0, count, step):
            images = episodes.images(begin, min(begin + step, count))
            rows = images.reshape(len(images), views, size, size * 3).astype(np.uint16)
            sum_, square = channels(rows), channels(rows * rows)
            part = slice(begin, begin + len(images))
            brightness[part], contrast[part] = spread(sum_.sum(2), square.sum(2), 3 * pixels)
            sums, squares = sums + sum_.sum(0), squares + square.sum(0)
            progress.update(len(images))
    return np.stack(spread(sums, squares, count * pixels)), brightness, contrast


def channels(rows: np.ndarray) -> np.ndarray:
    """Sums of each channel of pictures [N,K,H,W*3] of uint16, as int64 [N,K,3]; adding whole rows is quick."""
    columns = rows.sum(2, dtype=np.uint32)
    return columns.reshape(*columns.shape[:2], -1, 3).sum(2, dtype=np.int64)


def spread(sums: np.ndarray, squares: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation from the sums of `count` whole numbers and of their squares."""
    variance = (squares * count - sums * sums).astype(np.float64)
    return (sums / count).astype(np.float64), np.sqrt(variance) / count
