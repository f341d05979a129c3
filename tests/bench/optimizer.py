"""The optimizer's update compared with its memory-bandwidth bound, and its share of a step on cached features.

python tests/bench/optimizer.py [OVERRIDES]     m3ae_b16's features, vit_base, batch 8: half a minute

- `update`: clipped AdamW and the gradients' norm, compiled separately: gradients, both moments and parameters.
- `optax`: the same with optax's own clipping.
- `floor`: eight passes over memory, at the rate of scaling a tree of the same arrays in place, which takes two. Each
  array must be read once (gradients twice, for their norm), and all except the gradients are written.
- `step`: forward, backward and update.

All of them are processor time.
"""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import jax
import jax.numpy as jnp
import numpy as np
import optax

from instructrl.cli.entry import compose
from instructrl.config.model import pooled_layers
from instructrl.config.training import TrainConfig
from instructrl.data.text.tokenizer import make_tokenizer
from instructrl.models.agent import Agent
from instructrl.training.model_factory import abstract_params, dummy_batch, make_agent
from instructrl.training.objectives.bc_step import make_train_step
from instructrl.training.optimizer import learning_rate, make_optimizer
from instructrl.training.state import initial_state, split_params
from instructrl.types import BatchSizes, FeatureSizes, fake_batch
from tests.fixtures.rounds import alternate, processor, ratio

STEPS, PASSES = 4, 8
SETTINGS = (
    "encoder=m3ae_b16",
    "policy=vit_base",
    "head=regression",
    "head.slots=0",
    "training.batch_size=8",
    "encoder.tokenizer=small",
)


def repeated(compiled: Callable[..., Any], carry: Any, *inputs: Any) -> Callable[[], Any]:
    """A function that calls `compiled` with its previous result as first argument (donated)."""
    held = [carry]

    def work() -> Any:
        held[0] = jax.block_until_ready(compiled(held[0], *inputs))
        return held[0]

    return work


def update_work(optimizer: optax.GradientTransformation, params: Any, gradients: Any) -> Callable[[], Any]:
    """The update alone, including the gradient norm for the metrics."""

    def update(carried: Any, gradients: Any) -> Any:
        params, state, _ = carried
        changes, state = optimizer.update(gradients, state, params)
        return optax.apply_updates(params, changes), state, optax.tree.norm(gradients)

    begin = jax.tree.map(jnp.copy, params), optimizer.init(params), jnp.zeros(())
    return repeated(jax.jit(update, donate_argnums=0), begin, gradients)


def step_work(
    config: TrainConfig, agent: Agent, optimizer: optax.GradientTransformation, params: Any
) -> Callable[[], Any]:
    """An entire step on precomputed features."""
    tokens, pooled = config.encoder.text_length, len(pooled_layers(config.encoder)) * config.encoder.dim
    features = FeatureSizes(pooled, len(params["policy"]["embed_text"]["kernel"]), None, config.hardware.precision)
    batch = BatchSizes(config.training.batch_size, STEPS, len(config.sim.cameras), 256, tokens, features)
    step = make_train_step(agent, optimizer, seed=0, token_dropout=0.0)
    frozen: dict[str, Any] = {}

    def work(carried: Any, batch: Any) -> Any:
        return step(carried[0], batch, frozen)

    begin = initial_state(jax.tree.map(jnp.copy, params), optimizer), None
    return repeated(work, begin, jax.device_put(fake_batch(batch)))


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
    rounds = alternate(
        {
            "two passes": repeated(scaled, jax.tree.map(jnp.copy, params)),
            "update": update_work(ours, params, gradients),
            "optax": update_work(known, params, gradients),
            "step": step_work(config, agent, ours, params),
        }
    )
    took = {name: processor(found) for name, found in rounds.items()}
    floor = PASSES / 2 * took.pop("two passes")
    count = sum(leaf.size for leaf in jax.tree.leaves(params))
    print(f"{config.policy.name}, {count / 1e6:.0f} million parameters, batch {config.training.batch_size}, "
          f"{jax.devices()[0].device_kind}")  # fmt: skip
    print(f"  floor   {1e3 * np.median(floor):8.1f} ms  eight passes over memory")
    for name, found in took.items():
        print(f"  {name:<7} {1e3 * np.median(found):8.1f} ms  {ratio(found, floor)} of the floor")
    print(f"  the update's share of the step: {ratio(took['update'], took['step'])}")


if __name__ == "__main__":
    main()
