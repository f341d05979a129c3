"""Cost of the checksums of a feature cache's rows: processor time to write and to open them, with and without.

python tests/bench/feature_checksums.py [MEGABYTES]      256 MB of rows as m3ae_b16 gives them: about 20 seconds
"""

import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import numpy as np

from instructrl.data.feature_cache.row_file import RowFile, checksums, write_at

ROUNDS = 7
CAMERAS, FEATURES = 3, 3072  # pooled features of four layers of 768


def processor_seconds(work: Callable[..., object], *given: Any) -> float:
    """Processor time of a call."""
    begin = time.process_time()
    work(*given)
    return time.process_time() - begin


def report(name: str, checked: list[float], rest: list[float]) -> None:
    """Print the median ratio of checksums to all else, and the smallest and largest."""
    ratios = sorted(own / other for own, other in zip(checked, rest, strict=True))
    print(f"{name:<6} checksums take {ratios[len(ratios) // 2]:.3f} of it ({ratios[0]:.3f} to {ratios[-1]:.3f})")


def main() -> None:
    """Alternate writing rows and their checksums, reading rows and their comparison."""
    megabytes = int(sys.argv[1]) if len(sys.argv) > 1 else 256
    count = megabytes * 1_000_000 // (CAMERAS * FEATURES * 4)
    values = np.random.default_rng(0).normal(size=(count, CAMERAS, FEATURES)).astype(np.float32)
    writing, checking, reading, comparing = ([] for _ in range(4))
    with tempfile.TemporaryDirectory() as folder:
        rows = RowFile(Path(folder) / "pooled.bin", count, values.shape[1:], values.dtype)
        for _ in range(ROUNDS):
            rows.create()
            writing.append(processor_seconds(write_at, rows.path, 0, values.reshape(-1).view(np.uint8)))
            checking.append(processor_seconds(checksums, values))
            rows.write(0, values)
            reading.append(processor_seconds(np.fromfile, rows.path, np.uint8))
            comparing.append(processor_seconds(rows.find_missing))
    report("write", checking, writing)
    report("read", comparing, reading)
    print(f"a start reads and compares {megabytes / np.median(comparing):,.0f} MB per second")


if __name__ == "__main__":
    main()
