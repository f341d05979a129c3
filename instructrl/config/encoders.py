"""Settings of each kind of encoder. The encoders themselves, which need jax, are in models/encoders."""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from instructrl.config.fields import flag_or_word, format_value, number, number_list, one_of, setting
from instructrl.config.model import (
    BYTE_PAIRS,
    SENTENCE_PIECES,
    TEXT_ENCODERS,
    UNIGRAMS,
    Architecture,
    EncoderConfig,
    Shapes,
)
from instructrl.errors import InputError

ACTIVATIONS = ("quick_gelu", "gelu", "gelu_tanh")


@dataclass
class ScratchTinyConfig(EncoderConfig):
    """A small patch encoder that trains in minutes on two cores."""

    implementation: ClassVar[str] = "instructrl.models.encoders.scratch:ScratchTiny"

    def check(self, rendered_size: int) -> None:
        """Raise InputError if sizes do not fit together, or not to camera images of `rendered_size` pixels."""
        if self.patch_size % 4:
            raise InputError(f"encoder.patch_size: found {self.patch_size}; allowed: a multiple of 4")
        super().check(rendered_size)
        check_width(self.dim)


@dataclass
class SentenceConfig(EncoderConfig):
    """The instruction alone, for a policy that is told the state of the scene instead of seeing it."""

    implementation: ClassVar[str] = "instructrl.models.encoders.sentence:Sentence"
    fuses_text: ClassVar[bool] = False


@dataclass
class M3AEConfig(EncoderConfig):
    """Image patches and instruction tokens in one transformer."""

    implementation: ClassVar[str] = "instructrl.models.encoders.m3ae:M3AE"
    has_class_token: ClassVar[bool] = True
    masks_patches: ClassVar[bool] = True
    constants: ClassVar[Mapping[str, Any]] = {
        "activation": "gelu_tanh",
        "layer_norm_epsilon": 1e-6,
        "image_mean": [0.5762, 0.5503, 0.5213],  # of CC12M, the pretraining data
        "image_std": [0.3207, 0.3169, 0.3307],
        "resampling": "bicubic",
    }

    heads: int = number(1, low=1, high=64, help="attention heads")
    joint: bool = setting(True, help="read the instruction together with every image; false: apart from the images")

    @property
    def reads_jointly(self) -> bool:
        """True if the features of an image depend on the instruction."""
        return self.joint and super().reads_jointly

    @classmethod
    def infer_sizes(cls, shapes: Shapes) -> dict[str, int]:
        """Settings, and `vocabulary`, as far as the shapes of the parameters determine them."""
        values = axis(shapes, "image_embedding/kernel", 0)
        return without_none(
            dim=axis(shapes, "cls_token", -1),
            depth=blocks(shapes, "encoder/Block_"),
            patch_size=values and math.isqrt(values // 3),
            vocabulary=axis(shapes, "text_embedding/embedding", 0),
        )

    def check(self, rendered_size: int) -> None:
        """Raise InputError if sizes do not fit together, or not to camera images of `rendered_size` pixels."""
        check_blocks(self)
        super().check(rendered_size)
        check_width(self.dim)
        check_heads("heads", self.heads, "dim", self.dim)


@dataclass
class ClipConfig(EncoderConfig):
    """One transformer for the image, one for the instruction, with a joint space."""

    implementation: ClassVar[str] = "instructrl.models.encoders.clip:Clip"
    fuses_text: ClassVar[bool] = False
    has_class_token: ClassVar[bool] = True
    tokens: ClassVar[str] = BYTE_PAIRS
    constants: ClassVar[Mapping[str, Any]] = {"resampling": "bicubic"}

    @property
    def repository(self) -> str | None:
        """The Hugging Face repository of the published weights, which has their tokenizer too."""
        return None if self.tokenizer == "small" else self.tokenizer

    image_size: int = number(low=16, high=1024, help="side in pixels to which images are resized")
    heads: int = number(1, low=1, high=64, help="attention heads of the image tower")
    text_dim: int = number(low=8, high=4096, help="width of the text tower")
    text_depth: int = number(low=1, high=64, help="blocks of the text tower")
    text_heads: int = number(low=1, high=64, help="attention heads of the text tower")
    projection: int = number(low=8, high=4096, help="dimension of the joint space of images and text")
    activation: str = one_of(
        *ACTIVATIONS,
        default="quick_gelu",
        help="of both towers' MLPs: OpenAI's quick_gelu, exact gelu, or its tanh form",
    )
    layer_norm_epsilon: float = number(1e-5, above=0, high=0.1, help="added to the variance in layer norms")
    image_mean: list[float] = number_list(
        0.48145466, 0.4578275, 0.40821073, low=0, high=1, help="mean of red, green and blue that is subtracted"
    )
    image_std: list[float] = number_list(
        0.26862954, 0.26130258, 0.27577711, above=0, high=1, help="deviation of red, green and blue that divides"
    )

    @classmethod
    def infer_sizes(cls, shapes: Shapes) -> dict[str, int]:
        """Settings, and `vocabulary`, as far as the shapes of the parameters determine them."""
        image, text = "vision_model/embeddings/", "text_model/embeddings/"
        positions = axis(shapes, f"{image}position_embedding/embedding", 0)
        patch = axis(shapes, f"{image}patch_embedding/kernel", 0)
        return without_none(
            dim=axis(shapes, f"{image}class_embedding", 0),
            depth=blocks(shapes, "vision_model/encoder/layers/"),
            patch_size=patch,
            image_size=positions and patch and math.isqrt(positions - 1) * patch,
            text_dim=axis(shapes, f"{text}token_embedding/embedding", 1),
            text_depth=blocks(shapes, "text_model/encoder/layers/"),
            text_length=axis(shapes, f"{text}position_embedding/embedding", 0),
            projection=axis(shapes, "visual_projection/kernel", 1),
            vocabulary=axis(shapes, f"{text}token_embedding/embedding", 0),
        )

    def check(self, rendered_size: int) -> None:
        """Raise InputError if sizes do not fit together, or not to camera images of `rendered_size` pixels."""
        check_blocks(self)
        super().check(rendered_size)
        check_colours(image_mean=self.image_mean, image_std=self.image_std)
        check_heads("heads", self.heads, "dim", self.dim)
        check_heads("text_heads", self.text_heads, "text_dim", self.text_dim)


@dataclass
class Dinov2Config(EncoderConfig):
    """One transformer for the image, which was trained without text."""

    implementation: ClassVar[str] = "instructrl.models.encoders.dinov2:Dinov2"
    fuses_text: ClassVar[bool] = False
    reads_text: ClassVar[bool] = False
    has_class_token: ClassVar[bool] = True
    constants: ClassVar[Mapping[str, Any]] = {
        "activation": "gelu",
        "layer_norm_epsilon": 1e-6,
        "resampling": "bicubic",
    }

    image_size: int = number(low=16, high=1024, help="side in pixels to which images are resized")
    text: Any = flag_or_word(
        *TEXT_ENCODERS, default=False, help="false: no instruction is read; a name: by that encoder's text tower"
    )
    heads: int = number(1, low=1, high=64, help="attention heads")
    registers: int = number(0, low=0, high=64, help="learnt tokens beside class token and patches")
    position_grid: int = number(
        37,
        low=1,
        high=256,
        help="side in patches of the square that positions were learnt for",
    )
    image_mean: list[float] = number_list(
        0.485, 0.456, 0.406, low=0, high=1, help="mean of red, green and blue that is subtracted"
    )
    image_std: list[float] = number_list(
        0.229, 0.224, 0.225, above=0, high=1, help="deviation of red, green and blue that divides"
    )

    @property
    def repository(self) -> str | None:
        """The Hugging Face repository of the published weights of this size."""
        size = {384: "small", 768: "base", 1024: "large"}.get(self.dim)
        return size and f"facebook/dinov2-{'with-registers-' if self.registers else ''}{size}"

    @classmethod
    def infer_sizes(cls, shapes: Shapes) -> dict[str, int]:
        """Settings as far as the shapes of the parameters determine them."""
        image = "vision_model/embeddings/"
        positions = axis(shapes, f"{image}position_embedding/embedding", 0)
        return without_none(
            dim=axis(shapes, f"{image}class_embedding", 0),
            depth=blocks(shapes, "vision_model/encoder/layers/"),
            patch_size=axis(shapes, f"{image}patch_embedding/kernel", 0),
            position_grid=positions and math.isqrt(positions - 1),
        ) | {"registers": axis(shapes, f"{image}register_embedding", 0) or 0}

    def check(self, rendered_size: int) -> None:
        """Raise InputError if sizes do not fit together."""
        check_blocks(self)
        super().check(rendered_size)
        check_colours(image_mean=self.image_mean, image_std=self.image_std)
        check_heads("heads", self.heads, "dim", self.dim)


@dataclass
class Siglip2Config(EncoderConfig):
    """One transformer for the image, one for the instruction, with a joint space; of one fixed resolution."""

    implementation: ClassVar[str] = "instructrl.models.encoders.siglip2:Siglip2"
    fuses_text: ClassVar[bool] = False
    tokens: ClassVar[str] = SENTENCE_PIECES
    constants: ClassVar[Mapping[str, Any]] = {
        "activation": "gelu_tanh",
        "layer_norm_epsilon": 1e-6,
        "image_mean": [0.5, 0.5, 0.5],
        "image_std": [0.5, 0.5, 0.5],
        "resampling": "bilinear",
    }

    image_size: int = number(low=16, high=1024, help="side in pixels to which images are resized")
    heads: int = number(1, low=1, high=64, help="attention heads of the image tower")
    mlp_dim: int = number(low=8, high=16384, help="hidden width of the image tower's MLPs")
    position_grid: int = number(low=1, high=256, help="side in patches of the square that positions were learnt for")
    text_dim: int = number(low=8, high=4096, help="width of the text tower")
    text_depth: int = number(low=1, high=64, help="blocks of the text tower")
    text_heads: int = number(low=1, high=64, help="attention heads of the text tower")
    text_mlp_dim: int = number(low=8, high=16384, help="hidden width of the text tower's MLPs")

    @property
    def repository(self) -> str | None:
        """The Hugging Face repository of the published weights, which has their tokenizer too."""
        return None if self.tokenizer == "small" else self.tokenizer

    @classmethod
    def infer_sizes(cls, shapes: Shapes) -> dict[str, int]:
        """Settings, and `vocabulary`, as far as the shapes of the parameters determine them."""
        image, text = "vision_model/embeddings/", "text_model/embeddings/"
        positions = axis(shapes, f"{image}position_embedding/embedding", 0)
        return without_none(
            dim=axis(shapes, f"{image}position_embedding/embedding", 1),
            depth=blocks(shapes, "vision_model/encoder/layers/"),
            mlp_dim=axis(shapes, "vision_model/encoder/layers/0/mlp/fc1/kernel", 1),
            patch_size=axis(shapes, f"{image}patch_embedding/kernel", 0),
            position_grid=positions and math.isqrt(positions),
            text_dim=axis(shapes, f"{text}token_embedding/embedding", 1),
            text_depth=blocks(shapes, "text_model/encoder/layers/"),
            text_mlp_dim=axis(shapes, "text_model/encoder/layers/0/mlp/fc1/kernel", 1),
            text_length=axis(shapes, f"{text}position_embedding/embedding", 0),
            vocabulary=axis(shapes, f"{text}token_embedding/embedding", 0),
        )

    def check(self, rendered_size: int) -> None:
        """Raise InputError if sizes do not fit together."""
        check_blocks(self)
        super().check(rendered_size)
        check_heads("heads", self.heads, "dim", self.dim)
        check_heads("text_heads", self.text_heads, "text_dim", self.text_dim)


@dataclass
class T5Config(EncoderConfig):
    """The encoder of T5, which reads the instruction beside an encoder of images."""

    implementation: ClassVar[str] = "instructrl.models.encoders.t5:T5"
    fuses_text: ClassVar[bool] = False
    reads_images: ClassVar[bool] = False
    tokens: ClassVar[str] = UNIGRAMS
    constants: ClassVar[Mapping[str, Any]] = {"layer_norm_epsilon": 1e-6}

    patch_size: int = number(16, low=4, high=64, help="without effect: it reads no images")
    heads: int = number(1, low=1, high=64, help="attention heads")
    mlp_dim: int = number(low=8, high=16384, help="hidden width of the MLPs")
    activation: str = one_of("relu", "gated_gelu", default="relu", help="of the MLPs: T5's relu, or that of T5 1.1")

    @property
    def repository(self) -> str | None:
        """The Hugging Face repository of the published weights, which has their tokenizer too."""
        return None if self.tokenizer == "small" else self.tokenizer

    @classmethod
    def infer_sizes(cls, shapes: Shapes) -> dict[str, int]:
        """Settings, and `vocabulary`, as far as the shapes of the parameters determine them."""
        words, layers = "text_model/embeddings/token_embedding/embedding", "text_model/encoder/layers/"
        return without_none(
            dim=axis(shapes, words, 1),
            depth=blocks(shapes, layers),
            heads=axis(shapes, "text_model/encoder/relative_attention_bias/embedding", 1),
            mlp_dim=axis(shapes, f"{layers}0/mlp/fc1/kernel", 1),
            vocabulary=axis(shapes, words, 0),
        )

    def table_rows(self, vocabulary: int) -> int:
        """Rows of the table of token embeddings: those of T5 are a multiple of 128, of which the last are unused."""
        return -(-vocabulary // 128) * 128

    def architecture(self, *, vocabulary: int, rendered_size: int) -> Architecture:
        """Architecture and preprocessing, to be recorded with weights: neither of images nor of a text's length."""
        found = super().architecture(vocabulary=vocabulary, rendered_size=rendered_size)
        others = ("image_size", "patch_size", "text_length")
        return {key: value for key, value in found.items() if key not in others} | {"lower_case": False}

    def check(self, rendered_size: int) -> None:
        """Raise InputError if sizes do not fit together."""
        del rendered_size
        check_blocks(self)
        super().check(self.image_size or self.patch_size)
        check_heads("heads", self.heads, "dim", self.dim)


def check_colours(**settings: list[float]) -> None:
    """Raise InputError unless each setting has a number for red, green and blue."""
    for key, values in settings.items():
        if len(values) != 3:
            raise InputError(f"encoder.{key}: found {format_value(values)}; allowed: a number for each of 3 colours")


def check_width(dim: int) -> None:
    """Raise InputError unless a width is a multiple of 4."""
    if dim % 4:
        raise InputError(f"encoder.dim: found {dim}; allowed: a multiple of 4")


def check_blocks(config: EncoderConfig) -> None:
    """Raise InputError for a transformer without blocks."""
    if config.depth < 1:
        raise InputError(f"encoder.depth: found {config.depth}; allowed: at least 1 for {config.kind}")


def check_heads(key: str, heads: int, dim_key: str, dim: int) -> None:
    """Raise InputError unless the number of attention heads divides the width."""
    if dim % heads:
        raise InputError(f"encoder.{key}: found {heads}; allowed: a divisor of encoder.{dim_key}={dim}")


def axis(shapes: Shapes, name: str, index: int) -> int | None:
    """The size of one axis of a parameter; None without such a parameter or axis."""
    shape = shapes.get(name, ())
    return shape[index] if -len(shape) <= index < len(shape) else None


def blocks(shapes: Shapes, prefix: str) -> int:
    """The number of blocks whose parameters' names consist of a prefix, the block's index and more."""
    numbers = (name[len(prefix) :].partition("/")[0] for name in shapes if name.startswith(prefix))
    return max((int(number) + 1 for number in numbers if re.fullmatch("[0-9]{1,6}", number)), default=0)


def without_none(**sizes: int | None) -> dict[str, int]:
    """The sizes that are not None or 0."""
    return {key: value for key, value in sizes.items() if value}
