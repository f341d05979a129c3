"""Cost of the checksums of a checkpoint: processor time to write and to read it, with them and without.

python tests/bench/checkpoints.py [MEGABYTES]      160 MB of parameters that do not compress: about a minute
"""

import os
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
os.environ["JAX_PLATFORMS"] = "cpu"

import jax
import numpy as np

from instructrl.training.checkpointing.integrity import find_damage, write_inventory
from instructrl.training.checkpointing.manager import open_checkpoints
from instructrl.training.state import TrainState
from tests.fixtures.rounds import alternate, processor, ratio


def main() -> None:
    """Print what saving and reading cost with checksums and without."""
    megabytes = int(sys.argv[1]) if len(sys.argv) > 1 else 160
    rng = np.random.default_rng(0)
    params = {f"{index}": rng.normal(size=(512, 512)).astype(np.float32) for index in range(megabytes)}
    state = TrainState(jax.numpy.int32(1), jax.device_put(params), ())
    with tempfile.TemporaryDirectory() as folder, open_checkpoints(Path(folder)) as checkpoints:
        written = Path(folder) / "checkpoints/1"

        def save() -> None:
            checkpoints.save(state, step=1, metrics={"loss": 1.0})
            checkpoints.wait()

        found = alternate(
            {
                "save": save,
                "inventory": lambda: write_inventory(written, None),
                "restore": lambda: checkpoints.restore(state, step=1),
                "comparison": lambda: find_damage(written, contents=True),
            }
        )
    took = {name: processor(each) for name, each in found.items()}
    rest = took["save"] - took["inventory"]  # a save writes the checksums, a restoration leaves comparing to the start
    print(f"save   checksums take {ratio(took['inventory'], rest)} of all else")
    print(f"read   checksums take {ratio(took['comparison'], took['restore'])} of all else")


if __name__ == "__main__":
    main()
