"""The learning rate's course, and what is decayed."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from instructrl.config import OptimizerConfig
from instructrl.training.optimizer import learning_rate, make_optimizer


def options(**values):
    return OptimizerConfig(**{"name": "adamw", "learning_rate": 0.1, "weight_decay": 0.0, "warmup_epochs": 2.0,
                              "clip_norm": 1.0} | values)  # fmt: skip


def test_up_over_the_warm_up_then_down_to_zero_at_the_last_step():
    schedule = learning_rate(options(), epochs=10, steps_per_epoch=5)
    rates = np.array([schedule(step) for step in range(51)])
    assert rates[0] == 0 and rates[50] == pytest.approx(0, abs=1e-8)
    assert rates.argmax() == 10 and rates[10] == pytest.approx(0.1)
    assert (np.diff(rates[:11]) > 0).all() and (np.diff(rates[10:]) < 0).all()
    assert schedule(30) == pytest.approx(0.05)


def test_without_a_warm_up_it_begins_at_its_peak():
    assert learning_rate(options(warmup_epochs=0.0), epochs=3, steps_per_epoch=5)(0) == pytest.approx(0.1)


def test_matrices_decay_and_biases_do_not():
    params = {"kernel": jnp.ones((2, 2)), "bias": jnp.ones(2)}
    optimizer = make_optimizer(options(weight_decay=0.5), lambda step: 0.1)
    updates, _ = optimizer.update(jax.tree.map(jnp.zeros_like, params), optimizer.init(params), params)
    np.testing.assert_allclose(updates["kernel"], -0.05)
    np.testing.assert_array_equal(updates["bias"], 0)


def test_a_large_gradient_is_clipped_before_adam_sees_it():
    params = {"kernel": jnp.ones((2, 2))}
    optimizer = make_optimizer(options(clip_norm=2.0), lambda step: 0.1)
    _, state = optimizer.update({"kernel": jnp.full((2, 2), 100.0)}, optimizer.init(params), params)
    first_moment = optax.tree_utils.tree_get(state, "mu")["kernel"]
    np.testing.assert_allclose(jnp.linalg.norm(first_moment), 2.0 * 0.1, rtol=1e-5)
