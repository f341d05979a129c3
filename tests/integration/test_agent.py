"""The whole agent at its door: what a prediction may depend on, and that every part does its part."""

from dataclasses import replace
from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from instructrl.config.encoders import ClipConfig, M3AEConfig, ScratchTinyConfig
from instructrl.config.model import HEADS, PolicyConfig
from instructrl.models.agent import Agent
from instructrl.models.parameter_files import flatten_params
from instructrl.training.model_factory import random_params
from instructrl.types import KEYFRAME, BatchSizes, fake_batch
from instructrl.workspace import RLBENCH_WORKSPACE
from tests.fixtures.cameras import ring_of_cameras

SIZES = BatchSizes(batch=2, steps=3, cameras=2, image_size=32, tokens=6)
ENCODERS = {
    "scratch_tiny": ScratchTinyConfig("tiny", "scratch_tiny", dim=16, depth=1, patch_size=8),
    "m3ae": M3AEConfig("tiny", "m3ae", dim=16, depth=2, heads=2, patch_size=8, layers="all"),
    "clip": ClipConfig("tiny", "clip", dim=16, depth=2, heads=2, patch_size=8, image_size=16, text_dim=8,
                          text_depth=2, text_heads=2, projection=12, text_length=6, layers="all"),
}  # fmt: skip
PARTS = [("scratch_tiny", head) for head in HEADS.own if HEADS.load_own(head).actions == KEYFRAME] + [
    ("m3ae", "spatial"),
    ("clip", "spatial"),
    ("m3ae", "regression"),
]
END = 29  # the largest id, which ends a sentence for clip
every_part = pytest.mark.parametrize(("encoder", "head"), PARTS)


def make_agent(encoder="scratch_tiny", head="spatial", *, window=None, text=True):
    policy = PolicyConfig("debug", dim=16, depth=2, heads=2, window=window)
    parts = (replace(ENCODERS[encoder], text=text), policy, HEADS[head](head, head, dim=16))
    return Agent(*parts, vocabulary_size=30, image_size=SIZES.image_size, workspace=RLBENCH_WORKSPACE)


def random_batch(seed=0, sizes=SIZES):
    numbers = np.random.default_rng(seed)
    batch = fake_batch(sizes)
    intrinsics, extrinsics = ring_of_cameras(sizes.cameras, sizes.image_size)
    batch.intrinsics[:], batch.extrinsics[:] = intrinsics, extrinsics
    batch.images[:] = numbers.integers(0, 256, batch.images.shape)
    batch.state[:] = numbers.uniform(-1, 1, batch.state.shape)
    batch.tokens[:] = numbers.integers(1, END - 1, batch.tokens.shape)
    batch.tokens[:, 2] = END
    batch.actions[..., :3] = numbers.uniform([0, -0.3, 0.8], [0.4, 0.3, 1.2], batch.actions.shape[:2] + (3,))
    batch.actions[..., 7] = numbers.integers(0, 2, batch.actions.shape[:2])
    return batch


class Compiled:
    """An agent, its parameters, and its programs, each compiled once."""

    def __init__(self, agent):
        self.agent = agent
        params = random_params(agent, random_batch(), seed=0)
        # random scales, so that nothing is zero or equal by initialisation
        self.params = jax.tree.map(
            lambda leaf: leaf + 0.3 * jax.random.normal(jax.random.key(leaf.size), leaf.shape), params
        )
        self.encode = jax.jit(self._encode)
        self.predictions = jax.jit(self._predictions)
        self.loss = jax.jit(lambda params, batch: agent.apply({"params": params}, batch))
        self.loss_and_gradients = jax.jit(jax.value_and_grad(self.loss, has_aux=True))
        self._gradient = jax.jit(jax.grad(self._answer))

    def influence(self, batch, *, step):
        """Largest gradients of the prediction at `step`, per step of the state [T] and of the action [T]."""
        gradients = self._gradient((jnp.asarray(batch.state), jnp.asarray(batch.actions)), batch, step)
        return (np.abs(gradient).max(axis=(0, *range(2, gradient.ndim))) for gradient in gradients)

    def _encode(self, images, tokens, padding):
        return self.agent.apply({"params": self.params}, images, tokens, padding, method=Agent.encode)

    def _predictions(self, batch):
        features = self._encode(batch.images, batch.tokens, batch.text_padding_mask)
        given = batch._replace(images=None, features=features)
        return self.agent.apply({"params": self.params}, given, method=Agent.predict)[0]

    def _answer(self, state_and_actions, batch, step):
        state, actions = state_and_actions
        predicted = self._predictions(batch._replace(state=state, actions=actions))
        return sum(jnp.sum(leaf[:, step] * (1 + jnp.arange(leaf[:, step].size).reshape(leaf[:, step].shape) % 7))
                   for leaf in jax.tree.leaves(predicted))  # fmt: skip


@cache
def compiled(encoder="scratch_tiny", head="spatial", *, window=None, text=True):
    return Compiled(make_agent(encoder, head, window=window, text=text))


@every_part
def test_a_prediction_sees_its_state_and_the_past_but_not_its_action_nor_the_future(encoder, head):
    state, action = compiled(encoder, head).influence(random_batch(), step=1)
    assert state[0] > 0 and state[1] > 0 and state[2] == 0
    assert action[0] > 0 and action[1] == 0 and action[2] == 0


@every_part
def test_images_of_the_past_and_present_matter_and_those_of_the_future_do_not(encoder, head):
    program, batch = compiled(encoder, head), random_batch()
    before = program.predictions(batch)
    for changed, expected in ((0, True), (1, True), (2, False)):
        images = batch.images.copy()
        images[:, changed] = 255 - images[:, changed]
        after = program.predictions(batch._replace(images=images))
        pairs = zip(jax.tree.leaves(before), jax.tree.leaves(after), strict=True)
        assert any(bool(jnp.any(a[:, 1] != b[:, 1])) for a, b in pairs) is expected


@every_part
def test_the_sign_of_a_past_quaternion_means_nothing(encoder, head):
    batch = random_batch()
    flipped = batch.actions.copy()
    flipped[..., 3:7] *= -1
    program = compiled(encoder, head)
    pair = (program.predictions(batch._replace(actions=actions)) for actions in (batch.actions, flipped))
    jax.tree.map(np.testing.assert_array_equal, *pair)


def test_a_window_forgets_what_lies_before_it_through_all_layers():
    of_one, of_two, of_all = (
        next(compiled(window=window).influence(random_batch(), step=2)) for window in (1, 2, None)
    )
    assert of_one[:2].max() == 0
    assert of_two[0] == 0 and of_two[1] > 0 and of_two[2] > 0
    assert of_all[:2].min() > 0


@every_part
def test_the_instruction_matters_where_it_is_read_and_only_its_words_do(encoder, head):
    batch = random_batch()
    batch.text_padding_mask[:, 3:] = 1
    other_words, other_padding = batch.tokens.copy(), batch.tokens.copy()
    other_words[:, 1] += 1
    other_padding[:, 4] += 1

    def numbers(tokens, *, text=True):
        predicted = compiled(encoder, head, text=text).predictions(batch._replace(tokens=tokens))
        return np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(predicted)])

    before = numbers(batch.tokens)
    assert np.any(before != numbers(other_words))
    np.testing.assert_array_equal(before, numbers(other_padding))
    np.testing.assert_array_equal(numbers(batch.tokens, text=False), numbers(other_words, text=False))


@pytest.mark.parametrize("encoder", ENCODERS)
def test_encoding_frames_one_by_one_equals_encoding_the_sequence(encoder):
    batch, encode = random_batch(), compiled(encoder).encode
    together = encode(batch.images, batch.tokens, batch.text_padding_mask)
    for step in range(SIZES.steps):
        images = batch.images[:, step : step + 1]
        alone = encode(images, batch.tokens, batch.text_padding_mask)
        for whole, part in ((together.pooled, alone.pooled), (together.patches, alone.patches)):
            np.testing.assert_allclose(whole[:, step], part[:, 0], atol=1e-5, rtol=1e-5)
        np.testing.assert_allclose(together.text, alone.text, atol=1e-5)


@every_part
def test_missing_steps_change_neither_loss_nor_gradients(encoder, head):
    program, batch = compiled(encoder, head), random_batch()
    batch.step_mask[:, 2] = 0
    empty = batch._replace(**{key: getattr(batch, key).copy() for key in ("images", "state", "actions", "intrinsics")})
    empty.images[:, 2], empty.state[:, 2], empty.actions[:, 2], empty.intrinsics[:, 2] = 0, 0, 0, 0
    (first, metrics), gradient = program.loss_and_gradients(program.params, batch)
    (second, blank), other = program.loss_and_gradients(program.params, empty)
    assert np.isfinite(first) and all(np.isfinite(value) for value in (metrics | blank).values())
    np.testing.assert_allclose(first, second, rtol=1e-6)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), gradient, other)


@every_part
def test_every_parameter_but_unused_words_learns(encoder, head):
    program = compiled(encoder, head)
    _, gradients = program.loss_and_gradients(program.params, random_batch())
    still = [name for name, leaf in flatten_params(gradients).items() if not leaf.any()]
    assert [
        name for name in still if name != "encoder/logit_scale"
    ] == []  # of CLIP's own comparison, which we do not make


@every_part
def test_features_computed_before_give_the_same_loss_and_need_neither_images_nor_the_encoder(encoder, head):
    program, batch = compiled(encoder, head), random_batch()
    live, _ = program.loss(program.params, batch)
    before = program.encode(batch.images, batch.tokens, batch.text_padding_mask)
    if not program.agent.reads_patches:
        before = before._replace(patches=None)
    rest = {name: part for name, part in program.params.items() if name != "encoder"}
    cached, _ = program.loss(rest, batch._replace(images=None, features=before))
    np.testing.assert_allclose(cached, live, rtol=1e-6)


def test_the_cameras_matrices_count_in_rendered_pixels_even_if_the_encoder_resizes():
    agent, batch = make_agent("clip"), random_batch()
    cameras = agent.cameras(batch)
    assert (cameras.image_size, cameras.side) == (32, 2)
    assert make_agent("m3ae").cameras(batch).side == 4
