"""Overrides of a command line, parsed and validated before Hydra composes them.

Hydra's grammar (`key=value`, `key=1,2`, `key=range(0,4)`) decides how a text is read. Forms of it that
have no use here (packages, deletions, additions) are refused in one line.
"""

import functools
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice, product
from pathlib import Path
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, OverrideType, ValueType
from omegaconf import OmegaConf

from instructrl.cli.folders import added_folders, faults
from instructrl.config.fields import (
    format_value,
    invalid_value,
    is_pairs,
    known_keys,
    leaves,
    renamed_value,
    takes_words,
    unknown_key,
)
from instructrl.config.kinds import kinds_with
from instructrl.errors import InputError
from instructrl.package_files import CONFIG_DIR

MAX_JOBS = 1000
PLUGINS = ("hydra/launcher", "hydra.launcher", "hydra/sweeper", "hydra.sweeper")
TARGET = "_target_"  # key with which Hydra names a class or a function to call


@functools.cache
def groups(config_name: str) -> dict[str, str | None]:
    """The option groups of a command and their default options."""
    entries = OmegaConf.to_container(OmegaConf.load(CONFIG_DIR / f"{config_name}.yaml"))["defaults"]  # type: ignore
    pairs = [pair for entry in entries if isinstance(entry, dict) for pair in entry.items()]
    return {group: option for group, option in pairs if not group.startswith("override ")}


def options(group: str) -> tuple[str, ...]:
    """The options of a group: the YAML files below its folder, InstructRL's, other packages' and of --config-dir."""
    return tuple(sorted(option_files(group, (CONFIG_DIR, *added_folders()))))


@functools.cache
def option_files(group: str, folders: tuple[Path, ...]) -> dict[str, list[Path]]:
    """The YAML files of each option of a group."""
    found: dict[str, list[Path]] = {}
    for root in [folder / group for folder in folders]:
        for path in sorted(root.rglob("*.yaml")):
            found.setdefault(path.relative_to(root).with_suffix("").as_posix(), []).append(path)
    return found


@functools.lru_cache(maxsize=1024)  # composing a job asks five times, and the jobs of a sweep share most words
def read_override(text: str) -> Override:
    """Parse one word of the command line; the result is not to be changed.

    Raises:
        InputError: not of the form key=value.
    """
    try:
        return OverridesParser.create().parse_override(text)
    except Exception:  # the grammar's visitors raise exceptions of any type
        raise InputError(
            f"{format_value(text)}: cannot be read as key=value (see --help); "
            "quote special characters twice, like 'output_dir=\"a (b)\"'"
        ) from None


def check_override(text: str, config_name: str, schema: type) -> None:
    """Raise InputError unless a word assigns a value to a setting, or an option to a group."""
    override = read_override(text)
    key = override.key_or_group
    if is_of_plugin(key):
        check_targets(key, override.value())
        return
    if key == "hydra" or key.startswith(("hydra.", "hydra/")):
        raise InputError(
            f"{key}: of Hydra's own settings only launcher and sweeper can be set; a run's directory is output_dir/name"
        )
    if override.package is not None:
        raise InputError(f"{format_value(text)}: a group cannot be moved to another package; write {key}=... without @")
    known = groups(config_name)
    if key not in known and key not in known_keys(schema):
        kinds = " or ".join(kinds_with(key, schema))
        line = f"{key}: no such setting here; it is one of {key.partition('.')[0]}.kind={kinds}"
        raise InputError(line if kinds else unknown_key(key, schema))
    if override.type is OverrideType.DEL:
        raise InputError(f"{format_value(text)}: a setting cannot be deleted; give {key} another value")
    if override.type is not OverrideType.CHANGE:
        raise InputError(f"{format_value(text)}: {key} already exists; write {key}=... without +")
    if override.is_sweep_override():
        raise InputError(f"{key}: found several values; add --multirun for one job each, or write a list as [a,b]")
    value = override.value()
    if key in known:
        check_option(key, value, optional=known[key] is None)
    else:
        check_value(key, value, schema)


def is_of_plugin(key: str) -> bool:
    """Return True for a setting of Hydra's launcher or sweeper."""
    return bool(re.match(rf"({'|'.join(map(re.escape, PLUGINS))})([./@]|$)", key))


def check_targets(key: str, value: Any) -> None:
    """Raise InputError if a setting of Hydra's launcher or sweeper names what is to be called.

    Their options do that: a plugin's own files name its classes.
    """
    name = key.rpartition(".")[2]
    if name == TARGET:
        plugin = ".".join(key.split(".")[:2]).replace(".", "/")
        raise InputError(
            f"{key}: found {format_value(value)}; a class cannot be set: choose an option, as {plugin}=..."
        )
    inside = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for part, item in inside:
        check_targets(f"{key}.{part}", item)


def without_empty_groups(texts: Sequence[str], config_name: str) -> list[str]:
    """The overrides without those that choose no option of a group, like experiment=null, which Hydra refuses.

    The groups for which this is allowed have no option by default.
    """
    known = groups(config_name)
    return [text for text in texts if not chooses_nothing(read_override(text), known)]


def chooses_nothing(override: Override, known: Mapping[str, str | None]) -> bool:
    """Return True if an override chooses no option of one of the known groups."""
    return override.key_or_group in known and not override.is_sweep_override() and override.value() is None


def check_option(group: str, value: Any, *, optional: bool) -> None:
    """Raise InputError if a group has no such option."""
    if not (value in options(group) if isinstance(value, str) else value is None and optional):
        choices = [*shown_options(group, str(value)), *(["null"] if optional else [])]
        renamed = renamed_value(group, value)
        note = f" ({renamed})" if renamed else ""
        line = f"{group}: found {format_value(value)}{note}; allowed: {', '.join(choices)}"
        raise InputError("; ".join([line, *faults()]))
    files = option_files(group, (CONFIG_DIR, *added_folders())).get(str(value), [])
    if len(files) > 1:
        raise InputError(f"{group}: found {value} in {' and in '.join(map(str, files))}; rename one of the files")


def shown_options(group: str, value: str) -> list[str]:
    """The options to show for an unknown one: those in its folder, or all, with `FOLDER/...` for those in folders."""
    folder = value.rpartition("/")[0]
    inside = [option for option in options(group) if folder and option.startswith(f"{folder}/")]
    names = [option.partition("/") for option in options(group)]
    return inside or sorted({f"{top}/..." if slash else top for top, slash, _ in names})


def check_value(key: str, value: Any, schema: type) -> None:
    """Raise InputError if a value has an impossible type for a setting, or a group's is no dict of its settings."""
    settings, known = leaves(schema), known_keys(schema)
    if key not in known:
        raise InputError(unknown_key(key, schema), key=key)
    if key in settings and is_pairs(settings[key]):
        if not isinstance(value, dict):
            raise invalid_value(key, value, settings[key])
    elif key in settings:
        if isinstance(value, dict) or any(map(exceeds_float, value if isinstance(value, list) else [value])):
            raise invalid_value(key, value, settings[key])
    elif not isinstance(value, dict):
        below = [one for one in settings if one.startswith(key + ".")]
        raise InputError(f"{key}: found {format_value(value)}; allowed: its settings {', '.join(below)}")
    else:
        for name, item in value.items():
            check_value(f"{key}.{name}", item, schema)


def as_list(text: str, schema: type) -> str:
    """An override of a list of words, such as cameras, with a single word as the list of that word."""
    override = read_override(text)
    entry = leaves(schema).get(override.key_or_group)
    value = override.value()
    if entry is None or not takes_words(entry) or not isinstance(value, str) or "${" in value:
        return text
    return f"{override.get_key_element()}=[{override.get_value_element_as_str()}]"


def as_addition(text: str, schema: type) -> str:
    """An override of a dict without fixed keys in the form in which Hydra adds keys to it."""
    entry = leaves(schema).get(read_override(text).key_or_group)
    return f"++{text}" if entry is not None and is_pairs(entry) else text


def check_search(text: str, config_name: str, schema: type) -> None:
    """Raise InputError if a word of a sweeper plugin has an unknown key, or lists a value that is not allowed.

    The sweeper draws from ranges and distributions; each job is validated when it starts.
    """
    override = read_override(text)
    if override.is_sweep_override() and not override.is_discrete_sweep():
        if override.key_or_group not in leaves(schema):
            raise InputError(unknown_key(override.key_or_group, schema))
        return
    for word in expand_override(text):
        check_override(word, config_name, schema)


def exceeds_float(value: Any) -> bool:
    """Return True for an integer beyond the range of floats, on which OmegaConf would fail."""
    return isinstance(value, int) and abs(value) > sys.float_info.max


def expand_sweep(texts: Sequence[str]) -> list[list[str]]:
    """The overrides of every job of a sweep, the last override varying fastest.

    Raises:
        InputError: a sweep that cannot be enumerated, or of too many jobs.
    """
    found = [list(job) for job in islice(product(*map(expand_override, texts)), MAX_JOBS + 1)]
    if len(found) > MAX_JOBS:
        raise InputError(f"--multirun: found more than {MAX_JOBS} jobs; allowed: at most that many in one command")
    return found


def expand_override(text: str) -> list[str]:
    """The overrides of single values that a word with several values expands to."""
    override = read_override(text)
    if not override.is_sweep_override():
        return [text]
    key = override.get_key_element()
    if not override.is_discrete_sweep() or override.value_type is ValueType.GLOB_CHOICE_SWEEP:
        raise InputError(f"{format_value(text)}: cannot be enumerated; allowed: {key}=a,b or {key}=range(0,4)")
    values: Iterator[str] = islice(override.sweep_string_iterator(), MAX_JOBS + 1)
    return [f"{key}={value}" for value in values]
