"""Heads: what they aim at, they decode; their losses are least there and blind to a quaternion's sign."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from instructrl.actions import canonical_quaternion
from instructrl.config import HeadConfig
from instructrl.models.geometry import project
from instructrl.models.heads import Cameras, Heatmaps, Pose, action_errors, make_head
from tests.cameras import ring_of_cameras

SIDE, SIZE = 12, 96


def scene(seed, cameras=3):
    """Actions [2,2,8] inside the workspace and cameras that see it."""
    numbers = np.random.default_rng(seed)
    position = numbers.uniform([0.05, -0.25, 0.85], [0.35, 0.25, 1.15], (2, 2, 3))
    quaternion = canonical_quaternion(numbers.normal(size=(2, 2, 4)))
    gripper = numbers.integers(0, 2, (2, 2, 1))
    intrinsics, extrinsics = ring_of_cameras(cameras, SIZE)
    shape = (2, 2, cameras)
    views = Cameras(
        jnp.broadcast_to(intrinsics, (*shape, 3, 3)), jnp.broadcast_to(extrinsics, (*shape, 4, 4)), SIZE, SIDE
    )
    return jnp.asarray(np.concatenate([position, quaternion, gripper], axis=-1), jnp.float32), views


def perfect(head, targets):
    """The prediction that says exactly what the targets want."""
    if isinstance(targets, Pose):
        return targets._replace(gripper=(targets.gripper * 2 - 1) * 5)
    scores = jnp.log(targets.shares + 1e-9)
    return Heatmaps(scores, targets.offsets, perfect(head, targets.pose))


@settings(deadline=None, max_examples=25)
@given(seed=st.integers(0, 2**32 - 1), kind=st.sampled_from(["regression", "spatial"]), cameras=st.integers(2, 4))
def test_decoding_the_targets_gives_the_action_back(seed, kind, cameras):
    actions, views = scene(seed, cameras)
    head = make_head(HeadConfig(kind, kind))
    decoded = head.decode(perfect(head, head.targets(actions, views)), views)
    errors = action_errors(decoded, actions)
    assert errors["position_cm"].max() < 0.2
    assert errors["rotation_deg"].max() < 0.5
    assert errors["gripper_accuracy"].min() == 1


@pytest.mark.parametrize("kind", ["regression", "spatial"])
def test_the_loss_is_least_at_the_targets_and_blind_to_the_quaternions_sign(kind):
    actions, views = scene(3)
    head = make_head(HeadConfig(kind, kind))
    targets = head.targets(actions, views)
    best = perfect(head, targets)
    pose = best if kind == "regression" else best.pose
    flipped = pose._replace(quaternion=-pose.quaternion)
    flipped = flipped if kind == "regression" else best._replace(pose=flipped)
    least = head.loss(best, targets)
    np.testing.assert_allclose(head.loss(flipped, targets), least, rtol=1e-5)
    for seed in range(5):
        leaves, tree = jax.tree.flatten(best)
        noise = [leaf + 0.5 * jax.random.normal(jax.random.key(seed + i), leaf.shape) for i, leaf in enumerate(leaves)]
        assert (head.loss(jax.tree.unflatten(tree, noise), targets) > least).all()


@settings(deadline=None, max_examples=25)
@given(seed=st.integers(0, 2**32 - 1))
def test_heatmap_targets_are_shares_whose_offsets_lead_to_the_point(seed):
    actions, views = scene(seed)
    targets = make_head(HeadConfig("spatial", "spatial")).targets(actions, views)
    np.testing.assert_allclose(targets.shares.sum(axis=-1), 1, atol=1e-5)
    pixels, _ = project(actions[..., :3], views.intrinsics, views.extrinsics)
    column = (jnp.arange(SIDE * SIDE) % SIDE + 0.5 + targets.offsets[..., 0]) * SIZE / SIDE
    named = targets.shares[..., :-1] > 0
    np.testing.assert_allclose(jnp.where(named, column - pixels[..., :1], 0), 0, atol=1e-2)


def test_a_point_out_of_view_is_said_to_be_absent():
    actions, views = scene(0)
    far = actions.at[0, 0, :3].set(jnp.array([5.0, 5.0, 5.0]))
    shares = make_head(HeadConfig("spatial", "spatial")).targets(far, views).shares
    assert (shares[0, 0, :, -1] == 1).all()
    assert (shares[1, :, :, -1] == 0).all()


def test_an_absent_camera_has_no_say():
    actions, views = scene(1)
    head = make_head(HeadConfig("spatial", "spatial"))
    best = perfect(head, head.targets(actions, views))
    blind = best.scores.at[..., 0, :].set(jnp.log(jnp.full(SIDE * SIDE + 1, 1e-9).at[-1].set(1.0)))
    errors = action_errors(head.decode(best._replace(scores=blind), views), actions)
    assert errors["position_cm"].max() < 0.5


def test_weights_of_the_loss_reach_it():
    actions, views = scene(2)
    for kind, names in (
        ("regression", ("position", "rotation", "gripper")),
        ("spatial", ("heatmap", "offset", "rotation", "gripper")),
    ):
        plain = make_head(HeadConfig(kind, kind))
        targets = plain.targets(actions, views)
        wrong = jax.tree.map(lambda leaf: leaf + 0.1 * jnp.arange(leaf.shape[-1]), perfect(plain, targets))
        for name in names:
            none = make_head(HeadConfig(kind, kind, **{f"{name}_weight": 0.0}))
            assert (none.loss(wrong, targets) < plain.loss(wrong, targets)).all(), name
