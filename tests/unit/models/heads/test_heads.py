"""Heads: decoding the targets returns the action; losses are minimal there and ignore a quaternion's sign."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from instructrl.actions import canonical_quaternion
from instructrl.config.heads import DiscreteConfig, SpatialConfig
from instructrl.config.model import HEADS
from instructrl.models.geometry import project
from instructrl.models.heads.base import CameraParams, PosePrediction, action_errors
from instructrl.models.heads.discrete import BinLogits
from instructrl.models.heads.registry import make_head
from instructrl.models.heads.spatial import Heatmaps
from tests.fixtures.cameras import ring_of_cameras

SIDE, SIZE = 12, 96
KINDS = ("regression", "discrete", "spatial")


def scene(seed, cameras=3):
    """Actions [2,2,8] inside the workspace and cameras that see it."""
    rng = np.random.default_rng(seed)
    position = rng.uniform([0.05, -0.25, 0.85], [0.35, 0.25, 1.15], (2, 2, 3))
    quaternion = canonical_quaternion(rng.normal(size=(2, 2, 4)))
    gripper = rng.integers(0, 2, (2, 2, 1))
    intrinsics, extrinsics = ring_of_cameras(cameras, SIZE)
    shape = (2, 2, cameras)
    views = CameraParams(
        jnp.broadcast_to(intrinsics, (*shape, 3, 3)), jnp.broadcast_to(extrinsics, (*shape, 4, 4)), SIZE, SIDE
    )
    return jnp.asarray(np.concatenate([position, quaternion, gripper], axis=-1), jnp.float32), views


def perfect(head, targets):
    """The prediction that matches the targets exactly."""
    if isinstance(targets, PosePrediction):
        return targets._replace(gripper=(targets.gripper * 2 - 1) * 5)
    if isinstance(targets, jax.Array):
        positions, rotations = head.config.position_bins, head.config.rotation_bins
        parts = (targets[..., :3], positions), (targets[..., 3:6], rotations), (targets[..., 6], 2)
        return BinLogits(*(20 * jax.nn.one_hot(bins, count) for bins, count in parts))
    scores = jnp.log(targets.shares + 1e-9)
    return Heatmaps(scores, targets.offsets, perfect(head, targets.pose))


@functools.cache
def errors_of_decoded_targets(kind):
    """Compiled function (actions, matrices of the cameras) -> errors of the actions decoded from their targets."""
    head = make_head(HEADS[kind](kind, kind))

    def errors(actions, intrinsics, extrinsics):
        views = CameraParams(intrinsics, extrinsics, SIZE, SIDE)
        return action_errors(head.decode(perfect(head, head.targets(actions, views)), views), actions)

    return jax.jit(errors)


@settings(deadline=None, max_examples=25)
@given(seed=st.integers(0, 2**32 - 1), kind=st.sampled_from(KINDS), cameras=st.integers(2, 4))
def test_decoding_the_targets_gives_the_action_back(seed, kind, cameras):
    actions, views = scene(seed, cameras)
    errors = errors_of_decoded_targets(kind)(actions, *views[:2])
    centimetres, degrees = (0.5 * 3**0.5, 3 * 2.5) if kind == "discrete" else (0.2, 0.5)  # half a bin in each axis
    assert errors["position_cm"].max() < centimetres + 0.01
    assert errors["rotation_deg"].max() < degrees + 0.1
    assert errors["gripper_accuracy"].min() == 1


@pytest.mark.parametrize("kind", KINDS)
def test_the_loss_is_least_at_the_targets_and_blind_to_the_quaternions_sign(kind):
    actions, views = scene(3)
    head = make_head(HEADS[kind](kind, kind))
    targets = head.targets(actions, views)
    best = perfect(head, targets)
    least = head.loss(best, targets)
    opposite = head.targets(actions.at[..., 3:7].multiply(-1), views)
    np.testing.assert_allclose(head.loss(best, opposite), least, rtol=1e-5)
    if kind != "discrete":
        pose = best if kind == "regression" else best.pose
        flipped = pose._replace(quaternion=-pose.quaternion)
        flipped = flipped if kind == "regression" else best._replace(pose=flipped)
        np.testing.assert_allclose(head.loss(flipped, targets), least, rtol=1e-5)
    for seed in range(5):
        leaves, tree = jax.tree.flatten(best)
        scale = 30 if kind == "discrete" else 0.5  # small noise could also raise the logit of the correct bin
        noise = [
            leaf + scale * jax.random.normal(jax.random.key(seed + i), leaf.shape) for i, leaf in enumerate(leaves)
        ]
        assert (head.loss(jax.tree.unflatten(tree, noise), targets) > least).all()


@pytest.mark.parametrize("kind", KINDS)
def test_every_parameter_learns_from_finite_gradients(kind):
    actions, views = scene(4)
    bins = {"position_bins": 10, "rotation_bins": 12} if kind == "discrete" else {}
    head = make_head(HEADS[kind](kind, kind, dim=16, **bins))
    hidden = jax.random.normal(jax.random.key(0), (2, 2, 8))
    patches = jax.random.normal(jax.random.key(1), (2, 2, 3, SIDE * SIDE, 6))
    params = jax.jit(lambda key: head.init(key, hidden, patches, views))(jax.random.key(2))

    def loss(params):
        return head.loss(head.apply(params, hidden, patches, views), head.targets(actions, views)).mean()

    for path, gradient in jax.tree_util.tree_leaves_with_path(jax.jit(jax.grad(loss))(params)):
        assert jnp.isfinite(gradient).all() and jnp.abs(gradient).max() > 0, jax.tree_util.keystr(path)


@pytest.mark.parametrize(("name", "axis", "numbers"), [
    ("position", 0, [0]), ("position", 1, [1]), ("position", 2, [2]),
    ("rotation", 0, [3, 4, 5, 6]), ("rotation", 1, [3, 4, 5, 6]), ("rotation", 2, [3, 4, 5, 6]),
    ("gripper", None, [7]),
])  # fmt: skip
def test_each_axis_has_its_own_softmax(name, axis, numbers):
    actions, views = scene(5)
    head = make_head(DiscreteConfig("discrete", "discrete"))
    keys = iter(jax.random.split(jax.random.key(0), 4))
    scores = BinLogits(*(jax.random.normal(next(keys), (2, 2, *rest)) for rest in ((3, 100), (3, 72), (2,))))
    where = jnp.s_[..., axis, :] if axis is not None else jnp.s_[...]
    old = getattr(scores, name)
    others = scores._replace(**{name: old.at[where].set(-100 * old[where])})

    before, after = head.decode(scores, views), head.decode(others, views)
    changed = np.flatnonzero((before != after).any(axis=(0, 1)))
    assert set(changed) <= set(numbers) and len(changed)

    targets = head.targets(actions, views)
    gradients = [jax.grad(lambda each: head.loss(each, targets).sum())(each) for each in (scores, others)]
    blank = [gradient._replace(**{name: getattr(gradient, name).at[where].set(0)}) for gradient in gradients]
    jax.tree.map(np.testing.assert_array_equal, *blank)
    np.testing.assert_allclose(getattr(gradients[0], name)[where].sum(axis=-1), 0, atol=1e-4)


def test_the_bins_of_the_configuration_reach_the_discrete_head():
    actions, views = scene(6)
    config = DiscreteConfig("discrete", "discrete", position_bins=7, rotation_bins=9)
    hidden = jnp.zeros((2, 2, 8))
    head = make_head(config)
    scores, _ = head.init_with_output(jax.random.key(0), hidden, None, views)
    assert scores.position.shape == (2, 2, 3, 7) and scores.rotation.shape == (2, 2, 3, 9)
    assert scores.gripper.shape == (2, 2, 2)
    assert head.targets(actions, views)[..., :3].max() < 7
    errors = action_errors(head.decode(perfect(head, head.targets(actions, views)), views), actions)
    assert 1 < errors["position_cm"].max() <= 3**0.5 * 50 / 7 and errors["rotation_deg"].max() <= 3 * 20.1


@settings(deadline=None, max_examples=25)
@given(seed=st.integers(0, 2**32 - 1))
def test_heatmap_targets_are_shares_whose_offsets_lead_to_the_point(seed):
    actions, views = scene(seed)
    targets = make_head(SpatialConfig("spatial", "spatial")).targets(actions, views)
    np.testing.assert_allclose(targets.shares.sum(axis=-1), 1, atol=1e-5)
    pixels, _ = project(actions[..., :3], views.intrinsics, views.extrinsics)
    column = (jnp.arange(SIDE * SIDE) % SIDE + 0.5 + targets.offsets[..., 0]) * SIZE / SIDE
    named = targets.shares[..., :-1] > 0
    np.testing.assert_allclose(jnp.where(named, column - pixels[..., :1], 0), 0, atol=1e-2)


def test_a_point_out_of_view_is_said_to_be_absent():
    actions, views = scene(0)
    far = actions.at[0, 0, :3].set(jnp.array([5.0, 5.0, 5.0]))
    shares = make_head(SpatialConfig("spatial", "spatial")).targets(far, views).shares
    assert (shares[0, 0, :, -1] == 1).all()
    assert (shares[1, :, :, -1] == 0).all()


def test_an_absent_camera_has_no_say():
    actions, views = scene(1)
    head = make_head(SpatialConfig("spatial", "spatial"))
    best = perfect(head, head.targets(actions, views))
    blind = best.scores.at[..., 0, :].set(jnp.log(jnp.full(SIDE * SIDE + 1, 1e-9).at[-1].set(1.0)))
    errors = action_errors(head.decode(best._replace(scores=blind), views), actions)
    assert errors["position_cm"].max() < 0.5


def test_weights_of_the_loss_reach_it():
    actions, views = scene(2)
    for kind, names in (
        ("regression", ("position", "rotation", "gripper")),
        ("discrete", ("position", "rotation", "gripper")),
        ("spatial", ("heatmap", "offset", "rotation", "gripper")),
    ):
        plain = make_head(HEADS[kind](kind, kind))
        targets = plain.targets(actions, views)
        unsure = kind == "discrete"
        wrong = jax.tree.map(
            lambda leaf, unsure=unsure: leaf / 20 if unsure else leaf + 0.1 * jnp.arange(leaf.shape[-1]),
            perfect(plain, targets),
        )
        for name in names:
            none = make_head(HEADS[kind](kind, kind, **{f"{name}_weight": 0.0}))
            assert (none.loss(wrong, targets) < plain.loss(wrong, targets)).all(), name
