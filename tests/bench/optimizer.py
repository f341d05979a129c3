"""The optimizer's update against its memory floor, and its share of a training step on computed features.

python tests/bench/optimizer.py [OVERRIDES]     m3ae_b16's features, vit_base, batch 8: half a minute

- `update`: clipped AdamW and the gradients' norm, compiled alone: gradients, both moments and parameters.
- `optax`: the same with the library's own clipping.
- `floor`: eight passes over memory as fast as scaling a tree of the same arrays in place, which is two. Each array has
  to be read once (gradients twice, for their norm), and all but the gradients written.
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

from instructrl.batch import BatchSizes, FeatureSizes, fake_batch
from instructrl.command import compose
from instructrl.config import TrainConfig, chosen_layers
from instructrl.data.tokenizer import make_tokenizer
from instructrl.training.optimizer import learning_rate, make_optimizer
from instructrl.training.state import abstract_params, initial_state, make_agent, one_step, split
from instructrl.training.step import make_train_step

ROUNDS, STEPS, PASSES = 7, 4, 8
SETTINGS = (
    "encoder=m3ae_b16",
    "policy=vit_base",
    "head=regression",
    "training.batch_size=8",
    "encoder.tokenizer=small",
)


def seconds(work: Callable[[], Any]) -> float:
    """Of one call, the best of a few; the first one compiles."""
    jax.block_until_ready(work())
    rounds = []
    for _ in range(ROUNDS):
        began = time.perf_counter()
        jax.block_until_ready(work())
        rounds.append(time.perf_counter() - began)
    return min(rounds)


def repeated(compiled: Callable[..., Any], carried: Any, *given: Any) -> Callable[[], Any]:
    """A call after the other, each of which gives up what it carried."""
    held = [carried]

    def work() -> Any:
        held[0] = compiled(held[0], *given)
        return held[0]

    return work


def update_seconds(optimizer: optax.GradientTransformation, params: Any, gradients: Any) -> float:
    """Of the update alone, with the norm of the gradients that the metrics hold."""

    def update(carried: Any, gradients: Any) -> Any:
        params, state, _ = carried
        changes, state = optimizer.update(gradients, state, params)
        return optax.apply_updates(params, changes), state, optax.tree.norm(gradients)

    begin = jax.tree.map(jnp.copy, params), optimizer.init(params), jnp.zeros(())
    return seconds(repeated(jax.jit(update, donate_argnums=0), begin, gradients))


def step_seconds(config: TrainConfig, agent: Any, optimizer: optax.GradientTransformation, params: Any) -> float:
    """Of a whole step on features that were computed before."""
    tokens, pooled = config.encoder.text_length, len(chosen_layers(config.encoder)) * config.encoder.dim
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
    shapes, _ = split(abstract_params(agent, one_step(config, tokenizer)), config)
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
