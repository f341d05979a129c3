"""Training steps on cached features and on live ones, compared with the training step of the first release.

python tests/bench/features.py [OVERRIDES]     m3ae_b16, vit_base, 4 cameras of 256x256, 4 steps, batch 4: seven minutes
python tests/bench/features.py encoder=m3ae_tiny policy=vit_small      a quick run
python tests/bench/features.py processes [OVERRIDES]                   one process and two that share the rows

A sample is one window of 4 keyframe steps (16 images) with its 4 targets. The weights are random, in the published
layout. The baseline is the release's training step, repaired: every frame of every window is encoded, with the
encoder's weights as constants of the compiled program, under pmap. Ratios are of wall time.
"""

import multiprocessing
import os
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import jax
import numpy as np
import optax

from instructrl.cli.entry import compose
from instructrl.config.simulators import TabletopConfig
from instructrl.config.training import TrainConfig
from instructrl.data.demonstrations.dataset import DemonstrationDataset
from instructrl.data.demonstrations.schema import Header
from instructrl.data.demonstrations.writer import Writer
from instructrl.data.text.tokenizer import make_tokenizer
from instructrl.models.agent import Agent
from instructrl.sim import EpisodeStart, make_env
from instructrl.training import feature_extraction
from instructrl.training.model_factory import dummy_batch, make_agent, random_params
from instructrl.training.objectives.behavior_cloning import DemonstrationSplits, prepare_behavior_cloning
from instructrl.training.optimizer import learning_rate, make_optimizer
from instructrl.training.run_dir import read_data
from tests.fixtures.rounds import alternate, ratio, wall

BATCH, ROUNDS, ENDLESS = 4, 3, 1_000_000
CAMERAS = ["front", "left_shoulder", "right_shoulder", "wrist"]
SETTINGS = (
    "encoder=m3ae_b16", "policy=vit_base", "head=regression", "task=pick_and_lift", "hardware=cpu",
    f"sim.cameras=[{','.join(CAMERAS)}]", "sim.image_size=256", f"training.batch_size={BATCH}",
    "training.max_instructions=1",
    "hardware.encode_batch=16",  # divides the images of the demonstrations: nothing is padded
    "encoder.weights=null", "encoder.tokenizer=small",
)  # fmt: skip


def demonstrations(folder: Path, count: int = BATCH) -> Path:
    """Write a file with demonstrations of 4 keyframes each."""
    sim = TabletopConfig(cameras=CAMERAS, image_size=256, renderer="raycast")
    env, path = make_env(sim, "pick_and_lift"), folder / "train.hdf5"
    header = Header("pick_and_lift", "train", tuple(CAMERAS), 256, env.provenance())
    with Writer(path, header) as writer:
        for seed in range(count):
            writer.add(env.demonstrate(EpisodeStart(seed % env.variations, seed))[0])
    env.close()
    return path


def release_step(config: TrainConfig, agent: Agent, encoder: Any) -> Any:
    """Return the baseline step: (policy parameters, optimizer state, batch) -> updated ones, with a device axis."""
    optimizer = make_optimizer(
        config.optimizer, learning_rate(config.optimizer, epochs=200, steps_per_epoch=1, batch_size=BATCH)
    )

    def step(params: Any, opt_state: Any, batch: Any) -> Any:
        def loss(params: Any) -> Any:
            inputs = (batch.images, batch.tokens, batch.text_padding_mask)
            encoded = agent.apply({"params": {"encoder": encoder}}, *inputs, method=Agent.encode)
            known = batch._replace(images=None, features=jax.lax.stop_gradient(encoded))
            return agent.apply({"params": {**params, "encoder": encoder}}, known)[0]

        gradients = jax.lax.pmean(jax.grad(loss)(params), "devices")
        updates, opt_state = optimizer.update(gradients, opt_state, params)
        return optax.apply_updates(params, updates), opt_state

    return jax.pmap(step, axis_name="devices"), optimizer


def release_work(config: TrainConfig, agent: Agent, encoder: Any, params: Any, batch: Any) -> Callable[[], Any]:
    """A function that makes a step of the release."""
    step, optimizer = release_step(config, agent, encoder)
    given = jax.tree.map(lambda leaf: np.array(leaf)[None], (params, optimizer.init(params), batch))
    began = time.perf_counter()
    compiled = step.lower(*given).compile()
    print(f"compiling the release's step, weights as constants: {time.perf_counter() - began:.0f} s", flush=True)
    return lambda: jax.block_until_ready(compiled(*given))


def step_work(training: Any, state: Any) -> Callable[[], Any]:
    """A function that makes one of our steps with our loader."""
    batches, held = training.batches(training.train, 0, ENDLESS), [state]

    def work() -> Any:
        held[0], metrics = jax.block_until_ready(training.train_step(held[0], next(batches), training.frozen))
        return metrics

    return work


def compare_writing(
    config: TrainConfig, episodes: DemonstrationDataset, agent: Agent, frozen: Any, checksum: str
) -> None:
    """Print the speed of writing the cache relative to the encoder alone."""
    tokenizer, numbers = make_tokenizer(config.encoder), count()
    encode = feature_extraction.make_encode_fn(agent, frozen)
    size = feature_extraction.encode_batch(config.hardware, cameras=len(CAMERAS))
    images = np.random.default_rng(0).integers(0, 256, (size, len(CAMERAS), 256, 256, 3), np.uint8)
    inputs = (images, *tokenizer([episodes.instructions(0)[0]] * size))
    feature_extraction.make_encode_fn = lambda *_: encode  # compiled once, as in the bare calls
    source = {"agent": agent, "params": frozen, "checksum": checksum}

    def write() -> None:
        here = replace(config, features_dir=f"{config.features_dir}-{next(numbers)}")
        feature_extraction.open_features(here, [episodes], tokenizer, **source)

    works = {"written": write, "bare": lambda: jax.block_until_ready(encode(*inputs))}
    found = alternate(works, rounds=ROUNDS)
    written, bare = wall(found["written"]) / int(episodes.lengths.sum()), wall(found["bare"]) / size
    print(f"cache written at {1 / np.median(written):.2f} steps/s, the encoder alone {1 / np.median(bare):.2f}: "
          f"{ratio(bare, written)}", flush=True)  # fmt: skip


def compute(words: list[str], path: Path, folder: str, shard: tuple[int, int], begin: Any, results: Any) -> None:
    """Compute the features of demonstrations, on a core of its own; puts processor seconds."""
    os.sched_setaffinity(0, {sorted(os.sched_getaffinity(0))[shard[0]]})
    config = compose("train", TrainConfig, words)
    tokenizer = make_tokenizer(config.encoder)
    agent = make_agent(config, vocabulary_size=tokenizer.vocabulary_size)
    params = {"encoder": random_params(agent, dummy_batch(config, tokenizer), seed=0)["encoder"]}
    encode = feature_extraction.make_encode_fn(agent, params)
    size = feature_extraction.encode_batch(config.hardware, cameras=len(CAMERAS))
    images = np.zeros((size, len(CAMERAS), 256, 256, 3), np.uint8)
    jax.block_until_ready(encode(images, *tokenizer([""] * size)))
    feature_extraction.make_encode_fn = lambda *_: encode  # already compiled
    feature_extraction.process_shard = lambda: shard
    with DemonstrationDataset(path) as episodes:
        for number in range(ROUNDS + 1):  # the first one warms up
            begin.wait()
            worked = time.process_time()
            here = replace(config, features_dir=f"{folder}/{shard[1]}-{number}")
            feature_extraction.open_features(here, [episodes], tokenizer, agent=agent, params=params, checksum="random")
            results.put(time.process_time() - worked)


def compare_processes(words: list[str]) -> None:
    """Print how much faster two processes are, alternating with one, each on a core of its own."""
    with tempfile.TemporaryDirectory() as name:
        context = multiprocessing.get_context("spawn")
        path = demonstrations(Path(name))
        given = [*SETTINGS, "features=cached", f"output_dir={name}", "name=bench", *words]
        worked: dict[str, list[float]] = {}  # processor seconds of all processes, of each call
        works, processes = {}, []
        for number in (1, 2):
            begin, results = context.Barrier(number + 1), context.Queue()
            team = [
                context.Process(target=compute, args=(given, path, name, (index, number), begin, results))
                for index in range(number)
            ]
            for process in team:
                process.start()
            processes += team
            label = f"{number}"
            worked[label] = []
            works[label] = partial(wait_for, begin, results, number, worked[label])
        found = alternate(works, rounds=ROUNDS, seconds=0)  # one call a round, as the processes expect
        for process in processes:
            process.join()
    one, two = (np.array(worked[label][1:]) for label in ("1", "2"))
    print(f"two processes, by processor time, as on idle cores: {ratio(2 * one, two)} x one")
    print(f"two processes, by the clock, on this machine: {ratio(wall(found['1']), wall(found['2']))} x one")


def wait_for(begin: Any, results: Any, count: int, worked: list[float]) -> None:
    """Let processes begin together, and wait for all of their results."""
    begin.wait()
    worked.append(sum(results.get() for _ in range(count)))


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        common = [*SETTINGS, f"features_dir={folder / 'features'}", f"output_dir={folder}", *sys.argv[1:]]
        live, cached = (
            compose("train", TrainConfig, [*common, f"features={kind}", f"name={kind}"]) for kind in ("live", "cached")
        )
        path = demonstrations(folder)
        with DemonstrationDataset(path) as episodes:
            sets = DemonstrationSplits([episodes], [episodes])
            training, state = prepare_behavior_cloning(live, folder / "live", sets)
            encoder = training.frozen["encoder"]
            agent = make_agent(live, vocabulary_size=make_tokenizer(live.encoder).vocabulary_size)
            compare_writing(cached, episodes, agent, training.frozen, read_data(folder / "live")["encoder"]["checksum"])
            release = release_work(live, agent, encoder, state.params, training.train.batch(0))
            works = {"release, repaired": release, "live features": step_work(training, state)}
            cached = replace(cached, features_dir=f"{cached.features_dir}-0")  # the first that were written
            works["cached features"] = step_work(*prepare_behavior_cloning(cached, folder / "cached", sets))
            took = {kind: wall(found) for kind, found in alternate(works, rounds=ROUNDS).items()}
        print(f"{live.encoder.name}, {live.policy.name}, {len(CAMERAS)} cameras, 4 steps, batch {BATCH}")
        for kind, seconds in took.items():
            each = np.median(seconds)
            print(f"  {kind:<20}{each:>9.2f} s a step{BATCH / each:>9.2f} samples/s  "
                  f"{ratio(took['release, repaired'], seconds)} x")  # fmt: skip


if __name__ == "__main__":
    if sys.argv[1:2] == ["processes"]:
        compare_processes(sys.argv[2:])
    else:
        main()
