"""Published encoder weights, converted to the parameter names and layout of our models.

M3AE: a pickled training state. CLIP: Hugging Face's model.safetensors or flax_model.msgpack, or their folder.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from data_tools.weights.array_tree import flatten, preview, printable
from data_tools.weights.clip import find_clip_file, read_clip
from data_tools.weights.safe_pickle_types import FrozenDictStandIn, InertObject
from data_tools.weights.safe_unpickler import load
from instructrl.config.model import ENCODERS, EncoderConfig
from instructrl.errors import InputError
from instructrl.models.weight_files import DECODER

Arrays = dict[str, np.ndarray]
MAX_BLOCKS = 64


class Published(NamedTuple):
    """Content of a published file.

    Attributes:
        path: the file that was read.
        arrays: float32, keyed by the parameter names of our models.
        config: the settings inferred from their shapes.
        vocabulary: its number of entries.
    """

    path: Path
    arrays: Arrays
    config: EncoderConfig
    vocabulary: int


def read_published(path: Path, kind: str) -> Published:
    """Read a published file.

    Raises:
        InputError: it is damaged, or does not contain an encoder of that kind.
    """
    path = find_clip_file(path) if kind == "clip" else path
    arrays = read_m3ae(path) if kind == "m3ae" else read_clip(path)
    return Published(path, arrays, *infer_config(path, kind, arrays))


def infer_config(path: Path, kind: str, arrays: Arrays) -> tuple[EncoderConfig, int]:
    """Infer the encoder config and vocabulary size from parameter shapes.

    Raises:
        InputError: the parameters are not those of an encoder of that kind.
    """
    found = ENCODERS[kind].infer_sizes({name: value.shape for name, value in arrays.items()})
    required = ["dim", "depth", "patch_size", "vocabulary"]
    required += ["image_size", "text_dim", "text_depth", "text_length", "projection"] if kind == "clip" else []
    missing = [key for key in required if key not in found]
    if missing:
        raise InputError(
            f"{path}: found no parameters of {kind} that determine {', '.join(missing)}{hint(kind, arrays)}"
        )
    if max(found["depth"], found.get("text_depth", 0)) > MAX_BLOCKS:
        raise InputError(f"{path}: found {found['depth']} blocks, allowed: at most {MAX_BLOCKS}")
    vocabulary = found.pop("vocabulary")
    heads: dict[str, Any] = {"heads": 1} | ({"text_heads": 1} if kind == "clip" else {})  # not determined by shapes
    config = ENCODERS[kind](name=kind, kind=kind, **(found | heads))
    try:
        config.check(config.patch_size)
    except InputError as error:
        raise InputError(f"{path}: found no supported {kind}: {error}") from None
    check_shapes(path, arrays, config, vocabulary)
    return config, vocabulary


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


def read_m3ae(path: Path) -> Arrays:
    """Read all parameters, including the decoder's, of a published M3AE training state.

    Raises:
        InputError: the file is damaged, or is not a training state.
    """
    found = load(path)
    state = lookup(found, "state")
    params = lookup(found if state is None else state, "params")
    inner = lookup(params, "params")  # flax's `init` returns its collections
    params = params if inner is None else inner
    if type(params) not in (dict, FrozenDictStandIn):
        description = (
            preview(found) if isinstance(found, dict) else printable(getattr(found, "name", type(found).__name__))
        )
        raise InputError(
            f"{path}: found a pickle without params: {description}; expected M3AE's training state: "
            "a dict with step and state, whose params are a tree of arrays"
        )
    return dict(flatten(path, params))


def lookup(found: Any, key: str) -> Any:
    """Look up an entry of a dict, or an attribute of an inert object; None if missing."""
    if type(found) is InertObject:
        parts: tuple[Any, ...] = found.state if type(found.state) is tuple else (found.state,)
        return next((part[key] for part in parts if type(part) is dict and key in part), None)
    return found.get(key) if type(found) in (dict, FrozenDictStandIn) else None
