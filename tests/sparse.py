"""Files of demonstrations larger than any memory, which take no room on the disk: their pixels are zero."""

from pathlib import Path

import numpy as np
import pytest

from instructrl.data.sink import Sink
from instructrl.data.writer import Writer
from tests.demonstrations import HEADER, demonstration

HOLE = 4096  # bytes from which on zeros are left out


def write_sparse(path: Path, count: int, *, size: int, cameras: tuple[str, ...], split: str = "train") -> Path:
    """`count` episodes of a split, of 2 steps and 3 frames of `size` pixels."""
    header = HEADER.__class__("pick_and_lift", split, cameras, size, {"renderer": "raycast"})
    black = np.zeros((3, len(cameras), size, size, 3), np.uint8)
    write = Sink.write

    def skip(self: Sink, buffer: memoryview) -> int:
        view = memoryview(buffer).cast("B")
        if len(view) < HOLE or np.frombuffer(view, np.uint8).any():
            return write(self, buffer)
        self._place += len(view)
        self._end = max(self._end, self._place)
        return len(view)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Sink, "write", skip)
        with Writer(path, header) as writer:
            for seed in range(count) if split == "train" else range(10**6, 10**6 + count):
                writer.add(demonstration(seed, sentences=(f"lift {seed % 7}",))._replace(images=black))
    return path
