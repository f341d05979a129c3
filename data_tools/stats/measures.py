"""Statistics of a file of demonstrations. Pixels are read in chunks: memory does not grow with the file."""

import base64
import io
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from PIL import Image

from data_tools.stats.duplicates import EpisodeDigests, episode_digests
from data_tools.stats.outliers import Outlier, outliers
from instructrl.cli.progress import ProgressBar
from instructrl.data.demonstrations.dataset import DemonstrationDataset
from instructrl.data.demonstrations.schema import Header
from instructrl.storage.paths import StoragePath, file_size
from instructrl.workspace import Workspace

CELLS = 10  # along each side of the workspace
CHUNK_BYTES = 2**23  # bytes of pixels per chunk, if a frame is not larger
SAMPLES, SAMPLE_IMAGES = 8, 4  # episodes with images on the page, and images of each at most
NUMBERS = ("x", "y", "z", "qx", "qy", "qz", "qw", "gripper", "collisions")  # of an action; few have the last


class Sample(NamedTuple):
    """An episode on the page: JPEG images in base64."""

    episode: int
    instruction: str
    images: Sequence[str]


@dataclass(frozen=True)
class Measures:
    """Statistics of one file.

    Attributes:
        lengths: keyframes of each episode [E]; `frames`: all its frames [E].
        variations: episodes of each variation.
        sentences: number of episodes with each instruction, the most frequent first.
        actions: minimum, mean, standard deviation and maximum of each of an action's numbers [4,A].
        reached: keyframes in each cell of the workspace [10,10,10] (x, y, z).
        outside: keyframes outside the workspace.
        pixels: mean and standard deviation of each camera and channel [2,K,3], in 0 to 255.
        samples: images of a few episodes of different variations.
    """

    path: StoragePath
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
    digests: EpisodeDigests
    samples: list[Sample]

    @property
    def number_names(self) -> tuple[str, ...]:
        """Names of an action's numbers."""
        return NUMBERS[: self.actions.shape[1]]

    @property
    def coverage(self) -> float:
        """Share of the workspace's cells with a keyframe."""
        return float((self.reached > 0).mean())


def measure(path: StoragePath) -> Measures:
    """Compute the statistics of a file in one pass over all pixels.

    Raises:
        InputError: the file is damaged.
    """
    with DemonstrationDataset(path) as episodes:
        contents = episodes.contents
        positions, values = contents.action[:, :3], contents.action.astype(np.float64)
        reached, outside = cells(positions, episodes.workspace)
        pixels, brightness, contrast = pixel_statistics(episodes)
        sentence_counts = Counter(
            sentence for number in range(len(episodes)) for sentence in {*episodes.instructions(number)}
        )
        return Measures(
            path=path,
            size=file_size(path),
            header=episodes.header,
            lengths=contents.keyframes,
            frames=contents.frames,
            seeds=len(np.unique(contents.seed)),
            variations=dict(sorted(Counter(contents.variation.tolist()).items())),
            sentences=sorted(sentence_counts.items(), key=lambda entry: (-entry[1], entry[0])),
            actions=np.stack([values.min(0), values.mean(0), values.std(0), values.max(0)]),
            reached=reached,
            outside=outside,
            pixels=pixels,
            outliers=outliers(episodes, brightness, contrast),
            digests=episode_digests(path, episodes.header, contents),
            samples=[sample(episodes, number) for number in varied_episodes(contents.variation)],
        )


def varied_episodes(variation: np.ndarray, count: int = SAMPLES) -> list[int]:
    """Select a few episodes of different variations, given the variation of each."""
    indices = np.linspace(0, len(variation) - 1, min(count, len(variation))).round().astype(int)
    return np.argsort(variation, kind="stable")[indices].tolist()


def sample(episodes: DemonstrationDataset, number: int) -> Sample:
    """Draw an episode: what its first camera sees at the beginning and at each of the first keyframes."""
    found = episodes.demonstration(number)
    images = [jpeg(found.images[frame, 0]) for frame in [0, *found.keyframes][:SAMPLE_IMAGES]]
    return Sample(number, found.instructions[number % len(found.instructions)], images)


def jpeg(image: np.ndarray) -> str:
    """An image [H,W,3] as JPEG in base64."""
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, format="JPEG", quality=85)
    return base64.b64encode(buffer.getvalue()).decode()


def cells(positions: np.ndarray, workspace: Workspace) -> tuple[np.ndarray, int]:
    """Count the positions [M,3] in each cell of the workspace [10,10,10], and outside of it."""
    share = (workspace.normalize(positions.astype(np.float64)) + 1) / 2
    inside = ((share >= 0) & (share <= 1)).all(1)
    cell_indices = np.minimum((share[inside] * CELLS).astype(int), CELLS - 1)
    flat = np.ravel_multi_index(tuple(cell_indices.T), (CELLS,) * 3)
    return np.bincount(flat, minlength=CELLS**3).reshape((CELLS,) * 3), int((~inside).sum())


def pixel_statistics(episodes: DemonstrationDataset) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Mean and standard deviation of each camera and channel [2,K,3], and of each image [N,K] (both).

    Sums are integers: the result does not depend on the chunks.

    Raises:
        InputError: pixels are damaged.
    """
    count, views, size = len(episodes.contents.state), len(episodes.cameras), episodes.image_size
    sums, squares, pixels = (
        np.zeros((views, 3), object),
        np.zeros((views, 3), object),
        size * size,
    )  # Python integers: no overflow
    brightness, contrast = np.empty((count, views), np.float32), np.empty((count, views), np.float32)
    step = max(1, CHUNK_BYTES // (views * pixels * 3))
    with ProgressBar(description=str(episodes.path), total=count, unit="frames", delay=1) as progress:
        for begin in range(0, count, step):
            images = episodes.images(begin, min(begin + step, count))
            rows = images.reshape(len(images), views, size, size * 3).astype(np.uint16)
            sum_, square = channel_sums(rows), channel_sums(rows * rows)
            part = slice(begin, begin + len(images))
            brightness[part], contrast[part] = mean_and_std(sum_.sum(2), square.sum(2), 3 * pixels)
            sums, squares = sums + sum_.sum(0), squares + square.sum(0)
            progress.update(len(images))
    return np.stack(mean_and_std(sums, squares, count * pixels)), brightness, contrast


def channel_sums(rows: np.ndarray) -> np.ndarray:
    """Sum each channel of images uint16 [N,K,H,W*3] to int64 [N,K,3]; summing rows first is faster."""
    columns = rows.sum(2, dtype=np.uint32)
    return columns.reshape(*columns.shape[:2], -1, 3).sum(2, dtype=np.int64)


def mean_and_std(sums: np.ndarray, squares: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation from the sums of `count` integers and of their squares."""
    variance = (squares * count - sums * sums).astype(np.float64)
    return (sums / count).astype(np.float64), np.sqrt(variance) / count
