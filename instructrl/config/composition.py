"""Configurations as OmegaConf composes them: former names, groups replaced by a value, and its errors in one line."""

import re
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import InterpolationResolutionError, OmegaConfBaseException, ValidationError

from instructrl.config.fields import (
    RENAMED_KEYS,
    RENAMED_VALUES,
    describe_allowed,
    group_keys,
    invalid_value,
    known_keys,
    leaves,
    subdict,
    unknown_key,
)
from instructrl.errors import InputError, format_value

INTERPOLATION_ADVICE = "${...} takes the key of another setting, or ${oc.env:NAME}"


def with_current_names(config: DictConfig) -> DictConfig:
    """A recorded configuration with former names of settings and values replaced by the current ones.

    A former name beside the current one is left as it is, so that `resolve` refuses it.
    """
    values = OmegaConf.to_container(config)
    for former, current in RENAMED_KEYS.items():
        *groups, last = former.split(".")
        name = current.rpartition(".")[2]
        part = subdict(values, groups)
        if last in part and name not in part:
            part[name] = part.pop(last)
    for key, table in RENAMED_VALUES.items():
        *groups, last = key.split(".")
        part = subdict(values, groups)
        if isinstance(part.get(last), list):
            part[last] = [table.get(item, item) if isinstance(item, str) else item for item in part[last]]
        elif isinstance(part.get(last), str):
            part[last] = table.get(part[last], part[last])
    return OmegaConf.create(values)  # type: ignore[arg-type,return-value]


def check_mappings(config: DictConfig, schema: type) -> None:
    """Raise InputError for a group that an untyped configuration replaces by a value, or refers to one."""
    for group in sorted(group_keys(schema)):
        value = OmegaConf.select(config, group, default={})
        if not isinstance(value, dict | DictConfig):
            below = (key.removeprefix(f"{group}.") for key in leaves(schema) if key.startswith(f"{group}."))
            known = ", ".join(dict.fromkeys(f"{group}.{key.partition('.')[0]}" for key in below))
            found = format_value(list(value) if isinstance(value, ListConfig) else value)
            raise InputError(f"{group}: found {found}; allowed: its settings {known}", key=group)


def explain(
    error: OmegaConfBaseException, schema: type, inputs: Mapping[str, Any] = MappingProxyType({})
) -> InputError:
    """An InputError for an OmegaConf error: the key, what was found (its value in `inputs`) and what is allowed."""
    key = re.sub(r"\[.*", "", error.full_key or "")
    message = str(error.msg or error).splitlines()[0]
    entry = leaves(schema).get(key)
    if key and key not in known_keys(schema):
        return InputError(unknown_key(key, schema), key=key)
    if "missing mandatory value" in message.lower():
        allowed = describe_allowed(entry) if entry else "its settings"
        return InputError(f"{key}: no value given; write {key}=...; allowed: {allowed}", key=key)
    if isinstance(error, InterpolationResolutionError) and not isinstance(error, ValidationError):
        former = next((name for name in RENAMED_KEYS if f"'{name}'" in message), None)
        advice = f"{former} is now called {RENAMED_KEYS[former]}" if former else INTERPOLATION_ADVICE
        return InputError(f"{key or 'configuration'}: {message}; {advice}", key=key)
    if entry is None:
        return InputError(f"{key or 'configuration'}: {message}; see --help for the settings", key=key)
    if key in inputs:
        found = inputs[key]
    else:
        value = re.search(r"[Vv]alue '(.*)' (?:of type|for field|is not|\()", message)
        found = None if "not Optional" in message or (value and value[1] == "None") else value[1] if value else message
    return invalid_value(key, found, entry)
