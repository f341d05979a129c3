"""Reader of SigLIP 2, converted to the names and layout of our model.

Supported files: Hugging Face's model.safetensors, also in shards, with config.json beside them, and the arrays of
parameters in big_vision's .npz, whose names say img and txt for the towers and which need nothing beside them.
"""

import re
from collections.abc import Callable, Iterator
from pathlib import Path

import ml_dtypes
import numpy as np

from data_tools.weights.array_tree import Arrays, Contents, to_float32
from data_tools.weights.clip import read_safetensors, to_flax
from data_tools.weights.clip_config import (
    PREPROCESSOR,
    activation,
    config_of,
    epsilon,
    integer,
    read_preprocessor,
    tokenizer_checksum,
    tower_settings,
)
from instructrl.config.encoders import Siglip2Config
from instructrl.config.fields import format_value
from instructrl.config.model import Architecture
from instructrl.errors import InputError

COMMON = {
    "hidden_size": ("dim", 768),
    "num_hidden_layers": ("depth", 12),
    "num_attention_heads": ("heads", 12),
    "intermediate_size": ("mlp_dim", 3072),
}
VISION = COMMON | {"patch_size": ("patch_size", 16), "image_size": ("image_size", 224)}
TEXT = {key: (f"text_{ours}", default) for key, (ours, default) in COMMON.items()}
TEXT |= {"max_position_embeddings": ("text_length", 64), "vocab_size": ("vocabulary", 32000)}
POOLING = "vision_model/head/attention/"

MAX_BLOCKS = 64
MAX_EXPANSION = 20  # parameters are hardly compressible
RENAMES: tuple[tuple[str, str | Callable[[re.Match[str]], str]], ...] = (  # parts of a name in an .npz, and ours
    (r"^params/", ""),
    (r"^img/embedding/", "vision_model/embeddings/patch_embedding/"),
    (r"^img/pos_embedding$", "vision_model/embeddings/position_embedding/embedding"),
    (r"^img/Transformer/encoder_norm/", "vision_model/post_layernorm/"),
    (r"^img/Transformer/", "vision_model/"),
    (r"^img/MAPHead_0/", "vision_model/head/"),
    (r"^txt/Embed_0/", "text_model/embeddings/token_embedding/"),
    (r"^txt/pos_embedding$", "text_model/embeddings/position_embedding/embedding"),
    (r"^txt/Encoder_0/encoder_norm/", "text_model/final_layer_norm/"),
    (r"^txt/Encoder_0/", "text_model/"),
    (r"^txt/head/", "text_model/head/"),
    (r"^t$", "logit_scale"),
    (r"^b$", "logit_bias"),
    (r"/encoderblock_(\d+)/", r"/encoder/layers/\1/"),
    (r"/head/MultiHeadDotProductAttention_0/", "/head/attention/"),
    (r"/head/LayerNorm_0/", "/head/layernorm/"),
    (r"/LayerNorm_0/", "/layer_norm1/"),
    (r"/LayerNorm_1/", "/layer_norm2/"),
    (r"/MultiHeadDotProductAttention_0/", "/self_attn/"),
    (r"/(self_attn|attention)/(query|key|value)/", lambda found: f"/{found[1]}/{found[2][0]}_proj/"),
    (r"/(self_attn|attention)/out/", r"/\1/out_proj/"),
    (r"/MlpBlock_0/Dense_0/", "/mlp/fc1/"),
    (r"/MlpBlock_0/Dense_1/", "/mlp/fc2/"),
)


def read_siglip2(path: Path) -> Contents:
    """Read all parameters of both towers, their architecture and their preprocessing.

    Raises:
        InputError: a file is missing, damaged or in another format.
    """
    if path.suffix == ".npz":
        return read_npz(path)
    arrays = split_pooling(read_safetensors(path, to_flax))
    return Contents(arrays, read_config(path.parent), tokenizer_checksum(path.parent))


def split_pooling(arrays: Arrays) -> Arrays:
    """Give the pooling head, whose query, key and value are one parameter in PyTorch, the names of other attention."""
    found = dict(arrays)
    probe = found.get("vision_model/head/probe", np.zeros(0))
    if probe.ndim == 3:
        found["vision_model/head/probe"] = probe.reshape(-1)
    for name, ours in ((f"{POOLING}in_proj_weight", "kernel"), (f"{POOLING}in_proj_bias", "bias")):
        value = found.get(name, np.zeros(0))
        if value.size and value.shape[0] % 3 == 0:
            del found[name]
            for part, piece in zip("qkv", np.split(value, 3), strict=True):
                found[f"{POOLING}{part}_proj/{ours}"] = piece.T
    return found


def read_config(folder: Path) -> Architecture:
    """Architecture and preprocessing of the SigLIP 2 in a folder.

    Raises:
        InputError: a file is missing or damaged, or a setting is not supported.
    """
    path, content = config_of(folder, "siglip", note=", that of SigLIP 2 with a fixed resolution (not NaFlex)")
    found: Architecture = {}
    for tower, names in (("vision_config", VISION), ("text_config", TEXT)):
        settings = tower_settings(path, content, tower)
        for key, (ours, default) in names.items():
            found[ours] = integer(path, f"{tower}.{key}", settings.get(key, default))
        act, eps = settings.get("hidden_act", "gelu_pytorch_tanh"), settings.get("layer_norm_eps", 1e-6)
        for key, value in (
            ("activation", activation(path, f"{tower}.hidden_act", act)),
            ("layer_norm_epsilon", epsilon(path, f"{tower}.layer_norm_eps", eps)),
        ):
            if found.setdefault(key, value) != value:
                raise InputError(f"{path}: {tower}: found {key} {format_value(value)}; allowed: that of vision_config")
    found["position_grid"] = found["image_size"] // found["patch_size"]
    if (folder / PREPROCESSOR).is_file():
        found |= read_preprocessor(folder / PREPROCESSOR, config_size=found["image_size"], crops=False)
    return found | {"lower_case": True}


def read_npz(path: Path) -> Contents:
    """Read big_vision's arrays, single blocks or all blocks of a tower stacked; heads follow from their shapes."""
    arrays: Arrays = {}
    heads: dict[str, int] = {}
    for name, value in unstacked(npz_arrays(path)):
        if name.endswith("_0/query/kernel") and value.ndim == 3:
            heads.setdefault("text_heads" if "txt/" in name else "heads", value.shape[1])
        ours, value = convert(name, value)
        arrays[ours] = value
    sizes = Siglip2Config.infer_sizes({name: value.shape for name, value in arrays.items()})
    size = {"image_size": sizes.get("position_grid", 0) * sizes.get("patch_size", 0)}
    return Contents(arrays, {**heads, **size, **Siglip2Config.constants, "lower_case": True})


def npz_arrays(path: Path) -> Iterator[tuple[str, np.ndarray]]:
    """Yield names and float32 values of the arrays in an .npz.

    Raises:
        InputError: it is missing or damaged, or holds something else.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            size = sum(entry.file_size for entry in file.zip.infolist())
            if size > MAX_EXPANSION * path.stat().st_size:  # a file of a few bytes can describe zeros without end
                raise InputError(f"{path}: found arrays of {size} bytes in a much smaller file; it is not read")
            for name in file.files:
                value = file[name]
                if value.dtype.kind == "V" and value.dtype.itemsize == 2:  # numpy does not know bfloat16
                    value = value.view(ml_dtypes.bfloat16)
                yield name, to_float32(path, name, value)
    except InputError:
        raise
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror or 'not an .npz'})") from None
    except Exception as error:  # a damaged or malicious file can raise any error
        raise InputError(f"{path}: damaged or not an .npz of arrays ({type(error).__name__})") from None


def unstacked(arrays: Iterator[tuple[str, np.ndarray]]) -> Iterator[tuple[str, np.ndarray]]:
    """Yield the arrays; those of all blocks of a tower, stacked along their first axis, one by one."""
    for name, value in arrays:
        if "/encoderblock/" in name and value.ndim and len(value) <= MAX_BLOCKS:
            for index, part in enumerate(value):
                yield name.replace("/encoderblock/", f"/encoderblock_{index}/"), part
        else:
            yield name, value


def convert(name: str, value: np.ndarray) -> tuple[str, np.ndarray]:
    """Our name and layout of a parameter of big_vision: heads are joined, axes of size 1 in front are left out."""
    for pattern, replacement in RENAMES:
        name = re.sub(pattern, replacement, name)
    if re.search(r"/[qkv]_proj/kernel$", name) and value.ndim == 3:
        value = value.reshape(len(value), -1)
    elif re.search(r"/[qkv]_proj/bias$", name) and value.ndim == 2:
        value = value.reshape(-1)
    elif name.endswith("/out_proj/kernel") and value.ndim == 3:
        value = value.reshape(-1, value.shape[-1])
    elif name.endswith("position_embedding/embedding") and value.shape[:1] == (1,):
        value = value[0]
    elif (name.endswith("/head/probe") and value.ndim == 3) or name in ("logit_scale", "logit_bias"):
        value = value.reshape(-1)
    return name, value
