"""Training sequences per second of the quickstart agent, with and without the loader, and compared with windows.

- `step`: the jitted step on a batch that is already on the device.
- `training`: the step with the loader, as in the training loop. Its ratio to `step` shows the cost of loading.
- `loader`: the loader alone. Its ratio to `training` is the headroom.
- `windows`: the usual alternative to entire episodes. Every step is a separate sample with its history, so that each
  frame is encoded once per window that contains it. The same number of targets per second is compared.

Ratios are of wall time.
"""

import sys
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import jax
import numpy as np

sys.path.insert(0, str(Path(__file__).parents[2]))

from instructrl.cli.entry import compose
from instructrl.config.training import TrainConfig, token_dropout_rate
from instructrl.data.demonstrations.dataset import DemonstrationDataset
from instructrl.data.demonstrations.schema import Header
from instructrl.data.demonstrations.writer import Writer
from instructrl.data.loading.loader import Loader, prefetch
from instructrl.data.text.tokenizer import make_tokenizer
from instructrl.sim import EpisodeStart, make_env
from instructrl.training.model_factory import dummy_batch, make_agent, random_params
from instructrl.training.objectives.bc_step import make_train_step
from instructrl.training.optimizer import learning_rate, make_optimizer
from instructrl.training.state import initial_state
from instructrl.types import Batch
from tests.fixtures.rounds import alternate, ratio, wall

STEPS, EPISODES = 8, 128
TASKS = ("reach_target", "push_button", "pick_and_lift")


def collected(config: TrainConfig, folder: Path) -> Path:
    """Collect a few real demonstrations; returns their file."""
    env = make_env(config.sim, config.task.name)
    header = Header(config.task.name, "train", tuple(config.sim.cameras), config.sim.image_size, env.provenance())
    path = folder / f"{config.task.name}.hdf5"
    with Writer(path, header) as writer:
        for seed in range(EPISODES):
            writer.add(env.demonstrate(EpisodeStart(seed % env.variations, seed))[0])
    env.close()
    return path


def windowed(batch: Batch) -> Batch:
    """Convert every step to a separate sequence: the frames up to it, of which only the last one is a target."""
    sequences, steps = batch.step_mask.shape
    index = np.array([[max(0, last - steps + 1 + place) for place in range(steps)] for last in range(steps)])

    def gather(field: np.ndarray) -> np.ndarray:
        return field[:, index].reshape(sequences * steps, steps, *field.shape[2:])

    moving: Any = {
        key: gather(getattr(batch, key)) for key in ("images", "state", "intrinsics", "extrinsics", "actions")
    }
    target = np.zeros((sequences, steps, steps), np.float32)
    target[:, :, -1] = batch.step_mask
    texts: Any = {key: np.repeat(getattr(batch, key), steps, axis=0) for key in ("tokens", "text_padding_mask")}
    return Batch(**moving, **texts, step_mask=target.reshape(-1, steps))


def measure(config: TrainConfig, episodes: DemonstrationDataset) -> dict[str, np.ndarray]:
    """Wall time of a sequence in every variant, seconds [rounds]."""
    tokenizer = make_tokenizer(config.encoder)
    loader = Loader([episodes], tokenizer, batch_size=config.training.batch_size, seed=0)
    agent = make_agent(config, vocabulary_size=tokenizer.vocabulary_size)
    optimizer = make_optimizer(
        config.optimizer, learning_rate(config.optimizer, epochs=9, steps_per_epoch=9, batch_size=1)
    )
    step = make_train_step(agent, optimizer, seed=0, token_dropout=token_dropout_rate(config.training, config.encoder))
    state = initial_state(random_params(agent, dummy_batch(config, tokenizer), seed=0), optimizer)

    def steps_on(batches: Callable[[], Iterable[Batch]]) -> Callable[[], None]:
        def work() -> None:
            nonlocal state
            for batch in batches():
                state, _ = step(state, batch, {})
            jax.block_until_ready(state)

        return work

    def loaded() -> Iterable[Batch]:
        return prefetch(loader, 0, STEPS, depth=config.hardware.prefetch, put=jax.device_put)

    batch, windows = jax.device_put(loader.batch(0)), jax.device_put(windowed(loader.batch(0)))
    found = alternate(
        {
            "loader": lambda: [loader.batch(number) for number in range(STEPS)],
            "step": steps_on(lambda: [batch] * STEPS),
            "training": steps_on(loaded),
            "windows": steps_on(lambda: [windows] * STEPS),
        }
    )
    return {name: wall(each) / (STEPS * config.training.batch_size) for name, each in found.items()}


def main() -> None:
    """Print a line for each task."""
    names, ratios = ("loader", "step", "training", "windows"), ("training:step", "loader:training", "step:windows")
    print(f"{'task':<15}{'steps':>6}" + "".join(f"{f'{name}/s':>12}" for name in names)
          + "".join(f"{name:>27}" for name in ratios))  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        for task in TASKS:
            config = compose("train", TrainConfig, ["experiment=quickstart", f"task={task}"])
            with DemonstrationDataset(collected(config, Path(folder))) as episodes:
                took = measure(config, episodes)
                rates = "".join(f"{1 / np.median(took[name]):>12.0f}" for name in names)
                # A ratio of rates is the inverse ratio of times.
                compared = (name.split(":") for name in ratios)
                columns = "".join(f"{ratio(took[other], took[name]):>27}" for name, other in compared)
                print(f"{task:<15}{episodes.steps:>6}{rates}{columns}", flush=True)


if __name__ == "__main__":
    main()
