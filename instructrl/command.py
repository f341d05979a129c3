"""How a command starts: its words are read and checked, Hydra composes, `resolve` checks, the function runs.

Every error is one line with exit code 2, before jax is imported and before anything is written.
"""

import functools
import inspect
import os
import re
import shlex
import sys
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import hydra
from hydra.core.config_store import ConfigStore
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from instructrl.config import check_jobs, resolve
from instructrl.errors import InputError, one_line_errors
from instructrl.interruption import heeded_signals
from instructrl.overrides import CONFIG_DIR, check_override, groups, jobs, options, read_override
from instructrl.profiles import LaunchConfig, LauncherConfig, private_file, private_words
from instructrl.schema import allowed, explain, leaves, refusal, shown

FLAGS = {
    "--help": "say what there is, and what the other words of the command make of it",
    "--cfg": "with `job`: print the composed settings and do nothing",
    "--multirun": "one run for each of several values, like seed=0,1,2 or seed=range(0,4)",
    "--dry-run": "show the commands, and the scripts that a cluster would get, and do nothing",
}
SHORT_FLAGS = {"-h": "--help", "-c": "--cfg", "-m": "--multirun"}
T = TypeVar("T")


@dataclass(frozen=True)
class Study:
    """What a launcher must know of the command whose jobs it runs."""

    config_name: str
    entry: tuple[str, ...]  # what follows the interpreter: ("train.py",) or ("-m", "data_tools.collect")
    launcher: LauncherConfig
    jobs: Sequence[Sequence[str]]  # the overrides of each
    configs: Sequence[Any]  # what they make of the settings
    command: str  # as the user gave it


def command(config_name: str, schema: type[T]) -> Callable[[Callable[[T], None]], Callable[[], None]]:
    """Turn a function of a typed configuration into a command line composed from conf/{config_name}.yaml.

    All runs that are asked for are composed and checked first; only then Hydra starts them, through its launcher.
    """

    def decorate(function: Callable[[T], None]) -> Callable[[], None]:
        @functools.wraps(function)
        def job(config: DictConfig) -> None:
            with one_line_errors(), heeded_signals():  # inside: Hydra would print a failing job's error in its own way
                announce_job()
                function(resolve(config, schema))

        start = hydra.main(version_base="1.3", config_path=str(CONFIG_DIR), config_name=config_name)(job)

        def run() -> None:
            with one_line_errors(), heeded_signals():
                flags, words = split_flags(sys.argv[1:])
                if "--help" in flags:
                    print(usage(config_name, schema, words, about=inspect.getmodule(function).__doc__ or ""))
                    return
                words, launcher = compose_launcher(words, dry_run="--dry-run" in flags)
                wanted = asked_for(flags, words)
                configs = [compose(config_name, schema, overrides) for overrides in wanted]
                check_jobs(configs)
                flags -= {"--dry-run"}
                if launched(flags, words, launcher):
                    study = Study(config_name, entry_of(function), launcher, wanted, configs, asked())
                    job.study = study  # type: ignore[attr-defined]
                    flags, words = flags | {"--multirun"}, ["hydra/launcher=study", *words]
                os.environ["HYDRA_FULL_ERROR"] = "1"  # a mistake of ours is shown whole
                front = [word for flag in sorted(flags) for word in ([flag, "job"] if flag == "--cfg" else [flag])]
                sys.argv[1:] = [*front, *words]  # Hydra reads no flag between other words
                start()

        return run

    return decorate


def asked_for(flags: set[str], words: list[str]) -> list[list[str]]:
    """The overrides of every run."""
    return jobs(words) if "--multirun" in flags else [words]


def compose_launcher(words: Sequence[str], *, dry_run: bool = False) -> tuple[list[str], LauncherConfig]:
    """The words without those of the launcher, and what these make of its profile and the user's private file.

    Raises:
        InputError: one of them, or a line of that file, is wrong.
    """
    own = [word for word in words if re.match(r"\+*~?launcher[=.@]", word)]
    private = private_words()
    profile = [word for word in own if word.startswith("launcher=")]
    try:
        compose("launch", LaunchConfig, private)
    except InputError as error:
        raise InputError(f"{private_file()}: {error}") from None
    config = compose("launch", LaunchConfig, [*profile, *private, *(word for word in own if word not in profile)])
    rest = [word for word in words if word not in own]
    return rest, replace(config.launcher, dry_run=config.launcher.dry_run or dry_run)


def launched(flags: set[str], words: Sequence[str], launcher: LauncherConfig) -> bool:
    """Whether our launcher runs the jobs: Hydra itself does a single one here, an installed plugin what it is for."""
    other = any(word.startswith("hydra/launcher") for word in words)
    return (
        "--cfg" not in flags and not other and ("--multirun" in flags or launcher.kind != "local" or launcher.dry_run)
    )


def entry_of(function: Callable) -> tuple[str, ...]:
    """What follows the interpreter on the command line of a function's file."""
    path = Path(inspect.getfile(function)).resolve()
    parts = path.relative_to(CONFIG_DIR.parent).with_suffix("").parts if CONFIG_DIR.parent in path.parents else ()
    return ("-m", ".".join(parts)) if len(parts) > 1 else (path.name,)


def announce_job() -> None:
    """In a sweep, say which run begins."""
    started = HydraConfig.get()
    if started.mode == RunMode.MULTIRUN:
        print(f"job {started.job.num + 1}: {' '.join(started.overrides.task)}", flush=True)


def split_flags(words: Sequence[str]) -> tuple[set[str], list[str]]:
    """The flags, by their long names, and the other words.

    Raises:
        InputError: a flag that we do not have.
    """
    flags = {SHORT_FLAGS.get(word, word) for word in words if word.startswith("-")}
    for flag in sorted(flags - set(FLAGS)):
        raise InputError(f"{shown(flag)}: no such flag; allowed: {', '.join([*FLAGS, *SHORT_FLAGS])} and key=value")
    others = [word for word in words if not word.startswith("-")]
    if "--cfg" in flags:
        if "job" not in others:
            raise InputError("--cfg: found nothing to print; write --cfg job")
        others.remove("job")
    return flags, others


def compose(config_name: str, schema: type[T], overrides: Sequence[str]) -> T:
    """What the command of that name would run with these overrides, as plain dataclasses.

    Raises:
        InputError: as the command would say it.
    """
    composed = merge(config_name, schema, overrides)
    given = [read_override(text).key_or_group for text in overrides]
    try:
        for key in given:  # first, so that an error names what was given rather than what refers to it
            OmegaConf.select(composed, key, throw_on_missing=True)
        return resolve(composed, schema)
    except OmegaConfBaseException as error:
        raise InputError(explain(error, schema)) from None
    except (RecursionError, ValueError, TypeError) as error:  # of resolvers in ${...}
        raise InputError(one_line(error)) from None


def merge(config_name: str, schema: type, overrides: Sequence[str]) -> DictConfig:
    """Hydra's composition of the YAML files and the overrides, typed but not yet resolved.

    Raises:
        InputError: an override is wrong.
    """
    for text in overrides:
        check_override(text, config_name, schema)
    ConfigStore.instance().store(name=f"{config_name}_schema", node=schema)
    try:
        with warnings.catch_warnings(), hydra.initialize_config_dir(version_base="1.3", config_dir=str(CONFIG_DIR)):
            warnings.simplefilter("ignore")
            return hydra.compose(config_name, overrides=list(overrides))
    except Exception as error:  # Hydra raises what its plugins, grammar and OmegaConf raise
        cause = error.__cause__ or error
        given = {override.key_or_group: override.value() for override in map(read_override, overrides)}
        if not isinstance(cause, OmegaConfBaseException):
            key = (re.findall(r"full_key: (\S+)", str(error)) or [""])[0]  # OmegaConf tells of Python's own errors so
            if key in given and key in leaves(schema):
                raise refusal(key, given[key], leaves(schema)[key]) from None
            raise InputError(one_line(error)) from None
        raise InputError(explain(cause, schema, given)) from None


def one_line(error: Exception) -> str:
    """An error of a library, as a line."""
    return f"configuration: {' '.join(str(error).split()) or type(error).__name__}; see --help for the settings"


def usage(config_name: str, schema: type, overrides: Sequence[str], *, about: str) -> str:
    """The help of a command: what it does, its groups, its settings with their values under `overrides`."""
    config = merge(config_name, schema, overrides)
    chosen: dict[str, Any] = dict(groups(config_name))
    chosen |= {o.key_or_group: o.value() for o in map(read_override, overrides) if o.key_or_group in chosen}
    known = {group: [f"[{name}]" if name == chosen[group] else name for name in options(group)] for group in chosen}
    lines = [about.strip(), "", "Flags", *table(FLAGS)]
    lines += ["", "Groups: group=option, [the one in use]", *table({key: " ".join(known[key]) for key in known})]
    lines += ["", "Settings: key=value (value in use; what is allowed)"]
    fields = leaves(schema)
    lines += table({key: f"{in_use(config, key):<14}  {allowed(fields[key])}" for key in fields})
    lines += ["", "Launcher: launcher=profile, and what is set beside it (python FILE --help launcher=... shows it)"]
    return "\n".join(lines)


def in_use(config: DictConfig, key: str) -> str:
    """The value of a setting, as one would write it."""
    try:
        value: Any = OmegaConf.select(config, key, throw_on_missing=True)
    except OmegaConfBaseException:
        return "(needed)"
    value = OmegaConf.to_container(value) if OmegaConf.is_config(value) else value
    return re.sub(r"['\" ]", "", str(value)) if isinstance(value, list) else shown(value)


def table(rows: dict[str, str]) -> list[str]:
    """Lines of two columns."""
    width = max(map(len, rows))
    return [f"  {key:<{width}}  {text}" for key, text in rows.items()]


def asked() -> str:
    """The command as the user gave it, for files that say how they were made."""
    return shlex.join(["python", *sys.argv])
