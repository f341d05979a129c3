"""Groups of settings whose `kind` chooses the dataclass: each encoder, head and simulator has settings of its own.

A schema such as TrainConfig names the base class of such a group, whose field `kind` is made by `kind_of`. Which
dataclass types the group is known once a kind is chosen: `specialize` puts it in place of the base class.
"""

import copy
import dataclasses
import functools
import typing
from collections.abc import Mapping
from dataclasses import field
from typing import TYPE_CHECKING, Any, TypeVar

from instructrl.config.fields import MISSING, is_group
from instructrl.registry import Registry

if TYPE_CHECKING:
    from omegaconf import DictConfig

T = TypeVar("T")


def kind_of(registry: Registry[Any], *, default: Any = MISSING, help: str = "") -> Any:
    """A field that accepts the name of an entry of a registry; the entry is the dataclass of the group."""
    return field(default=default, metadata={"choices": registry, "help": help})


def registries(schema: type) -> dict[str, Registry[Any]]:
    """The registry of each group of a schema that has one."""
    found: dict[str, Registry[Any]] = {}
    for group in filter(is_group, dataclasses.fields(schema)):
        for entry in dataclasses.fields(typing.cast(type, group.type)):
            if isinstance(entry.metadata.get("choices"), Registry):
                found[group.name] = entry.metadata["choices"]
    return found


def chosen_kinds(values: Any, schema: type) -> dict[str, str]:
    """The kind that composed or recorded values choose in each group with a registry."""
    groups = {name: values[name] for name in registries(schema) if isinstance(values, Mapping) and name in values}
    kinds = {name: group["kind"] for name, group in groups.items() if isinstance(group, Mapping) and "kind" in group}
    return {name: kind for name, kind in kinds.items() if isinstance(kind, str) and kind != MISSING}


def specialize(schema: type[T], kinds: Mapping[str, str]) -> type[T]:
    """The schema with the chosen dataclass as the type of each group.

    Raises:
        InputError: there is no such kind, or it cannot be imported.
    """
    known = registries(schema)
    types = tuple((name, known[name][kind]) for name, kind in sorted(kinds.items()))
    return typing.cast(type[T], _with_types(typing.cast(Any, schema), types))


@functools.cache
def _with_types(schema: type, types: tuple[tuple[str, type], ...]) -> type:
    if not types:
        return schema
    fields = [(name, chosen, field(default_factory=chosen)) for name, chosen in types]
    return dataclasses.make_dataclass(schema.__name__, fields, bases=(schema,))


def without_unused(config: "DictConfig", schema: type) -> "DictConfig":
    """A recorded configuration without those settings of a group that only other kinds of InstructRL have.

    Runs that were recorded before each kind had its own dataclass hold the settings of all of them.
    """
    kept, known = copy.deepcopy(config), registries(schema)
    for name, kind in chosen_kinds(kept, schema).items():
        used = field_names(known[name][kind])
        others = set[str]().union(*(field_names(known[name].load_own(other)) for other in known[name].own))
        for key in (others - used) & set(kept[name]):
            del kept[name][key]
    return kept


def kinds_with(key: str, schema: type) -> list[str]:
    """InstructRL's kinds of a group that have the setting `key`, such as "head.position_bins"."""
    group, _, name = key.partition(".")
    known = registries(schema)
    if group not in known:
        return []
    return [kind for kind in known[group].own if name in field_names(known[group].load_own(kind))]


def field_names(schema: type) -> set[str]:
    """The names of a dataclass's fields."""
    return {entry.name for entry in dataclasses.fields(schema)}
