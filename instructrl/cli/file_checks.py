"""The settings of composed YAML files: compared with the schema when a composition failed, and where they are set."""

from collections.abc import Mapping
from typing import Any

from omegaconf import DictConfig, OmegaConf

from instructrl.cli.option_files import Loaded, OptionFile
from instructrl.cli.overrides import check_value
from instructrl.config.fields import describe_allowed, invalid_value, is_pairs, leaves
from instructrl.config.kinds import chosen_kinds, specialize
from instructrl.errors import InputError
from instructrl.package_files import CONFIG_DIR


def check_files(files: Loaded, schema: type, overrides: Mapping[str, Any]) -> None:
    """Raise InputError for the first wrong setting in a file, in one of the user's before InstructRL's own.

    Args:
        files: the files of a composition that failed.
        schema: of the command.
        overrides: values of the command line by key.
    """
    ordered = sorted(files.values(), key=lambda file: CONFIG_DIR in file.yaml.path.parents)
    kinds: dict[str, Any] = {}
    for key, value in [pair for file in files.values() for pair in kind_settings(file)] + list(overrides.items()):
        group, _, name = key.partition(".")
        if name == "kind":
            kinds[group] = {"kind": value}
    schema = specialize(schema, chosen_kinds(kinds, schema))
    typed = OmegaConf.structured(schema)
    for file in ordered:
        check_file(file, schema, typed)
    for file in ordered:
        check_cycles(file, files, ())


def kind_settings(file: OptionFile) -> list[tuple[str, Any]]:
    """The keys and values of kinds in a file."""
    return [(key, value) for key, value, _ in file.settings() if key.endswith(".kind")]


def check_file(file: OptionFile, schema: type, typed: DictConfig) -> None:
    """Raise InputError for the first setting of a file that a schema does not have, or of a wrong type.

    Values are put into `typed`, which has the types of the schema.
    """
    entries = leaves(schema)
    for key, value, place in file.settings():
        above = next((above for above in entries if key.startswith(f"{above}.")), None)
        if above is not None and is_pairs(entries[above]):
            continue
        if above is not None:
            allowed = describe_allowed(entries[above])
            raise InputError(f"{place}: {above}: found a group of settings with {key}; allowed: {allowed}")
        try:
            if value != {}:
                check_value(key, value, schema)
            if key in entries and "${" not in str(value):
                OmegaConf.update(typed, key, value)
        except InputError as error:
            raise InputError(f"{place}: {error}") from None
        except Exception:  # of OmegaConf
            raise InputError(f"{place}: {invalid_value(key, value, entries[key])}") from None


def check_cycles(file: OptionFile, files: Loaded, above: tuple[str, ...]) -> None:
    """Raise InputError if a file's defaults list leads back to the file."""
    if file.name in above:
        raise InputError(
            f"{file.yaml.place(('defaults',))}: defaults: found a circle, {' -> '.join((*above, file.name))}"
        )
    for target, _ in file.targets():
        if target in files:
            check_cycles(files[target], files, (*above, file.name))


def place_of(key: str, files: Loaded) -> str:
    """The last file, and the line in it, that sets a key; empty if none does. Those of experiments come last."""
    found = ""
    for file in sorted(files.values(), key=lambda file: not file.package and "/" in file.name):
        for name, _, place in file.settings():
            if name == key:
                found = place
    return found


def lacking_file(key: str, files: Loaded) -> str:
    """The last file of another package or the user for the group of a setting; empty if there is none."""
    group = tuple(key.split(".")[:-1])
    of_group = [file.yaml.path for file in files.values() if group and file.package == group]
    added = [path for path in of_group if CONFIG_DIR not in path.parents]
    return str(added[-1]) if added else ""
