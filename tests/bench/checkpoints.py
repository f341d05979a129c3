"""Cost of the checksums of a checkpoint: processor time to write and to read it, with them and without.

python tests/bench/checkpoints.py [MEGABYTES]      160 MB of parameters that do not compress: about a minute
"""

import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
os.environ["JAX_PLATFORMS"] = "cpu"

import jax
import numpy as np

from instructrl.training.checkpointing.integrity import find_damage, write_inventory
from instructrl.training.checkpointing.manager import Checkpoints, open_checkpoints
from instructrl.training.state import TrainState

ROUNDS = 7


def processor_seconds(work: Callable[..., object], *given: Any, **more: Any) -> float:
    """Processor time of all threads during a call."""
    begin = time.process_time()
    work(*given, **more)
    return time.process_time() - begin


def report(name: str, checksums: list[float], rest: list[float]) -> None:
    """Print the median ratio of checksums to all else, and the smallest and largest."""
    ratios = sorted(own / other for own, other in zip(checksums, rest, strict=True))
    print(f"{name:<6} checksums take {ratios[len(ratios) // 2]:.3f} of it ({ratios[0]:.3f} to {ratios[-1]:.3f})")


def main() -> None:
    """Alternate saving and its checksums, reading and their comparison."""
    megabytes = int(sys.argv[1]) if len(sys.argv) > 1 else 160
    rng = np.random.default_rng(0)
    params = {f"{index}": rng.normal(size=(512, 512)).astype(np.float32) for index in range(megabytes)}
    state = TrainState(jax.numpy.int32(1), jax.device_put(params), ())
    saving, writing, restoring, comparing = ([] for _ in range(4))

    def save(checkpoints: Checkpoints) -> None:
        checkpoints.save(state, step=1, metrics={"loss": 1.0})
        checkpoints.wait()

    for _ in range(ROUNDS):
        with tempfile.TemporaryDirectory() as folder, open_checkpoints(Path(folder)) as checkpoints:
            whole = processor_seconds(save, checkpoints)
            written = Path(folder) / "checkpoints/1"
            writing.append(processor_seconds(write_inventory, written, None))
            saving.append(whole - writing[-1])
            restoring.append(processor_seconds(checkpoints.restore, state, step=1))
            comparing.append(processor_seconds(find_damage, written, contents=True))
    report("save", writing, saving)
    report("read", comparing, restoring)


if __name__ == "__main__":
    main()
