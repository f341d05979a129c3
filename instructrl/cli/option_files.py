"""YAML files that Hydra composes, checked when they are loaded.

A file may be of InstructRL, of another package, or of the user (`--config-dir DIR`, or one more in conf/).
"""

import difflib
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from instructrl.cli.folders import added_folders
from instructrl.cli.overrides import TARGET, check_targets, groups, options
from instructrl.config.environment import CollectConfig
from instructrl.config.evaluation import EvalConfig
from instructrl.config.launcher import LaunchConfig
from instructrl.config.training import TrainConfig
from instructrl.config.yaml_file import Key, YamlFile, read_yaml
from instructrl.errors import InputError, format_value
from instructrl.package_files import CONFIG_DIR

SCHEMAS: dict[str, type] = {"train": TrainConfig, "eval": EvalConfig, "collect": CollectConfig, "launch": LaunchConfig}
GLOBAL = "_global_"  # the package of a file whose keys are those of the whole configuration
HEADER = "# @package _global_"
SEARCH_SPACE = ("hydra", "sweeper", "params")  # whose keys are those of settings, as on the command line
HYDRA_ALLOWED = "only launcher and sweeper can be set"


@dataclass(frozen=True)
class OptionFile:
    """A YAML file as an option of a group."""

    name: str  # as Hydra has it: GROUP/OPTION
    yaml: YamlFile
    header: str | None  # the package in its first line
    package: Key  # the group that its keys belong to

    def settings(self) -> Iterator[tuple[str, Any, str]]:
        """The dotted key, the value and the place of each of its settings."""
        for key, value in self.yaml.values.items():
            if key not in ("defaults", "hydra"):
                for names, leaf in nested(value, (key,)):
                    yield ".".join((*self.package, *names)), leaf, self.yaml.place(names)

    def targets(self) -> Iterator[tuple[str, str]]:
        """The files that its defaults list names, and the place of each."""
        group = self.name.rpartition("/")[0]
        for item in default_items(self):
            if isinstance(item, str):
                yield join(group, item.partition("@")[0]), self.yaml.place(("defaults",))
                continue
            [(key, value)] = item.items()
            for option in value if isinstance(value, list) else [value]:
                if isinstance(option, str) and "optional" not in key.split():
                    yield f"{join(group, bare(key))}/{option}", self.yaml.place(("defaults", key))


Loaded = dict[str, OptionFile]  # by name, in the order in which they are loaded
_loaded: ContextVar[Loaded | None] = ContextVar("loaded", default=None)


@contextmanager
def loaded_files() -> Iterator[Loaded]:
    """Collect the files that are loaded meanwhile, also for an outer collection."""
    files: Loaded = {}
    token = _loaded.set(files)
    try:
        yield files
    finally:
        _loaded.reset(token)
        report_loaded(files)


def report_loaded(files: Loaded) -> None:
    """Add files to the collection that is made at the moment, if any."""
    collection = _loaded.get()
    if collection is not None:
        collection.update(files)


def load_option(folder: Path, name: str) -> OptionFile:
    """Load and check a file, for Hydra.

    Raises:
        InputError: it cannot be read, or would be composed into something else than settings.
    """
    name = name.removesuffix(".yaml")
    group = name.rpartition("/")[0]
    found = read_yaml(folder / f"{name}.yaml")
    if group and not found.values:
        raise InputError(f"{found.path}: contains no settings; write some, like key: value")
    header = header_of(found)
    file = OptionFile(name, found, header, package_of(found, header, group))
    files = _loaded.get()
    if files is not None:
        files[name] = file
    if group and not isinstance(found.values.get("hydra", {}), dict):
        raise InputError(f"{found.place(('hydra',))}: hydra: found no group; of Hydra's own settings {HYDRA_ALLOWED}")
    for key in found.lines:
        if "." in key[-1] and key[0] != "defaults" and key[:-1] != SEARCH_SPACE:
            nested_form = ": {".join(key[-1].split(".")) + ": ..." + "}" * key[-1].count(".")
            raise InputError(f"{found.place(key)}: found the key {format_value(key[-1])}; write {nested_form}")
        if group and len(key) > 1 and key[0] == "hydra" and key[1] not in ("launcher", "sweeper"):
            raise InputError(f"{found.place(key)}: {'.'.join(key)}: of Hydra's own settings {HYDRA_ALLOWED}")
    if group:
        check_called(found, group)
    if group and not group.startswith("hydra"):
        check_defaults(file)
    return file


def check_called(file: YamlFile, group: str) -> None:
    """Raise InputError if a file's settings of Hydra's launcher or sweeper name what is to be called.

    An option of the launcher or the sweeper itself has to name a class of a plugin; Hydra accepts no other one.
    """
    of_hydra: dict[Key, Any] = {
        ("hydra", plugin): file.values.get("hydra", {}).get(plugin) for plugin in ("launcher", "sweeper")
    }
    if group.startswith("hydra/"):
        is_plugin = re.fullmatch(r"hydra_plugins(\.\w+)+", str(file.values.get(TARGET))) and group.count("/") == 1
        of_hydra = {(): {key: value for key, value in file.values.items() if key != TARGET or not is_plugin}}
    for place, settings in of_hydra.items():
        try:
            check_targets(group.replace("/", ".") if not place else ".".join(place), settings)
        except InputError as error:
            raise InputError(f"{file.place(place)}: {error}") from None


def header_of(file: YamlFile) -> str | None:
    """The package in the comments at the top of a file.

    Raises:
        InputError: it has another form.
    """
    for number, line in enumerate(file.text.splitlines(), start=1):
        if line.strip() and not line.lstrip().startswith("#"):
            break
        if re.match(r"\s*#\s*@\s*package\b", line):
            found = re.fullmatch(r"\s*#\s*@package\s+(\S+)\s*", line)
            if found is None:
                raise InputError(f"{file.path}, line {number}: found {format_value(line)}; write {HEADER}")
            return found[1]
    return None


def package_of(file: YamlFile, header: str | None, group: str) -> Key:
    """The group of settings that a file's keys belong to, by its header or its folder.

    Raises:
        InputError: there is no such group.
    """
    known = {entry.name for schema in SCHEMAS.values() for entry in fields(schema)}
    if not group or group.startswith("hydra") or header == GLOBAL:
        return ()
    if header in (None, "_group_"):
        if group in option_groups() - known:
            raise InputError(f"{file.path}: found no package; write {HEADER} in the first line, above its settings")
        return tuple(group.split("/"))
    if header.partition(".")[0] not in known:
        raise InputError(f"{file.path}: found the package {format_value(header)}; {suggest(header, {GLOBAL, *known})}")
    return tuple(header.split("."))


def option_groups() -> set[str]:
    """The groups with options of all commands."""
    return {group for name in SCHEMAS for group in groups(name) if not group.startswith("/")}


def default_items(file: OptionFile) -> list[Any]:
    """The entries of a file's defaults list."""
    found = file.yaml.values.get("defaults", [])
    return found if isinstance(found, list) else []


def check_defaults(file: OptionFile) -> None:
    """Raise InputError for an entry of a defaults list that names no option."""
    listed = file.yaml.values.get("defaults", [])
    place = file.yaml.place(("defaults",))
    if not isinstance(listed, list):
        raise InputError(
            f"{place}: defaults: found {format_value(listed)}; allowed: a list like [override /policy: NAME]"
        )
    for item in listed:
        if not isinstance(item, str) and not (isinstance(item, dict) and len(item) == 1):
            raise InputError(
                f"{place}: defaults: found {format_value(item)}; allowed: entries like override /policy: NAME"
            )
        if isinstance(item, dict):
            [(key, value)] = item.items()
            check_default(file, str(key), value)
    for target, where in file.targets():
        if ".." in target.split("/"):
            raise InputError(f"{where}: defaults: found {format_value(target)}; allowed: names like /policy/vit_base")
        if "${" not in target and target.rpartition("/")[2] not in ("_self_", "???") and not exists(target):
            group, _, option = target.rpartition("/")
            raise InputError(f"{where}: defaults: found {format_value(target)}; {suggest(option, options(group))}")


def check_default(file: OptionFile, key: str, value: Any) -> None:
    """Raise InputError for an entry `key: value` of a defaults list that chooses no option of a group."""
    place = file.yaml.place(("defaults", key))
    group = join(file.name.rpartition("/")[0], bare(key))
    if group.startswith("hydra/"):
        return
    if not is_group_folder(group):
        raise InputError(f"{place}: defaults: found the group {format_value(group)}; {suggest(group, option_groups())}")
    if not (
        value is None
        or isinstance(value, str)
        or (isinstance(value, list) and all(isinstance(one, str) for one in value))
    ):
        raise InputError(f"{place}: {key}: found {format_value(value)}; {suggest(str(value), options(group))}")
    if group in option_groups() and "override" not in key.split() and "@" not in key:
        own = group == file.name.rpartition("/")[0]
        form = format_value(value) if own else f"override /{group}: {format_value(value)}"
        raise InputError(f"{place}: defaults: found {format_value({key: value})}; write {form}")


def bare(key: str) -> str:
    """The group of a key of a defaults list, without keywords and package."""
    return key.split()[-1].partition("@")[0] if key.split() else ""


def join(group: str, name: str) -> str:
    """The absolute name of a group or option that a file of `group` names."""
    return name.removeprefix("/") if name.startswith("/") or not group else f"{group}/{name}"


def is_group_folder(group: str) -> bool:
    """Return True if some folder has options of this group."""
    return any((folder / group).is_dir() for folder in (CONFIG_DIR, *added_folders()))


def exists(name: str) -> bool:
    """Return True if there is a file of this name, or whatever is in its place."""
    paths = [folder / f"{name}.yaml" for folder in (CONFIG_DIR, *added_folders())]
    return name.startswith("hydra/") or any(path.exists() or path.is_symlink() for path in paths)


def suggest(found: str, known: Sequence[str] | set[str]) -> str:
    """A phrase with the names that are allowed in place of an unknown one."""
    near = difflib.get_close_matches(found, known, n=2, cutoff=0.6)
    return f"did you mean {' or '.join(near)}?" if near else f"allowed: {', '.join(sorted(known)) or 'none'}"


def nested(value: Any, names: Key) -> Iterator[tuple[Key, Any]]:
    """The values in nested groups; an empty group is a value."""
    if isinstance(value, dict) and value:
        for key, item in value.items():
            yield from nested(item, (*names, str(key)))
    else:
        yield names, value
