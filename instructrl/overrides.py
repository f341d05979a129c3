"""What is written on a command line, read and checked before Hydra composes it.

Hydra's grammar (`key=value`, `key=1,2`, `key=range(0,4)`) decides how a text is read. What Hydra would take
but we have no use for (packages, deletions) is refused here, in one line.
"""

import functools
import sys
from collections.abc import Iterator, Sequence
from itertools import islice, product
from pathlib import Path
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, OverrideType, ValueType
from omegaconf import OmegaConf

from instructrl.errors import InputError
from instructrl.schema import known_keys, leaves, refusal, shown, unknown_key

CONFIG_DIR = Path(__file__).resolve().parent.parent / "conf"
MOST_JOBS = 1000
PLUGINS = ("hydra/launcher", "hydra.launcher.", "hydra/sweeper", "hydra.sweeper.")


@functools.cache
def groups(config_name: str) -> dict[str, str | None]:
    """The groups of a command and the options that it takes by default."""
    entries = OmegaConf.to_container(OmegaConf.load(CONFIG_DIR / f"{config_name}.yaml"))["defaults"]  # type: ignore
    pairs = [pair for entry in entries if isinstance(entry, dict) for pair in entry.items()]
    return {group: option for group, option in pairs if not group.startswith("override ")}


@functools.cache
def options(group: str) -> tuple[str, ...]:
    """The options of a group: the files in its folder."""
    return tuple(sorted(path.stem for path in (CONFIG_DIR / group).glob("*.yaml")))


def read_override(text: str) -> Override:
    """One word of the command line.

    Raises:
        InputError: it is not of the form key=value.
    """
    try:
        return OverridesParser.create().parse_override(text)
    except Exception:  # the grammar's visitors raise whatever the text makes them do
        raise InputError(
            f"{shown(text)}: cannot be read as key=value (see --help); "
            "quote special characters twice, like 'output_dir=\"a (b)\"'"
        ) from None


def check_override(text: str, config_name: str, schema: type) -> None:
    """Raise InputError if a word does not set a setting, or a group to one of its options."""
    override = read_override(text)
    key = override.key_or_group
    if key.startswith(PLUGINS):
        return
    if key == "hydra" or key.startswith(("hydra.", "hydra/")):
        raise InputError(
            f"{key}: of Hydra's own only launcher and sweeper can be set; a run's place is output_dir/name"
        )
    if override.package is not None:
        raise InputError(f"{shown(text)}: groups stay where they are; write {key}=... without @")
    known = groups(config_name)
    if key not in known and key not in known_keys(schema):
        raise InputError(unknown_key(key, schema))
    if override.type is OverrideType.DEL:
        raise InputError(f"{shown(text)}: nothing can be taken away; give {key} another value")
    if override.type is not OverrideType.CHANGE:
        raise InputError(f"{shown(text)}: {key} is there already; write {key}=... without +")
    if override.is_sweep_override():
        raise InputError(f"{key}: found several values; add --multirun for one run each, or write a list as [a,b]")
    value = override.value()
    if key in known:
        check_option(key, value, optional=known[key] is None)
    else:
        check_branch(key, value, schema)


def check_option(group: str, value: Any, *, optional: bool) -> None:
    """Raise InputError if a group has no such option."""
    if not (value in options(group) if isinstance(value, str) else value is None and optional):
        choices = [*options(group), *(["null"] if optional else [])]
        raise InputError(f"{group}: found {shown(value)}; allowed: {', '.join(choices)}")


def check_branch(key: str, value: Any, schema: type) -> None:
    """Raise InputError if a value is none for a setting, or one for several at once is not a dict of such settings."""
    settings, known = leaves(schema), known_keys(schema)
    if key not in known:
        raise InputError(unknown_key(key, schema))
    if key in settings:
        if isinstance(value, dict) or any(map(too_large, value if isinstance(value, list) else [value])):
            raise refusal(key, value, settings[key])
    elif not isinstance(value, dict):
        below = [one for one in settings if one.startswith(key + ".")]
        raise InputError(f"{key}: found {shown(value)}; allowed: its settings {', '.join(below)}")
    else:
        for name, item in value.items():
            check_branch(f"{key}.{name}", item, schema)


def too_large(value: Any) -> bool:
    """Whether a value is an integer that is no number of the machine: OmegaConf would fail on it."""
    return isinstance(value, int) and abs(value) > sys.float_info.max


def jobs(texts: Sequence[str]) -> list[list[str]]:
    """The overrides of every run that a sweep asks for, the last one varying fastest.

    Raises:
        InputError: a sweep that cannot be enumerated, or far too many runs.
    """
    found = [list(job) for job in islice(product(*map(variants, texts)), MOST_JOBS + 1)]
    if len(found) > MOST_JOBS:
        raise InputError(f"--multirun: found more than {MOST_JOBS} runs; allowed: at most so many in one command")
    return found


def variants(text: str) -> list[str]:
    """The overrides that a word with several values stands for."""
    override = read_override(text)
    if not override.is_sweep_override():
        return [text]
    key = override.get_key_element()
    if not override.is_discrete_sweep() or override.value_type is ValueType.GLOB_CHOICE_SWEEP:
        raise InputError(f"{shown(text)}: cannot be counted out; allowed: {key}=a,b or {key}=range(0,4)")
    values: Iterator[str] = islice(override.sweep_string_iterator(), MOST_JOBS + 1)
    return [f"{key}={value}" for value in values]
