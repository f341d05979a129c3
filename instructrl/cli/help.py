"""The help of commands and tools: flags, groups, and all settings with their meanings and allowed values."""

import re
import textwrap
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, TypeVar

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from instructrl.cli.args import parse_settings
from instructrl.cli.compose import merge, schema_of
from instructrl.cli.flags import FLAGS
from instructrl.cli.folders import faults
from instructrl.cli.launcher_words import split_launcher
from instructrl.cli.overrides import groups, options, read_override
from instructrl.config.fields import format_value, leaves, summarize_allowed
from instructrl.config.kinds import registries
from instructrl.config.launcher import LaunchConfig

HELP_WIDTH, MAX_HELP_COLUMN = 116, 44  # characters of a line of the help, and before the meaning of a setting
T = TypeVar("T")


def help_text(config_name: str, schema: type, words: Sequence[str], *, about: str) -> str:
    """Help of a command: description, flags, option groups, and all settings with their values under `words`."""
    overrides, launcher_words = split_launcher(words)
    schema = schema_of(config_name, schema, overrides)
    config = merge(config_name, schema, overrides)
    chosen: dict[str, Any] = dict(groups(config_name))
    chosen |= {o.key_or_group: o.value() for o in map(read_override, overrides) if o.key_or_group in chosen}
    known = {group: [f"[{name}]" if name == chosen[group] else name for name in options(group)] for group in chosen}
    lines = [about.strip(), "", "Flags", *format_table(FLAGS)]
    lines += ["", "Groups: group=option, [current option]", *format_table({key: " ".join(known[key]) for key in known})]
    lines += ["", "Settings: key=current value, meaning [allowed values]", *settings_in_use(config, schema)]
    added = {f"{one.key}={name}": text for one in registries(schema).values() for name, text in one.added().items()}
    if added or faults():
        lines += ["", "Installed packages", *format_table(added), *(f"  {fault}" for fault in faults())]
    lines += ["", *wrap(f"Launchers: launcher=profile, one of {', '.join(options('launcher'))}", HELP_WIDTH)]
    if len(overrides) < len(words):
        lines += settings_in_use(merge("launch", LaunchConfig, launcher_words), LaunchConfig)
    else:
        lines += ["  with launcher=profile beside --help, its settings are listed too"]
    return "\n".join(lines)


def settings_in_use(config: DictConfig, schema: type) -> list[str]:
    """Help lines of all settings of a schema with their values in a composed configuration."""
    return format_settings(schema, {key: current_value(config, key) for key in leaves(schema)})


def current_value(config: DictConfig, key: str) -> str:
    """The value of a setting as it would be typed; ??? if it has none."""
    try:
        value: Any = OmegaConf.select(config, key, throw_on_missing=True)
    except OmegaConfBaseException:
        return "???"
    value = OmegaConf.to_container(value) if OmegaConf.is_config(value) else value
    if not isinstance(value, list):
        return format_value(value)
    items = [item if re.fullmatch(r"\S*[^\s)]", item) else f'"{item}"' for item in map(format_value, value)]
    return f"[{','.join(items)}]"


def tool_help(about: str | None, schemas: Mapping[str, type]) -> str:
    """Help of a tool: description, and the settings of each command; "" is the name of an only one."""
    lines = [(about or "").strip()]
    for command, schema in schemas.items():
        lines += ["", f"{command} key=value: meaning [allowed values]".strip(), *format_settings(schema)]
    return "\n".join(lines)


def tool_settings(words: Sequence[str], schema: type[T], *, prog: str, about: str | None) -> T:
    """The settings of a tool with one command, from its command line; --help is answered and ends the program.

    Raises:
        InputError: as `parse_settings`.
    """
    if {"--help", "-h"} & set(words):
        print(tool_help(about, {"": schema}))
        raise SystemExit(0)
    return parse_settings(words, schema, prog=prog)


def format_settings(schema: type, values: Mapping[str, str] = MappingProxyType({})) -> list[str]:
    """Help lines of all settings of a schema: key (and value), then meaning and [allowed values], wrapped beside it."""
    entries, lines = leaves(schema), []
    left = {key: f"  {key}={values[key]}" if key in values else f"  {key}" for key in entries}
    column = min(MAX_HELP_COLUMN, 2 + max(map(len, left.values())))
    for key, entry in entries.items():
        right = wrap(f"{entry.metadata.get('help', '')} [{summarize_allowed(entry)}]", HELP_WIDTH - column)
        first = left[key] if len(left[key]) > column - 2 else f"{left[key]:<{column}}{right.pop(0)}"
        lines += [first, *(" " * column + line for line in right)]
    return lines


def format_table(rows: dict[str, str]) -> list[str]:
    """Lines of two aligned columns, the second one wrapped."""
    indent = max(map(len, rows), default=0) + 4
    lines = []
    for key, text in rows.items():
        first, *more = wrap(text, HELP_WIDTH - indent) or [""]
        lines += [f"  {key:<{indent - 2}}{first}", *(" " * indent + line for line in more)]
    return lines


def wrap(text: str, width: int) -> list[str]:
    """A text broken into lines between words only."""
    return textwrap.wrap(text, width, break_long_words=False, break_on_hyphens=False)
