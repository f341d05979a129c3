"""Construction of the configured encoder, and the layout of encoder parameters."""

import re
from collections import Counter
from collections.abc import Iterable
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
import numpy as np

from instructrl.config.model import EncoderConfig
from instructrl.models.encoders.pair import Pair
from instructrl.models.initialization import param_shapes
from instructrl.models.layers.block_stack import DEFAULT_EXECUTION, ExecutionConfig
from instructrl.models.modules import make_module
from instructrl.models.parameter_files import flatten_params

BLOCK = re.compile(r"(image/|text/)?(|encoder/|(vision|text)_model/encoder/)(block_|Block_|layers/)(?P<index>\d+)/")
LAST = re.compile(
    r"(image/|text/)?(norm|encoder/LayerNorm_0|\w+_model/(post_layernorm|final_layer_norm|head)|\w+_projection|logit_(scale|bias))(/|$)"
)


def make_encoder(
    config: EncoderConfig,
    *,
    vocabulary_size: int,
    dtype: Any = jnp.float32,
    execution: ExecutionConfig = DEFAULT_EXECUTION,
) -> nn.Module:
    """Build the configured encoder.

    It maps images uint8 [B, T, K, H, W, 3], tokens int32 [B, L] and their padding mask [B, L] (1 where padding)
    to Features.
    """
    if config.parts:
        return Pair(config, vocabulary_size, dtype, execution)
    return make_module(config, vocabulary_size=vocabulary_size, dtype=dtype, execution=execution)


def encoder_shapes(config: EncoderConfig, *, vocabulary_size: int) -> dict[str, tuple[int, ...]]:
    """The shape of every parameter of an encoder by slash-separated path, by shape inference only."""
    size = config.image_size or config.patch_size
    images = np.zeros((1, 1, 1, size, size, 3), np.uint8)
    length = config.reader.text_length
    tokens, padding = np.zeros((1, length), np.int32), np.zeros((1, length), np.float32)
    encoder = make_encoder(config, vocabulary_size=vocabulary_size)
    params = param_shapes(encoder, images, tokens, padding)
    return {name: leaf.shape for name, leaf in flatten_params(params).items()}


def layer_depths_from_top(names: Iterable[str]) -> dict[str, int]:
    """Depth of each encoder parameter counted from the output, by slash-separated path; for layer-wise LR decay.

    0 for the last norm and projections, 1 for the last block, the number of blocks for the first one, one more for
    embeddings. CLIP's towers are counted separately.
    """
    names, depths = list(names), Counter[str]()
    for name in names:
        if block := BLOCK.match(name):
            depths[tower(name)] = max(depths[tower(name)], int(block["index"]) + 1)

    def depth_from_top(name: str) -> int:
        if block := BLOCK.match(name):
            return depths[tower(name)] - int(block["index"])
        return 0 if LAST.match(name) else depths[tower(name)] + 1

    return {name: depth_from_top(name) for name in names}


def tower(name: str) -> str:
    """The tower of a parameter, of an encoder that has two; "" for other encoders and for parameters of neither."""
    prefix, separator, _ = name.partition("_model/")
    return prefix if separator else ""
