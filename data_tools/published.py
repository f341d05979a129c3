"""Encoder weights as others publish them, read as arrays by the names and in the layout of our models.

M3AE: the pickle of a training state. CLIP: Hugging Face's model.safetensors or flax_model.msgpack, or their folder.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from data_tools.clip_files import file_in, read_clip
from data_tools.parameters import flattened, printable, some
from data_tools.pickled import Foreign, Frozen
from data_tools.unpickler import load
from instructrl.config import EncoderConfig, check_encoder
from instructrl.errors import InputError
from instructrl.models.sizes import sizes
from instructrl.models.weights import DECODER

Arrays = dict[str, np.ndarray]
MOST_BLOCKS = 64


class Published(NamedTuple):
    """What is in a published file.

    Attributes:
        path: the file; of a folder the one that was read.
        arrays: float32, by the names of our models.
        config: the settings that their shapes tell.
        vocabulary: its entries.
    """

    path: Path
    arrays: Arrays
    config: EncoderConfig
    vocabulary: int


def read_published(path: Path, kind: str) -> Published:
    """Read a published file.

    Raises:
        InputError: it is damaged, or does not hold an encoder of that kind.
    """
    path = file_in(path) if kind == "clip" else path
    arrays = read_m3ae(path) if kind == "m3ae" else read_clip(path)
    return Published(path, arrays, *recognised(path, kind, arrays))


def recognised(path: Path, kind: str, arrays: Arrays) -> tuple[EncoderConfig, int]:
    """What an encoder of exactly these parameters is."""
    found = sizes(kind, {name: value.shape for name, value in arrays.items()})
    needed = ["dim", "depth", "patch_size", "vocabulary"]
    needed += ["image_size", "text_dim", "text_depth", "text_length", "projection"] if kind == "clip" else []
    missing = [key for key in needed if key not in found]
    if missing:
        raise InputError(f"{path}: found no parameters of {kind} that tell {', '.join(missing)}{hint(kind, arrays)}")
    if max(found["depth"], found.get("text_depth", 0)) > MOST_BLOCKS:
        raise InputError(f"{path}: found {found['depth']} blocks, allowed: at most {MOST_BLOCKS}")
    vocabulary = found.pop("vocabulary")
    heads: dict[str, Any] = {"heads": 1} | ({"text_heads": 1} if kind == "clip" else {})  # no shape tells them
    config = EncoderConfig(name=kind, kind=kind, **(found | heads))
    try:
        check_encoder(config, config.patch_size)
    except InputError as error:
        raise InputError(f"{path}: found no {kind} of ours: {error}") from None
    check_shapes(path, arrays, config, vocabulary)
    return config, vocabulary


def check_shapes(path: Path, arrays: Arrays, config: EncoderConfig, vocabulary: int) -> None:
    """Raise InputError unless these are the encoder's parameters, no more and no less; a decoder may be with them."""
    from instructrl.models.encoder import encoder_shapes

    expected = encoder_shapes(config, vocabulary_size=vocabulary)
    found = {name: value.shape for name, value in arrays.items() if not name.startswith(DECODER)}
    wrong = sorted(name for name in found.keys() | expected.keys() if found.get(name) != expected.get(name))
    if wrong:
        have, want = (one.get(wrong[0], "none") for one in (found, expected))
        more = f" (and {len(wrong) - 1} more)" if len(wrong) > 1 else ""
        raise InputError(
            f"{path}: {printable(wrong[0])}: found {have}, expected {want}{more} in a {config.kind} of "
            f"{config.depth} blocks{hint(config.kind, arrays)}"
        )


def hint(kind: str, arrays: Mapping[str, np.ndarray]) -> str:
    """What a wrong file may be."""
    if kind == "m3ae" and arrays and not any("text" in name for name in arrays):
        return "; it seems to be MAE, which reads no text: take the file of M3AE"
    if kind == "m3ae" and arrays.get("cls_token", np.zeros((1, 1, 1))).ndim == 4:
        return "; the state has an axis of devices in front: save flax.jax_utils.unreplicate(state)"
    return f"; found: {some(arrays)}"


def read_m3ae(path: Path) -> Arrays:
    """All parameters, the decoder's too, of a published training state.

    Raises:
        InputError: the file is damaged, or is none.
    """
    found = load(path)
    state = entry(found, "state")
    params = entry(found if state is None else state, "params")
    inner = entry(params, "params")  # flax's `init` answers with its collections
    params = params if inner is None else inner
    if type(params) not in (dict, Frozen):
        said = some(found) if isinstance(found, dict) else printable(getattr(found, "name", type(found).__name__))
        raise InputError(
            f"{path}: found a pickle without params: {said}; expected M3AE's training state: "
            "a dict with step and state, whose params are a tree of arrays"
        )
    return dict(flattened(path, params))


def entry(found: Any, key: str) -> Any:
    """An entry of a dict, or an attribute of an object that stays unknown; None if there is none."""
    if type(found) is Foreign:
        parts: tuple[Any, ...] = found.state if type(found.state) is tuple else (found.state,)
        return next((part[key] for part in parts if type(part) is dict and key in part), None)
    return found.get(key) if type(found) in (dict, Frozen) else None
