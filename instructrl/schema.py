"""What a dataclass of settings allows, and the one line that says so when a setting is wrong.

A field's type and its metadata (`one_of`, `number`, `words`, ...) say what it takes; nothing here knows which
settings there are.
"""

import dataclasses
import difflib
import math
import re
import typing
from collections.abc import Iterable, Mapping
from dataclasses import Field, field
from types import MappingProxyType, UnionType
from typing import Any

from omegaconf import MISSING
from omegaconf.errors import InterpolationResolutionError, OmegaConfBaseException, ValidationError

from instructrl.errors import InputError

LONGEST_TEXT = 1000  # characters
KINDS = {int: "an integer", float: "a number", bool: "true or false", str: "a text in one line, not empty"}


def one_of(*choices: str, default: Any = MISSING) -> Any:
    """A field that takes one of the given words."""
    return field(default=default, metadata={"choices": choices})


def number(default: Any = MISSING, *, low: float = -math.inf, high: float = math.inf, above: float = -math.inf) -> Any:
    """A field that takes a finite number with low <= number <= high and number > above."""
    return field(default=default, metadata={"low": low, "high": high, "above": above})


def words(*default: str, choices: tuple[str, ...]) -> Any:
    """A field that takes a list of distinct words, at least one."""
    return field(default_factory=lambda: list(default), metadata={"choices": choices})


def numbers(*, low: float = -math.inf, high: float = math.inf, above: float = -math.inf) -> Any:
    """A field that takes a list of numbers, each as `number` takes one, or null."""
    return field(default=None, metadata={"low": low, "high": high, "above": above})


def words_or_numbers(*choices: str, default: str, low: int, high: int) -> Any:
    """A field that takes one of the given words, or a list of distinct integers with low <= integer <= high.

    Its type must be Any, which stands for `str | list[int]`: OmegaConf has no such union.
    """
    return field(default=default, metadata={"choices": choices, "integers": range(low, high + 1)})


def is_group(entry: Field) -> bool:
    """Whether a field holds further settings."""
    return isinstance(entry.type, type) and dataclasses.is_dataclass(entry.type)


def leaves(schema: type, prefix: str = "") -> dict[str, Field]:
    """Every setting of a schema by its dotted key."""
    found: dict[str, Field] = {}
    for entry in dataclasses.fields(schema):
        key = prefix + entry.name
        found |= leaves(typing.cast(type, entry.type), key + ".") if is_group(entry) else {key: entry}
    return found


def known_keys(schema: type) -> list[str]:
    """Every dotted key of a schema, groups included."""
    settings = list(leaves(schema))
    return sorted({key.rpartition(".")[0] for key in settings if "." in key} | set(settings))


def allowed(entry: Field) -> str:
    """What a field takes, in words."""
    kind, optional = plain_type(entry)
    limits = entry.metadata
    if "integers" in limits:
        among = f"integers from {limits['integers'][0]} to {limits['integers'][-1]}"
        text = f"{', '.join(limits['choices'])}, or a list of {among}, without repetition"
    elif typing.get_origin(kind) is list and "low" in limits:
        text = f"a list of numbers {bounds(limits)}"
    elif typing.get_origin(kind) is list:
        [item] = typing.get_args(kind)
        example = "[0,1]" if item is int else "[a,b]"
        of = f"of {', '.join(limits['choices'])}" if "choices" in limits else f"like {example}"
        text = f"a list {of}, without repetition"
    elif "choices" in limits:
        text = ", ".join(limits["choices"])
    else:
        text = f"{KINDS[kind]} {bounds(limits)}".strip()
    return f"{text}, or null" if optional else text


def bounds(limits: Mapping[str, Any]) -> str:
    """A field's bounds in words; empty without any."""
    low, high, above = (limits.get(name, math.inf) for name in ("low", "high", "above"))
    found = [f"at least {low:.12g}"] * math.isfinite(low) + [f"above {above:.12g}"] * math.isfinite(above)
    return " and ".join(found + [f"at most {high:.12g}"] * math.isfinite(high))


def plain_type(entry: Field) -> tuple[Any, bool]:
    """A field's type without `| None`, and whether it had that."""
    options = typing.get_args(entry.type) if isinstance(entry.type, UnionType) else (entry.type,)
    [kind] = [option for option in options if option is not type(None)]
    return kind, type(None) in options


def shown(value: Any) -> str:
    """A value as an error shows it: as one would type it, on one line, not too long."""
    if value is None or isinstance(value, bool):
        return "null" if value is None else str(value).lower()
    if isinstance(value, list):
        return shorter(f"[{', '.join(map(shown, value))}]")
    plain = isinstance(value, str) and value.isprintable() and value.strip() == value != ""
    try:
        text = value if plain else repr(value)
    except ValueError:  # Python prints no integers of more than 4300 digits
        return "a number of thousands of digits"
    return shorter(" ".join(text.split()))


def runs(numbers: Iterable[int]) -> list[tuple[int, int]]:
    """Increasing numbers as runs without a gap, the first and the last of each: 0, 1, 2, 5 are (0, 2), (5, 5)."""
    found: list[tuple[int, int]] = []
    for number in numbers:
        if found and number == found[-1][1] + 1:
            found[-1] = found[-1][0], number
        else:
            found.append((number, number))
    return found


def shorter(text: str) -> str:
    """A text of at most 80 characters."""
    return text if len(text) <= 80 else f"{text[:77]}..."


def refusal(key: str, value: Any, entry: Field) -> InputError:
    """The error for a value that a field does not take."""
    return InputError(f"{key}: found {shown(value)}; allowed: {allowed(entry)}")


def check_fields(config: Any, prefix: str = "") -> None:
    """Raise InputError naming the first field whose value lies outside what its metadata allow."""
    for entry in dataclasses.fields(config):
        key, value = prefix + entry.name, getattr(config, entry.name)
        if dataclasses.is_dataclass(value):
            check_fields(value, key + ".")
        elif value is not None or "integers" in entry.metadata:
            check_field(key, value, entry)


def check_field(key: str, value: Any, entry: Field) -> None:
    """Raise InputError if one value of the right type is out of bounds, not a choice, or no usable text."""
    limits = entry.metadata
    if "integers" in limits and isinstance(value, list):
        right = bool(value) and all(type(item) is int and item in limits["integers"] for item in value)
        right = right and len(set(value)) == len(value)
    elif isinstance(value, list) and "low" in limits:
        right = bool(value) and all(within(item, limits) for item in value)
    elif isinstance(value, list):
        right = bool(value) and all(isinstance(item, int | str) for item in value)
        right = right and len(set(value)) == len(value) and set(value) <= set(limits.get("choices", value))
    elif "choices" in limits:
        right = value in limits["choices"]
    elif "low" in limits:
        right = within(value, limits)
    else:
        right = not isinstance(value, str) or (value.strip() == value != "" and value.isprintable())
        right = right and (not isinstance(value, str) or len(value) <= LONGEST_TEXT)
    if not right:
        raise refusal(key, value, entry)


def within(value: Any, limits: Mapping[str, Any]) -> bool:
    """Whether a value is a finite number within a field's bounds."""
    finite = isinstance(value, int) or (isinstance(value, float) and math.isfinite(value))
    return finite and limits["low"] <= value <= limits["high"] and value > limits["above"]


def unknown_key(key: str, schema: type) -> str:
    """One line for a key that the schema does not have: the nearest known ones, or those beside it."""
    keys = known_keys(schema)
    near = difflib.get_close_matches(key, keys, n=2, cutoff=0.8)
    near = near or [known for known in keys if known.endswith(f".{key}")][:2]
    if near:
        return f"{shown(key)}: no such setting; did you mean {' or '.join(near)}?"
    parent = key
    while parent and parent not in keys:
        parent = parent.rpartition(".")[0]
    beside = [known for known in keys if known.rpartition(".")[0] == parent] or [parent]
    return f"{shown(key)}: no such setting; allowed {f'in {parent}' if parent else 'here'}: {', '.join(beside)}"


def explain(error: OmegaConfBaseException, schema: type, given: Mapping[str, Any] = MappingProxyType({})) -> str:
    """One line for an OmegaConf error: the key, what was found (or `given` by the user) and what is allowed."""
    key = re.sub(r"\[.*", "", error.full_key or "")
    message = str(error.msg or error).splitlines()[0]
    entry = leaves(schema).get(key)
    if key and key not in known_keys(schema):
        return unknown_key(key, schema)
    if "missing mandatory value" in message.lower():
        return f"{key}: no value given; write {key}=...; allowed: {allowed(entry) if entry else 'its settings'}"
    if isinstance(error, InterpolationResolutionError) and not isinstance(error, ValidationError):
        return f"{key or 'configuration'}: {message}; ${{...}} takes the key of another setting, or ${{oc.env:NAME}}"
    if entry is None:
        return f"{key or 'configuration'}: {message}; see --help for the settings"
    if key in given:
        found = given[key]
    else:
        value = re.search(r"[Vv]alue '(.*)' (?:of type|for field|is not|\()", message)
        found = None if "not Optional" in message or (value and value[1] == "None") else value[1] if value else message
    return f"{key}: found {shown(found)}; allowed: {allowed(entry)}"
