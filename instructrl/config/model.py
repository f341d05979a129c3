"""Settings of the encoder, the policy and the head, and their checks. No jax here."""

import functools
import math
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, ClassVar

from instructrl.config.declarations import check_settings
from instructrl.config.fields import (
    choice_or_integers,
    flag_or_word,
    format_value,
    number,
    one_of,
    setting,
)
from instructrl.config.kinds import kind_of
from instructrl.errors import InputError
from instructrl.package_files import CONFIG_DIR, PACKAGE
from instructrl.registry import Registry, modules
from instructrl.types import KEYFRAME

Architecture = dict[str, Any]  # what is recorded with the weights of an encoder, as values of JSON
# Settings of how an encoder is used, which may differ from those that its weights were trained with.
USES = (
    *("name", "kind", "text", "joint", "layers", "pooling", "frozen", "weights", "tokenizer"),
    *("text_weights", "text_tokenizer"),
)
TEXT_ENCODERS = ("clip_b32", "clip_b16", "clip_l14", "siglip2_b16", "siglip2_so400m", "t5_base")  # of conf/encoder
# Kinds of tokenizers.
BYTE_PAIRS, SENTENCE_PIECES, UNIGRAMS = "CLIP's byte pairs", "Gemma's sentence pieces", "T5's sentence pieces"
Shapes = Mapping[str, tuple[int, ...]]  # of parameters, by their paths joined with slashes

ENCODERS: "Registry[type[EncoderConfig]]" = Registry(
    "encoder.kind",
    {
        "scratch_tiny": "instructrl.config.encoders:ScratchTinyConfig",
        "m3ae": "instructrl.config.encoders:M3AEConfig",
        "clip": "instructrl.config.encoders:ClipConfig",
        "dinov2": "instructrl.config.encoders:Dinov2Config",
        "siglip2": "instructrl.config.encoders:Siglip2Config",
        "t5": "instructrl.config.encoders:T5Config",
        "sentence": "instructrl.config.encoders:SentenceConfig",
        **modules("instructrl.models.encoders", PACKAGE / "models" / "encoders", suffix="Config"),
    },
    group="instructrl.encoders",
    base="instructrl.config.model:EncoderConfig",
    check=check_settings,
)
HEADS: "Registry[type[HeadConfig]]" = Registry(
    "head.kind",
    {
        "regression": "instructrl.config.heads:RegressionConfig",
        "discrete": "instructrl.config.heads:DiscreteConfig",
        "spatial": "instructrl.config.heads:SpatialConfig",
        "chunk": "instructrl.config.heads:ChunkConfig",
        "flow": "instructrl.config.heads:FlowConfig",
        **modules("instructrl.models.heads", PACKAGE / "models" / "heads", suffix="Config"),
    },
    group="instructrl.heads",
    base="instructrl.config.model:HeadConfig",
    check=check_settings,
)


@dataclass
class EncoderConfig:
    """Encoder of images and the instruction: the settings of all kinds, of which each is a subclass with its own.

    An encoder of another package is a subclass, named by an entry point in the group `instructrl.encoders`, a flax
    module called as `module(config, vocabulary_size, dtype, execution)`, and encoder/NAME.yaml (see cli/folders.py):

        @dataclass
        class GatedConfig(EncoderConfig):
            implementation: ClassVar[str] = "acme_robots.gated_module:Gated"  # apart, so that a typo needs no jax

            gates: int = number(4, low=1, high=64, help="gates of each patch")

    One of InstructRL's own is the file models/encoders/gated.py with both classes, and conf/encoder/gated.yaml.
    """

    implementation: ClassVar[str] = ""  # "module:class" of the flax module
    fuses_text: ClassVar[bool] = True  # an image's features depend on the instruction, unless text=false
    reads_text: ClassVar[bool] = True  # has a part that reads the instruction
    reads_images: ClassVar[bool] = True  # false: only as the encoder of text beside one of images
    has_class_token: ClassVar[bool] = False  # can pool an image by a token of its own
    masks_patches: ClassVar[bool] = False  # can be pretrained by objective=masked_pretraining
    tokens: ClassVar[str] = ""  # the only kind of tokenizer that it reads, such as BYTE_PAIRS; "": any
    constants: ClassVar[Mapping[str, Any]] = {}  # of the architecture and preprocessing, which are no settings

    name: str = setting(help="label of the encoder in names of runs")
    kind: str = kind_of(ENCODERS, help="architecture")
    dim: int = number(low=8, high=4096, help="width of patch tokens and of pooled features")
    depth: int = number(low=0, high=64, help="transformer blocks after the patch embedding")
    patch_size: int = number(low=4, high=64, help="patch side in pixels; must divide the image size")
    image_size: int | None = number(
        None, low=16, high=1024, help="side in pixels to which images are resized; null: unchanged"
    )
    text: Any = flag_or_word(
        *TEXT_ENCODERS, default=True, help="condition on the instruction; a name: read it by that encoder's text tower"
    )
    layers: Any = choice_or_integers(
        "all", "last", default="last", low=0, high=63, help="layers whose pooled outputs are concatenated"
    )
    pooling: str = one_of(
        "mean",
        "slots",
        "cls",
        default="mean",
        help="what the policy reads of an image: mean of its tokens, class token, or mean and slots of attention",
    )
    frozen: bool = setting(False, help="keep the encoder's weights fixed")
    weights: str | None = setting(
        None, help="file written by data_tools.weights; shipped: InstructRL's own; null: random initialization"
    )
    tokenizer: str = setting(
        "small",
        help="small: InstructRL's vocabulary; else a Hugging Face name, a tokenizer.json, vocab.txt, .model or folder",
    )
    text_weights: str | None = setting(
        None, help="weights of the encoder that text names; null: where they are fetched to, or random like the others"
    )
    text_tokenizer: str | None = setting(None, help="tokenizer of the encoder that text names; null: the published one")
    text_length: int = number(32, low=2, high=512, help="maximum instruction length in tokens")

    @property
    def reads_jointly(self) -> bool:
        """True if the features of an image depend on the instruction."""
        return self.text is True and self.fuses_text

    @property
    def parts(self) -> "dict[str, EncoderConfig]":
        """Settings of the encoders of image and text if `text` names another one; else empty."""
        if not isinstance(self.text, str):
            return {}
        other = named_encoder(self.text)
        weights = self.weights and (self.text_weights or other.weights)
        tokenizer, layers = self.text_tokenizer or other.tokenizer, list(text_layers(self, other.depth))
        reader = replace(other, weights=weights, tokenizer=tokenizer, layers=layers)
        return {"image": replace(self, text=False, text_weights=None, text_tokenizer=None), "text": reader}

    @property
    def reader(self) -> "EncoderConfig":
        """Settings of the encoder that reads the instruction."""
        return self.parts.get("text", self)

    @property
    def repository(self) -> str | None:
        """The Hugging Face repository of its published weights; None: there is none."""
        return None

    @classmethod
    def infer_sizes(cls, shapes: Shapes) -> dict[str, int]:
        """Settings, and `vocabulary`, as far as the shapes of the parameters determine them; none by default."""
        del shapes
        return {}

    def table_rows(self, vocabulary: int) -> int:
        """Rows of the table of token embeddings for a vocabulary of this size."""
        return vocabulary

    def architecture(self, *, vocabulary: int, rendered_size: int) -> Architecture:
        """Architecture and preprocessing, to be recorded with weights that were trained with these settings.

        Args:
            vocabulary: number of entries of the tokenizer's vocabulary.
            rendered_size: side in pixels of the images that the encoder was given.
        """
        values = {entry.name: getattr(self, entry.name) for entry in fields(self) if entry.name not in USES}
        size = self.image_size or rendered_size
        return {**values, **self.constants, "image_size": size, "vocabulary": vocabulary, "lower_case": True}

    def check(self, rendered_size: int) -> None:
        """Raise InputError if sizes do not fit together, or not to camera images of `rendered_size` pixels."""
        patch, size = self.patch_size, self.image_size or rendered_size
        key = "encoder.image_size" if self.image_size else "sim.image_size"
        if self.pooling == "cls" and not self.has_class_token:
            raise InputError(f"encoder.pooling: found cls; allowed for encoder.kind={self.kind}: mean, slots")
        if self.text is True and not self.reads_text:
            allowed = ", ".join(("false", *TEXT_ENCODERS))
            raise InputError(
                f"encoder.text: found true; allowed for encoder.kind={self.kind}, which reads images: {allowed}"
            )
        for own in ("text_weights", "text_tokenizer"):
            if getattr(self, own) is not None and not isinstance(self.text, str):
                raise InputError(
                    f"encoder.{own}: found {getattr(self, own)}; allowed: null, or name its encoder, such as "
                    f"encoder.text={TEXT_ENCODERS[3]}"
                )
        if self.text_weights is not None and self.weights is None:
            raise InputError(
                f"encoder.text_weights: found {self.text_weights}; allowed: null with encoder.weights=null, which "
                "takes random ones for both"
            )
        if size % patch:
            raise InputError(f"{key}: found {size}; allowed: a multiple of encoder.patch_size={patch}")
        pooled_layers(self)


@dataclass
class PolicyConfig:
    """Causal transformer over the steps of an episode."""

    name: str = setting(help="label of the policy in names of runs")
    dim: int = number(low=8, high=4096, help="model width")
    depth: int = number(low=1, high=64, help="transformer blocks")
    heads: int = number(low=1, high=64, help="attention heads; must divide policy.dim")
    mlp_ratio: float = number(4.0, low=0.25, high=16, help="hidden width of the MLPs relative to policy.dim")
    window: int | None = number(None, low=1, high=1_000_000, help="context length in steps; null: the whole episode")


@dataclass
class HeadConfig:
    """Action head on the policy's output token: the settings of all kinds, of which each is a subclass with its own.

    A head of another package is a subclass, named by an entry point in the group `instructrl.heads`, a flax module
    called as `module(config, workspace, dtype)` with the methods of those in models/heads, and a file head/NAME.yaml:

        @dataclass
        class GaussianConfig(HeadConfig):
            implementation: ClassVar[str] = "acme_robots.gaussian_module:Gaussian"

            smallest_variance: float = number(1e-4, above=0, high=1, help="lower bound of the variance")

    One of InstructRL's own is the file models/heads/gaussian.py with both classes, and conf/head/gaussian.yaml.
    """

    implementation: ClassVar[str] = ""  # "module:class" of the flax module
    reads_cameras: ClassVar[bool] = False  # needs camera matrices
    has_heatmaps: ClassVar[bool] = False  # its method `heatmaps` gives the shares of patches, float [B T K P]
    draws_noise: ClassVar[bool] = False  # its loss is also given seeds of the sequences, uint32 [B, 2]
    actions: ClassVar[str] = KEYFRAME  # that it predicts; dense ones: those of subclasses of `ChunkConfig`

    name: str = setting(help="label of the head in names of runs")
    kind: str = kind_of(HEADS, help="parameterization of the action")
    dim: int = number(128, low=8, high=4096, help="hidden width of the head")
    rotation_weight: float = number(4.0, low=0, help="weight of the rotation loss")
    gripper_weight: float = number(1.0, low=0, help="weight of the gripper loss")
    collision_weight: float = number(1.0, low=0, help="weight of the loss of the collision flag, where actions have it")

    @property
    def reads_patches(self) -> bool:
        """True if the head reads patch features."""
        return False


@functools.cache
def named_encoder(name: str) -> EncoderConfig:
    """The settings of an encoder option of InstructRL, conf/encoder/NAME.yaml."""
    from omegaconf import OmegaConf  # here, since a simulator's own interpreter does not have it

    values: Any = OmegaConf.to_container(OmegaConf.load(CONFIG_DIR / "encoder" / f"{name}.yaml"))
    return ENCODERS[values["kind"]](**values)


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


def text_layers(encoder: EncoderConfig, depth: int) -> tuple[int, ...]:
    """Indices of a text tower's layers at the relative depths of the chosen image layers, without duplicates.

    Args:
        encoder: the settings of the image tower.
        depth: the number of the text tower's blocks.
    """
    share = depth / max(encoder.depth, 1)
    return tuple(dict.fromkeys(math.ceil((index + 1) * share) - 1 for index in pooled_layers(encoder)))
