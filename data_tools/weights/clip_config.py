"""Reader of the settings beside Hugging Face's CLIP weights: of the model, the preprocessor and the tokenizer.

Those of the model, config.json, are needed. A setting that is left out there has the default of Hugging Face's CLIP, as
the format demands.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from instructrl.config.fields import format_value
from instructrl.config.model import Architecture
from instructrl.data.text.tokenizer import Tokenizer
from instructrl.data.text.vocab_files import FORMS, read_vocabulary
from instructrl.errors import InputError

CONFIG, PREPROCESSOR, TOKENIZER = "config.json", "preprocessor_config.json", "tokenizer_config.json"
ACTIVATIONS = {
    "quick_gelu": "quick_gelu",
    "gelu": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_fast": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
}
RESAMPLING = {0: "nearest", 1: "lanczos", 2: "bilinear", 3: "bicubic", 4: "box", 5: "hamming"}  # PIL's numbers
MAX_BYTES = 10_000_000


class Setting(NamedTuple):
    """A setting of a tower: our name, and the default of the format."""

    name: str
    default: int


VISION = {
    "hidden_size": Setting("dim", 768),
    "num_hidden_layers": Setting("depth", 12),
    "num_attention_heads": Setting("heads", 12),
    "patch_size": Setting("patch_size", 32),
    "image_size": Setting("image_size", 224),
}
TEXT = {
    "hidden_size": Setting("text_dim", 512),
    "num_hidden_layers": Setting("text_depth", 12),
    "num_attention_heads": Setting("text_heads", 8),
    "max_position_embeddings": Setting("text_length", 77),
    "vocab_size": Setting("vocabulary", 49408),
}
PROJECTION, ACTIVATION, EPSILON = 512, "quick_gelu", 1e-5  # further defaults of the format


def read_clip_config(folder: Path) -> Architecture:
    """Architecture and preprocessing of the CLIP in a folder.

    Raises:
        InputError: a file is missing or damaged, or a setting is not supported.
    """
    found = read_config(required_config(folder))
    if (folder / PREPROCESSOR).is_file():
        found |= read_preprocessor(folder / PREPROCESSOR, config_size=found["image_size"])
    return found | {"lower_case": reads_lower_case(folder / TOKENIZER)}


def required_config(folder: Path) -> Path:
    """The path of config.json in a folder of weights.

    Raises:
        InputError: it is missing.
    """
    path = folder / CONFIG
    if not path.is_file():
        raise InputError(
            f"{path}: missing; it tells what the weights do not, such as attention heads and activation: put that of "
            "the same repository beside them"
        )
    return path


def config_of(folder: Path, *kinds: str, note: str = "") -> tuple[Path, Any]:
    """The path of config.json in a folder of weights, and its content.

    Args:
        folder: of the weights.
        kinds: the values of model_type that are supported.
        note: what an error says after them.

    Raises:
        InputError: it is missing, damaged or of another kind.
    """
    path = required_config(folder)
    content = read_json(path)
    found = content.get("model_type")
    if found not in kinds:
        raise InputError(f"{path}: model_type: found {format_value(found)}; allowed: {', '.join(kinds)}{note}")
    return path, content


def check_fixed(path: Path, content: Mapping[str, Any], fixed: Mapping[str, Any]) -> None:
    """Raise InputError for a setting that is there with another value than the only one that is supported."""
    for key, only in fixed.items():
        if content.get(key, only) != only:
            raise InputError(f"{path}: {key}: found {format_value(content[key])}; allowed: {format_value(only)}")


def sizes_of(path: Path, content: Mapping[str, Any], names: Mapping[str, tuple[str, int]]) -> Architecture:
    """Integer settings by our names; `names`: theirs -> ours, and the default of the format."""
    return {ours: integer(path, key, content.get(key, default)) for key, (ours, default) in names.items()}


def read_json(path: Path) -> Any:
    """Read a JSON object."""
    try:
        if path.stat().st_size > MAX_BYTES:
            raise ValueError("too large")
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from None
    except (ValueError, RecursionError):
        content = None
    if not isinstance(content, dict):
        raise InputError(f"{path}: damaged or not a JSON object; download it again")
    return content


def read_config(path: Path) -> Architecture:
    """The architecture in config.json."""
    content = read_json(path)
    if content.get("model_type", "clip") != "clip":
        raise InputError(f"{path}: model_type: found {format_value(content['model_type'])}; allowed: clip")
    towers = {"vision_config": VISION, "text_config": TEXT}
    found: Architecture = {}
    common = []
    for tower, names in towers.items():
        settings = tower_settings(path, content, tower)
        for key, setting in names.items():
            found[setting.name] = integer(path, f"{tower}.{key}", settings.get(key, setting.default))
        act, eps = settings.get("hidden_act", ACTIVATION), settings.get("layer_norm_eps", EPSILON)
        common.append((activation(path, f"{tower}.hidden_act", act), epsilon(path, f"{tower}.layer_norm_eps", eps)))
        if tower == "text_config":
            check_end_token(path, settings.get("eos_token_id"), vocabulary=found["vocabulary"])
    found["projection"] = integer(path, "projection_dim", content.get("projection_dim", PROJECTION))
    for key, vision, text in zip(("hidden_act", "layer_norm_eps"), *common, strict=True):
        if vision != text:
            raise InputError(
                f"{path}: text_config.{key}: found {format_value(text)}; allowed: {format_value(vision)}, as in "
                "vision_config: towers that differ in it are not supported"
            )
    found["activation"], found["layer_norm_epsilon"] = common[0]
    return found


def tower_settings(path: Path, content: Mapping[str, Any], tower: str) -> dict[str, Any]:
    """The settings of a tower; those of the former name with _dict replace the others."""
    settings: dict[str, Any] = {}
    for key in (tower, f"{tower}_dict"):
        part = content.get(key)
        if part is not None and not isinstance(part, dict):
            raise InputError(f"{path}: {key}: found {format_value(part)}; expected settings")
        settings |= part or {}
    return settings


def integer(path: Path, key: str, value: Any) -> int:
    """A positive integer in a file."""
    if type(value) is not int or not 0 < value < 1 << 20:
        raise InputError(f"{path}: {key}: found {format_value(value)}; expected a positive integer")
    return value


def activation(path: Path, key: str, value: Any) -> str:
    """Our name of an activation."""
    if not isinstance(value, str) or value not in ACTIVATIONS:
        allowed = ", ".join(ACTIVATIONS)
        raise InputError(f"{path}: {key}: found {format_value(value)}; allowed: {allowed}")
    return ACTIVATIONS[value]


def epsilon(path: Path, key: str, value: Any) -> float:
    """The epsilon of layer norms."""
    if type(value) not in (int, float) or not 0 < value <= 0.1:
        raise InputError(f"{path}: {key}: found {format_value(value)}; allowed: above 0, at most 0.1")
    return float(value)


def check_end_token(path: Path, value: Any, *, vocabulary: int) -> None:
    """Raise InputError unless a text's features are those at its largest token, the last one of the vocabulary."""
    if value not in (None, 2, vocabulary - 1):  # 2 stands for the largest token
        raise InputError(
            f"{path}: text_config.eos_token_id: found {format_value(value)}; allowed: {vocabulary - 1}, the last entry "
            "of the vocabulary, or 2"
        )


def read_preprocessor(path: Path, *, config_size: int | None, crops: bool = True) -> Architecture:
    """The preprocessing in preprocessor_config.json, which must be that of square images.

    Args:
        path: the file.
        config_size: their side in pixels by config.json; None: it says nothing of that, and what is resized may be
            larger than what is then cropped, the size of the images.
        crops: a centre of the image is cut out; false: the whole image is resized, and not cropped.
    """
    content = read_json(path)
    for key, wanted in (("do_resize", True), ("do_center_crop", crops), ("do_rescale", True), ("do_normalize", True)):
        if (content.get(key) or False if wanted is False else content.get(key, True)) is not wanted:
            raise InputError(f"{path}: {key}: found {format_value(content[key])}; allowed: {format_value(wanted)}")
    factor, number = content.get("rescale_factor", 1 / 255), content.get("resample", 3)
    if type(factor) not in (int, float) or abs(factor * 255 - 1) > 1e-6:
        raise InputError(f"{path}: rescale_factor: found {format_value(factor)}; allowed: 1/255")
    found: Architecture = {}
    if config_size is None:
        found["image_size"] = integer(path, "crop_size", square(content.get("crop_size", 224)))
    for key in ("size", "crop_size") if config_size is not None else ():
        value = content.get(key, config_size)
        if square(value) != config_size:
            raise InputError(
                f"{path}: {key}: found {format_value(value)}; allowed: {config_size}, the image_size in {CONFIG}"
            )
    if type(number) is not int or number not in RESAMPLING:
        raise InputError(f"{path}: resample: found {format_value(number)}; allowed: 3, bicubic")
    found["resampling"] = RESAMPLING[number]
    for key in ("image_mean", "image_std"):
        if key in content:
            found[key] = colours(path, key, content[key])
    return found


def square(value: Any) -> Any:
    """The side of a square, a number or a dict of equal sides; None for anything else."""
    sides = list(value.values()) if isinstance(value, dict) else [value]
    return sides[0] if sides and all(side == sides[0] for side in sides) else None


def colours(path: Path, key: str, value: Any) -> list[float]:
    """A number for each of red, green and blue."""
    valid = isinstance(value, list) and len(value) == 3 and all(type(one) in (int, float) for one in value)
    if not valid or not all(0 <= one <= 1 and (one or key == "image_mean") for one in value):
        raise InputError(f"{path}: {key}: found {format_value(value)}; allowed: three numbers from 0 to 1")
    return [float(one) for one in value]


def reads_lower_case(path: Path) -> bool:
    """True unless tokenizer_config.json says that its text is not in lower case."""
    return not path.is_file() or read_json(path).get("do_lower_case", True) is not False


def tokenizer_checksum(folder: Path) -> str:
    """Checksum of the tokenizer in a folder of weights; empty if there is none.

    Raises:
        InputError: it is damaged or not supported.
    """
    if not any(all((folder / name).is_file() for name in form) for form in FORMS):
        return ""
    pieces, merges, added, kind, scores = read_vocabulary(folder)
    return Tokenizer(pieces, length=2, merges=merges, added=added, kind=kind, scores=scores).checksum
