"""A frozen encoder in training: the release's step, live features and cached ones, side by side; and filling the cache.

A sample is a window of 4 keyframe steps of 4 cameras with its 4 targets, everywhere. Here each demonstration is one
such window, so that every frame is distinct; of longer ones the release encodes each frame up to 4 times, we once.

- `release`: the release's step, repaired, on a batch that lies on the device: all frames of all windows are encoded,
  the encoder's weights are constants of the program, pmap over one device, nothing donated.
- `live`: our step with `features=live`, and the loader in front.
- `cached`: our step with features from the cache, and the loader in front.
- `filling`: the cache computed and written, as training does it; a row is a moment (4 images). It is interrupted a few
  times, and goes on where it was, to take turns with
- `bare`: a loop of the compiled encoder over as many images in memory. So what else the machine does hits both.

Compiling is not counted. Settings may follow the command, as for train.py: `encoder=m3ae_tiny policy=vit_debug` for
a quick look.
"""

import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from statistics import median
from typing import Any

import jax
import numpy as np
import optax

sys.path.insert(0, str(Path(__file__).parents[2]))

from instructrl.batch import STATE_SIZE, Batch, Demonstration
from instructrl.command import compose
from instructrl.config import CAMERAS, SimConfig, TrainConfig
from instructrl.data.episodes import Episodes
from instructrl.data.format import Header
from instructrl.data.tokenizer import make_tokenizer
from instructrl.data.writer import Writer
from instructrl.models.agent import Agent
from instructrl.training.encoder import origin_of
from instructrl.training.features import features_of, make_encode, moments
from instructrl.training.optimizer import learning_rate, make_optimizer
from instructrl.training.preparation import Sets, Training, prepare
from instructrl.training.state import TrainState, make_agent

WINDOW, BATCH = 4, 8
TURNS = 4  # of filling and the bare loop
STEPS = (1, 6, 6, 6)  # of training on cached features, in rounds; in the first one every row is checked
SETTINGS = (
    "encoder=m3ae_b16", "encoder.tokenizer=small", "encoder.weights=null", "policy=vit_base", "head=regression",
    "task=reach_target", "hardware=cpu", "sim.image_size=256", f"sim.cameras=[{','.join(CAMERAS)}]",
    f"task.episodes={BATCH}", "task.val_episodes=1", f"training.batch_size={BATCH}",
)  # fmt: skip


def demonstration(sim: SimConfig, seed: int) -> Demonstration:
    """Noise in the shape of a window."""
    rng, frames, views = np.random.default_rng(seed), WINDOW + 1, len(sim.cameras)
    actions = rng.uniform(-0.3, 0.3, (WINDOW, 8)).astype(np.float32)
    actions[:, 3:] = [0, 0, 0, 1, 1]
    return Demonstration(
        images=rng.integers(0, 256, (frames, views, sim.image_size, sim.image_size, 3), dtype=np.uint8),
        state=rng.normal(size=(frames, STATE_SIZE)).astype(np.float32),
        intrinsics=np.tile(np.eye(3, dtype=np.float32), (frames, views, 1, 1)),
        extrinsics=np.tile(np.eye(4, dtype=np.float32), (frames, views, 1, 1)),
        keyframes=np.arange(1, frames),
        actions=actions,
        instructions=("reach the red ball",),
        variation=0,
        seed=seed,
    )


def written(config: TrainConfig, path: Path, *, seeds: range) -> Path:
    """A file of demonstrations."""
    sim = config.sim
    header = Header(config.task.name, "train", tuple(sim.cameras), sim.image_size, {"simulator": "noise"})
    with Writer(path, header) as writer:
        for seed in seeds:
            writer.add(demonstration(sim, seed))
    return path


def release_step(agent: Agent, encoder: Any, optimizer: optax.GradientTransformation) -> Callable[..., Any]:
    """The release's step, repaired."""

    def step(state: TrainState, batch: Batch) -> tuple[TrainState, Any]:
        given = batch.images, batch.tokens, batch.text_padding_mask
        features: Any = agent.apply({"params": {"encoder": encoder}}, *given, method=Agent.encode)
        seen = batch._replace(images=None, features=jax.lax.stop_gradient(features))

        def loss(params: Any) -> Any:
            return agent.apply({"params": params}, seen)

        gradients, metrics = jax.grad(loss, has_aux=True)(state.params)
        gradients, metrics = jax.lax.pmean((gradients, metrics), "devices")
        updates, opt_state = optimizer.update(gradients, state.opt_state, state.params)
        return TrainState(state.step + 1, optax.apply_updates(state.params, updates), opt_state), metrics

    return jax.pmap(step, axis_name="devices")


def compiled(step: Callable[..., Any], *given: Any) -> tuple[Callable[..., Any], float]:
    """The step as a program, and the seconds that compiling it takes."""
    began = time.perf_counter()
    lowered: Any = step
    return lowered.lower(*given).compile(), time.perf_counter() - began


def seconds(work: Callable[[], Any]) -> float:
    """Of one call, until what it answers is there."""
    began = time.perf_counter()
    jax.block_until_ready(work())
    return time.perf_counter() - began


def time_release(training: Training, state: TrainState) -> tuple[float, float]:
    """Seconds of a step, and of compiling it."""
    config = training.config
    agent = make_agent(config, vocabulary_size=make_tokenizer(config.encoder).vocabulary_size)
    optimizer = make_optimizer(config.optimizer, learning_rate(config.optimizer, epochs=99, steps_per_epoch=99))
    first, batch = jax.tree.map(lambda leaf: jax.device_put(leaf)[None], (state, training.train.batch(0)))
    encoder = jax.tree.map(np.asarray, training.frozen["encoder"])
    step, compiling = compiled(release_step(agent, encoder, optimizer), first, batch)
    return seconds(lambda: step(first, batch)), compiling


def time_ours(training: Training, state: TrainState, *, steps: Sequence[int]) -> tuple[float, float]:
    """Seconds of a step with the loader in front, the best of rounds of so many `steps`; and of compiling it."""
    example = jax.device_put(training.train.batch(0))
    step, compiling = compiled(training.train_step, state, example, training.frozen)
    rounds = []
    for count in steps:

        def work(count: int = count) -> Any:
            nonlocal state
            for batch in training.batches(training.train, 0, count):
                state, metrics = step(state, batch, training.frozen)
            return state, metrics

        rounds.append(seconds(work) / count)
    return min(rounds), compiling


class PausedError(Exception):
    """Raised in place of encoding more."""


def time_filling(training: Training, episodes: Episodes, *, run: Path) -> list[tuple[float, float]]:
    """Rows per second of filling the cache and of the bare loop, in every turn; the cache is complete then."""
    config, tokenizer = training.config, make_tokenizer(training.config.encoder)
    agent, checksum = make_agent(config, vocabulary_size=tokenizer.vocabulary_size), origin_of(config, run).checksum
    encode, count = make_encode(agent, training.frozen), moments()
    images = np.concatenate([episodes.episode(index).images for index in range(len(episodes))])
    batches = images.reshape(TURNS, -1, count, *images.shape[1:])
    words = tokenizer([demonstration(config.sim, 0).instructions[0]] * count)
    calls = 0

    def encode_until_paused(*given: Any) -> Any:
        nonlocal calls
        if isinstance(given[0], np.ndarray):  # else only the shapes are asked
            if calls == batches.shape[1]:
                raise PausedError
            calls += 1
        return encode(*given)

    def fill() -> None:
        with suppress(PausedError):
            features_of(episodes, config, tokenizer, encode=encode_until_paused, checksum=checksum)

    rates = []
    jax.block_until_ready(encode(batches[0, 0], *words))  # compiles
    for number, part in enumerate(batches):

        def bare(part: np.ndarray = part) -> None:
            for batch in part:
                jax.block_until_ready(encode(batch, *words))

        calls, rows = 0, part.shape[0] * count
        taken = {work: seconds(work) for work in ((fill, bare) if number % 2 else (bare, fill))}
        rates.append((rows / taken[fill], rows / taken[bare]))
    return rates


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        config = compose("train", TrainConfig, [*SETTINGS, f"output_dir={folder}", *sys.argv[1:]])
        size, views = config.sim.image_size, len(config.sim.cameras)
        print(f"{config.encoder.name}, {config.policy.name}, {views} cameras of {size}x{size}, batches of {BATCH}; "
              f"a sample is a window of {WINDOW} keyframe steps with its {WINDOW} targets")  # fmt: skip
        data = {"train": written(config, folder / "train.hdf5", seeds=range(BATCH)),
                "val": written(config, folder / "val.hdf5", seeds=range(BATCH, BATCH + 1))}  # fmt: skip
        with Episodes(data["train"]) as train_set, Episodes(data["val"]) as val_set:
            measure(config, folder, data, (train_set, val_set))


def measure(config: TrainConfig, folder: Path, data: dict[str, Path], sets: Sets) -> None:
    """Take all times and print them."""
    config.features = "live"
    training, state = prepare(config, folder / "live", data=data, sets=sets)
    taken = {"release": time_release(training, state), "live": time_ours(training, state, steps=[1])}
    rates = time_filling(training, sets[0], run=folder / "live")
    config.features = "cached"
    training, state = prepare(config, folder / "cached", data=data, sets=sets)
    taken["cached"] = time_ours(training, state, steps=STEPS)
    print(f"{'training':<10}{'samples/s':>11}{'s/step':>9}{'release':>9}{'compiling s':>13}")
    for name, (step, compiling) in taken.items():
        row = f"{name:<10}{BATCH / step:>11.3f}{step:>9.2f}"
        print(f"{row}{taken['release'][0] / step:>7.1f} x{compiling:>13.1f}")
    print(f"{'turn':<7}{'filling rows/s':>16}{'bare rows/s':>13}{'filling:bare':>14}")
    for number, (filling, bare) in enumerate(rates):
        print(f"{number:<7}{filling:>16.3f}{bare:>13.3f}{filling / bare:>14.3f}")
    print(f"{'median':<36}{median(filling / bare for filling, bare in rates):>14.3f}")


if __name__ == "__main__":
    main()
