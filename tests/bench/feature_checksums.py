"""Cost of the checksums of a feature cache's rows: processor time to write and to open them, with and without.

python tests/bench/feature_checksums.py [MEGABYTES]      256 MB of rows as m3ae_b16 gives them: about 20 seconds
"""

import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import numpy as np

from instructrl.data.feature_cache.row_file import RowFile, checksums, write_at
from tests.fixtures.rounds import alternate, processor, ratio

CAMERAS, FEATURES = 3, 3072  # pooled features of four layers of 768


def main() -> None:
    """Print what writing and reading cost with checksums and without."""
    megabytes = int(sys.argv[1]) if len(sys.argv) > 1 else 256
    count = megabytes * 1_000_000 // (CAMERAS * FEATURES * 4)
    values = np.random.default_rng(0).normal(size=(count, CAMERAS, FEATURES)).astype(np.float32)
    shape, dtype, everything = values.shape[1:], values.dtype, values.reshape(-1).view(np.uint8)
    with tempfile.TemporaryDirectory() as folder:
        stored, rewritten = (RowFile(Path(folder) / name, count, shape, dtype) for name in ("pooled.bin", "new.bin"))
        stored.create()
        stored.write(0, values)

        def write() -> None:
            rewritten.create()
            write_at(rewritten.path, 0, everything)

        found = alternate(
            {
                "write": write,
                "checksums": lambda: checksums(values),
                "read": lambda: np.fromfile(stored.path, np.uint8),
                "comparison": stored.find_missing,
            }
        )
    took = {name: processor(each) for name, each in found.items()}
    print(f"write  checksums take {ratio(took['checksums'], took['write'])} of it")
    print(f"read   checksums take {ratio(took['comparison'], took['read'])} of it")
    print(f"a start reads and compares {megabytes / np.median(took['comparison']):,.0f} MB per second")


if __name__ == "__main__":
    main()
