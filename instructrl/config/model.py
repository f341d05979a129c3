"""Settings of the encoder, the policy and the head, and their checks. No jax here."""

from dataclasses import dataclass
from typing import Any

from instructrl.config.fields import (
    choice_or_integers,
    format_value,
    number,
    one_of,
    setting,
)
from instructrl.errors import InputError


@dataclass
class EncoderConfig:
    """Encoder of images and the instruction."""

    name: str = setting(help="label of the encoder in names of runs")
    kind: str = one_of("scratch_tiny", "m3ae", "clip", help="architecture")
    dim: int = number(low=8, high=4096, help="width of patch tokens and of pooled features")
    depth: int = number(low=0, high=64, help="transformer blocks after the patch embedding")
    heads: int = number(1, low=1, high=64, help="attention heads; unused by scratch_tiny")
    patch_size: int = number(low=4, high=64, help="patch side in pixels; must divide the image size")
    image_size: int | None = number(
        None, low=16, high=1024, help="side in pixels to which images are resized; null: unchanged"
    )
    text: bool = setting(True, help="condition on the instruction")
    text_dim: int | None = number(None, low=8, high=4096, help="width of CLIP's text tower; clip only")
    text_depth: int | None = number(None, low=1, high=64, help="blocks of CLIP's text tower; clip only")
    text_heads: int | None = number(None, low=1, high=64, help="attention heads of CLIP's text tower; clip only")
    projection: int | None = number(
        None, low=8, high=4096, help="dimension of CLIP's joint space of images and text; clip only"
    )
    layers: Any = choice_or_integers(
        "all", "last", default="last", low=0, high=63, help="layers whose pooled outputs are concatenated"
    )
    frozen: bool = setting(False, help="keep the encoder's weights fixed")
    weights: str | None = setting(
        None, help="file written by data_tools.weights; shipped: InstructRL's own; null: random initialization"
    )
    tokenizer: str = setting(
        "small", help="small: InstructRL's vocabulary; else a Hugging Face name, tokenizer.json, vocab.txt or folder"
    )
    text_length: int = number(32, low=2, high=512, help="maximum instruction length in tokens")


@dataclass
class PolicyConfig:
    """Causal transformer over the keyframe steps of an episode."""

    name: str = setting(help="label of the policy in names of runs")
    dim: int = number(low=8, high=4096, help="model width")
    depth: int = number(low=1, high=64, help="transformer blocks")
    heads: int = number(low=1, high=64, help="attention heads; must divide policy.dim")
    mlp_ratio: float = number(4.0, low=0.25, high=16, help="hidden width of the MLPs relative to policy.dim")
    window: int | None = number(
        None, low=1, high=1_000_000, help="context length in keyframe steps; null: the whole episode"
    )


@dataclass
class HeadConfig:
    """Action head on the policy's output token, and the weights of the losses."""

    name: str = setting(help="label of the head in names of runs")
    kind: str = one_of("regression", "discrete", "spatial", help="parameterization of the action")
    dim: int = number(128, low=8, high=4096, help="hidden width of the head")
    position_weight: float = number(3.0, low=0, help="weight of the position loss")
    rotation_weight: float = number(4.0, low=0, help="weight of the rotation loss")
    gripper_weight: float = number(1.0, low=0, help="weight of the gripper loss")
    heatmap_weight: float = number(1.0, low=0, help="weight of the patch classification loss; spatial only")
    offset_weight: float = number(1.0, low=0, help="weight of the within-patch offset loss; spatial only")
    position_bins: int = number(100, low=2, high=1000, help="position bins along each workspace axis; discrete only")
    rotation_bins: int = number(72, low=4, high=720, help="bins of each Euler angle over a full turn; discrete only")


def check_encoder(encoder: EncoderConfig, image_size: int) -> None:
    """Raise InputError if an encoder's sizes do not fit together, or not to camera images of `image_size` pixels."""
    patch, size = encoder.patch_size, encoder.image_size or image_size
    key = "encoder.image_size" if encoder.image_size else "sim.image_size"
    if encoder.kind == "scratch_tiny" and patch % 4:
        raise InputError(f"encoder.patch_size: found {patch}; allowed: a multiple of 4")
    if size % patch:
        raise InputError(f"{key}: found {size}; allowed: a multiple of encoder.patch_size={patch}")
    if encoder.kind != "scratch_tiny" and encoder.depth < 1:
        raise InputError(f"encoder.depth: found {encoder.depth}; allowed: at least 1 for {encoder.kind}")
    if encoder.kind != "clip" and encoder.dim % 4:
        raise InputError(f"encoder.dim: found {encoder.dim}; allowed: a multiple of 4")
    if encoder.dim % encoder.heads:
        raise InputError(f"encoder.heads: found {encoder.heads}; allowed: a divisor of encoder.dim={encoder.dim}")
    pooled_layers(encoder)
    if encoder.kind == "clip":
        check_clip(encoder)


def check_clip(encoder: EncoderConfig) -> None:
    """Raise InputError if settings of CLIP's text tower are missing or do not divide each other."""
    for key in ("text_dim", "text_depth", "text_heads", "projection", "image_size"):
        if getattr(encoder, key) is None:
            raise InputError(f"encoder.{key}: found null; allowed: a number, which kind=clip needs")
    dim, heads = encoder.text_dim or 0, encoder.text_heads or 1
    if dim % heads:
        raise InputError(f"encoder.text_heads: found {heads}; allowed: a divisor of encoder.text_dim={dim}")


def pooled_layers(encoder: EncoderConfig) -> tuple[int, ...]:
    """Indices of the layers whose pooled outputs are features; the last is the encoder's normalized output.

    Raises:
        InputError: a layer index is out of range.
    """
    count = max(encoder.depth, 1)
    if encoder.layers == "last":
        return (count - 1,)
    if encoder.layers == "all":
        return tuple(range(count))
    if max(encoder.layers) >= count:
        allowed = f"all, last, or a list of integers from 0 to {count - 1}"
        raise InputError(f"encoder.layers: found {format_value(encoder.layers)}; allowed: {allowed}")
    return tuple(encoder.layers)
