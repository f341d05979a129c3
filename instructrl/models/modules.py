"""Flax modules that settings name, which may be of another package: made, and what they return is checked.

The checks look at shapes and dtypes alone, while a computation is traced: a compiled step does not contain them.
"""

from collections.abc import Mapping
from typing import Any, Protocol

import flax.linen as nn
import jax.numpy as jnp

from instructrl.config.model import EncoderConfig, HeadConfig
from instructrl.errors import REPAIR, InputError, form, format_value, place_in_package
from instructrl.interface import check_interface, class_name
from instructrl.registry import load_implementation
from instructrl.types import Features

Shape = tuple[int | str, ...]  # of an array; a text names a dimension of any size, such as "G" or "F > 0"


class EncoderMethods(Protocol):
    """Methods of an encoder that an agent calls."""

    def __call__(self, images: Any, tokens: Any, text_padding_mask: Any) -> Features: ...


class HeadMethods(Protocol):
    """Methods of a head that an agent calls."""

    def __call__(self, hidden: Any, patches: Any, cameras: Any) -> Any: ...

    def targets(self, actions: Any, cameras: Any) -> Any: ...

    def loss(self, predicted: Any, targets: Any) -> Any: ...

    def decode(self, predicted: Any, cameras: Any) -> Any: ...

    def heatmaps(self, predicted: Any) -> Any: ...


class NoisyHeadMethods(Protocol):
    """Methods that take other arguments where a head declares `draws_noise`."""

    def loss(self, predicted: Any, targets: Any, *, seeds: Any) -> Any: ...


def make_module(config: EncoderConfig | HeadConfig, **arguments: Any) -> nn.Module:
    """Make the module that the settings of an encoder or a head name.

    Args:
        config: the settings.
        arguments: what follows in a call of the module's class, in this order.

    Raises:
        InputError: it cannot be imported or made of these, is no flax module, or lacks a method.
    """
    group = "encoder" if isinstance(config, EncoderConfig) else "head"
    make = load_implementation(f"{group}.kind={config.kind}", type(config))
    where = f"{group}.kind={config.kind}: {type(config).implementation.replace(':', '.')}"
    try:
        module = make(config, *arguments.values())
    except TypeError as error:
        if place_in_package(error):  # of its own code
            raise
        allowed = ", ".join(["config", *arguments])
        raise InputError(f"{where}: {error}; allowed: a class that is called with ({allowed}); {REPAIR}") from None
    if not isinstance(module, nn.Module):
        raise InputError(f"{where}: found {type(module).__name__}; allowed: a subclass of flax.linen.Module; {REPAIR}")
    methods: dict[type, tuple[str, ...]] = {EncoderMethods: ("__call__",)}
    if isinstance(config, HeadConfig):
        members = ("__call__", "targets", "decode", *["heatmaps"] * config.has_heatmaps)
        methods = {HeadMethods: (*members, *["loss"] * (not config.draws_noise))}
        methods |= {NoisyHeadMethods: ("loss",)} if config.draws_noise else {}
    try:
        for interface, members in methods.items():
            check_interface(type(module), interface, members=members)
    except InputError as error:
        raise InputError(f"{group}.kind={config.kind}: {error}; {REPAIR}") from None
    return module


def check_features(config: EncoderConfig, module: nn.Module, features: Any, *, views: Shape) -> Features:
    """Return what an encoder gives for images of `views` (B, T, K).

    Raises:
        InputError: it is not of the form of `Features`.
    """
    where = f"encoder.kind={config.kind}: what {class_name(type(module))} returns"
    if not isinstance(features, Features):
        names = ", ".join(Features._fields)
        raise InputError(f"{where}: found {form(features)}; allowed: instructrl.types.Features({names}); {REPAIR}")
    shapes: dict[str, Shape] = {
        "pooled": (*views, "F > 0"),
        "text": (views[0], "G"),
        "patches": (*views, "P > 0", "D > 0"),
    }
    for name, shape in shapes.items():
        value = getattr(features, name)
        if value is not None or name != "patches":
            check_array(f"{where}: {name}", value, shape, or_none=name == "patches")
    if config.text is True and not config.fuses_text and not features.text.shape[-1]:
        read = f"{type(config).__qualname__}.reads_text = False if it reads none"
        raise InputError(
            f"{where}: text: found {form(features.text)}, so that nothing reads the instruction; allowed: "
            f"encoder.text=false, or features of the instruction (or {read}); {REPAIR}"
        )
    return features


def check_of_head(config: HeadConfig, module: nn.Module, name: str, value: Any, shape: Shape) -> Any:
    """Return the array that a head's method `name` gives, or a dict of arrays by the names of metrics.

    Raises:
        InputError: it is no array of floats of this shape; metrics may also be integers or truth values.
    """
    where = f"head.kind={config.kind}: what {class_name(type(module))}.{name} returns"
    if name == "error_parts":
        if not isinstance(value, Mapping) or not all(isinstance(key, str) for key in value):
            raise InputError(f"{where}: found {form(value)}; allowed: a dict of arrays by name; {REPAIR}")
        for key, part in value.items():
            check_array(f"{where}: {format_value(key)}", part, shape, of="numbers")
    else:
        check_array(where, value, shape)
    return value


def check_array(where: str, value: Any, shape: Shape, *, of: str = "floats", or_none: bool = False) -> None:
    """Raise InputError unless a value is an array of "floats" or "numbers" of a shape."""
    found: tuple[int, ...] | None = getattr(value, "shape", None)
    fits = found is not None and len(found) == len(shape)
    fits = fits and all(fits_size(size, one) for size, one in zip(found or (), shape, strict=True))
    kinds = {"floats": (jnp.floating,), "numbers": (jnp.number, jnp.bool_)}[of]
    if not fits or not any(jnp.issubdtype(value.dtype, kind) for kind in kinds):
        allowed = f"{of}({', '.join(map(str, shape))}){' or None' * or_none}"
        raise InputError(f"{where}: found {form(value)}; allowed: {allowed}; {REPAIR}")


def fits_size(size: int, wanted: int | str) -> bool:
    """True if a dimension of an array is of the wanted size, or as its name says: of any, or above 0."""
    return size == wanted if isinstance(wanted, int) else size > 0 or not wanted.endswith("> 0")
