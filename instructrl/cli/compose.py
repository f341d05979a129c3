"""Composition of the YAML files and the overrides with Hydra, into a validated configuration."""

import copy
import functools
import re
import warnings
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import fields
from pathlib import Path
from typing import Any, TypeVar, cast

import hydra
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.types import OverrideType
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import InterpolationResolutionError, OmegaConfBaseException

from instructrl.cli.file_checks import check_files, lacking_file, place_of
from instructrl.cli.folders import added_folders
from instructrl.cli.option_files import Loaded, loaded_files, report_loaded
from instructrl.cli.overrides import (
    as_addition,
    as_list,
    check_override,
    groups,
    options,
    read_override,
    without_empty_groups,
)
from instructrl.config.composition import explain
from instructrl.config.environment import SimConfig
from instructrl.config.evaluation import EvalConfig, ProtocolConfig, check_protocol_name
from instructrl.config.fields import flatten, invalid_value, is_group, leaves
from instructrl.config.kinds import chosen_kinds, registries, specialize
from instructrl.config.resolve import resolve, resolve_values, with_defaults, without_types
from instructrl.errors import InputError, place_in_package
from instructrl.package_files import CONFIG_DIR
from instructrl.preemption import defer_signals

T = TypeVar("T")
# In conf/render_size.yaml: the side of rendered images that fits an encoder which resizes to this one, or to none.
OmegaConf.register_new_resolver("render_size", lambda read: SimConfig.image_size if read is None else read)


@defer_signals()
def compose(config_name: str, schema: type[T], overrides: Sequence[str]) -> T:
    """The configuration that a command gets with these overrides, as plain dataclasses.

    Raises:
        InputError: an override is invalid; the command prints the same line.
    """
    known = schema_of(config_name, schema, overrides)
    composed, files = merge_files(config_name, known, overrides)
    keys = [read_override(text).key_or_group for text in overrides]
    try:
        config = resolve_values(composed, schema)
    except Exception:  # without types it fails too, more slowly, and says which setting is wrong
        config = resolve_or_explain(without_types(composed), schema, known, files, overrides)
    if isinstance(config, EvalConfig) and any(key.startswith("protocol.") for key in keys):
        for preset in presets_of(config.protocol.name, overrides):
            check_protocol_name(config.protocol, preset)
    return config


def resolve_or_explain(untyped: DictConfig, schema: type[T], known: type, files: Loaded, overrides: Sequence[str]) -> T:
    """Resolve a composition without types.

    Raises:
        InputError: the setting that is wrong, with the file and the line that set it.
    """
    keys = [read_override(text).key_or_group for text in overrides]
    try:
        for key in keys:  # first, so that an error names an override rather than a setting that refers to it
            OmegaConf.select(untyped, key, throw_on_missing=True)
        check_references(untyped, known, files)
        return resolve_values(untyped, schema)
    except OmegaConfBaseException as error:
        raise explain(error, known) from None
    except InputError as error:
        if error.key in keys:
            raise
        raise with_place(error, files) if error.key else with_places(error, known, files, overrides) from None
    except (RecursionError, ValueError, TypeError) as error:  # of resolvers in ${...}
        if place_in_package(error):  # of a check in another package
            raise
        raise InputError(one_line_message(error)) from None


def with_place(error: InputError, files: Loaded) -> InputError:
    """The error with the file and the line that set the setting at fault in front, if one of these files does.

    If none does, it is one that the option of its group lacks, unless that is InstructRL's.
    """
    place = place_of(error.key, files) or lacking_file(error.key, files)
    return InputError(f"{place}: {error}" if place else str(error))


def with_places(error: InputError, schema: type, files: Loaded, overrides: Sequence[str]) -> InputError:
    """The error of settings that do not fit together, with the files and lines that set those it names, at its end."""
    read = {override.key_or_group: override.value() for override in map(read_override, overrides)}
    given = {*read, *(f"{key}.{name}" for key, value in read.items() if isinstance(value, dict) for name in value)}
    named = re.findall(r"^\w+(?=:)|\b[a-z_]+(?:\.\w+)+", str(error))
    places = {key: place_of(key, files) for key in named if key in leaves(schema) and key not in given}
    notes = [f"{key} is set in {place}" for key, place in places.items() if place]
    return InputError("; ".join([str(error), *notes]))


def presets_of(name: str, overrides: Sequence[str]) -> list[ProtocolConfig]:
    """The presets with which a protocol could be confused: the one that it changes, and the one of its name."""
    chosen = [text for text in overrides if read_override(text).key_or_group == "protocol"]
    named = [(f"protocol={name}",)] if name in options("protocol") else []
    return [preset_of(words, added_folders()) for words in (tuple(chosen), *named)]


def protocol_preset(name: str) -> ProtocolConfig:
    """The protocol of a name, as its file has it; not to be changed."""
    return preset_of((f"protocol={name}",), added_folders())


@functools.cache  # for sweeps of many jobs
def preset_of(words: tuple[str, ...], folders: tuple[Path, ...]) -> ProtocolConfig:
    """The preset that these words choose from the options in these folders and our own; not to be changed."""
    return compose("eval", EvalConfig, ["run=any", *words]).protocol


def merge(config_name: str, schema: type, overrides: Sequence[str]) -> DictConfig:
    """Compose the YAML files and the overrides with Hydra: typed, interpolations unresolved.

    Raises:
        InputError: an override is invalid.
    """
    return merge_files(config_name, schema, overrides)[0]


@defer_signals()
def merge_files(config_name: str, schema: type, overrides: Sequence[str]) -> tuple[DictConfig, Loaded]:
    """The same, and the files that were composed.

    Raises:
        InputError: an override or a file is invalid.
    """
    for text in overrides:
        check_override(text, config_name, schema)
    words = [as_list(text, schema) for text in overrides]
    with loaded_files() as files:
        try:
            return merge_values(config_name, schema, words), files
        except InputError:
            raise
        except Exception as error:  # Hydra raises what its plugins, grammar and OmegaConf raise
            inputs = {override.key_or_group: override.value() for override in map(read_override, overrides)}
            check_files(files, schema, inputs)
            wrong = wrong_value(config_name, schema, overrides, error, files)
            raise wrong or explain_composition(error, schema, inputs, files) from None


def merge_values(config_name: str, schema: type, overrides: Sequence[str]) -> DictConfig:
    """The same as Hydra's composition: that of the chosen options, which is made once, with the values in place."""
    read, known = {text: read_override(text) for text in overrides}, groups(config_name)
    chosen = [text for text, one in read.items() if one.key_or_group in known or "/" in one.key_or_group]
    config = copy.deepcopy(composed_options(config_name, cast(Any, schema), tuple(chosen), added_folders()))
    try:
        for text, override in read.items():
            if text not in chosen:
                OmegaConf.update(config, override.key_or_group, override.value(), merge=True)
    except Exception:  # Hydra finds it too, and says more about it
        return hydra_compose(config_name, overrides, schema)
    return config


def composed_options(
    config_name: str, schema: type, overrides: tuple[str, ...], folders: tuple[Path, ...]
) -> DictConfig:
    """The typed composition of chosen options in `folders`; not to be changed."""
    config, files = _composed_options(config_name, cast(Any, schema), overrides, folders)
    report_loaded(files)
    return config


def forget_options() -> None:
    """Compose options again when they are next chosen, for instance after their files have changed."""
    _composed_options.cache_clear()
    composed_groups.cache_clear()


@functools.lru_cache(maxsize=128)
def _composed_options(
    config_name: str, schema: type, overrides: tuple[str, ...], folders: tuple[Path, ...]
) -> tuple[DictConfig, Loaded]:
    with loaded_files() as files:
        return hydra_compose(config_name, overrides, schema), files


def explain_composition(error: Exception, schema: type, inputs: Mapping[str, Any], files: Loaded) -> InputError:
    """One line for an error of Hydra: of an override, if each file by itself is valid."""
    cause = error.__cause__ or error
    if isinstance(cause, OmegaConfBaseException):
        return explain(cause, schema, inputs)
    key = (re.findall(r"full_key: (\S+)", str(error)) or [""])[0]  # OmegaConf's form of Python's own errors
    if key in inputs and key in leaves(schema):
        return invalid_value(key, inputs[key], leaves(schema)[key])
    text = " ".join(re.sub(r"^In '?[^':]+'?: ", "", str(error)).split())
    named = [name for name in files if "/" in name and re.search(rf"\b{re.escape(name)}\b", str(error))]
    if named:
        return InputError(f"{files[named[-1]].yaml.path}: {text}")
    return InputError(one_line_message(error))


def check_references(config: DictConfig, schema: type, files: Loaded) -> None:
    """Raise InputError for the setting whose ${...} cannot be resolved, rather than for one that refers to it."""
    texts = {key: str(value) for key, value in flatten(OmegaConf.to_container(config)) if "${" in str(value)}
    failed = {key: error for key in texts if (error := reference_error(config, key)) is not None}
    named = {key: re.findall(r"\$\{([\w.]+)\}", texts[key]) for key in failed}
    referred = {key: [other for other in names if other in failed] for key, names in named.items()}
    for key, error in failed.items():
        if not referred[key]:
            for name in named[key]:  # a setting without a value is the one to give
                OmegaConf.select(config, name, throw_on_missing=True)
            line = str(explain(error, schema))
            raise InputError(line if line.startswith(f"{key}:") else f"{key}: {line}", key=key)
    if failed:  # each refers to another one, or to itself
        chain = [next(iter(failed))]
        while chain.count(chain[-1]) < 2:
            chain.append(referred[chain[-1]][0])
        circle = chain[chain.index(chain[-1]) :]
        key = next((key for key in circle if place_of(key, files)), circle[0])
        raise InputError(f"{key}: refers to itself ({' -> '.join(circle)}); give one of them a value", key=key)


def reference_error(config: DictConfig, key: str) -> OmegaConfBaseException | None:
    """The error of resolving the value of a key."""
    try:
        OmegaConf.select(config, key)
    except OmegaConfBaseException as error:
        return error
    return None


def wrong_value(
    config_name: str, schema: type, overrides: Sequence[str], error: Exception, files: Loaded
) -> InputError | None:
    """The error of a value of a wrong type in a composition that fails with types, which does not name it."""
    cause = error.__cause__ or error
    if isinstance(cause, OmegaConfBaseException) and not isinstance(cause, InterpolationResolutionError):
        return None
    try:
        untyped = hydra_compose(config_name, overrides, schema, typed=False)
        resolve(with_defaults(untyped, schema), schema)
    except InputError as named:
        return with_place(named, files)
    except Exception:  # it fails without types too
        return None
    return None


@defer_signals()
def hydra_compose(
    config_name: str, overrides: Sequence[str], schema: type, *, typed: bool = True, of_hydra: bool = False
) -> DictConfig:
    """Compose the YAML files and the overrides with Hydra, with the types of the schema or without types.

    With `of_hydra`, the settings of Hydra itself are included, as the group `hydra`.

    Hydra itself composes once more before each job. It then finds an open schema, which accepts all keys, because the
    kinds of the job's encoder, head and simulator are not known yet; the job composes again with the right schema.
    """
    store, name, untyped = ConfigStore.instance(), f"{config_name}_schema", open_schema(schema)
    outer = GlobalHydra.instance().hydra  # in a job that Hydra started
    GlobalHydra.instance().clear()
    store.store(name=name, node=schema if typed else untyped)
    try:
        with warnings.catch_warnings(), hydra.initialize_config_dir(version_base="1.3", config_dir=str(CONFIG_DIR)):
            warnings.simplefilter("ignore")
            words = [as_addition(text, schema) for text in without_empty_groups(overrides, config_name)]
            return hydra.compose(config_name, overrides=words, return_hydra_config=of_hydra)
    finally:
        store.store(name=name, node=untyped)
        GlobalHydra.instance().hydra = outer


def open_schema(schema: type) -> DictConfig:
    """The groups and settings of a schema without values or types; groups accept any key."""
    entries = {entry.name: is_group(entry) for entry in fields(schema)}
    return OmegaConf.create(
        {name: DictConfig({}, flags={"struct": False}) if group else None for name, group in entries.items()}
    )


@defer_signals()
def schema_of(config_name: str, schema: type[T], overrides: Sequence[str]) -> type[T]:
    """The schema with the dataclasses of the kinds that the YAML files and the overrides choose.

    Other invalid overrides are ignored here; `merge` checks them against the schema.

    Raises:
        InputError: an override is not of the form key=value, or there is no such kind.
    """
    known, read = registries(schema), {text: read_override(text) for text in overrides}
    if not known:
        return schema
    group_words = [
        text
        for text, override in read.items()
        if override.key_or_group in groups(config_name)
        and override.package is None
        and override.type is OverrideType.CHANGE
        and override.value() in options(override.key_or_group)
    ]
    composed = composed_groups(config_name, cast(Any, schema), tuple(group_words), added_folders())
    named = [one for one in read.values() if one.key_or_group in [f"{group}.kind" for group in known]]
    if named:
        composed = copy.deepcopy(composed)
    with suppress(Exception):  # of OmegaConf, for malformed values
        for override in named:
            OmegaConf.update(composed, override.key_or_group, override.value())
    kinds = {group: {"kind": selected(composed, f"{group}.kind")} for group in known}
    try:
        return specialize(schema, chosen_kinds(kinds, schema))
    except InputError as error:
        if error.key in [override.key_or_group for override in read.values()]:
            raise
        with loaded_files() as files:
            hydra_compose(config_name, group_words, schema, typed=False)
        raise with_place(error, files) from None


@functools.cache
def composed_groups(
    config_name: str, schema: type, overrides: tuple[str, ...], folders: tuple[Path, ...]
) -> DictConfig:
    """The composition of the chosen options in `folders`, untyped; empty if it fails."""
    try:
        return hydra_compose(config_name, overrides, schema, typed=False)
    except Exception:  # `merge` composes again and explains it
        return OmegaConf.create()


def selected(config: DictConfig, key: str) -> Any:
    """The value of a key, or None."""
    with suppress(OmegaConfBaseException):
        return OmegaConf.select(config, key)
    return None


def one_line_message(error: Exception) -> str:
    """A library's error as one line."""
    text = " ".join(str(error).partition("Config search path")[0].split())
    return f"configuration: {text or type(error).__name__}; see --help for the settings"
