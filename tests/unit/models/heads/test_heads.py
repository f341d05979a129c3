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
from instructrl.models.heads.discrete import Bins
from instructrl.models.heads.heatmap import heatmap_targets
from instructrl.models.heads.registry import make_head
from instructrl.models.heads.regression import SlotPose
from instructrl.models.heads.triangulation import triangulate
from instructrl.models.initialization import draw_params
from instructrl.workspace import RLBENCH_WORKSPACE
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
    logits = {} if targets.scores is None else {"scores": jnp.log(targets.scores + 1e-9)}
    if isinstance(targets, SlotPose):
        return targets._replace(pose=perfect(head, targets.pose), **logits)
    logits["gripper"] = (targets.gripper * 2 - 1) * 5
    logits["rotation"] = jnp.log(targets.rotation + 1e-9).reshape(*targets.rotation.shape[:2], -1)
    if isinstance(targets, Bins):
        logits["position"] = jnp.log(targets.position + 1e-9)
    return targets._replace(**logits)


@functools.cache
def errors_of_decoded_targets(kind):
    """Compiled function (actions, matrices of the cameras) -> errors of the actions decoded from their targets."""
    head = make_head(HEADS[kind](kind, kind), RLBENCH_WORKSPACE)

    def errors(actions, intrinsics, extrinsics):
        views = CameraParams(intrinsics, extrinsics, SIZE, SIDE)
        return action_errors(head.decode(perfect(head, head.targets(actions, views)), views), actions)

    return jax.jit(errors)


@settings(max_examples=25)
@given(seed=st.integers(0, 2**32 - 1), kind=st.sampled_from(KINDS), cameras=st.integers(2, 4))
def test_decoding_the_targets_gives_the_action_back(seed, kind, cameras):
    actions, views = scene(seed, cameras)
    errors = errors_of_decoded_targets(kind)(actions, *views[:2])
    # Only angles at gimbal lock are moved to their bin's centre; others, and positions, are decoded between bins.
    degrees = {"regression": 0.5, "discrete": 3 * 2.5, "spatial": 3 * 2.5}[kind]
    assert errors["position_cm"].max() < 0.2
    assert errors["rotation_deg"].max() < degrees and jnp.median(errors["rotation_deg"]) < 0.5
    assert errors["gripper_accuracy"].min() == 1


@pytest.mark.parametrize("kind", KINDS)
def test_the_loss_is_least_at_the_targets_and_blind_to_the_quaternions_sign(kind):
    actions, views = scene(3)
    head = make_head(HEADS[kind](kind, kind), RLBENCH_WORKSPACE)
    targets = head.targets(actions, views)
    best = perfect(head, targets)
    least = head.loss(best, targets)
    opposite = head.targets(actions.at[..., 3:7].multiply(-1), views)
    np.testing.assert_allclose(head.loss(best, opposite), least, rtol=1e-5)
    if kind == "regression":
        flipped = best._replace(pose=best.pose._replace(quaternion=-best.pose.quaternion))
        np.testing.assert_allclose(head.loss(flipped, targets), least, rtol=1e-5)
    for seed in range(5):
        leaves, tree = jax.tree.flatten(best)
        noise = [leaf + jax.random.normal(jax.random.key(seed + i), leaf.shape) for i, leaf in enumerate(leaves)]
        assert (head.loss(jax.tree.unflatten(tree, noise), targets) > least).all()


@pytest.mark.parametrize("kind", KINDS)
def test_every_parameter_learns_from_finite_gradients(kind):
    actions, views = scene(4)
    bins = {"discrete": {"position_bins": 10, "rotation_bins": 12}, "spatial": {"rotation_bins": 12}}.get(kind, {})
    head = make_head(HEADS[kind](kind, kind, dim=16, **bins), RLBENCH_WORKSPACE)
    hidden = jax.random.normal(jax.random.key(0), (2, 2, 8))
    patches = jax.random.normal(jax.random.key(1), (2, 2, 3, SIDE * SIDE, 6))
    params = {"params": draw_params(head, jax.random.key(2), hidden, patches, views)}

    def loss(params):
        return head.loss(head.apply(params, hidden, patches, views), head.targets(actions, views)).mean()

    for path, gradient in jax.tree_util.tree_leaves_with_path(jax.jit(jax.grad(loss))(params)):
        assert jnp.isfinite(gradient).all() and jnp.abs(gradient).max() > 0, jax.tree_util.keystr(path)


@pytest.mark.parametrize(("name", "numbers"), [("position", [0]), ("position", [1]), ("position", [2]),
                                               ("rotation", [3, 4, 5, 6]), ("gripper", [7])])  # fmt: skip
def test_each_axis_has_its_own_softmax(name, numbers):
    actions, views = scene(5)
    head = make_head(DiscreteConfig("discrete", "discrete"), RLBENCH_WORKSPACE)
    best = perfect(head, head.targets(actions, views))
    where = jnp.s_[..., numbers[0], :] if name == "position" else jnp.s_[...]
    old = getattr(best, name)
    others = best._replace(**{name: old.at[where].set(-old[where])})
    before, after = head.decode(best, views), head.decode(others, views)
    changed = np.flatnonzero((before != after).any(axis=(0, 1)))
    assert set(changed) <= set(numbers) and len(changed)


def test_the_bins_of_the_configuration_reach_the_discrete_head():
    actions, views = scene(6)
    config = DiscreteConfig("discrete", "discrete", position_bins=7, rotation_bins=9, slots=0)
    hidden = jnp.zeros((2, 2, 8))
    head = make_head(config, RLBENCH_WORKSPACE)
    predicted, _ = head.init_with_output(jax.random.key(0), hidden, None, views)
    assert predicted.position.shape == (2, 2, 3, 7) and predicted.rotation.shape == (2, 2, 27)
    assert predicted.gripper.shape == (2, 2) and predicted.scores is None
    targets = head.targets(actions, views)
    assert targets.position.shape == (2, 2, 3, 7) and targets.rotation.shape == (2, 2, 3, 9)


@pytest.mark.parametrize("kind", ["regression", "discrete"])
def test_without_slots_a_head_reads_the_prediction_token_alone(kind):
    _, views = scene(7)
    hidden, patches = jnp.ones((2, 2, 8)), jnp.ones((2, 2, 3, SIDE * SIDE, 6))
    for slots in (0, 3):
        head = make_head(HEADS[kind](kind, kind, dim=16, slots=slots), RLBENCH_WORKSPACE)
        assert head.config.reads_patches == (slots > 0)
        params = head.init(jax.random.key(0), hidden, patches, views)
        same = head.apply(params, hidden, patches, views), head.apply(params, hidden, 2 * patches, views)
        leaves = [jax.tree.leaves(each) for each in same]
        assert all(jnp.array_equal(*pair) for pair in zip(*leaves, strict=True)) == (slots == 0)


@pytest.mark.parametrize("kind", ["regression", "discrete"])
def test_the_first_slot_learns_where_the_action_appears(kind):
    actions, views = scene(8)
    head, off = (make_head(HEADS[kind](kind, kind, heatmap_weight=weight), RLBENCH_WORKSPACE) for weight in (0.3, 0.0))
    targets = head.targets(actions, views)
    assert off.targets(actions, views).scores is None
    best = perfect(head, targets)
    elsewhere = best._replace(scores=jnp.roll(best.scores, 5, axis=-1))
    assert (head.loss(elsewhere, targets) > head.loss(best, targets)).all()
    assert (off.loss(elsewhere, targets) == off.loss(best, targets)).all()


@pytest.mark.parametrize("turn", [0.0, 90.0, 180.0, 270.0])
def test_a_value_between_two_bins_is_told_from_both(turn):
    from instructrl.models.heads.bins import expected_near_peak, gaussian_bins

    values = jnp.array([0.4, 17.5, 70.3]) + turn / 5
    shares = gaussian_bins(values % 72, 72, sigma=1.0, circular=True)
    decoded = expected_near_peak(jnp.log(shares), sigma=1.0, circular=True)
    np.testing.assert_allclose((decoded - values + 36) % 72 - 36, 0, atol=0.02)
    second_peak = jnp.roll(shares, 30, axis=-1)
    both = expected_near_peak(jnp.log(0.6 * shares + 0.4 * second_peak), sigma=1.0, circular=True)
    np.testing.assert_allclose((both - values + 36) % 72 - 36, 0, atol=0.02)


@settings(max_examples=25)
@given(seed=st.integers(0, 2**32 - 1))
def test_heatmap_targets_are_shares_whose_offsets_lead_to_the_point(seed):
    actions, views = scene(seed)
    targets = heatmap_targets(actions[..., :3], views)
    np.testing.assert_allclose(targets.shares.sum(axis=-1), 1, atol=1e-5)
    pixels, _ = project(actions[..., :3], views.intrinsics, views.extrinsics)
    column = (jnp.arange(SIDE * SIDE) % SIDE + 0.5 + targets.offsets[..., 0]) * SIZE / SIDE
    named = targets.shares[..., :-1] > 0
    np.testing.assert_allclose(jnp.where(named, column - pixels[..., :1], 0), 0, atol=1e-2)


def test_a_point_out_of_view_is_said_to_be_absent():
    actions, views = scene(0)
    far = actions.at[0, 0, :3].set(jnp.array([5.0, 5.0, 5.0]))
    shares = heatmap_targets(far[..., :3], views).shares
    assert (shares[0, 0, :, -1] == 1).all()
    assert (shares[1, :, :, -1] == 0).all()


def test_an_absent_camera_has_no_say():
    actions, views = scene(1)
    head = make_head(SpatialConfig("spatial", "spatial"), RLBENCH_WORKSPACE)
    best = perfect(head, head.targets(actions, views))
    blind = best.scores.at[..., 0, :].set(jnp.log(jnp.full(SIDE * SIDE + 1, 1e-9).at[-1].set(1.0)))
    errors = action_errors(head.decode(best._replace(scores=blind), views), actions)
    assert errors["position_cm"].max() < 0.5


def test_the_position_error_is_split_into_what_heatmaps_offer_and_what_is_chosen():
    """Each camera has two peaks: a larger one at the wrong point, or at the right one."""
    actions, views = scene(3)
    head = make_head(SpatialConfig("spatial", "spatial"), RLBENCH_WORKSPACE)
    away = actions.at[..., :3].add(jnp.array([0.15, -0.2, 0.2]))
    right, wrong = (perfect(head, head.targets(each, views)) for each in (actions, away))

    def parts(share):
        """Errors and their parts when so large a share of each heatmap is at the right point."""
        right_shares, wrong_shares = share * jax.nn.softmax(right.scores), (1 - share) * jax.nn.softmax(wrong.scores)
        nearer = (right_shares > wrong_shares)[..., :-1, None]
        offsets = jnp.where(nearer, right.offsets, wrong.offsets)
        found = right._replace(scores=jnp.log(right_shares + wrong_shares), offsets=offsets)
        decoded = head.decode(found, views)
        split = head.error_parts(found, decoded[..., :3], actions[..., :3], views)
        total = action_errors(decoded, actions)["position_cm"]
        np.testing.assert_allclose(split["heatmap_cm"] + split["decoding_cm"], total, atol=1e-4)
        return [float(jnp.median(split[key])) for key in ("heatmap_cm", "decoding_cm")]

    assert max(parts(0.7)) < 1
    offered, lost = parts(0.3)
    assert offered < 1 and lost > 10
    offered, lost = parts(0.0)
    assert offered > 10 and lost < 1


def test_weights_of_the_loss_reach_it():
    actions, views = scene(2)
    for kind, names in (
        ("regression", ("position", "rotation", "gripper", "heatmap")),
        ("discrete", ("position", "rotation", "gripper", "heatmap")),
        ("spatial", ("heatmap", "offset", "rotation", "gripper")),
    ):
        plain = make_head(HEADS[kind](kind, kind), RLBENCH_WORKSPACE)
        targets = plain.targets(actions, views)
        wrong = jax.tree.map(lambda leaf: leaf / 2 + 0.1 * jnp.arange(leaf.shape[-1]), perfect(plain, targets))
        for name in names:
            none = make_head(HEADS[kind](kind, kind, **{f"{name}_weight": 0.0}), RLBENCH_WORKSPACE)
            assert (none.loss(wrong, targets) < plain.loss(wrong, targets)).all(), name


@settings(max_examples=15)
@given(seed=st.integers(0, 2**32 - 1), wrong=st.integers(0, 2))
def test_one_wrong_camera_of_three_does_not_move_the_point(seed, wrong):
    """However sure it is; unless its ray happens to meet another camera's, for then no one can tell which is right."""
    rng = np.random.default_rng(seed)
    position = jnp.asarray(rng.uniform([0.05, -0.25, 0.85], [0.35, 0.25, 1.15], (64, 1, 3)), jnp.float32)
    views = CameraParams(
        *(jnp.broadcast_to(each, (64, 1, *each.shape)) for each in ring_of_cameras(3, SIZE)), SIZE, SIDE
    )
    targets = heatmap_targets(position, views)
    elsewhere = 20.0 * jax.nn.one_hot(rng.integers(0, SIDE * SIDE, (64, 1)), SIDE * SIDE + 1)
    scores = jnp.log(targets.shares + 1e-9).at[:, :, wrong].set(elsewhere)
    offsets = targets.offsets.at[:, :, wrong].set(rng.uniform(-0.5, 0.5, (64, 1, 1, 2)))
    found = jax.jit(lambda scores, offsets: triangulate(scores, offsets, views, RLBENCH_WORKSPACE))(scores, offsets)
    error = jnp.linalg.norm(found - position, axis=-1)
    assert (error > 0.01).mean() < 0.1 and jnp.median(error) < 1e-3
