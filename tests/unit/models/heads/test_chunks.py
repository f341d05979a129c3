"""Heads of chunks: the targets are the actions, and what lies after the end of an episode has no say."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from instructrl.actions import canonical_quaternion
from instructrl.config.encoders import ScratchTinyConfig
from instructrl.config.model import HEADS, HeadConfig, PolicyConfig
from instructrl.models.agent import Agent
from instructrl.models.heads.base import CameraParams, action_errors
from instructrl.models.heads.registry import make_head
from instructrl.training.model_factory import random_params
from instructrl.types import DENSE, Batch, BatchSizes, fake_batch
from instructrl.workspace import RLBENCH_WORKSPACE
from tests.fixtures.cameras import ring_of_cameras

KINDS = [kind for kind in HEADS.own if HEADS.load_own(kind).actions == DENSE]
SIZES = BatchSizes(batch=2, steps=2, cameras=2, image_size=16, tokens=4, chunk=3)
SIDE = 2


def head_config(kind: str) -> HeadConfig:
    """The settings of a small head."""
    few = {"steps": 2} if kind == "flow" else {}
    return HEADS[kind](kind, kind, dim=8, chunk=3, execute=2, slots=1, **few)


def random_batch(seed: int = 0) -> Batch:
    """A batch with random images, states and chunks."""
    rng, batch = np.random.default_rng(seed), fake_batch(SIZES)
    batch.intrinsics[:], batch.extrinsics[:] = ring_of_cameras(SIZES.cameras, SIZES.image_size)
    batch.images[:] = rng.integers(0, 256, batch.images.shape)
    batch.state[:] = rng.uniform(-1, 1, batch.state.shape)
    batch.chunks[..., :3] = rng.uniform([0, -0.3, 0.8], [0.4, 0.3, 1.2], (*batch.chunks.shape[:-1], 3))
    batch.chunks[..., 3:7] = canonical_quaternion(rng.normal(size=(*batch.chunks.shape[:-1], 4)))
    batch.chunks[..., 7] = rng.integers(0, 2, batch.chunks.shape[:-1])
    batch.seeds[:] = rng.integers(0, 2**32, batch.seeds.shape)
    return batch


@pytest.mark.parametrize("kind", ["chunk"])
def test_decoding_the_targets_of_a_regression_gives_the_chunk_back(kind: str) -> None:
    head, batch = make_head(head_config(kind), RLBENCH_WORKSPACE), random_batch()
    views = CameraParams(batch.intrinsics, batch.extrinsics, SIZES.image_size, SIDE)
    targets = head.targets(jnp.asarray(batch.chunks), views)
    pose = targets.pose._replace(gripper=2 * targets.pose.gripper - 1)
    errors = action_errors(head.decode(targets._replace(pose=pose), views), batch.chunks)
    assert errors["position_cm"].shape == (2, 2, 3)
    assert errors["position_cm"].max() < 0.01 and errors["gripper_accuracy"].min() == 1
    assert head.loss(targets._replace(scores=None), targets).max() < 0.3  # what is left is the gripper's


@pytest.mark.parametrize("kind", KINDS)
def test_all_of_a_head_learns_and_nothing_from_after_the_end(kind: str) -> None:
    encoder = ScratchTinyConfig("tiny", "scratch_tiny", dim=8, depth=1, patch_size=8)
    policy = PolicyConfig("tiny", dim=8, depth=1, heads=1)
    agent = Agent(encoder, policy, head_config(kind), 50, SIZES.image_size, RLBENCH_WORKSPACE)
    batch = random_batch()
    batch.chunk_mask[:, 1, 1:] = 0  # the episode ends with the second step
    params = random_params(agent, batch, seed=0)
    run = jax.jit(jax.value_and_grad(lambda params, batch: agent.apply({"params": params}, batch), has_aux=True))
    (loss, metrics), gradients = run(params, batch)
    for path, leaf in jax.tree_util.tree_leaves_with_path(gradients["head"]):
        assert jnp.isfinite(leaf).all() and jnp.abs(leaf).max() > 0, jax.tree_util.keystr(path)
    for steps, same in (((1, 1), True), ((0, 1), False)):
        other = batch._replace(chunks=batch.chunks.copy())
        other.chunks[:, *steps, :3] += 0.1
        changed = run(params, other)[0][1]
        if kind == "chunk" or not same:  # a flow sees all of a noisy chunk
            assert np.allclose(changed["loss"], loss) == same
        assert np.allclose(changed["position_cm"], metrics["position_cm"]) == same
    reseeded = run(params, batch._replace(seeds=batch.seeds + 1))[0][1]
    assert np.allclose(reseeded["loss"], loss) != agent.head_config.draws_noise


def test_a_flow_learns_both_of_two_ways_where_a_regression_learns_their_mean() -> None:
    """One condition, two equally frequent chunks: samples lie near one of them."""
    head = make_head(HEADS["flow"]("flow", "flow", dim=32, chunk=1, execute=1, slots=0), RLBENCH_WORKSPACE)
    views = CameraParams(None, None, SIZES.image_size, SIDE)
    hidden, actions = np.zeros((64, 1, 4), np.float32), np.zeros((64, 1, 1, 8), np.float32)
    actions[..., :3], actions[..., 4], actions[..., 7] = (0.2, 0.0, 1.1), 1, 1
    actions[::2, ..., 1], actions[::2, ..., 7] = 0.4, 0
    actions[1::2, ..., 1] = -0.4
    run = partial(
        head.apply,
        method=lambda self, seeds: self.loss(
            self(hidden, None, views), self.targets(jnp.asarray(actions), views), seeds=seeds
        ).mean(),
    )
    params = head.init(
        jax.random.key(0), hidden[:, :, :], None, views, method=lambda self, *inputs: self.decode(self(*inputs), views)
    )
    optimizer = optax.adam(1e-2)

    @jax.jit
    def fit(params):
        def step(carry, key):
            params, state = carry
            gradients = jax.grad(lambda params: run(params, jax.random.bits(key, (64, 2), jnp.uint32)))(params)
            updates, state = optimizer.update(gradients, state)
            return (optax.apply_updates(params, updates), state), None

        return jax.lax.scan(step, (params, optimizer.init(params)), jax.random.split(jax.random.key(1), 300))[0][0]

    params = fit(params)

    def flowed(self, noise):
        x = noise
        for number in range(10):
            x = x + self.velocity(x, jnp.full(x.shape[:2], number / 10), jnp.zeros((*x.shape[:2], 4))) / 10
        return x

    ends = head.apply(params, jax.random.normal(jax.random.key(2), (64, 1, 1, 10)), method=flowed)
    y = ends[:, 0, 0, 1]  # of a workspace from -0.5 to 0.5 metres
    assert (np.abs(np.abs(y) - 0.8) < 0.25).mean() > 0.8 and 0.25 < (y > 0).mean() < 0.75
    assert (jnp.sign(ends[:, 0, 0, 9]) == -jnp.sign(y)).mean() > 0.9
    decoded = head.apply(params, method=lambda self: self.decode(self(hidden, None, views), views))
    assert (decoded == decoded[0]).all() and abs(abs(float(decoded[0, 0, 0, 1])) - 0.4) < 0.1
