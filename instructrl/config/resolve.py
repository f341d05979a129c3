"""From a composed configuration to checked dataclasses.

YAML holds only values. `resolve` merges a composed configuration into a fresh schema, checks every field and then
constraints across groups, and returns plain dataclasses. No jax here: an invalid value is reported at once.
"""

import copy
import functools
from collections.abc import Sequence
from dataclasses import dataclass, field, fields, make_dataclass
from typing import Any, TypeVar, cast

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from instructrl.config.composition import check_mappings, explain
from instructrl.config.environment import CollectConfig, check_recording, check_task, task_names
from instructrl.config.evaluation import EvalConfig, effective_protocol
from instructrl.config.fields import (
    MAX_NAME_BYTES,
    check_fields,
    check_literals,
    check_values,
    flatten,
    format_value,
    is_group,
    renamed_value,
)
from instructrl.config.kinds import chosen_kinds, specialize
from instructrl.config.share import check_share
from instructrl.config.training import (
    TrainConfig,
    check_attention,
    check_dimensions,
    check_features,
    check_objective,
    check_optimizer,
    check_processes,
    check_profile,
    check_reinit,
    check_returned,
)
from instructrl.errors import InputError

T = TypeVar("T")


def resolve(config: DictConfig, schema: type[T]) -> T:
    """Merge a composed configuration into a fresh schema, check it and return plain dataclasses.

    Raises:
        InputError: an unknown key, a wrong type, a value out of range or groups that do not fit together.
    """
    return resolve_values(without_types(config), schema)


def resolve_values(config: DictConfig, schema: type[T]) -> T:
    """The same without a copy; where types are kept, errors name less (see `without_types`)."""
    chosen, values = schema, None
    try:
        check_mappings(config, schema)
        values = OmegaConf.to_container(config, resolve=True, throw_on_missing=True)
        check_literals(values)
        chosen = specialize(schema, chosen_kinds(values, schema))
        check_values(values, chosen)
        typed = converted(chosen, values)
    except OmegaConfBaseException as error:
        raise explain(error, chosen, dict(flatten(values))) from None
    resolved = schema(**{entry.name: getattr(typed, entry.name) for entry in fields(cast(Any, schema))})
    check_fields(resolved)
    check_groups(resolved)
    return resolved


def converted(schema: type[T], values: Any) -> T:
    """The dataclass of values that OmegaConf converts to the types of the schema; equal groups are converted once.

    Raises:
        OmegaConfBaseException: an unknown key or a wrong type.
    """
    groups = {entry.name: cast(type, entry.type) for entry in fields(cast(Any, schema)) if is_group(entry)}
    if not groups.keys() <= {name for name, value in values.items() if isinstance(value, dict)}:
        return cast(T, OmegaConf.to_object(OmegaConf.merge(structured(cast(Any, schema)), values)))
    others = {name: value for name, value in values.items() if name not in groups}
    try:
        found = vars(
            OmegaConf.to_object(OmegaConf.merge(structured(cast(Any, without_groups(cast(Any, schema)))), others))
        )
        for name, kind in groups.items():
            found[name] = copy.deepcopy(_converted_group(Group(kind, repr(values[name]), values[name])))
    except OmegaConfBaseException:  # of the whole, it names the key with its group
        return cast(T, OmegaConf.to_object(OmegaConf.merge(structured(cast(Any, schema)), values)))
    return schema(**found)


@dataclass(frozen=True)
class Group:
    """Values of a group of settings; equal to those with the same types and values."""

    schema: type
    text: str
    values: Any = field(compare=False)


@functools.lru_cache(maxsize=512)  # of sweeps whose jobs differ in few groups
def _converted_group(group: Group) -> Any:
    return OmegaConf.to_object(OmegaConf.merge(structured(group.schema), group.values))


@functools.cache
def without_groups(schema: type) -> type:
    """A schema with the settings at its top alone."""
    kept = [entry for entry in fields(schema) if not is_group(entry)]
    entries = [
        (entry.name, entry.type, field(default=entry.default, default_factory=entry.default_factory)) for entry in kept
    ]
    return make_dataclass(schema.__name__, entries)


@functools.lru_cache(maxsize=128)
def structured(schema: type) -> DictConfig:
    """A schema with its types and defaults, as OmegaConf has it; not to be changed."""
    return cast(DictConfig, OmegaConf.structured(schema))


def without_types(config: DictConfig) -> DictConfig:
    """A copy without types: an interpolation resolves to what it refers to, which the merge then checks and names."""
    return cast(DictConfig, OmegaConf.create(OmegaConf.to_container(config)))


def with_defaults(config: DictConfig, schema: type) -> DictConfig:
    """An untyped configuration with the defaults of the schema for what it does not have; at the top, also for null."""

    def merged(defaults: Any, values: Any) -> Any:
        if not (isinstance(defaults, dict) and isinstance(values, dict)):
            return values
        return {**defaults, **{key: merged(defaults.get(key), value) for key, value in values.items()}}

    defaults: Any = OmegaConf.to_container(OmegaConf.structured(schema))
    values: Any = OmegaConf.to_container(config)
    given = {key: value for key, value in values.items() if value is not None or isinstance(defaults.get(key), dict)}
    return cast(DictConfig, OmegaConf.create(merged(defaults, given)))


def check_groups(config: Any) -> None:
    """Raise InputError if settings that are valid by themselves do not fit together."""
    if isinstance(config, TrainConfig):
        check_dimensions(config.encoder, config.policy, image_size=config.sim.image_size)
        check_features(config)
        check_reinit(config.training, init_from=config.init_from)
        check_optimizer(config.optimizer, config.encoder, epochs=config.training.epochs)
        check_objective(config)
        check_returned(config.training)
        check_name(config.name)
    if isinstance(config, TrainConfig | EvalConfig):
        check_attention(config.hardware)
        check_processes(config.hardware)
    if isinstance(config, TrainConfig) and config.hardware.coordinator and "://" in config.output_dir:
        raise InputError(f"output_dir: found {config.output_dir}; allowed: a folder that all processes share")
    if isinstance(config, EvalConfig) and config.hardware.coordinator:
        raise InputError(f"hardware.coordinator: found {config.hardware.coordinator}; allowed: null for eval.py")
    if isinstance(config, EvalConfig):
        for key, names in (("protocol.conditions", config.protocol.conditions), ("conditions", config.conditions)):
            if names is not None and "trained" not in names:
                raise InputError(f"{key}: found {names}; allowed: lists with trained, the condition of the headline")
        check_name(config.protocol.name, key="protocol.name")
        renamed = renamed_value("protocol.name", config.protocol.name)
        if renamed:
            raise InputError(f"protocol.name: found {config.protocol.name} ({renamed}); allowed: any other name")
        check_share(config.jobs, config.job, episodes=effective_protocol(config).episodes)
    if isinstance(config, TrainConfig | EvalConfig):
        check_profile(config.hardware)
    if isinstance(config, TrainConfig | CollectConfig):
        check_name(config.task.name, key="task.name")  # also a set's label, which no simulator checks
        for name in config.task.tasks or ():  # also those of another package's simulator: each has files of its name
            check_name(name, key="task.tasks")
        check_task(config.task, config.sim)
        check_recording(config.sim)
        _ = config.sim.bounds  # six numbers of a box
    if isinstance(config, CollectConfig):
        episodes = sum(config.counts.values()) * len(task_names(config.task))
        check_share(config.jobs, config.job, episodes=episodes)


def check_name(name: str, *, key: str = "name") -> None:
    """Raise InputError for a name that cannot be the name of a folder."""
    if set(name) & set("/\\") or name.startswith(".") or len(name.encode()) > MAX_NAME_BYTES:
        allowed = f"a folder's name without slashes or a dot in front, at most {MAX_NAME_BYTES} bytes"
        raise InputError(f"{key}: found {format_value(name)}; allowed: {allowed}")


def check_distinct_outputs(configs: Sequence[Any]) -> None:
    """Raise InputError if two jobs of one command would write into the same directory."""
    names = [(config.output_dir, config.name) for config in configs if isinstance(config, TrainConfig)]
    for index, name in enumerate(names):
        if name in names[:index]:
            found = f"{format_value(name[1])} for jobs {names.index(name) + 1} and {index + 1}"
            raise InputError(f"name: found {found}; include what varies, such as 'name=${{task.name}}-${{seed}}'")
    folders = [(config.run, config.protocol.name) for config in configs if isinstance(config, EvalConfig)]
    for index, folder in enumerate(folders):
        if folder in folders[:index]:
            first = folders.index(folder) + 1
            found = f"{format_value(folder[1])} for jobs {first} and {index + 1}, which evaluate {folder[0]}"
            raise InputError(f"protocol.name: found {found}; vary it too, or run these jobs in separate commands")


def differences(found: Any, expected: Any, prefix: str = "") -> list[str]:
    """Lines `key: found -> expected` for every leaf in which two nested dicts differ, sorted by key."""
    lines = []
    for key in sorted(set(found) | set(expected)):
        before, after = found.get(key, "absent"), expected.get(key, "absent")
        if isinstance(before, dict) and isinstance(after, dict):
            lines += differences(before, after, f"{prefix}{key}.")
        elif before != after:
            lines.append(f"{prefix}{key}: {before} -> {after}")
    return lines
