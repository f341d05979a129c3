"""Parameters of a model: their shapes, and random ones, drawn without compiling it.

Both follow from one trace of the model's `init`, which is kept: a start asks for them several times.
"""

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import flax.linen as nn
import jax
from jax.extend import core

from instructrl.errors import InputError

Tree = dict[str, Any]  # a nested dict
MAX_TRACES = 8  # that are kept: those of a run's agent, its encoder, and others that it begins with


class Trace(NamedTuple):
    """The operations of `init`, and the shapes of the parameters in the order of their outputs."""

    operations: core.ClosedJaxpr
    shapes: Tree


@dataclass(frozen=True)
class Initialization:
    """A call of `init`; equal to another one if the settings of the modules and the shapes of the inputs are."""

    settings: tuple[Any, ...]
    init: Callable[[jax.Array], Tree] = field(compare=False)


def param_shapes(module: nn.Module, *inputs: Any, method: str | None = None) -> Tree:
    """Shapes and types of the parameters of a module that is applied to inputs of these shapes."""
    return jax.tree.map(lambda leaf: leaf, _trace(_initialization(module, inputs, method)).shapes)


def draw_params(
    module: nn.Module,
    key: jax.Array,
    *inputs: Any,
    method: str | None = None,
    put: Callable[[jax.Array], jax.Array] | None = None,
) -> Tree:
    """Draw the parameters that the module's `init` returns for a random key and inputs of these shapes.

    Only the operations on which a parameter depends are executed, one by one: each is compiled for itself, and most
    serve many parameters and models.

    Args:
        module: the model or layer.
        key: the random key.
        inputs: what the module is applied to.
        method: its method that is applied; by default `__call__`.
        put: moves a parameter to its devices as soon as it is drawn, so that there is one at a time on a single device;
            None: they stay there.
    """
    operations, shapes = _trace(_initialization(module, inputs, method))
    jaxpr = operations.jaxpr
    producers = {out: index for index, equation in enumerate(jaxpr.eqns) for out in equation.outvars}

    def evaluate(out: core.Var) -> jax.Array:
        needed: set[int] = set()
        waiting = [out]
        while waiting:
            variable = waiting.pop()
            index = None if isinstance(variable, core.Literal) else producers.get(variable)
            if index is not None and index not in needed:
                needed.add(index)
                waiting.extend(jaxpr.eqns[index].invars)
        part = jaxpr.replace(eqns=[jaxpr.eqns[index] for index in sorted(needed)], outvars=[out])
        [drawn] = core.jaxpr_as_fun(core.ClosedJaxpr(part, operations.consts))(key)
        return put(drawn) if put else drawn

    return jax.tree.unflatten(jax.tree.structure(shapes), map(evaluate, jaxpr.outvars))


def _initialization(module: nn.Module, inputs: tuple[Any, ...], method: str | None) -> Initialization:
    parts = [getattr(module, name, None) for name in module.__dataclass_fields__]
    classes = tuple((type(part), getattr(part, "implementation", None)) for part in (module, *parts))
    given = [f"{leaf.dtype}{leaf.shape}" if hasattr(leaf, "shape") else repr(leaf) for leaf in jax.tree.leaves(inputs)]
    settings = (repr(module), classes, jax.tree.structure(inputs), tuple(given), method)
    return Initialization(settings, lambda key: parameters_alone(module.init(key, *inputs, method=method)))


def parameters_alone(variables: Mapping[str, Any]) -> Tree:
    """The parameters among the variables that `init` returns.

    Raises:
        InputError: there are others, as of batch normalization, which no step of a training would change.
    """
    for kind, tree in variables.items():
        if kind != "params":
            raise InputError(
                f"model: found {kind} in {', '.join(tree)}, variables beside the parameters, which no training step "
                "changes; allowed: parameters alone, for instance LayerNorm or GroupNorm instead of BatchNorm"
            )
    parameters: Tree = variables["params"]
    return parameters


@functools.lru_cache(maxsize=MAX_TRACES)
def _trace(initialization: Initialization) -> Trace:
    return Trace(*jax.make_jaxpr(initialization.init, return_shape=True)(jax.random.key(0)))
