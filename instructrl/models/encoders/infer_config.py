"""Inference of encoder settings from the shapes of its parameters. Needs no jax."""

from pathlib import Path

from instructrl.config.model import EncoderConfig, Shapes
from instructrl.errors import InputError


def check_sizes(path: Path, shapes: Shapes, encoder: EncoderConfig) -> None:
    """Raise InputError if a file's parameters have different sizes than the configured encoder."""
    for key, found in encoder.infer_sizes(shapes).items():
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
