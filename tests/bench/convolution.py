"""Gradient of a convolution's kernel by matrix products, in processor time, beside XLA's own convolution.

python tests/bench/convolution.py       a layer forward and backward: of a quickstart's batch, of more and of wider ones
"""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import flax.linen as nn
import jax
import jax.numpy as jnp

from instructrl.allocator import keep_freed_memory
from instructrl.models.layers.convolution import Convolution
from tests.fixtures.rounds import alternate, processor, ratio

LAYERS = ((64, 48, 12), (64, 192, 12), (64, 192, 16), (128, 48, 16), (64, 6, 12))  # channels, images and their side


def gradients(layer: nn.Module, x: jax.Array) -> Callable[[], Any]:
    """A function that computes the gradients of parameters and input."""
    params = layer.init(jax.random.key(0), x)

    def loss(params: Any, x: jax.Array) -> jax.Array:
        output: Any = layer.apply(params, x)
        return jnp.square(output).sum()

    derive = jax.jit(jax.grad(loss, argnums=(0, 1)))
    return lambda: jax.block_until_ready(derive(params, x))


def main() -> None:
    keep_freed_memory()
    for channels, images, side in LAYERS:
        x = jax.random.normal(jax.random.key(1), (images, side, side, channels))
        works = {"products": Convolution(channels, 3), "xla": nn.Conv(channels, (3, 3))}
        rounds = alternate({name: gradients(layer, x) for name, layer in works.items()})
        shown = ratio(processor(rounds["products"]), processor(rounds["xla"]))
        print(f"3 x 3, {channels} channels, {images} images of {side} x {side}: {shown}", flush=True)


if __name__ == "__main__":
    main()
