"""Processor time of a quickstart's training step on the CPU while freed memory is kept, and while it is returned.

python tests/bench/allocator.py [OVERRIDES]    experiment=quickstart: two minutes

Printed are the medians of both in seconds per step, the page faults of a step, and the ratio, kept to returned, with
its spread over the rounds. glibc only.
"""

import ctypes
import resource
import sys
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import jax
import numpy as np

from instructrl.allocator import MMAP_MAX, TRIM_THRESHOLD, keep_freed_memory
from instructrl.cli.entry import compose
from instructrl.config.training import TrainConfig
from instructrl.data.text.tokenizer import make_tokenizer
from instructrl.training.distributed.platform import select_platform
from instructrl.training.model_factory import dummy_batch, make_agent, random_params
from instructrl.training.objectives.bc_step import make_train_step
from instructrl.training.optimizer import learning_rate, make_optimizer
from instructrl.training.state import initial_state
from instructrl.types import BatchSizes, fake_batch
from tests.fixtures.rounds import alternate, processor, ratio

ROUNDS, SECONDS, KEYFRAMES = 7, 3.0, 4  # long rounds: the first step of a kind differs
DEFAULTS = {MMAP_MAX: 65536, TRIM_THRESHOLD: 128 << 10}  # of glibc


def main() -> None:
    """Print the medians, their ratio and its spread."""
    config = compose("train", TrainConfig, ["experiment=quickstart", "task=reach_target", *sys.argv[1:]])
    select_platform(config.hardware)
    if not keep_freed_memory():
        raise SystemExit("this C library's allocator has no such settings: nothing to compare")
    tokenizer = make_tokenizer(config.encoder)
    agent = make_agent(config, vocabulary_size=tokenizer.vocabulary_size)
    size, sim = config.training.batch_size, config.sim
    batch = fake_batch(BatchSizes(size, KEYFRAMES, len(sim.cameras), sim.image_size, tokenizer.length))
    shape = (size, KEYFRAMES, len(sim.cameras), sim.image_size, sim.image_size, 3)
    batch = batch._replace(images=np.random.default_rng(0).integers(0, 256, shape).astype(np.uint8))
    optimizer = make_optimizer(
        config.optimizer, learning_rate(config.optimizer, epochs=2, steps_per_epoch=100, batch_size=size)
    )
    step = make_train_step(agent, optimizer, seed=0, token_dropout=0.0)
    state = initial_state(random_params(agent, dummy_batch(config, tokenizer), seed=0), optimizer)
    libc = ctypes.CDLL(None)

    faults: dict[str, list[int]] = {"kept": [], "returned": []}

    def make_step(name: str) -> None:
        nonlocal state
        if name == "kept":
            keep_freed_memory()
        else:
            for parameter, value in DEFAULTS.items():
                libc.mallopt(parameter, value)
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        state, _ = jax.block_until_ready(step(state, batch, {}))
        faults[name].append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)

    found = alternate({name: partial(make_step, name) for name in faults}, rounds=ROUNDS, seconds=SECONDS)
    took = {name: processor(each) for name, each in found.items()}
    for name, seconds in took.items():
        print(f"{name:<9}{np.median(seconds):.3f} s a step, {np.median(faults[name]):,.0f} page faults")
    print(f"ratio {ratio(took['kept'], took['returned'])}")


if __name__ == "__main__":
    main()
