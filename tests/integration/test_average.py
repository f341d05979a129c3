"""EMA of the parameters: used for validation, rollouts and evaluation, resumable, without effect on training."""

import jax
import numpy as np
import pytest

from instructrl.inference.batched_agent import load_batched_agent
from instructrl.training.checkpointing.manager import open_checkpoints
from instructrl.training.monitoring.metric_writer import read_lines
from tests.fixtures import tiny

EMA = "optimizer.ema=0.7"


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return tiny.demonstrations(tmp_path_factory.mktemp("demonstrations"))


def trained(folder, data, *more, rollout=None):
    return tiny.trained(folder, data, "training.rollout_every=1", *more, rollout=rollout)


@pytest.fixture(scope="module")
def plain(data, tmp_path_factory):
    return trained(tmp_path_factory.mktemp("plain"), data)


@pytest.fixture(scope="module")
def averaging(data, tmp_path_factory):
    seen = {}

    def rollout(params, epoch):
        seen[epoch] = jax.tree.map(np.asarray, params)
        return {}

    return trained(tmp_path_factory.mktemp("averaging"), data, EMA, rollout=rollout), seen


def acting(run):
    actor, _ = load_batched_agent(run, checkpoint="last", slots=1, steps=6, hardware=tiny.config(run).hardware)
    return actor.params


def saved(run, like, *, averaged):
    with open_checkpoints(run, read_only=True) as checkpoints:
        return checkpoints.params(like, step=checkpoints.step("last"), averaged=averaged)


def losses(run, split):
    return [line["loss"] for line in read_lines(run / "metrics.jsonl") if line["split"] == split]


def test_it_changes_nothing_that_is_trained(plain, averaging):
    run, _ = averaging
    like = jax.eval_shape(lambda: acting(plain))
    jax.tree.map(np.testing.assert_array_equal, saved(run, like, averaged=False), acting(plain))
    assert losses(run, "train") == losses(plain, "train")


def test_it_validates_rolls_out_and_is_evaluated(plain, averaging):
    run, seen = averaging
    average = saved(run, jax.eval_shape(lambda: acting(plain)), averaged=True)
    jax.tree.map(np.testing.assert_array_equal, acting(run), average)
    jax.tree.map(np.testing.assert_array_equal, seen[4], average)
    assert all(first != second for first, second in zip(losses(run, "val"), losses(plain, "val"), strict=True))
    apart = jax.tree.map(lambda mean, now: float(np.abs(mean - now).max()), average, acting(plain))
    assert 0 < max(jax.tree.leaves(apart)) < 0.1, "near the parameters of the last steps, and not the same"
    assert {leaf.dtype for leaf in jax.tree.leaves(average)} == {np.dtype(np.float32)}


def test_it_survives_an_interruption(averaging, data, tmp_path):
    run, _ = averaging

    def interrupted(params, epoch):
        if epoch == 3:
            raise KeyboardInterrupt
        return {}

    with pytest.raises(KeyboardInterrupt):
        trained(tmp_path, data, EMA, rollout=interrupted)
    jax.tree.map(np.testing.assert_array_equal, acting(trained(tmp_path, data, EMA)), acting(run))
