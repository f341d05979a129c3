"""What the shapes of an encoder's parameters say of its settings. Needs no jax."""

import math
import re
from collections.abc import Mapping
from pathlib import Path

from instructrl.config import EncoderConfig
from instructrl.errors import InputError

Shapes = Mapping[str, tuple[int, ...]]


def sizes(kind: str, shapes: Shapes) -> dict[str, int]:
    """Settings of `EncoderConfig`, and `vocabulary`, as far as the parameters for them are there."""

    def axis(name: str, place: int) -> int | None:
        shape = shapes.get(name, ())
        return shape[place] if -len(shape) <= place < len(shape) else None

    def blocks(before: str) -> int:
        numbers = (name[len(before) :].partition("/")[0] for name in shapes if name.startswith(before))
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
        places, side = axis("vision_model/embeddings/position_embedding/embedding", 0), "vision_model/embeddings/"
        patch = axis(f"{side}patch_embedding/kernel", 0)
        found = {
            "dim": axis(f"{side}class_embedding", 0),
            "depth": blocks("vision_model/encoder/layers/"),
            "patch_size": patch,
            "image_size": places and patch and math.isqrt(places - 1) * patch,
            "text_dim": axis("text_model/embeddings/token_embedding/embedding", 1),
            "text_depth": blocks("text_model/encoder/layers/"),
            "text_length": axis("text_model/embeddings/position_embedding/embedding", 0),
            "projection": axis("visual_projection/kernel", 1),
            "vocabulary": axis("text_model/embeddings/token_embedding/embedding", 0),
        }
    return {key: value for key, value in found.items() if value}


def check_sizes(path: Path, shapes: Shapes, encoder: EncoderConfig) -> None:
    """Raise InputError if a file's parameters are those of an encoder of another size."""
    for key, found in sizes(encoder.kind, shapes).items():
        expected = getattr(encoder, key, found)
        if expected != found and (encoder.text or not key.startswith("text_")):
            if key == "text_length":
                raise InputError(
                    f"encoder.text_length: found {expected}; allowed: {found}, for which {path} has learnt places"
                )
            raise InputError(
                f"{path}: found weights with {key} {found}, expected {expected}, which encoder={encoder.name} has; "
                "choose the encoder= option or the weights of the right size"
            )
