"""The optimizer's update compared with its memory-bandwidth bound, and its share of a step on cached features.

python tests/bench/optimizer.py [OVERRIDES]     m3ae_b16's features, vit_base, batch 8: half a minute

- `update`: clipped AdamW and the gradients' norm, compiled separately: gradients, both moments and parameters.
- `optax`: the same with optax's own clipping.
- `floor`: eight passes over memory, at the rate of scaling a tree of the same arrays in place, which takes two. Each
  array must be read once (gradients twice, for their norm), and all except the gradients are written.
- `step`: forward, backward and update.
"""

import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import jax
import jax.numpy as jnp
import optax

from instructrl.cli.entry import compose
from instructrl.config.model import pooled_layers
from instructrl.config.training import TrainConfig
from instructrl.data.text.tokenizer import make_tokenizer
from instructrl.training.model_factory import abstract_params, dummy_batch, make_agent
from instructrl.training.objectives.bc_step import make_train_step
from instructrl.training.optimizer import learning_rate, make_optimizer
from instructrl.training.state import initial_state, split_params
from instructrl.types import BatchSizes, FeatureSizes, fake_batch

ROUNDS, STEPS, PASSES = 7, 4, 8
SETTINGS = (
    "encoder=m3ae_b16",
    "policy=vit_base",
    "head=regression",
    "training.batch_size=8",
    "encoder.tokenizer=small",
)


def seconds(work: Callable[[], Any]) -> float:
    """Seconds per call, the best of a few; the first call compiles."""
    jax.block_until_ready(work())
    rounds = []
    for _ in range(ROUNDS):
        start = time.perf_counter()
        jax.block_until_ready(work())
        rounds.append(time.perf_counter() - start)
    return min(rounds)


def repeated(compiled: Callable[..., Any], carry: Any, *inputs: Any) -> Callable[[], Any]:
    """A function that calls `compiled` with its previous result as first argument (donated)."""
    held = [carry]

    def work() -> Any:
        held[0] = compiled(held[0], *inputs)
        return held[0]

    return work


def update_seconds(optimizer: optax.GradientTransformation, params: Any, gradients: Any) -> float:
    """Seconds of the update alone, including the gradient norm for the metrics."""

    def update(carried: Any, gradients: Any) -> Any:
        params, state, _ = carried
        changes, state = optimizer.update(gradients, state, params)
        return optax.apply_updates(params, changes), state, optax.tree.norm(gradients)

    begin = jax.tree.map(jnp.copy, params), optimizer.init(params), jnp.zeros(())
    return seconds(repeated(jax.jit(update, donate_argnums=0), begin, gradients))


def step_seconds(config: TrainConfig, agent: Any, optimizer: optax.GradientTransformation, params: Any) -> float:
    """Seconds of an entire step on precomputed features."""
    tokens, pooled = config.encoder.text_length, len(pooled_layers(config.encoder)) * config.encoder.dim
    features = FeatureSizes(pooled, 0, None, config.hardware.precision)
    batch = BatchSizes(config.training.batch_size, STEPS, len(config.sim.cameras), 256, tokens, features)
    step = make_train_step(agent, optimizer, seed=0, token_dropout=0.0)
    frozen: dict[str, Any] = {}

    def work(carried: Any, batch: Any) -> Any:
        return step(carried[0], batch, frozen)

    begin = initial_state(jax.tree.map(jnp.copy, params), optimizer), None
    return seconds(repeated(work, begin, jax.device_put(fake_batch(batch))))


def main() -> None:
    config = compose("train", TrainConfig, [*SETTINGS, *sys.argv[1:]])
    tokenizer = make_tokenizer(config.encoder)
    agent = make_agent(config, vocabulary_size=tokenizer.vocabulary_size)
    shapes, _ = split_params(abstract_params(agent, dummy_batch(config, tokenizer)), config.training, config.encoder)
    params = jax.tree.map(lambda leaf: jnp.full(leaf.shape, 0.02), shapes)
    gradients = jax.tree.map(jnp.ones_like, params)
    schedule = learning_rate(config.optimizer, epochs=100, steps_per_epoch=9, batch_size=config.training.batch_size)
    ours, clip = make_optimizer(config.optimizer, schedule), config.optimizer.clip_norm or 1.0
    known = optax.chain(optax.clip_by_global_norm(clip), optax.adamw(schedule))
    scaled = jax.jit(lambda tree: jax.tree.map(lambda leaf: leaf * 1.0001, tree), donate_argnums=0)
    floor = PASSES / 2 * seconds(repeated(scaled, jax.tree.map(jnp.copy, params)))
    update, optaxs = (update_seconds(rule, params, gradients) for rule in (ours, known))
    step = step_seconds(config, agent, ours, params)
    count = sum(leaf.size for leaf in jax.tree.leaves(params))
    print(f"{config.policy.name}, {count / 1e6:.0f} million parameters, batch {config.training.batch_size}, "
          f"{jax.devices()[0].device_kind}")  # fmt: skip
    print(f"  floor   {1e3 * floor:8.1f} ms  eight passes over memory\n"
          f"  update  {1e3 * update:8.1f} ms {update / floor:6.2f} x the floor\n"
          f"  optax   {1e3 * optaxs:8.1f} ms {optaxs / floor:6.2f} x the floor\n"
          f"  step    {1e3 * step:8.1f} ms, of which the update {update / step:.2f}")  # fmt: skip


if __name__ == "__main__":
    main()
