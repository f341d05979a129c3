"""bfloat16 is used for large matrix products only; stored, accumulated and compared values stay float32."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from instructrl.cli.entry import compose
from instructrl.config.training import TrainConfig
from instructrl.training.model_factory import abstract_params, make_agent, random_params
from instructrl.training.objectives.bc_step import make_train_step
from instructrl.training.optimizer import learning_rate, make_optimizer
from instructrl.training.state import initial_state
from instructrl.types import BatchSizes, fake_batch
from tests.fixtures import encoders

AGENT = ("policy=vit_debug", "policy.dim=32", "policy.heads=2", "head.dim=16", "sim.image_size=32", "encoder.dim=32",
         "sim.cameras=[front,wrist]", "encoder.frozen=false", "encoder.weights=null", "encoder.tokenizer=small",
         "encoder.depth=2", "encoder.patch_size=8", "encoder.layers=all", "optimizer.ema=0.9",
         "optimizer.learning_rate=1e-3", "optimizer.warmup_epochs=0", "optimizer.weight_decay=0.1")  # fmt: skip
SENSITIVE = {"exp", "log", "rsqrt", "sqrt", "reduce_max", "reduce_sum", "argmax"}


def settings(encoder, head, precision, *more):
    words = [*encoders.SMALL[encoder], *AGENT, f"head={head}", f"hardware.precision={precision}", *more]
    return compose("train", TrainConfig, words)


def random_batch():
    batch, random = fake_batch(BatchSizes(4, 3, 2, 32, 6)), np.random.default_rng(0)
    return batch._replace(
        images=random.integers(0, 256, batch.images.shape, np.uint8),
        tokens=random.integers(0, 11, batch.tokens.shape, np.int32),
        state=random.uniform(-1, 1, batch.state.shape).astype(np.float32),
    )


def equations(jaxpr):
    """All equations of a jaxpr and its sub-jaxprs."""
    for equation in jaxpr.eqns:
        yield equation
        for inner in jax.tree.leaves(list(equation.params.values()), is_leaf=lambda leaf: hasattr(leaf, "eqns")):
            inner = getattr(inner, "jaxpr", inner)
            if hasattr(inner, "eqns"):
                yield from equations(inner)


@pytest.mark.parametrize("head", ["regression", "discrete", "spatial"])
@pytest.mark.parametrize("encoder", encoders.SMALL)
def test_norms_softmax_and_losses_are_float32(encoder, head):
    config = settings(encoder, head, "bfloat16")
    agent, batch = make_agent(config, vocabulary_size=11), random_batch()
    params = abstract_params(agent, batch)
    traced = jax.make_jaxpr(lambda params, batch: agent.apply({"params": params}, batch))(params, batch)
    found = list(equations(traced.jaxpr))
    low = {
        equation.primitive.name
        for equation in found
        for variable in equation.invars
        if getattr(variable.aval, "dtype", None) == jnp.bfloat16
    }
    assert "dot_general" in low, "the wide products are in bfloat16"
    assert {equation.primitive.name for equation in found} & SENSITIVE >= {"exp", "reduce_sum", "rsqrt", "reduce_max"}
    assert not low & SENSITIVE
    assert {variable.aval.dtype for variable in traced.jaxpr.outvars} == {np.dtype(np.float32)}


@pytest.mark.parametrize("head", ["regression", "spatial"])
def test_losses_follow_float32_and_what_is_kept_stays_float32(head):
    losses = {}
    for precision in ("float32", "bfloat16"):
        config = settings("m3ae", head, precision, "encoder.depth=1", "policy.depth=1")
        agent, batch = make_agent(config, vocabulary_size=11), random_batch()
        schedule = learning_rate(config.optimizer, epochs=10, steps_per_epoch=10, batch_size=4)
        optimizer = make_optimizer(config.optimizer, schedule)
        step = make_train_step(agent, optimizer, seed=0, token_dropout=0.0, ema=config.optimizer.ema)
        state = initial_state(random_params(agent, batch, seed=0), optimizer, ema=True)
        losses[precision] = []
        for _ in range(12):
            state, metrics = step(state, batch, {})
            losses[precision].append(float(metrics["loss"]))
        kept = [leaf.dtype for leaf in jax.tree.leaves((state.params, state.opt_state, state.average))]
        assert set(kept) == {np.dtype(np.float32), np.dtype(np.int32)} and kept.count(np.dtype(np.int32)) == 2
        assert {value.dtype for key, value in metrics.items()} == {np.dtype(np.float32)}
    full, half = np.array(losses["float32"]), np.array(losses["bfloat16"])
    assert full[-1] < 0.8 * full[0] and not np.array_equal(full, half)
    np.testing.assert_allclose(half, full, rtol=0.02, atol=0.01)
