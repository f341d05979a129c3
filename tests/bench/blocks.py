"""Effect of scanned and rematerialized blocks on compilation time and temporary memory.

python tests/bench/blocks.py [OVERRIDES]     vit_base on computed features, batch 64, 8 steps: two minutes

Nothing is trained: loss and gradients are traced and compiled. Times are CPU seconds, since machines are shared.
"""

import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import jax

from instructrl.cli.entry import compose
from instructrl.config.model import pooled_layers
from instructrl.config.training import TrainConfig
from instructrl.data.text.tokenizer import make_tokenizer
from instructrl.training.model_factory import abstract_params, dummy_batch, make_agent
from instructrl.training.state import split_params
from instructrl.types import BatchSizes, FeatureSizes, fake_batch

STEPS = 8
SETTINGS = (
    "encoder=m3ae_b16",
    "policy=vit_base",
    "head=regression",
    "training.batch_size=64",
    "encoder.tokenizer=small",
)
OPTIONS: tuple[tuple[str, ...], ...] = (
    (),
    ("hardware.remat=blocks",),
    ("hardware.scan=true",),
    ("hardware.remat=blocks", "hardware.scan=true"),
)


def measured(config: TrainConfig) -> tuple[float, float, float]:
    """Seconds to trace and to compile loss and gradients, and MB of memory besides parameters and gradients."""
    tokenizer = make_tokenizer(config.encoder)
    agent = make_agent(config, vocabulary_size=tokenizer.vocabulary_size)
    params, _ = split_params(abstract_params(agent, dummy_batch(config, tokenizer)), config.training, config.encoder)
    features = FeatureSizes(len(pooled_layers(config.encoder)) * config.encoder.dim, 0, None, config.hardware.precision)
    sizes = BatchSizes(config.training.batch_size, STEPS, len(config.sim.cameras), 256, tokenizer.length, features)
    batch: Any = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), fake_batch(sizes))
    start = time.process_time()
    lowered = jax.jit(jax.grad(lambda params, batch: agent.apply({"params": params}, batch)[0])).lower(params, batch)
    traced = time.process_time()
    compiled = lowered.compile()
    done = time.process_time()
    memory: Any = compiled.memory_analysis()
    return traced - start, done - traced, memory.temp_size_in_bytes / 1e6


def main() -> None:
    for number, options in enumerate((OPTIONS[0], *OPTIONS)):  # the first one warms up and is not reported
        config = compose("train", TrainConfig, [*SETTINGS, *sys.argv[1:], *options])
        trace, compiling, memory = measured(config)
        if not number:
            continue
        print(f"{' '.join(options) or 'plain':<45}{trace:>8.1f} s to trace{compiling:>8.1f} s to compile"
              f"{memory:>9.0f} MB", flush=True)  # fmt: skip


if __name__ == "__main__":
    main()
