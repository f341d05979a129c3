"""Parameters are drawn without compiling or running the model, and have the numbers that its `init` gives."""

from dataclasses import dataclass
from typing import ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from instructrl.errors import InputError
from instructrl.models.initialization import draw_params, param_shapes
from instructrl.models.layers.convolution import Convolution
from instructrl.models.layers.initializers import Dense, DenseGeneral, normal, xavier_uniform


class Small(nn.Module):
    """A model whose layers have parameters of all kinds, and of which a part is a module of flax."""

    fails: bool = False

    @nn.compact
    def __call__(self, images):
        x = Convolution(6, 3, name="conv")(images)
        x = x * self.param("gain", nn.initializers.ones, (6,)) + self.param("offset", normal(0.02), (1, 6))
        x = DenseGeneral((2, 4), axis=(-3, -1), name="general")(x)
        if self.fails:
            jax.debug.callback(self.fail, x)
        x = nn.Dense(5, name="theirs")(nn.LayerNorm()(x))
        return nn.Dense(70, kernel_init=xavier_uniform, name="wide")(Dense(3000, name="long")(x))

    @staticmethod
    def fail(x):
        raise AssertionError("the model was run")


IMAGES = np.zeros((2, 4, 4, 3), np.float32)
KEY = jax.random.key(5)


def draw(module, **more):
    return draw_params(module, KEY, IMAGES, **more)


def test_the_numbers_are_those_of_the_modules_own_init():
    expected = jax.jit(Small().init)(KEY, IMAGES)["params"]
    jax.tree.map(np.testing.assert_array_equal, draw(Small()), expected)


def test_the_model_is_not_run():
    with pytest.raises(jax.errors.JaxRuntimeError, match="the model was run"):
        jax.block_until_ready(jax.jit(Small(fails=True).init)(KEY, IMAGES))
        jax.effects_barrier()
    draw(Small(fails=True))
    jax.effects_barrier()


def test_each_parameter_is_moved_as_soon_as_it_is_drawn():
    moved = []

    def put(array):
        moved.append(array.shape)
        return array + 1

    found = draw(Small(), put=put)
    assert sorted(moved) == sorted(leaf.shape for leaf in jax.tree.leaves(found))
    np.testing.assert_array_equal(found["gain"], 2)


class Constants(nn.Module):
    """Parameters that no random key determines, and the key itself."""

    @nn.compact
    def __call__(self, x):
        values = {"scale": jnp.float32(3), "shift": jnp.arange(3)}
        found = {name: self.param(name, lambda key, value=value: value) for name, value in values.items()}
        return found | {"key": self.param("key", lambda key: jax.random.key_data(key))}


def test_constants_are_parameters_too():
    expected = Constants().init(KEY, IMAGES)["params"]
    jax.tree.map(np.testing.assert_array_equal, draw(Constants()), expected)


class Normalized(nn.Module):
    """A model with statistics beside its parameters."""

    @nn.compact
    def __call__(self, x):
        return nn.Dense(2)(nn.BatchNorm(use_running_average=True, name="norm")(x))


def test_parameters_are_all_that_a_model_has():
    with pytest.raises(
        InputError, match=r"^model: found batch_stats in norm, variables beside .*; allowed: parameters"
    ):
        draw(Normalized())


TRACED = []


class Counted(nn.Module):
    """Counts how often its `init` is traced."""

    config: object

    @nn.compact
    def __call__(self, x):
        TRACED.append(self.config)
        return nn.Dense(self.config.width)(x)


@dataclass
class Config:
    implementation: ClassVar[str] = "one"
    width: int = 3


@dataclass
class Renamed(Config):
    implementation: ClassVar[str] = "other"

    def __repr__(self):
        return f"{Config.__qualname__}(width={self.width})"


def test_models_of_equal_settings_are_traced_once():
    def shape(config, x):
        before = len(TRACED)
        return param_shapes(Counted(config), x)["Dense_0"]["kernel"].shape, len(TRACED) - before

    assert shape(Config(), np.zeros((1, 2))) == ((2, 3), 1)
    assert shape(Config(), np.ones((1, 2))) == ((2, 3), 0)
    assert shape(Config(width=4), np.ones((1, 2))) == ((2, 4), 1)
    assert shape(Config(), np.ones((1, 5))) == ((5, 3), 1)
    assert shape(Renamed(), np.ones((1, 2))) == ((2, 3), 1)


def test_what_a_caller_does_with_the_shapes_stays_with_the_caller():
    param_shapes(Small(), IMAGES).clear()
    assert param_shapes(Small(), IMAGES).keys() == draw(Small()).keys()
