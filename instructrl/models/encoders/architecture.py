"""Architecture and preprocessing of encoder weights: recorded in their file, compared with an encoder's settings.

Shapes of parameters tell sizes. What they do not tell (attention heads, activation, epsilon, resolution, normalization
...) changes features without an error, so it is recorded. Needs no jax.
"""

import json
import math
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from instructrl.config.fields import format_value
from instructrl.config.model import Architecture, EncoderConfig, Shapes
from instructrl.errors import InputError

OF_TEXT = ("vocabulary", "lower_case", "tokenizer")  # without effect on an encoder that reads no text; also text_...
OWNER = "google-bert/"  # of repositories that formerly had no owner
MAX_LENGTH = 100_000  # characters of a record


def encode_architecture(architecture: Architecture) -> str:
    """The text of an architecture in a file's metadata."""
    return json.dumps(architecture, sort_keys=True)


def decode_architecture(path: Path, text: str) -> Architecture:
    """The architecture in a file's metadata; empty for a file of the time before it was recorded.

    Raises:
        InputError: it cannot be read.
    """
    try:
        found = json.loads(text[:MAX_LENGTH]) if text else {}
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict) or not all(map(is_plain, found.values())):
        raise InputError(f"{path}: damaged (its architecture cannot be read); convert or fetch it again")
    return found


def is_plain(value: Any) -> bool:
    """Return True for text, a number, null or a flat list of them."""
    items = value if isinstance(value, list) else [value]
    return all(item is None or isinstance(item, str | int | float) for item in items)


def check_sizes(path: Path, shapes: Shapes, encoder: EncoderConfig) -> None:
    """Raise InputError if a file's parameters have different sizes than the configured encoder."""
    for key, found in encoder.infer_sizes(shapes).items():
        expected = getattr(encoder, key, found)
        if expected != found and (encoder.text or not is_of_text(key)):
            if key == "text_length":
                raise InputError(
                    f"encoder.text_length: found {expected}; allowed: {found}, the number of positions in {path}"
                )
            raise InputError(
                f"{path}: found weights with {key} {found}, expected {expected}, as in encoder={encoder.name}; "
                f"choose the encoder= option or the weights of the right size, or set encoder.{key}={found}"
            )


def check_architecture(path: Path, recorded: Architecture, encoder: EncoderConfig) -> None:
    """Raise InputError if the configured encoder differs from what is recorded with weights.

    `image_size` is not compared: what an encoder of one fixed resolution cannot read, `check_sizes` refuses.
    """
    expected = encoder.architecture(vocabulary=0, rendered_size=0)
    for key, found in recorded.items():
        if key in ("image_size", "vocabulary") or (is_of_text(key) and not encoder.text):
            continue
        if key == "tokenizer":
            check_tokenizer_name(path, str(found), encoder)
        elif key not in expected or not same_value(found, expected[key]):
            raise mismatch(path, key, found, expected, encoder)


def mismatch(path: Path, key: str, found: Any, expected: Mapping[str, Any], encoder: EncoderConfig) -> InputError:
    """InputError for a recorded value that is not the configured one."""
    if key not in expected:
        return InputError(
            f"{path}: found weights with {key} {format_value(found)}, which encoder.kind={encoder.kind} does not have; "
            "choose other weights"
        )
    if hasattr(encoder, key):
        setting = override(key, found)
        return InputError(
            f"encoder.{key}: found {format_value(expected[key])}; allowed: {format_value(found)}, as in the training "
            f"of {path}; set {setting}"
        )
    return InputError(
        f"{path}: found weights with {key} {format_value(found)}; allowed: {format_value(expected[key])}, the only one "
        f"of encoder.kind={encoder.kind}; choose other weights"
    )


def override(key: str, value: Any) -> str:
    """The word of a command line that sets an encoder's setting."""
    text = format_value(value).replace(", ", ",")
    return f"encoder.{key}={text}" if not isinstance(value, list) else f"'encoder.{key}={text}'"


def check_tokenizer_name(path: Path, recorded: str, encoder: EncoderConfig) -> None:
    """Raise InputError if `encoder.tokenizer` is another published tokenizer than that of the weights.

    A file is not compared by its name; the number of its entries is compared with the weights' elsewhere.
    """
    name = encoder.tokenizer
    if name.removeprefix(OWNER) != recorded.removeprefix(OWNER) and not is_file(name):
        raise InputError(
            f"encoder.tokenizer: found {name}; allowed: {recorded}, as in the training of {path}, or a file with its "
            f"vocabulary; set encoder.tokenizer={recorded}"
        )


def is_file(name: str) -> bool:
    """Return True if a file or folder has this path."""
    try:
        return Path(name).expanduser().exists()
    except (OSError, RuntimeError):  # name too long, or unknown home directory
        return False


def unrecorded(recorded: Collection[str], encoder: EncoderConfig) -> list[str]:
    """Keys of the configured encoder that are not recorded with its weights, and so cannot be compared."""
    expected = encoder.architecture(vocabulary=0, rendered_size=0)
    return [key for key in expected if key not in recorded and (encoder.text or not is_of_text(key))]


def is_of_text(key: str) -> bool:
    """Return True for what concerns the reading of text alone."""
    return key.startswith("text_") or key in OF_TEXT


def same_value(one: Any, other: Any) -> bool:
    """Return True if two values are equal; numbers may differ by their rounding to float32."""
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(same_value, one, other))
    numbers = all(isinstance(value, int | float) and not isinstance(value, bool) for value in (one, other))
    return math.isclose(one, other, rel_tol=1e-6) if numbers else one == other
