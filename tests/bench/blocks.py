"""Effect of scanned and rematerialized blocks on compilation time and temporary memory.

python tests/bench/blocks.py [OVERRIDES]     vit_base on computed features, batch 64, 8 steps: two minutes

Nothing is trained: loss and gradients are traced and compiled. Times are processor seconds, against those without an
option.
"""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import jax
import numpy as np

from instructrl.cli.entry import compose
from instructrl.config.model import pooled_layers
from instructrl.config.training import TrainConfig
from instructrl.data.text.tokenizer import make_tokenizer
from instructrl.training.model_factory import abstract_params, dummy_batch, make_agent
from instructrl.training.state import split_params
from instructrl.types import BatchSizes, FeatureSizes, fake_batch
from tests.fixtures.rounds import alternate, processor, ratio

STEPS, ROUNDS = 8, 3
SETTINGS = (
    "encoder=m3ae_b16",
    "policy=vit_base",
    "head=regression",
    "head.slots=0",
    "training.batch_size=64",
    "encoder.tokenizer=small",
)
OPTIONS: tuple[tuple[str, ...], ...] = (
    (),
    ("hardware.remat=blocks",),
    ("hardware.scan=true",),
    ("hardware.remat=blocks", "hardware.scan=true"),
)


def tracing(config: TrainConfig) -> Callable[[], Any]:
    """A function that traces loss and gradients anew and returns what is to be compiled."""
    tokenizer = make_tokenizer(config.encoder)
    agent = make_agent(config, vocabulary_size=tokenizer.vocabulary_size)
    params, _ = split_params(abstract_params(agent, dummy_batch(config, tokenizer)), config.training, config.encoder)
    pooled = len(pooled_layers(config.encoder)) * config.encoder.dim
    text = len(params["policy"]["embed_text"]["kernel"])
    features = FeatureSizes(pooled, text, None, config.hardware.precision)
    sizes = BatchSizes(config.training.batch_size, STEPS, len(config.sim.cameras), 256, tokenizer.length, features)
    batch: Any = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), fake_batch(sizes))

    def trace() -> Any:
        loss = jax.grad(lambda params, batch: agent.apply({"params": params}, batch)[0])
        return jax.jit(loss).lower(params, batch)

    return trace


def compiling(trace: Callable[[], Any]) -> Callable[[], Any]:
    """A function that traces and compiles."""
    return lambda: trace().compile()


def main() -> None:
    """Print a line for each combination of options."""
    works: dict[str, Callable[[], Any]] = {}
    for options in OPTIONS:
        name = " ".join(options) or "plain"
        trace = tracing(compose("train", TrainConfig, [*SETTINGS, *sys.argv[1:], *options]))
        works |= {name: compiling(trace), f"tracing {name}": trace}
    took = {name: processor(found) for name, found in alternate(works, rounds=ROUNDS).items()}
    names = [name for name in works if not name.startswith("tracing ")]
    print(f"{'':<45}{'s to trace':>12}{'of plain':>27}{'s to compile':>14}{'of plain':>27}{'MB':>8}")
    for name in names:
        traced, plain = took[f"tracing {name}"], took["tracing plain"]
        rest, plain_rest = took[name] - traced, took["plain"] - plain
        memory = works[name]().memory_analysis().temp_size_in_bytes / 1e6
        print(f"{name:<45}{np.median(traced):>12.1f}{ratio(traced, plain):>27}{np.median(rest):>14.1f}"
              f"{ratio(rest, plain_rest):>27}{memory:>8.0f}", flush=True)  # fmt: skip


if __name__ == "__main__":
    main()
