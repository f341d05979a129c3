"""From images and the instruction to features: which encoder a configuration asks for, and its parameters' layout."""

import re
from collections import Counter
from collections.abc import Iterable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from instructrl.config import EncoderConfig
from instructrl.models.blocks import PLAIN, Strategy
from instructrl.models.clip import Clip
from instructrl.models.m3ae import M3AE
from instructrl.models.scratch import ScratchTiny

ENCODERS = {"scratch_tiny": ScratchTiny, "m3ae": M3AE, "clip": Clip}
BLOCK = re.compile(r"(|encoder/|(vision|text)_model/encoder/)(block_|Block_|layers/)(?P<index>\d+)/")
LAST = re.compile(
    r"(norm|encoder/LayerNorm_0|\w+_model/(post_layernorm|final_layer_norm)|\w+_projection|logit_scale)(/|$)"
)


def make_encoder(
    config: EncoderConfig, *, vocabulary_size: int, dtype: Any = jnp.float32, strategy: Strategy = PLAIN
) -> nn.Module:
    """The encoder that a configuration describes.

    It maps images uint8 [B, T, K, H, W, 3], tokens int32 [B, L] and their padding mask [B, L] (1 where padding)
    to Features.
    """
    return ENCODERS[config.kind](config, vocabulary_size, dtype, strategy)


def reads_jointly(config: EncoderConfig) -> bool:
    """Whether the features of an image depend on the sentence."""
    return config.text and config.kind != "clip"


def encoder_shapes(config: EncoderConfig, *, vocabulary_size: int) -> dict[str, tuple[int, ...]]:
    """The shape of every parameter of an encoder, by its path joined with slashes; nothing is computed."""
    size = config.image_size or config.patch_size
    images = np.zeros((1, 1, 1, size, size, 3), np.uint8)
    tokens, padding = np.zeros((1, config.text_length), np.int32), np.zeros((1, config.text_length), np.float32)
    encoder = make_encoder(config, vocabulary_size=vocabulary_size)
    params = jax.eval_shape(encoder.init, jax.random.key(0), images, tokens, padding)["params"]
    return {name: leaf.shape for name, leaf in by_name(params).items()}


def by_name(params: Any) -> dict[str, Any]:
    """The leaves of a parameter tree by their paths joined with slashes."""
    return {"/".join(part.key for part in path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(params)}


def layer_ages(names: Iterable[str]) -> dict[str, int]:
    """How many layers lie above each of an encoder's parameters, which are named by their paths joined with slashes.

    None above the last norm and projections, 1 above the last block, the depth above the first, one more above
    embeddings. Each of clip's towers counts by itself.
    """
    names, depths = list(names), Counter[str]()
    for name in names:
        if found := BLOCK.match(name):
            depths[tower(name)] = max(depths[tower(name)], int(found["index"]) + 1)

    def age(name: str) -> int:
        if found := BLOCK.match(name):
            return depths[tower(name)] - int(found["index"])
        return 0 if LAST.match(name) else depths[tower(name)] + 1

    return {name: age(name) for name in names}


def tower(name: str) -> str:
    """Which of clip's towers a parameter belongs to; an empty text for other encoders, and for what is of both."""
    first, both, _ = name.partition("_model/")
    return first if both else ""
