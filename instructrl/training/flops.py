"""FLOP counts of training steps (matrix products and convolutions), and peak rates of devices."""

import math
from collections.abc import Callable, Iterator
from typing import Protocol, cast

import jax
from jax.core import ShapedArray
from jax.extend.core import ClosedJaxpr, Jaxpr, JaxprEqn, Literal, Var
from jaxtyping import PyTree

PEAK_FLOPS = {  # of one jax device: bfloat16, dense, as published; the first prefix of its device_kind applies
    "NVIDIA B200": 2250e12,
    "NVIDIA GH200": 989e12,
    "NVIDIA H200": 989e12,
    "NVIDIA H100 PCIe": 756e12,
    "NVIDIA H100 NVL": 835e12,
    "NVIDIA H100": 989e12,
    "NVIDIA A100": 312e12,
    "NVIDIA A40": 150e12,
    "NVIDIA A30": 165e12,
    "NVIDIA A10G": 70e12,
    "NVIDIA A10": 125e12,
    "NVIDIA L40S": 362e12,
    "NVIDIA L40": 181e12,
    "NVIDIA L4": 121e12,
    "NVIDIA RTX 6000 Ada": 364e12,
    "NVIDIA RTX A6000": 155e12,
    "NVIDIA GeForce RTX 4090": 165e12,
    "NVIDIA GeForce RTX 3090": 71e12,
    "TPU v2": 22.5e12,  # a device is one core, half a chip
    "TPU v3": 61.5e12,
    "TPU v4": 275e12,
    "TPU v5 lite": 197e12,
    "TPU v5e": 197e12,
    "TPU v5": 459e12,
    "TPU v6": 918e12,
    "TPU7x": 2307e12,
}


def peak_flops(device_kind: str) -> float | None:
    """Peak operations per second of a device; None for an unknown one, such as a CPU."""
    return next((rate for kind, rate in PEAK_FLOPS.items() if device_kind.startswith(kind)), None)


class Traceable(Protocol):
    """A jitted function."""

    def trace(self, *arguments: PyTree) -> jax.stages.Traced:
        """Trace the function without compiling it."""


def step_flops(step: Traceable, *arguments: PyTree) -> float:
    """FLOPs of the matrix products and convolutions in one call of a jitted step, from its trace (not compiled).

    A multiply-add counts as two. All other operations are negligible beside these and are not counted, as is usual
    for model FLOPs utilisation.
    """
    return float(count_flops(step.trace(*arguments).jaxpr.jaxpr))


def count_flops(jaxpr: Jaxpr) -> int:
    """FLOPs of the matrix products and convolutions in a jaxpr."""
    return sum(_equation_flops(equation) for equation in jaxpr.eqns)


def _equation_flops(equation: JaxprEqn) -> int:
    name, params = equation.primitive.name, equation.params
    if name in _FLOPS_OF:
        return _FLOPS_OF[name](equation)
    inner = [count_flops(part) for value in params.values() for part in _sub_jaxprs(value)]
    if name == "cond":
        return max(inner, default=0)
    return sum(inner) * (params["length"] if name == "scan" else 1)


def _sub_jaxprs(value: object) -> Iterator[Jaxpr]:
    """Jaxprs in a parameter of an equation."""
    if isinstance(value, ClosedJaxpr):
        yield value.jaxpr
    elif isinstance(value, Jaxpr):
        yield value
    elif isinstance(value, tuple | list):
        for one in value:
            yield from _sub_jaxprs(one)


def _shape(value: Var | Literal) -> tuple[int, ...]:
    return cast(ShapedArray, value.aval).shape  # products have arrays alone as operands


def _dot_flops(equation: JaxprEqn) -> int:
    (contracted, _), _ = equation.params["dimension_numbers"]
    left = _shape(equation.invars[0])
    return 2 * math.prod(_shape(equation.outvars[0])) * math.prod(left[axis] for axis in contracted)


def _conv_flops(equation: JaxprEqn) -> int:
    kernel = _shape(equation.invars[1])
    outputs = kernel[equation.params["dimension_numbers"].rhs_spec[0]]
    return 2 * math.prod(_shape(equation.outvars[0])) * math.prod(kernel) // outputs


_FLOPS_OF: dict[str, Callable[[JaxprEqn], int]] = {"dot_general": _dot_flops, "conv_general_dilated": _conv_flops}
