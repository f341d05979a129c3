"""Twenty steps of tiny configurations reproduce recorded losses: no result changes unnoticed.

The demonstrations are generated from raw bits of Philox, so that no simulator or renderer affects the result.

python -m tests.integration.test_golden      records the losses again
"""

import json
import os
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from instructrl.data.demonstrations.schema import Header
from instructrl.types import Demonstration
from tests.fixtures import cameras, demonstrations, tiny
from tests.paths import GOLDEN

RECORDED = GOLDEN / "losses.json"
STEPS, EPISODES, LENGTH, SIZE = 20, 10, 4, 32
TOLERANCE = 2e-4  # relative; other threads, another CPU and XLA's optimizations change losses by about 1e-6
HEADER = Header("reach_target", "train", ("front", "left_shoulder"), SIZE, {"simulator": "made up", "renderer": "none"})
M3AE = ("encoder=m3ae_tiny", "encoder.dim=16", "encoder.depth=2", "encoder.heads=2", "encoder.patch_size=16",
        "encoder.weights=null")  # fmt: skip
CASES = {
    "spatial": ("head=spatial",),
    "regression, frozen encoder": ("head=regression", *M3AE, "encoder.frozen=true", "training.token_dropout=0"),
    "discrete, trained encoder": ("head=discrete", *M3AE, "encoder.frozen=false"),
}
ADVICE = """
The training gives other results than before. If that is not intended, find the change that caused it. If it is, say
so in the commit, check the figures in README and docs again, and record the new losses:
python -m tests.integration.test_golden"""


def uniform(seed: int, *shape: int) -> np.ndarray:
    """Random numbers in [0, 1) from raw bits, the same in every numpy version."""
    bits = np.random.Philox(np.random.SeedSequence([seed, len(shape)])).random_raw(int(np.prod(shape)))
    return (bits.astype(np.float64) / 2.0**64).astype(np.float32).reshape(shape)


def demonstration(seed: int) -> Demonstration:
    """A demonstration of random images and keyframes in the workspace, with cameras that face it."""
    views = len(HEADER.cameras)
    intrinsics, extrinsics = cameras.ring_of_cameras(views, SIZE)
    images = (255 * uniform(8 * seed + 1, LENGTH + 1, views, SIZE, SIZE, 3)).astype(np.uint8)
    position = np.array([0.2, 0.0, 1.0]) + 0.3 * (uniform(8 * seed + 2, LENGTH, 3) - 0.5)
    rotation = uniform(8 * seed + 3, LENGTH, 4) + 0.1
    rotation /= np.linalg.norm(rotation, axis=1, keepdims=True)
    gripper = (uniform(8 * seed + 4, LENGTH, 1) > 0.5).astype(np.float32)
    return Demonstration(
        images=images,
        state=uniform(8 * seed + 5, LENGTH + 1, 4),
        intrinsics=np.tile(intrinsics, (LENGTH + 1, 1, 1, 1)),
        extrinsics=np.tile(extrinsics, (LENGTH + 1, 1, 1, 1)),
        keyframes=np.arange(1, LENGTH + 1 - seed % 2, dtype=np.int64),
        actions=np.concatenate([position, rotation, gripper], axis=1)[: LENGTH - seed % 2].astype(np.float32),
        instructions=demonstrations.SENTENCES,
        variation=0,
        seed=seed,
    )


def losses(folder: Path, *words: str) -> list[float]:
    """Losses of the first steps of a run with these settings."""
    import jax

    from instructrl.training.objectives.behavior_cloning import open_demonstrations, prepare_behavior_cloning
    from instructrl.training.run_dir import open_run

    sizes = ("task.episodes=8", "task.val_episodes=2", "training.batch_size=3", "training.epochs=10", "policy.depth=2")
    config = tiny.config(folder, *sizes, *words)
    episodes = [demonstration(seed) for seed in range(EPISODES)]
    data = {
        "train": [demonstrations.write(folder / "train.hdf5", episodes[:8], HEADER)],
        "val": [demonstrations.write(folder / "val.hdf5", episodes[8:], replace(HEADER, split="val"))],
    }
    with open_demonstrations(config, data) as sets:
        training, state = prepare_behavior_cloning(config, open_run(config), sets)
        found = []
        with closing(training.batches(training.train, 0, STEPS)) as batches:
            for batch in batches:
                state, values = training.train_step(state, batch, training.frozen)
                found.append(float(jax.device_get(values["loss"])))
    return found


@pytest.mark.parametrize("case", CASES)
def test_twenty_steps_end_in_the_recorded_losses(case: str, tmp_path: Path) -> None:
    recorded, found = json.loads(RECORDED.read_text())["losses"][case], losses(tmp_path, *CASES[case])
    assert len(found) == len(recorded) == STEPS and found[-1] < found[0]
    for step, (one, other) in enumerate(zip(found, recorded, strict=True)):
        assert one == pytest.approx(other, rel=TOLERANCE), f"{case}, step {step}: {one}, recorded {other}.{ADVICE}"


def record() -> None:
    """Record the losses of the current code."""
    import tempfile

    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    found = {}
    for case, words in CASES.items():
        with tempfile.TemporaryDirectory() as folder:
            found[case] = [round(loss, 6) for loss in losses(Path(folder), *words)]
    text = json.dumps({"made by": "python -m tests.integration.test_golden", "losses": found}, indent=1)
    RECORDED.write_text(text + "\n")
    print(f"{RECORDED}: {', '.join(f'{case} {some[0]:.4f} -> {some[-1]:.4f}' for case, some in found.items())}")


if __name__ == "__main__":
    record()
