"""Random demonstrations and files for tests of the data package."""

from pathlib import Path

import numpy as np

from instructrl.batch import Demonstration
from instructrl.data.format import Header
from instructrl.data.writer import Writer

HEADER = Header(
    task="reach_target",
    split="train",
    cameras=("front", "wrist"),
    image_size=16,
    provenance={"simulator": "fake", "version": "1", "renderer": "none", "expert": "fake"},
)
SENTENCES = ("reach the red ball", "touch the red ball", "go to the red one")


def demonstration(
    seed: int, *, steps: int = 2, between: int = 0, sentences: tuple[str, ...] = SENTENCES
) -> Demonstration:
    """Return a random demonstration with `between` frames before each keyframe."""
    rng = np.random.default_rng(seed)
    frames, views = 1 + steps * (1 + between), len(HEADER.cameras)
    actions = rng.normal(size=(steps, 8)).astype(np.float32)
    actions[:, 3:7] /= np.linalg.norm(actions[:, 3:7], axis=1, keepdims=True)
    actions[:, 3:7] *= np.where(actions[:, 6:7] < 0, -1, 1)
    actions[:, 7] = rng.integers(0, 2, steps)
    return Demonstration(
        images=rng.integers(0, 256, (frames, views, HEADER.image_size, HEADER.image_size, 3), dtype=np.uint8),
        state=rng.normal(size=(frames, 4)).astype(np.float32),
        intrinsics=rng.normal(size=(frames, views, 3, 3)).astype(np.float32),
        extrinsics=rng.normal(size=(frames, views, 4, 4)).astype(np.float32),
        keyframes=np.arange(1, steps + 1, dtype=np.int64) * (1 + between),
        actions=actions,
        instructions=sentences,
        variation=seed % 3,
        seed=seed,
    )


def write(path: Path, demonstrations: list[Demonstration], header: Header = HEADER) -> Path:
    """Write a file with these demonstrations."""
    with Writer(path, header) as writer:
        for one in demonstrations:
            writer.add(one)
    return path


def assert_equal(found: Demonstration, expected: Demonstration) -> None:
    """Assert that demonstrations are bit-identical and of the same dtypes."""
    for name, one, other in zip(Demonstration._fields, found, expected, strict=True):
        if isinstance(other, np.ndarray):
            assert one.dtype == other.dtype and one.shape == other.shape, name
            assert one.tobytes() == other.tobytes(), name
        else:
            assert one == other, name
