"""Reader of M3AE's published training states: pickles of parameters and of the settings of their training."""

from pathlib import Path
from typing import Any

from data_tools.weights.array_tree import Contents, flatten, preview, printable
from instructrl.config.encoders import M3AEConfig
from instructrl.config.model import Architecture
from instructrl.errors import InputError, format_value
from instructrl.storage.pickles.safe_pickle_types import FrozenDictStandIn, InertObject
from instructrl.storage.pickles.safe_unpickler import load

# Of the published code: what its settings stand for.
HEADS = {"small": 6, "base": 12, "large": 16, "huge": 16, "debug": 16}  # attention heads of m3ae.model_type
NORMALIZATIONS = {  # data.image_normalization: mean and standard deviation
    "cc12m": (M3AEConfig.constants["image_mean"], M3AEConfig.constants["image_std"]),
    "imagenet": ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]),
    "none": ([0.0, 0.0, 0.0], [1.0, 1.0, 1.0]),
}
FROM_CODE = ("activation", "layer_norm_epsilon", "resampling")  # constants there, not settings
SIZES = {  # our names of integer settings
    "patch_size": "patch_size",
    "data.image_size": "image_size",
    "data.tokenizer_max_length": "text_length",
}
MODEL_SIZES = {"m3ae.emb_dim": "dim", "m3ae.depth": "depth", "m3ae.num_heads": "heads"}  # without m3ae.model_type
MAX_DEPTH = 4  # of nested settings


def read_m3ae(path: Path) -> Contents:
    """Read all parameters, including the decoder's, of a published M3AE training state, and its settings.

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
    settings = flat_settings(lookup(found, "variant") or lookup(found, "config"))
    return Contents(dict(flatten(path, params)), read_settings(path, settings))


def lookup(found: Any, key: str) -> Any:
    """Look up an entry of a dict, or an attribute of an inert object; None if missing."""
    if type(found) is InertObject:
        parts: tuple[Any, ...] = found.state if type(found.state) is tuple else (found.state,)
        return next((part[key] for part in parts if type(part) is dict and key in part), None)
    return found.get(key) if type(found) in (dict, FrozenDictStandIn) else None


def flat_settings(found: Any, prefix: str = "", depth: int = 0) -> dict[str, Any]:
    """The settings in nested dicts, by dotted keys, as published states have them; others are left out."""
    flat: dict[str, Any] = {}
    if type(found) in (dict, FrozenDictStandIn) and depth < MAX_DEPTH:
        for key, value in found.items():
            if type(key) is str and type(value) in (dict, FrozenDictStandIn):
                flat |= flat_settings(value, f"{prefix}{key}.", depth + 1)
            elif type(key) is str and (value is None or type(value) in (bool, int, float, str)):
                flat[f"{prefix}{key}"] = value
    return flat


def read_settings(path: Path, settings: dict[str, Any]) -> Architecture:
    """Architecture and preprocessing in the settings of a training; all that they do not say is absent.

    Raises:
        InputError: a setting has no value of the published code.
    """
    found: Architecture = {key: M3AEConfig.constants[key] for key in FROM_CODE}
    model_type = settings.get("m3ae.model_type")
    if model_type in HEADS:
        found["heads"] = HEADS[model_type]
    names = SIZES | (MODEL_SIZES if model_type is None else {})
    for key, name in names.items():
        if key in settings:
            if type(settings[key]) is not int or not 0 < settings[key] < 1 << 20:
                raise InputError(f"{path}: variant: {key}: found {format_value(settings[key])}, expected an integer")
            found[name] = settings[key]
    tokenizer = settings.get("data.tokenizer")
    if isinstance(tokenizer, str):
        found |= {"tokenizer": printable(tokenizer), "lower_case": not tokenizer.endswith("-cased")}
    if "data.image_normalization" in settings:
        found["image_mean"], found["image_std"] = normalization(path, settings)
    return found


def normalization(path: Path, settings: dict[str, Any]) -> tuple[list[float], list[float]]:
    """Mean and standard deviation by which the training normalized images."""
    if settings.get("data.transform_type") == "resize_only":
        return NORMALIZATIONS["none"]
    name = settings["data.image_normalization"]
    if name in NORMALIZATIONS:
        return NORMALIZATIONS[name]
    try:
        if name != "custom":
            raise ValueError
        mean, std = (
            [float(part) for part in str(settings.get(f"data.custom_image_{key}")).split("-")]
            for key in ("mean", "std")
        )
    except ValueError:
        allowed = ", ".join([*NORMALIZATIONS, "custom with three numbers for each of mean and std"])
        raise InputError(
            f"{path}: variant: data.image_normalization: found {format_value(name)}; allowed: {allowed}"
        ) from None
    return mean, std
