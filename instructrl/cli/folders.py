"""Folders of YAML files that are added to InstructRL's own: those of installed packages and those of --config-dir.

A folder holds one sub-folder for each group, such as encoder/gated.yaml for `encoder=gated`. A package names the folder
that it ships in its pyproject.toml:

    [project.entry-points."instructrl.configs"]
    acme = "acme_robots.conf"

Others are given with a command, by `--config-dir DIR` or Hydra's `hydra.searchpath=[DIR]`; they are kept in the
environment, so that every process of a command knows them.
"""

import functools
import importlib.util
import os
from collections.abc import Sequence
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path

from hydra.core.override_parser.overrides_parser import OverridesParser

from instructrl.config.fields import format_value
from instructrl.errors import REPAIR, InputError, note_package, summarize
from instructrl.registry import describe

GROUP = "instructrl.configs"
VARIABLE = "INSTRUCTRL_CONFIG_DIRS"  # those given with a command, separated as in PATH
FLAGS = ("--config-dir", "-cd")
SEARCH_PATH = "hydra.searchpath="


def take_folders(words: Sequence[str]) -> list[str]:
    """Remember the folders that the words of a command name, and return the other words.

    Raises:
        InputError: there is no such folder.
    """
    others: list[str] = []
    given: list[Path] = []
    left = iter(words)
    for word in left:
        flag, _, value = word.partition("=")
        if flag in FLAGS:
            given.append(existing_folder("--config-dir", value or next(left, "")))
        elif word.startswith(SEARCH_PATH):
            given += searched_folders(word)
        else:
            others.append(word)
    if given:
        os.environ[VARIABLE] = os.pathsep.join(map(str, given))
    return others


def given_folders() -> tuple[Path, ...]:
    """The folders given with the command."""
    return tuple(Path(text) for text in os.environ.get(VARIABLE, "").split(os.pathsep) if text)


def folder_words() -> list[str]:
    """The words that give another command the same folders."""
    return [word for folder in given_folders() for word in ("--config-dir", str(folder))]


def added_folders() -> tuple[Path, ...]:
    """The folders given with the command, then those of installed packages; packages without theirs are left out."""
    return (*given_folders(), *(folder for folder in shipped_folders() if isinstance(folder, Path)))


def faults() -> list[str]:
    """A line for each installed package whose folder is not there."""
    return [fault for fault in shipped_folders() if isinstance(fault, str)]


@functools.cache
def shipped_folders() -> tuple[Path | str, ...]:
    """The folder of each installed package that ships one, or why it is not there."""
    return tuple(package_folder(point) for point in sorted(entry_points(group=GROUP)))


def package_folder(point: EntryPoint) -> Path | str:
    """The folder that a package ships, or a line that says why there is none; mostly found without an import."""
    if point.dist is not None:
        folder = Path(str(point.dist.locate_file(point.value.replace(".", "/"))))
        if folder.is_dir():
            return folder
    reason = "there is no such folder"
    note_package(point.value)
    try:
        spec = importlib.util.find_spec(point.value)
        if spec is not None and spec.submodule_search_locations:
            return Path(next(iter(spec.submodule_search_locations)))
    except (Exception, SystemExit) as error:  # whatever the package raises while it is imported
        reason = summarize(error)
    entry = f"entry point {point.name} = {point.value} in {GROUP}"
    return f"{describe(point)}: {entry}: {reason}; {REPAIR}"


def searched_folders(word: str) -> list[Path]:
    """The folders of a word `hydra.searchpath=[...]`: paths, as they are or after file://, or pkg://a.package."""
    try:
        value = OverridesParser.create().parse_override(word).value()
    except Exception:  # the grammar's visitors raise whatever the text makes them do
        value = None
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise InputError(
            f"hydra.searchpath: found {format_value(word)}; allowed: a list of folders, like [DIR,pkg://a.conf]"
        )
    found = []
    for item in value:
        if item.startswith("pkg://"):
            folder = package_folder(EntryPoint(item, item.removeprefix("pkg://"), GROUP))
            if isinstance(folder, str):
                raise InputError(f"hydra.searchpath: found {item}; allowed: a package with such a folder")
            found.append(folder)
        else:
            found.append(existing_folder("hydra.searchpath", item.removeprefix("file://")))
    return found


def existing_folder(key: str, text: str) -> Path:
    """The absolute path of a folder that is there."""
    if not text or not Path(text).is_dir():
        raise InputError(f"{key}: found {format_value(text)}; allowed: a folder with files such as encoder/NAME.yaml")
    return Path(text).resolve()
