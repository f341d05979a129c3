"""Published encoder weights, converted to the parameter names and layout of our models, with their architecture.

M3AE: a pickled training state. CLIP: Hugging Face's model.safetensors, its shards or flax_model.msgpack, or the folder.
DINOv2 and T5: model.safetensors or its shards. SigLIP 2: the same, or big_vision's .npz.
"""

from collections.abc import Callable, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from data_tools.weights.array_tree import Arrays, Contents, preview, printable
from data_tools.weights.clip import find_weight_file, read_clip
from data_tools.weights.dinov2 import read_dinov2
from data_tools.weights.m3ae import read_m3ae
from data_tools.weights.siglip2 import read_siglip2
from data_tools.weights.t5 import read_t5
from instructrl.config.fields import MISSING, format_value
from instructrl.config.model import ENCODERS, Architecture, EncoderConfig
from instructrl.errors import InputError
from instructrl.models.encoders.architecture import check_architecture, unrecorded
from instructrl.models.weight_files import DECODER

MAX_BLOCKS = 64
READERS: dict[str, Callable[[Path], Contents]] = {
    "m3ae": read_m3ae,
    "clip": read_clip,
    "dinov2": read_dinov2,
    "siglip2": read_siglip2,
    "t5": read_t5,
}
SIZES = {  # that the shapes of a kind's parameters determine
    "m3ae": ("dim", "depth", "patch_size", "vocabulary"),
    "clip": (
        *("dim", "depth", "patch_size", "vocabulary"),
        *("image_size", "text_dim", "text_depth", "text_length", "projection"),
    ),
    "dinov2": ("dim", "depth", "patch_size", "position_grid", "registers"),
    "siglip2": (
        *("dim", "depth", "patch_size", "vocabulary", "mlp_dim", "position_grid"),
        *("text_dim", "text_depth", "text_mlp_dim", "text_length"),
    ),
    "t5": ("dim", "depth", "heads", "mlp_dim", "vocabulary"),
}


class Published(NamedTuple):
    """Content of a published file.

    Attributes:
        path: the file that was read.
        arrays: float32, keyed by the parameter names of our models.
        config: the known settings of their training.
        vocabulary: its number of entries; 0 for an encoder that reads no text.
        architecture: what is known, to be recorded.
        unknown: what is not, and cannot be compared later.
        tokenizer: checksum of the tokenizer beside the file; empty if there is none.
    """

    path: Path
    arrays: Arrays
    config: EncoderConfig
    vocabulary: int
    architecture: Architecture
    unknown: list[str]
    tokenizer: str


def read_published(path: Path, kind: str) -> Published:
    """Read a published file.

    Raises:
        InputError: it is damaged, or does not contain an encoder of that kind.
    """
    path = path if kind == "m3ae" else find_weight_file(path)
    contents = READERS[kind](path)
    sizes = infer_sizes(path, kind, contents)
    vocabulary = sizes.get("vocabulary", 0)
    architecture = contents.architecture | sizes
    config = encoder_config(path, kind, architecture)
    check_shapes(path, contents.arrays, config, vocabulary)
    check_architecture(path, architecture, config)
    unknown = unrecorded(architecture, config)
    return Published(path, contents.arrays, config, vocabulary, architecture, unknown, contents.tokenizer)


def infer_sizes(path: Path, kind: str, contents: Contents) -> dict[str, int]:
    """Sizes of an encoder by the shapes of its parameters, which must be those that the file or its settings say.

    Raises:
        InputError: the parameters are not those of an encoder of that kind, or have other sizes.
    """
    arrays = contents.arrays
    found = ENCODERS[kind].infer_sizes({name: value.shape for name, value in arrays.items()})
    missing = [key for key in SIZES[kind] if key not in found]
    if missing:
        raise InputError(
            f"{path}: found no parameters of {kind} that determine {', '.join(missing)}{hint(kind, arrays)}"
        )
    if max(found["depth"], found.get("text_depth", 0)) > MAX_BLOCKS:
        raise InputError(f"{path}: found {found['depth']} blocks, allowed: at most {MAX_BLOCKS}")
    for key, size in found.items():
        recorded = contents.architecture.get(key, size)
        if recorded != size:
            raise InputError(
                f"{path}: found parameters with {key} {size}, but its settings say {format_value(recorded)}; use the "
                "parameters and the settings of the same encoder"
            )
    return found


def encoder_config(path: Path, kind: str, architecture: Architecture) -> EncoderConfig:
    """The settings of an encoder with an architecture; numbers of heads that are not known are 1.

    Raises:
        InputError: the settings are not supported.
    """
    settings = {entry.name: entry for entry in fields(ENCODERS[kind]) if entry.name not in ("name", "kind")}
    known: dict[str, Any] = {key: value for key, value in architecture.items() if key in settings}
    unknown = dict.fromkeys({"heads", "text_heads"} & settings.keys(), 1)
    if settings["image_size"].default == MISSING:  # else null stands for any
        unknown["image_size"] = architecture["patch_size"]
    config = ENCODERS[kind](name=kind, kind=kind, **(unknown | known))
    try:
        config.check(config.patch_size)
    except InputError as error:
        raise InputError(f"{path}: found no supported {kind}: {error}") from None
    return config


def check_shapes(path: Path, arrays: Arrays, config: EncoderConfig, vocabulary: int) -> None:
    """Raise InputError unless these are exactly the encoder's parameters; a decoder may be present."""
    from instructrl.models.encoders.registry import encoder_shapes

    expected = encoder_shapes(config, vocabulary_size=vocabulary)
    found = {name: value.shape for name, value in arrays.items() if not name.startswith(DECODER)}
    wrong = sorted(name for name in found.keys() | expected.keys() if found.get(name) != expected.get(name))
    if wrong:
        actual, wanted = (one.get(wrong[0], "none") for one in (found, expected))
        more = f" (and {len(wrong) - 1} more)" if len(wrong) > 1 else ""
        raise InputError(
            f"{path}: {printable(wrong[0])}: found {actual}, expected {wanted}{more} in a {config.kind} of "
            f"{config.depth} blocks{hint(config.kind, arrays)}"
        )


def hint(kind: str, arrays: Mapping[str, np.ndarray]) -> str:
    """Guess what a wrong file is, for an error message."""
    if kind == "m3ae" and arrays and not any("text" in name for name in arrays):
        return "; it seems to be MAE, which has no text encoder: use the file of M3AE"
    if kind == "m3ae" and arrays.get("cls_token", np.zeros((1, 1, 1))).ndim == 4:
        return "; the state has a leading device axis: save flax.jax_utils.unreplicate(state)"
    return f"; found: {preview(arrays)}"
