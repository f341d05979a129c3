"""Inference of encoder settings from the shapes of its parameters. Needs no jax."""

import math
import re
from collections.abc import Mapping
from pathlib import Path

from instructrl.config.model import EncoderConfig
from instructrl.errors import InputError

Shapes = Mapping[str, tuple[int, ...]]


def infer_sizes(kind: str, shapes: Shapes) -> dict[str, int]:
    """Settings of `EncoderConfig`, and `vocabulary`, as far as the parameters determine them."""

    def axis(name: str, index: int) -> int | None:
        shape = shapes.get(name, ())
        return shape[index] if -len(shape) <= index < len(shape) else None

    def blocks(prefix: str) -> int:
        numbers = (name[len(prefix) :].partition("/")[0] for name in shapes if name.startswith(prefix))
        return max((int(number) + 1 for number in numbers if re.fullmatch("[0-9]{1,6}", number)), default=0)

    found: dict[str, int | None] = {}
    if kind == "m3ae":
        values = axis("image_embedding/kernel", 0)
        found = {
            "dim": axis("cls_token", -1),
            "depth": blocks("encoder/Block_"),
            "patch_size": values and math.isqrt(values // 3),
            "vocabulary": axis("text_embedding/embedding", 0),
        }
    elif kind == "clip":
        embeddings = "vision_model/embeddings/"
        positions = axis(f"{embeddings}position_embedding/embedding", 0)
        patch = axis(f"{embeddings}patch_embedding/kernel", 0)
        found = {
            "dim": axis(f"{embeddings}class_embedding", 0),
            "depth": blocks("vision_model/encoder/layers/"),
            "patch_size": patch,
            "image_size": positions and patch and math.isqrt(positions - 1) * patch,
            "text_dim": axis("text_model/embeddings/token_embedding/embedding", 1),
            "text_depth": blocks("text_model/encoder/layers/"),
            "text_length": axis("text_model/embeddings/position_embedding/embedding", 0),
            "projection": axis("visual_projection/kernel", 1),
            "vocabulary": axis("text_model/embeddings/token_embedding/embedding", 0),
        }
    return {key: value for key, value in found.items() if value}


def check_sizes(path: Path, shapes: Shapes, encoder: EncoderConfig) -> None:
    """Raise InputError if a file's parameters have different sizes than the configured encoder."""
    for key, found in infer_sizes(encoder.kind, shapes).items():
        expected = getattr(encoder, key, found)
        if expected != found and (encoder.text or not key.startswith("text_")):
            if key == "text_length":
                raise InputError(
                    f"encoder.text_length: found {expected}; allowed: {found}, the number of positions in {path}"
                )
            raise InputError(
                f"{path}: found weights with {key} {found}, expected {expected}, as in encoder={encoder.name}; "
                "choose the encoder= option or the weights of the right size"
            )
