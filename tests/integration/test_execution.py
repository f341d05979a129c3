"""Whole agents under the execution options of their blocks: the same parameters, numbers and runs."""

import jax
import numpy as np
import pytest

from instructrl.models.encoders import m3ae
from instructrl.models.layers import attention
from instructrl.models.layers.attention import attend
from instructrl.training.model_factory import make_agent, random_params
from instructrl.training.monitoring.metric_writer import read_lines
from instructrl.training.run_dir import open_run
from instructrl.training.train_loop import train
from instructrl.types import BatchSizes, fake_batch
from tests.fixtures import encoders, tiny
from tests.fixtures.settings import changed

AGENT = ("policy=vit_debug", "policy.dim=16", "policy.depth=3", "policy.heads=2", "head=regression", "head.dim=16",
         "sim.image_size=32", "sim.cameras=[front,wrist]", "encoder.frozen=false", "encoder.weights=null",
         "encoder.tokenizer=small", "encoder.dim=16", "encoder.depth=2", "encoder.patch_size=8",
         "encoder.layers=all")  # fmt: skip
FEW = ("encoder.text_length=6", "training.batch_size=2")


def outcome(*words):
    """Parameters, loss and gradients of a small agent on random images."""
    config = changed(*words, *AGENT, *FEW)
    agent = make_agent(config, vocabulary_size=11)
    batch = fake_batch(BatchSizes(2, 3, 2, 32, 6))
    random = np.random.default_rng(0)
    batch = batch._replace(
        images=random.integers(0, 256, batch.images.shape, np.uint8),
        tokens=random.integers(0, 11, batch.tokens.shape, np.int32),
        state=random.normal(size=batch.state.shape).astype(np.float32),
    )
    params = random_params(agent, batch, seed=0)
    loss, gradients = jax.jit(jax.value_and_grad(lambda params: agent.apply({"params": params}, batch)[0]))(params)
    return params, loss, gradients


def assert_close(first, second, apart):
    """Assert that leaves differ by at most a fraction of their largest absolute value (or of 1e-3 if larger)."""
    assert jax.tree.structure(first) == jax.tree.structure(second)

    def compare(path, one, other):
        difference = np.abs(np.asarray(one, np.float64) - np.asarray(other, np.float64)).max()
        assert difference <= apart * max(1e-3, np.abs(one).max()), jax.tree_util.keystr(path)

    jax.tree_util.tree_map_with_path(compare, first, second)


@pytest.mark.parametrize(
    ("encoder", "options"),
    [
        ("m3ae", [("remat=blocks",), ("scan=true",)]),
        ("clip", [("remat=blocks", "scan=true")]),
        ("scratch", [("remat=blocks", "scan=true")]),
    ],
)
def test_scanned_and_computed_again_blocks_have_the_same_parameters_and_numbers(encoder, options):
    plain = outcome(*encoders.SMALL[encoder])
    for words in options:
        found = outcome(*encoders.SMALL[encoder], *(f"hardware.{word}" for word in words))
        jax.tree.map(np.testing.assert_array_equal, found[0], plain[0])
        assert_close(found[1], plain[1], 1e-6)
        assert_close(found[2], plain[2], 2e-5)


def test_a_run_may_go_on_with_another_strategy(tmp_path):
    data = tiny.shared_demonstrations()
    overrides = ("policy.depth=3", "training.rollout_every=1", "head=regression")

    def run(folder, *more, stop=None):
        def rollout(params, epoch):
            if epoch == stop:
                raise KeyboardInterrupt
            return {}

        config = tiny.config(tmp_path / folder, *overrides, *more)
        run_dir = open_run(config)
        train(config, run_dir, data=data, rollout=rollout)
        return [line["loss"] for line in read_lines(run_dir / "metrics.jsonl") if line["split"] != "rollout"]

    plain = run("plain")
    with pytest.raises(KeyboardInterrupt):
        run("other", "hardware.scan=true", stop=3)
    changed = run("other", "hardware.remat=blocks", "hardware.attention=xla")
    np.testing.assert_allclose(changed, plain, rtol=1e-4)


def test_an_odd_number_of_tokens_is_evened_once_and_changes_nothing(monkeypatch):
    words = (*encoders.SMALL["m3ae"], "hardware.precision=bfloat16", "hardware.attention=xla")
    plain = outcome(*words)
    lengths = []
    monkeypatch.setattr(attention, "has_cudnn", lambda: True)
    monkeypatch.setattr(
        m3ae, "attend", lambda query, *rest, **more: lengths.append(query.shape[1]) or attend(query, *rest, **more)
    )
    found = outcome(*words)
    assert set(lengths) == {24}, "a class token, 16 patches, 6 words, and one more"
    np.testing.assert_allclose(found[1], plain[1], rtol=1e-2)
    assert_close(found[2], plain[2], 0.1)
