"""EMA of the parameters: used for validation, rollouts and evaluation, resumable, without effect on training."""

import jax
import numpy as np
import pytest

from instructrl.inference.batched_agent import load_batched_agent
from instructrl.training.checkpointing.manager import open_checkpoints
from instructrl.training.monitoring.metric_writer import read_lines
from tests.fixtures import tiny, tiny_objective

EMA = "optimizer.ema=0.7"


def trained(folder, *more, rollout=None):
    return tiny_objective.trained(folder, "training.rollout_every=1", *more, rollout=rollout)


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    return trained(tmp_path_factory.mktemp("plain"))


@pytest.fixture(scope="module")
def averaging(tmp_path_factory):
    seen = {}

    def rollout(params, epoch):
        seen[epoch] = jax.tree.map(np.asarray, params)
        return {}

    return trained(tmp_path_factory.mktemp("averaging"), EMA, rollout=rollout), seen


def losses(run, split):
    return [line["loss"] for line in read_lines(run / "metrics.jsonl") if line["split"] == split]


def test_it_changes_nothing_that_is_trained(plain, averaging):
    run, _ = averaging
    averaged, alone = tiny_objective.state(run, ema=True), tiny_objective.state(plain)
    assert_equal(averaged._replace(average=None), alone)
    assert losses(run, "train") == losses(plain, "train")


def test_it_validates_and_rolls_out(plain, averaging):
    run, seen = averaging
    state = tiny_objective.state(run, ema=True)
    assert_equal(seen[4], state.average)
    assert all(first != second for first, second in zip(losses(run, "val"), losses(plain, "val"), strict=True))
    apart = jax.tree.map(lambda mean, now: float(np.abs(mean - now).max()), state.average, state.params)
    assert 0 < max(jax.tree.leaves(apart)) < 0.1, "near the parameters of the last steps, and not the same"
    assert {leaf.dtype for leaf in jax.tree.leaves(state.average)} == {np.dtype(np.float32)}


def test_it_survives_an_interruption(averaging, tmp_path):
    def interrupted(params, epoch):
        if epoch == 3:
            raise KeyboardInterrupt
        return {}

    with pytest.raises(KeyboardInterrupt):
        trained(tmp_path, EMA, rollout=interrupted)
    run = trained(tmp_path, EMA)
    assert_equal(tiny_objective.state(run, ema=True), tiny_objective.state(averaging[0], ema=True))


def test_an_agent_rolls_out_and_is_evaluated_with_it(tmp_path):
    seen = []
    words = (EMA, "training.epochs=1", "optimizer.warmup_epochs=0", "training.rollout_every=1")
    run = tiny.trained(
        tmp_path, tiny.shared_demonstrations(), *words, rollout=lambda params, _: seen.append(params) or {}
    )
    actor, _ = load_batched_agent(run, checkpoint="last", slots=1, steps=6, hardware=tiny.config(run).hardware)
    like = jax.eval_shape(lambda: actor.params)
    with open_checkpoints(run, read_only=True) as checkpoints:
        average, last = (checkpoints.params(like, step=3, averaged=averaged) for averaged in (True, False))
    assert_equal(actor.params, average)
    assert_equal(seen[0], average)
    assert any(np.any(mean != now) for mean, now in zip(*map(jax.tree.leaves, (average, last)), strict=True))


def assert_equal(found, expected):
    jax.tree.map(np.testing.assert_array_equal, found, expected)
