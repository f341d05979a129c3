"""Learning rate schedule, weight decay mask, layer-wise learning rates, and EMA of the parameters."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from instructrl.config.training import OptimizerConfig
from instructrl.errors import InputError
from instructrl.models.encoders.registry import encoder_shapes, layer_depths_from_top
from instructrl.training.optimizer import learning_rate, learning_rate_scales, make_optimizer, update_average
from tests.fixtures.encoders import CLIP_TINY, M3AE_TINY
from tests.fixtures.tiny import OVERRIDES

LENGTH = {"epochs": 10, "steps_per_epoch": 5, "batch_size": 8}
AGENT = {
    "encoder": {
        "embed_patches": {"kernel": jnp.ones((2, 2)), "bias": jnp.ones(2)},
        "block_0": {"out": {"kernel": jnp.ones((2, 2))}},
        "block_1": {"out": {"kernel": jnp.ones((2, 2))}},
        "norm": {"scale": jnp.ones(2)},
    },
    "policy": {"block_0": {"mlp": {"kernel": jnp.ones((2, 2)), "bias": jnp.ones(2)}}},
}


def options(**values):
    return OptimizerConfig(**{"name": "adamw", "learning_rate": 0.1, "weight_decay": 0.0, "warmup_epochs": 2.0,
                              "clip_norm": 1.0} | values)  # fmt: skip


def course(**values):
    schedule = learning_rate(options(**values), **LENGTH)
    return np.array([schedule(step) for step in range(51)])


def first_update(params, **values):
    """The update of a step without gradients at learning rate 0.1: weight decay alone."""
    optimizer = make_optimizer(options(**values), lambda step: 0.1)
    return optimizer.update(jax.tree.map(jnp.zeros_like, params), optimizer.init(params), params)[0]


def test_up_over_the_warm_up_then_down_to_zero_at_the_last_step():
    rates = course()
    assert rates[0] == 0 and rates[50] == pytest.approx(0, abs=1e-8)
    assert rates.argmax() == 10 and rates[10] == pytest.approx(0.1)
    assert (np.diff(rates[:11]) > 0).all() and (np.diff(rates[10:]) < 0).all()
    assert rates[30] == pytest.approx(0.05)


def test_the_warm_up_may_be_told_in_steps():
    np.testing.assert_array_equal(course(warmup_epochs=None, warmup_steps=10), course())
    np.testing.assert_array_equal(course(warmup_epochs=None, warmup_steps=0), course(warmup_epochs=0.0))


@pytest.mark.parametrize("schedule", ["cosine", "linear", "constant"])
def test_without_a_warm_up_it_begins_at_its_peak(schedule):
    assert course(warmup_epochs=0.0, schedule=schedule)[0] == pytest.approx(0.1)


def test_a_linear_course_falls_by_the_same_each_step():
    rates = course(schedule="linear")
    np.testing.assert_allclose(rates[:11], np.arange(11) / 10 * 0.1, rtol=1e-5)
    np.testing.assert_allclose(rates[10:], np.arange(40, -1, -1) / 40 * 0.1, rtol=1e-5, atol=1e-9)


def test_a_constant_course_stays_at_its_peak():
    np.testing.assert_array_equal(course(schedule="constant")[:11], course(schedule="linear")[:11])
    np.testing.assert_allclose(course(schedule="constant")[10:], 0.1)


@pytest.mark.parametrize("schedule", ["cosine", "linear"])
def test_a_share_of_the_rate_may_be_left_at_the_end(schedule):
    rates = course(schedule=schedule, end_factor=0.25)
    assert rates[50] == pytest.approx(0.025) and rates[10] == pytest.approx(0.1) and (np.diff(rates[10:]) < 0).all()


@pytest.mark.parametrize("schedule", ["cosine", "linear", "constant"])
def test_the_rate_goes_with_the_batch_on_request(schedule):
    np.testing.assert_allclose(course(base_batch_size=4, schedule=schedule), 2 * course(schedule=schedule), rtol=1e-6)
    np.testing.assert_array_equal(course(base_batch_size=8, schedule=schedule), course(schedule=schedule))


@pytest.mark.parametrize(
    ("values", "found"),
    [
        ({"warmup_epochs": None, "warmup_steps": 50}, "optimizer.warmup_steps: found 50; allowed: fewer steps than"),
        (
            {"warmup_epochs": 9.95},
            "optimizer.warmup_epochs: found 9.95; allowed: fewer steps than the training has, 50 (10",
        ),
    ],
)
def test_a_warm_up_without_an_end_is_one_line(values, found):
    with pytest.raises(InputError) as error:
        learning_rate(options(**values), **LENGTH)
    assert str(error.value).startswith(found)


@pytest.mark.parametrize(("clip_norm", "apart"), [(1.0, 1e-6), (1e3, 0.0), (None, 0.0)])  # clipped, far from it, off
def test_the_default_is_the_librarys_own(clip_norm, apart):
    chosen = options(weight_decay=0.3, clip_norm=clip_norm)
    schedule = optax.warmup_cosine_decay_schedule(0.0, 0.1, 10, 50)
    known = optax.chain(
        optax.clip_by_global_norm(clip_norm or 1e9),
        optax.adamw(schedule, weight_decay=0.3, mask=lambda tree: jax.tree.map(lambda leaf: leaf.ndim > 1, tree)),
    )
    ours, params = make_optimizer(chosen, learning_rate(chosen, **LENGTH)), (AGENT, AGENT)
    states = ours.init(AGENT), known.init(AGENT)
    assert jax.tree.structure(states[0]) == jax.tree.structure(states[1]), "earlier checkpoints can be resumed"
    for step in range(4):
        gradients = jax.tree.map(lambda leaf: jnp.cos(leaf + step), AGENT)  # noqa: B023
        made = [rule.update(gradients, *given) for rule, *given in zip((ours, known), states, params, strict=True)]
        states = tuple(state for _, state in made)
        params = tuple(optax.apply_updates(old, change) for old, (change, _) in zip(params, made, strict=True))
    jax.tree.map(lambda *pair: np.testing.assert_allclose(*pair, rtol=apart, atol=apart), *params)


def test_matrices_decay_and_biases_do_not():
    params = {"kernel": jnp.ones((2, 2)), "bias": jnp.ones(2)}
    updates = first_update(params, weight_decay=0.5)
    np.testing.assert_allclose(updates["kernel"], -0.05)
    np.testing.assert_array_equal(updates["bias"], 0)


def test_patterns_choose_what_decays_and_it_decays_once():
    updates = first_update(AGENT, weight_decay=0.5, decay=["policy/*/bias", "encoder/block_1"])
    decayed = {"encoder": updates["encoder"].pop("block_1"), "policy": updates["policy"]["block_0"]["mlp"].pop("bias")}
    jax.tree.map(lambda leaf: np.testing.assert_allclose(leaf, -0.05), decayed)
    jax.tree.map(lambda leaf: np.testing.assert_array_equal(leaf, 0), updates)


def test_a_pattern_that_means_nothing_is_one_line_before_the_first_step():
    with pytest.raises(InputError, match=r"^optimizer.decay: found polcy, which no parameter matches; there are enc.*"):
        make_optimizer(options(decay=["encoder", "polcy"]), lambda step: 0.1).init(AGENT)


def test_a_large_gradient_is_clipped_before_adam_sees_it():
    params = {"kernel": jnp.ones((2, 2))}
    for clip_norm, norm in ((2.0, 2.0), (None, 200.0)):
        optimizer = make_optimizer(options(clip_norm=clip_norm), lambda step: 0.1)
        _, state = optimizer.update({"kernel": jnp.full((2, 2), 100.0)}, optimizer.init(params), params)
        first_moment = optax.tree_utils.tree_get(state, "mu")["kernel"]
        np.testing.assert_allclose(jnp.linalg.norm(first_moment), norm * 0.1, rtol=1e-5)


def test_an_encoder_learns_the_slower_the_deeper():
    updates = first_update(AGENT, weight_decay=0.5, layer_lr_decay=0.5, encoder_lr_scale=0.8)
    encoder = updates["encoder"]
    np.testing.assert_allclose(updates["policy"]["block_0"]["mlp"]["kernel"], -0.05)
    np.testing.assert_allclose(encoder["block_1"]["out"]["kernel"], -0.05 * 0.8 * 0.5)
    np.testing.assert_allclose(encoder["block_0"]["out"]["kernel"], -0.05 * 0.8 * 0.25)
    np.testing.assert_allclose(encoder["embed_patches"]["kernel"], -0.05 * 0.8 * 0.125)
    assert learning_rate_scales(options(layer_lr_decay=0.5), AGENT)["encoder"]["norm"]["scale"] == 1
    assert set(jax.tree.leaves(learning_rate_scales(options(encoder_lr_scale=0.1), AGENT)["encoder"])) == {0.1}
    assert set(jax.tree.leaves(learning_rate_scales(options(layer_lr_decay=0.5), {"policy": AGENT["policy"]}))) == {1}


def test_every_parameter_of_every_encoder_has_its_place_among_the_layers():
    from instructrl.cli.entry import compose
    from instructrl.config.training import TrainConfig

    quick = compose("train", TrainConfig, [word for word in OVERRIDES if "{" not in word]).encoder
    depths = {
        config.name: layer_depths_from_top(encoder_shapes(config, vocabulary_size=7))
        for config in (M3AE_TINY, CLIP_TINY, quick)
    }
    m3ae, clip, scratch = depths["m3ae_golden"], depths["clip_golden"], depths[quick.name]
    assert {m3ae[f"encoder/Block_{index}/TransformerMLP_0/fc1/kernel"] for index in (0, 1, 2)} == {3, 2, 1}
    first = ("cls_token", "image_embedding/kernel", "text_embedding/embedding", "encoder_text_type_embedding")
    assert {m3ae[name] for name in first} == {4} and m3ae["encoder/LayerNorm_0/scale"] == 0
    for tower in ("vision", "text"):
        assert clip[f"{tower}_model/encoder/layers/0/mlp/fc1/kernel"] == 2
        assert clip[f"{tower}_model/embeddings/position_embedding/embedding"] == 3
    assert clip["vision_model/pre_layrnorm/scale"] == 3, "it stands before the first block"
    above = ("vision_model/post_layernorm", "text_model/final_layer_norm", "visual_projection", "text_projection")
    assert {clip[name] for name in clip if name.startswith((*above, "logit_scale"))} == {0}
    assert (scratch["block_0/mix/kernel"], scratch["block_0/norm/scale"], scratch["norm/scale"]) == (1, 1, 0)
    assert {depth for name, depth in scratch.items() if name.startswith(("embed", "word"))} == {2}
    counts = [sorted(set(found.values())) for found in depths.values()]
    assert counts == [[0, 1, 2, 3, 4], [0, 1, 2, 3], [0, 1, 2]]


def test_the_average_follows_and_forgets_the_random_beginning():
    average = {"kernel": jnp.zeros(2)}
    for step in range(200):
        average = update_average(average, {"kernel": jnp.ones(2)}, step=jnp.int32(step), decay=0.99)
    np.testing.assert_allclose(average["kernel"], 1, atol=1e-4)
    assert update_average({"a": jnp.float32(0)}, {"a": jnp.float32(1)}, step=0, decay=0.99)["a"] == pytest.approx(0.9)
    settled = update_average({"a": jnp.float32(0)}, {"a": jnp.float32(1)}, step=10**6, decay=0.99)["a"]
    assert settled == pytest.approx(0.01, rel=1e-4) and settled.dtype == jnp.float32
