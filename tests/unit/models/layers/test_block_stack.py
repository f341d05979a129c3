"""Execution options of blocks change neither parameters nor results; the last block computes only predictions."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from instructrl.config.model import PolicyConfig
from instructrl.errors import InputError
from instructrl.models.initialization import draw_params
from instructrl.models.layers import attention
from instructrl.models.layers.attention import attend
from instructrl.models.layers.block_stack import ExecutionConfig
from instructrl.models.layers.transformer import Block
from instructrl.models.policy import Policy
from instructrl.models.token_order import attention_mask
from instructrl.types import Features
from instructrl.workspace import RLBENCH_WORKSPACE


def policy_inputs(key):
    keys = jax.random.split(key, 4)
    features = Features(jax.random.normal(keys[0], (2, 4, 3, 10)), jax.random.normal(keys[1], (2, 6)), None)
    return features, jax.random.normal(keys[2], (2, 4, 4)), jax.random.normal(keys[3], (2, 4, 8))


@pytest.mark.parametrize(("depth", "window"), [(1, None), (2, 2)])
def test_the_last_block_answers_predictions_as_if_it_answered_all(depth, window):
    config = PolicyConfig(name="small", dim=16, depth=depth, heads=2, window=window)
    inputs, mask = policy_inputs(jax.random.key(0)), jnp.asarray(attention_mask(4, 7, window=window))[None]
    policy = Policy(config, RLBENCH_WORKSPACE)
    params = draw_params(policy, jax.random.key(1), *inputs)
    inputs_of_blocks = []

    def recording(self, x, mask, query_slice=slice(None)):
        inputs_of_blocks.append(x)
        return block(self, x, mask, query_slice)

    block = Block.__call__
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Block, "__call__", recording)
        found = policy.apply({"params": params}, *inputs)
    x = inputs_of_blocks[0]
    for index in range(depth):
        x = Block(2, 4.0).apply({"params": params[f"block_{index}"]}, x, mask)
    centred = x - x.mean(axis=-1, keepdims=True)
    normed = centred / jnp.sqrt(jnp.square(centred).mean(axis=-1, keepdims=True) + 1e-6)
    expected = normed * params["norm"]["scale"] + params["norm"]["bias"]
    np.testing.assert_allclose(found, expected.reshape(2, 4, 9, 16)[:, :, 7], atol=2e-6)
    assert x.shape == (2, 36, 16) and found.shape == (2, 4, 16)


def test_the_last_block_computes_no_more_than_predictions():
    config = PolicyConfig(name="small", dim=16, depth=1, heads=2)
    policy, inputs = Policy(config, RLBENCH_WORKSPACE), policy_inputs(jax.random.key(0))
    params = jax.eval_shape(policy.init, jax.random.key(1), *inputs)
    program = str(jax.make_jaxpr(policy.apply)(params, *inputs))
    assert "f32[2,4,64]" in program and "f32[2,36,64]" not in program, "the wide layer between its two linear ones"


def attention_inputs(queries, keys, width, dtype):
    shapes = [(2, queries, 2, width), (2, keys, 2, width), (2, keys, 2, width)]
    return [
        jax.random.normal(key, shape, dtype)
        for key, shape in zip(jax.random.split(jax.random.key(0), 3), shapes, strict=True)
    ]


@pytest.mark.parametrize(("queries", "keys", "kind"), [(5, 5, "padding"), (3, 4, "pairs"), (5, 5, "none")])
def test_fused_attention_is_asked_for_what_it_can_do(queries, keys, kind, monkeypatch):
    """Call the library's function with another kernel, since tests run without a GPU."""
    calls, original = [], jax.nn.dot_product_attention

    def fused(query, key, value, *, mask, implementation):
        calls.append((implementation, query.shape[1], key.shape[1], None if mask is None else mask.shape))
        return original(query, key, value, mask=mask, implementation="xla")

    inputs = attention_inputs(queries, keys, 8, jnp.bfloat16)
    random = np.random.default_rng(0)
    mask = {"padding": random.random((2, 1, 1, keys)) < 0.6, "pairs": random.random((1, 1, queries, keys)) < 0.6}
    mask = None if kind == "none" else jnp.asarray(mask[kind]).at[..., 0].set(True)
    expected = attend(*inputs, mask=mask, attention="auto")
    monkeypatch.setattr(attention, "has_cudnn", lambda: True)
    monkeypatch.setattr(jax.nn, "dot_product_attention", fused)
    found = attend(*inputs, mask=mask, attention="auto")
    np.testing.assert_allclose(*(np.asarray(each, np.float32) for each in (found, expected)), atol=0.02)
    [(implementation, *lengths, masked)] = calls
    assert implementation == "cudnn" and (kind == "none" or all(length % 2 == 0 for length in lengths))
    assert masked is None or masked[2:] == tuple(lengths)


def test_attention_is_not_fused_where_it_cannot_be(monkeypatch):
    calls = []
    monkeypatch.setattr(attention, "has_cudnn", lambda: True)
    monkeypatch.setattr(
        jax.nn, "dot_product_attention", lambda *given, implementation, **_: calls.append(implementation)
    )
    for width, dtype in ((8, jnp.float32), (12, jnp.bfloat16), (136, jnp.bfloat16)):
        attend(*attention_inputs(2, 2, width, dtype), mask=None, attention="auto")
    attend(*attention_inputs(2, 2, 8, jnp.bfloat16), mask=None, attention="xla")
    assert calls == ["xla"] * 4
    with pytest.raises(
        InputError, match=r"^hardware.attention: found cudnn for heads of width 12; allowed: auto or xla"
    ):
        attend(*attention_inputs(2, 2, 12, jnp.bfloat16), mask=None, attention="cudnn")


def test_scanning_compiles_one_block_for_all():
    inputs = policy_inputs(jax.random.key(0))
    config = PolicyConfig(name="small", dim=16, depth=9, heads=2)
    params = jax.eval_shape(Policy(config, RLBENCH_WORKSPACE).init, jax.random.key(1), *inputs)
    lines = {}
    for scan in (False, True):
        apply = Policy(config, RLBENCH_WORKSPACE, execution=ExecutionConfig(scan=scan)).apply
        lines[scan] = len(str(jax.make_jaxpr(apply)(params, *inputs)).splitlines())
    assert lines[True] < lines[False] / 2
