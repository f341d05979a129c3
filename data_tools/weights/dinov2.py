"""Reader of Hugging Face's DINOv2, without and with registers, converted to the names and layout of our model.

Supported files: model.safetensors, also in shards, with config.json beside them.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from data_tools.weights.array_tree import Contents
from data_tools.weights.clip import read_safetensors, to_flax
from data_tools.weights.clip_config import (
    PREPROCESSOR,
    activation,
    check_fixed,
    config_of,
    epsilon,
    integer,
    read_preprocessor,
    sizes_of,
)
from instructrl.config.model import Architecture

MODEL_TYPES = ("dinov2", "dinov2_with_registers")
UNUSED = "embeddings.mask_token"  # of the pretraining alone
RENAMES = (  # parts of a published name, and what CLIP's towers call them
    (r"^embeddings\.patch_embeddings\.projection\.", "vision_model.embeddings.patch_embedding."),
    (r"^embeddings\.position_embeddings$", "vision_model.embeddings.position_embedding.weight"),
    (r"^embeddings\.cls_token$", "vision_model.embeddings.class_embedding"),
    (r"^embeddings\.register_tokens$", "vision_model.embeddings.register_embedding"),
    (r"^encoder\.layer\.", "vision_model.encoder.layers."),
    (r"\.norm([12])\.", r".layer_norm\1."),
    (r"\.attention\.attention\.([qkv])(uery|ey|alue)\.", r".self_attn.\1_proj."),
    (r"\.attention\.output\.dense\.", ".self_attn.out_proj."),
    (r"\.(layer_scale[12])\.lambda1$", r".\1"),
    (r"^layernorm\.", "vision_model.post_layernorm."),
)
SINGLE_AXES = {"embeddings.position_embeddings": 1, "embeddings.register_tokens": 1, "embeddings.cls_token": 2}
SIZES = {  # our names, and the defaults of the format
    "hidden_size": ("dim", 768),
    "num_hidden_layers": ("depth", 12),
    "num_attention_heads": ("heads", 12),
    "patch_size": ("patch_size", 14),
}
FIXED = {"mlp_ratio": 4, "qkv_bias": True, "use_swiglu_ffn": False}


def read_dinov2(path: Path) -> Contents:
    """Read all parameters of the encoder, its architecture and its preprocessing.

    Raises:
        InputError: a file is missing, damaged or in another format.
    """
    return Contents(read_safetensors(path, convert), read_config(path.parent))


def convert(name: str, value: np.ndarray) -> tuple[str, np.ndarray] | None:
    """Our name and layout of a published parameter; None for one that is not used."""
    if name == UNUSED:
        return None
    count = SINGLE_AXES.get(name, 0)
    if value.shape[:count] == (1,) * count:
        value = value.reshape(value.shape[count:])
    for pattern, replacement in RENAMES:
        name = re.sub(pattern, replacement, name)
    return to_flax(name, value)


def read_config(folder: Path) -> Architecture:
    """Architecture and preprocessing of the DINOv2 in a folder.

    Raises:
        InputError: a file is missing or damaged, or a setting is not supported.
    """
    path, content = config_of(folder, *MODEL_TYPES)
    check_fixed(path, content, FIXED)
    found = sizes_of(path, content, SIZES)
    found["registers"] = registers(path, content) if content["model_type"] == MODEL_TYPES[1] else 0
    found["position_grid"] = integer(path, "image_size", content.get("image_size", 224)) // found["patch_size"]
    found["activation"] = activation(path, "hidden_act", content.get("hidden_act", "gelu"))
    found["layer_norm_epsilon"] = epsilon(path, "layer_norm_eps", content.get("layer_norm_eps", 1e-6))
    if (folder / PREPROCESSOR).is_file():
        found |= read_preprocessor(folder / PREPROCESSOR, config_size=None)
    return found


def registers(path: Path, content: Mapping[str, Any]) -> int:
    """The number of registers."""
    return integer(path, "num_register_tokens", content.get("num_register_tokens", 4))
