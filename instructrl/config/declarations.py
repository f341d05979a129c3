"""Checks of the dataclasses in which encoders, heads and simulators declare their settings.

Made when a class is loaded: what OmegaConf, the help or a comparison with the command line cannot use would fail later,
with an error that names none of them. It needs no package, like `fields.py`.
"""

import dataclasses
import re
import types
import typing
from dataclasses import Field
from typing import Any, ClassVar

from instructrl.config.fields import MISSING, check_field, is_group, is_pairs, is_union, unwrap_optional
from instructrl.errors import InputError, format_value, summarize
from instructrl.interface import PROPERTIES, check_interface, class_name

ITEMS = (int, float, bool, str)
ALLOWED_TYPES = "int, float, bool, str or a list such as list[int], each also with | None; one_of(...) for a choice"
EXAMPLE = 'as by number(2, low=1, help="...")'


def check_settings(schema: type, base: type) -> None:
    """Check a dataclass of settings; types that are written as texts are replaced by themselves.

    Args:
        schema: the class.
        base: the dataclass of which it is a subclass.

    Raises:
        InputError: the first attribute that cannot be used as declared.
    """
    name = class_name(schema)
    for part in schema.__mro__[: schema.__mro__.index(base)]:
        check_is_dataclass(part, schema, base)
    hints, expected = resolve_types(schema), typing.get_type_hints(base)
    for key, kind in expected.items():
        if typing.get_origin(kind) is ClassVar:
            check_constant(f"{name}.{key}", key, schema, typing.get_args(kind)[0])
        elif key in hints and not options(hints[key]) <= options(kind) and Any not in options(kind):
            found = f"the type {type_name(hints[key])}"
            raise InputError(f"{name}.{key}: found {found}; allowed: that of {base.__name__}, {type_name(kind)}")
    for entry in dataclasses.fields(schema):
        check_declaration(f"{name}.{entry.name}", entry)
    try:
        schema()
    except Exception as error:  # of its own __init__ or __post_init__
        then = f"settings without a default are {MISSING!r} then"
        raise InputError(f"{name}: cannot be made without arguments ({summarize(error)}); {then}") from None
    check_interface(schema, base)


def resolve_types(schema: type) -> dict[str, Any]:
    """Replace types of fields that are texts, as after `from __future__ import annotations`; return those of all names.

    Raises:
        InputError: a text names no type.
    """
    try:
        hints = typing.get_type_hints(schema)
    except Exception as error:
        raise InputError(f"{class_name(schema)}: found a type that cannot be read ({summarize(error)})") from None
    for entry in dataclasses.fields(schema):
        entry.type = hints[entry.name]
    return hints


def check_is_dataclass(part: type, schema: type, base: type) -> None:
    """Raise InputError for a class whose attributes are no settings, although they look like some."""
    own, name = vars(part), class_name(part)
    annotations = own.get("__annotations__", {}) if issubclass(part, base) else {}  # others may describe settings
    typed = {key for key, kind in annotations.items() if "ClassVar" not in str(kind)}
    if "__dataclass_fields__" not in own and (typed or any(isinstance(value, Field) for value in own.values())):
        raise InputError(f"{name}: found a class without @dataclass; allowed: with it, since it declares settings")
    for entry in dataclasses.fields(schema):
        is_slot = isinstance(own.get(entry.name), types.MemberDescriptorType)
        if entry.name in own and entry.name not in own.get("__annotations__", {}) and not is_slot:
            raise InputError(
                f"{name}.{entry.name}: found {format_value(own[entry.name])} without a type, which is no default of "
                f"the setting; allowed: with its type, as in {entry.name}: {type_name(entry.type)} = ..."
            )


def check_constant(where: str, key: str, schema: type, kind: Any) -> None:
    """Raise InputError unless an attribute of the class itself is of its type."""
    value = getattr(schema, key)
    if key in {entry.name for entry in dataclasses.fields(schema)}:
        raise InputError(f"{where}: found a setting; allowed: {key}: ClassVar[{type_name(kind)}], which nobody sets")
    if isinstance(value, PROPERTIES) and key != "implementation":
        return  # which follows from settings
    if not isinstance(value, typing.get_origin(kind) or kind):
        raise InputError(f"{where}: found {format_value(value)}; allowed: {type_name(kind)}")
    if key == "implementation" and not re.fullmatch(r"\w+(\.\w+)*:\w+", value):
        raise InputError(f'{where}: found {format_value(value)}; allowed: a text "module:class"')


def check_declaration(where: str, entry: Field) -> None:
    """Raise InputError unless a field has a type that settings can have, and a default of this type."""
    if is_group(entry):
        group = typing.cast(Any, entry.type)
        resolve_types(group)
        for below in dataclasses.fields(group):
            check_declaration(f"{where}.{below.name}", below)
        return
    if not is_type_of_setting(entry):
        raise InputError(f"{where}: found the type {type_name(entry.type)}; allowed: {ALLOWED_TYPES}")
    if entry.default is dataclasses.MISSING and entry.default_factory is dataclasses.MISSING:
        raise InputError(f"{where}: found no default; allowed: one, {EXAMPLE}; setting() has none, but must be given")
    made = entry.default_factory is not dataclasses.MISSING
    default = typing.cast(Any, entry.default_factory)() if made else entry.default
    kind, optional = unwrap_optional(entry)
    if default == MISSING:
        return
    if not (optional if default is None else fits(default, kind)):
        raise InputError(f"{where}: found the default {default!r}; allowed: {type_name(entry.type)}")
    if default is not None:
        check_field(where, list(default) if isinstance(default, tuple) else default, entry)


def is_type_of_setting(entry: Field) -> bool:
    """True if a field's type is one that settings can have, with the constraints of the field."""
    limits = entry.metadata
    kinds = options(entry.type) - {type(None)}
    if len(kinds) != 1:
        return False
    [kind] = kinds
    if kind is Any:
        return "integers" in limits or "flag" in limits
    if typing.get_origin(kind) is dict:
        return is_pairs(entry)
    [item] = typing.get_args(kind) if typing.get_origin(kind) is list else [kind]
    return item in ITEMS and ("low" not in limits or item in (int, float))


def fits(value: Any, kind: Any) -> bool:
    """True if a value is of a type that settings can have."""
    if typing.get_origin(kind) is list:
        return isinstance(value, list | tuple) and all(fits(item, typing.get_args(kind)[0]) for item in value)
    if kind in (int, float):
        return isinstance(value, int if kind is int else int | float) and not isinstance(value, bool)
    return kind is Any or isinstance(value, typing.get_origin(kind) or kind)


def options(kind: Any) -> set[Any]:
    """The types that a type with | has; one for others."""
    return set(typing.get_args(kind)) if is_union(kind) else {kind}


def type_name(kind: Any) -> str:
    """A type as it is written."""
    return kind.__name__ if isinstance(kind, type) and not typing.get_args(kind) else str(kind).replace("typing.", "")
