"""Reader of Hugging Face's T5, of which the encoder is converted to the names and layout of our model.

Supported files: model.safetensors, also in shards, with config.json beside them; of the encoder alone or of all of T5.
"""

import re
from pathlib import Path

import numpy as np

from data_tools.weights.array_tree import Contents
from data_tools.weights.clip import read_safetensors, to_flax
from data_tools.weights.clip_config import check_fixed, config_of, epsilon, sizes_of, tokenizer_checksum
from instructrl.config.fields import format_value
from instructrl.config.model import Architecture
from instructrl.errors import InputError

UNUSED = re.compile(r"decoder\.|lm_head\.|encoder\.embed_tokens\.")  # the last is a copy of the shared embeddings
BIAS = "encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight"  # in the first block, for all
RENAMES = (  # parts of a published name, and what other text towers call them
    (r"^shared\.", "text_model.embeddings.token_embedding."),
    (r"^encoder\.block\.", "text_model.encoder.layers."),
    (r"^encoder\.final_layer_norm\.", "text_model.final_layer_norm."),
    (r"\.layer\.0\.layer_norm\.", ".layer_norm1."),
    (r"\.layer\.1\.layer_norm\.", ".layer_norm2."),
    (r"\.layer\.0\.SelfAttention\.([qkv])\.", r".self_attn.\1_proj."),
    (r"\.layer\.0\.SelfAttention\.o\.", ".self_attn.out_proj."),
    (r"\.layer\.1\.DenseReluDense\.wi_0\.", ".mlp.gate."),
    (r"\.layer\.1\.DenseReluDense\.wi(_1)?\.", ".mlp.fc1."),
    (r"\.layer\.1\.DenseReluDense\.wo\.", ".mlp.fc2."),
)
SIZES = {  # our names, and the defaults of the format
    "d_model": ("dim", 512),
    "num_layers": ("depth", 6),
    "num_heads": ("heads", 8),
    "d_ff": ("mlp_dim", 2048),
    "vocab_size": ("vocabulary", 32128),
}
FIXED = {"relative_attention_num_buckets": 32, "relative_attention_max_distance": 128}
ACTIVATIONS = {"relu": "relu", "gated-gelu": "gated_gelu"}
WIDTH = 64  # of a head, by default


def read_t5(path: Path) -> Contents:
    """Read all parameters of the encoder, and its architecture.

    Raises:
        InputError: a file is missing, damaged or in another format.
    """
    return Contents(read_safetensors(path, convert), read_config(path.parent), tokenizer_checksum(path.parent))


def convert(name: str, value: np.ndarray) -> tuple[str, np.ndarray] | None:
    """Our name and layout of a published parameter; None for one that is not of the encoder."""
    if UNUSED.match(name):
        return None
    if name == BIAS:
        return "text_model/encoder/relative_attention_bias/embedding", value
    for pattern, replacement in RENAMES:
        name = re.sub(pattern, replacement, name)
    return to_flax(name, value)


def read_config(folder: Path) -> Architecture:
    """Architecture of the T5 in a folder.

    Raises:
        InputError: the file is missing or damaged, or a setting is not supported.
    """
    path, content = config_of(folder, "t5")
    found = sizes_of(path, content, SIZES)
    check_fixed(path, content, FIXED)
    width = found["dim"] // found["heads"]
    if content.get("d_kv", WIDTH) != width:
        raise InputError(
            f"{path}: d_kv: found {format_value(content.get('d_kv', WIDTH))}; allowed: {width}, d_model / num_heads"
        )
    act = content.get("feed_forward_proj", "relu")
    if not isinstance(act, str) or act not in ACTIVATIONS:
        raise InputError(f"{path}: feed_forward_proj: found {format_value(act)}; allowed: {', '.join(ACTIVATIONS)}")
    eps = epsilon(path, "layer_norm_epsilon", content.get("layer_norm_epsilon", 1e-6))
    return found | {"activation": ACTIVATIONS[act], "layer_norm_epsilon": eps, "lower_case": False}
