"""Benchmark: cached features, live features, and the training step of the first release. Prints ratios.

python tests/bench/features.py [OVERRIDES]     m3ae_b16, vit_base, 4 cameras of 256x256, 4 steps, batch 8: 5 minutes
python tests/bench/features.py encoder=m3ae_tiny policy=vit_small      a quick run
python tests/bench/features.py processes [OVERRIDES]                   one process and two that share the rows

A sample is one window of 4 keyframe steps (16 images) with its 4 targets. The weights are random, in the published
layout. The baseline is the release's training step, repaired: every frame of every window is encoded, with the
encoder's weights as constants of the compiled program, under pmap.
"""

import multiprocessing
import os
import statistics
import sys
import tempfile
import time
from dataclasses import replace
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

BATCH, CACHED_STEPS, BARE_CALLS = 8, 6, 4
ROUNDS = 5
CAMERAS = ["front", "left_shoulder", "right_shoulder", "wrist"]
SETTINGS = (
    "encoder=m3ae_b16", "policy=vit_base", "head=regression", "task=pick_and_lift", "hardware=cpu",
    f"sim.cameras=[{','.join(CAMERAS)}]", "sim.image_size=256", f"training.batch_size={BATCH}",
    "training.max_instructions=1",
    "encoder.weights=null", "encoder.tokenizer=small",
)  # fmt: skip


def demonstrations(folder: Path) -> Path:
    """Write a file with a batch of demonstrations of 4 keyframes each."""
    sim = TabletopConfig(cameras=CAMERAS, image_size=256, renderer="raycast")
    env, path = make_env(sim, "pick_and_lift"), folder / "train.hdf5"
    header = Header("pick_and_lift", "train", tuple(CAMERAS), 256, env.provenance())
    with Writer(path, header) as writer:
        for seed in range(BATCH):
            writer.add(env.demonstrate(EpisodeStart(seed % env.variations, seed))[0])
    env.close()
    return path


def seconds(work: Any) -> float:
    """Return the wall time of a call, including device computation."""
    began = time.perf_counter()
    jax.block_until_ready(work())
    return time.perf_counter() - began


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


def baseline(config: TrainConfig, agent: Agent, encoder: Any, params: Any, batch: Any) -> float:
    """Return the seconds of one step of the release, without compilation."""
    step, optimizer = release_step(config, agent, encoder)
    given = jax.tree.map(lambda leaf: np.asarray(leaf)[None], (params, optimizer.init(params), batch))
    began = time.perf_counter()
    compiled = step.lower(*given).compile()
    print(f"compiling the release's step, weights as constants: {time.perf_counter() - began:.0f} s", flush=True)
    return seconds(lambda: compiled(*given))


def step_seconds(training: Any, state: Any, *, steps: int) -> float:
    """Return the seconds of one of our steps with our loader, without compilation."""
    per_epoch = training.train.steps_per_epoch
    batches = training.batches(training.train, 0, (steps + 1) * per_epoch)
    compiled = training.train_step.lower(state, next(batches), training.frozen).compile()

    def run() -> Any:
        now, metrics = state, None
        for _ in range(steps):
            now, metrics = compiled(now, next(batches), training.frozen)
        return metrics

    took = seconds(run) / steps
    batches.close()
    return took


def write_features(
    config: TrainConfig, episodes: DemonstrationDataset, agent: Agent, frozen: Any, checksum: str
) -> float:
    """Print the speed of writing the cache relative to the encoder alone, measured before and after."""
    tokenizer = make_tokenizer(config.encoder)
    encode = feature_extraction.make_encode_fn(agent, frozen)
    size = feature_extraction.encode_batch(config.hardware, cameras=len(CAMERAS))
    images = np.random.default_rng(0).integers(0, 256, (size, len(CAMERAS), 256, 256, 3), np.uint8)
    inputs = (images, *tokenizer([episodes.instructions(0)[0]] * size))
    jax.block_until_ready(encode(*inputs))
    feature_extraction.make_encode_fn = lambda *_: encode  # already compiled, as in the bare loop
    half = BARE_CALLS // 2
    bare = seconds(lambda: [encode(*inputs) for _ in range(half)])
    source = {"agent": agent, "params": frozen, "checksum": checksum}
    written = seconds(lambda: feature_extraction.open_features(config, [episodes], tokenizer, **source) and None)
    bare += seconds(lambda: [encode(*inputs) for _ in range(half)])
    rows = int(episodes.lengths.sum())
    rates = rows / written, BARE_CALLS * size / bare
    print(f"cache written at {rates[0]:.2f} steps/s, the encoder alone {rates[1]:.2f}: {rates[0] / rates[1]:.2f}")
    return rates[0] / rates[1]


def compute(words: list[str], path: Path, folder: str, shard: tuple[int, int], begin: Any, results: Any) -> None:
    """Compute the features of demonstrations, on a core of its own; puts rows, wall and processor seconds."""
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
        for number in range(ROUNDS):
            begin.wait()
            began, worked = time.perf_counter(), sum(os.times()[:2])
            here = replace(config, features_dir=f"{folder}/{shard[1]}-{number}")
            feature_extraction.open_features(here, [episodes], tokenizer, agent=agent, params=params, checksum="random")
            results.put((number, time.perf_counter() - began, sum(os.times()[:2]) - worked))
            begin.wait()


def compare_processes(words: list[str]) -> None:
    """Print how much faster two processes are, alternating with one, each on a core of its own."""
    with tempfile.TemporaryDirectory() as name:
        context = multiprocessing.get_context("spawn")
        path = demonstrations(Path(name))
        given = [*SETTINGS, "features=cached", f"output_dir={name}", "name=bench", *words]
        teams = []
        for count in (1, 2):
            begin, results = context.Barrier(count + 1), context.Queue()
            team = [
                context.Process(target=compute, args=(given, path, name, (index, count), begin, results))
                for index in range(count)
            ]
            for process in team:
                process.start()
            teams.append((team, begin, results))
        took: list[list[tuple[float, float]]] = [[], []]
        for _ in range(ROUNDS):
            for number, (team, begin, results) in enumerate(teams):
                begin.wait()
                each = [results.get()[1:] for _ in team]
                took[number].append((max(wall for wall, _ in each), sum(worked for _, worked in each)))
                begin.wait()
        for team, *_ in teams:
            for process in team:
                process.join()
    wall = [one[0] / two[0] for one, two in zip(*took, strict=True)]
    worked = [2 * one[1] / two[1] for one, two in zip(*took, strict=True)]
    for label, ratios in (("by processor time, as on idle cores", worked), ("by the clock, on this machine", wall)):
        low, high = min(ratios), max(ratios)
        print(f"two processes, {label}: {statistics.median(ratios):.2f} x one ({low:.2f} to {high:.2f})")


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
            write_features(cached, episodes, agent, training.frozen, read_data(folder / "live")["encoder"]["checksum"])
            release = baseline(live, agent, encoder, state.params, training.train.batch(0))
            took = {"release, repaired": release, "live features": step_seconds(training, state, steps=1)}
            training, state = prepare_behavior_cloning(cached, folder / "cached", sets)
            took["cached features"] = step_seconds(training, state, steps=CACHED_STEPS)
        print(f"{live.encoder.name}, {live.policy.name}, {len(CAMERAS)} cameras, 4 steps, batch {BATCH}")
        for kind, each in took.items():
            print(f"  {kind:<20}{each:>9.2f} s a step{BATCH / each:>9.2f} samples/s{release / each:>9.1f} x")


if __name__ == "__main__":
    if sys.argv[1:2] == ["processes"]:
        compare_processes(sys.argv[2:])
    else:
        main()
