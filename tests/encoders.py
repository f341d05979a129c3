"""Small reference encoders: their recorded parameters and outputs (tests/golden, generated with the public code)."""

from pathlib import Path
from typing import Any

import numpy as np
from flax.traverse_util import unflatten_dict

from instructrl.config import EncoderConfig

GOLDEN = Path(__file__).with_name("golden")
M3AE_WORDS, CLIP_WORDS = 120, 100  # entries of their vocabularies
M3AE_TINY = EncoderConfig(name="m3ae_golden", kind="m3ae", dim=64, depth=3, heads=4, patch_size=16, text_length=12)
CLIP_TINY = EncoderConfig(
    name="clip_golden", kind="clip", dim=64, depth=2, heads=4, patch_size=16, image_size=64,
    text_dim=48, text_depth=2, text_heads=4, projection=32, text_length=16,
)  # fmt: skip
SMALL = {  # settings of each kind
    "m3ae": ("encoder=m3ae_b16", "encoder.heads=2", "encoder.image_size=32"),
    "clip": (
        "encoder=clip_b16",
        "encoder.heads=2",
        "encoder.image_size=32",
        "encoder.text_dim=16",
        "encoder.text_depth=3",
        "encoder.text_heads=2",
        "encoder.projection=8",
    ),
    "scratch": ("encoder=scratch_tiny",),
}


def golden(name: str) -> dict[str, np.ndarray]:
    """Recorded parameters and outputs of `m3ae_tiny` or `clip_tiny`."""
    with np.load(GOLDEN / f"{name}.npz", allow_pickle=False) as file:
        return dict(file)


def published(recorded: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Parameters by their published names."""
    return {name.removeprefix("param/"): value for name, value in recorded.items() if name.startswith("param/")}


def nested(flat: dict[str, np.ndarray]) -> dict[str, Any]:
    """A parameter tree from slash-separated paths."""
    return unflatten_dict(flat, sep="/")


def clip_params(recorded: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """CLIP's parameters in our names and layout, by slash-separated path; independent of the converter."""
    found = {}
    for name, value in published(recorded).items():
        path = name.replace(".", "/").removesuffix("/weight")
        if name.endswith("embedding.weight") and "patch" not in name:
            path += "/embedding"
        elif name.endswith("patch_embedding.weight"):
            path, value = path + "/kernel", value.transpose(2, 3, 1, 0)
        elif name.endswith(".weight"):
            path, value = path + ("/scale" if "norm" in name else "/kernel"), value.T
        found[path] = value
    return found
