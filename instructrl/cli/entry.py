"""Entry points: parse the command line, compose with Hydra, validate with `resolve`, run the function.

Every error is one line with exit code 2, before jax is imported and before anything is written.
"""

import copy
import functools
import inspect
import os
import re
import shlex
import sys
import textwrap
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, TypeVar

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from instructrl.cli.args import parse_settings
from instructrl.cli.compose import compose, merge, schema_of
from instructrl.cli.folders import faults, folder_words, take_folders
from instructrl.cli.overrides import (
    expand_sweep,
    groups,
    is_of_plugin,
    options,
    read_override,
    without_empty_groups,
)
from instructrl.cli.plugins import HYDRAS_OWN, Plugins, add_import_path, chosen_plugins, example_jobs
from instructrl.cli.progress import ProgressBar
from instructrl.config.fields import (
    format_value,
    leaves,
    summarize_allowed,
)
from instructrl.config.kinds import registries
from instructrl.config.launcher import LaunchConfig, LauncherConfig, user_config_file, user_overrides
from instructrl.config.resolve import check_distinct_outputs
from instructrl.config.share import is_divided
from instructrl.errors import InputError, UserError, report_user_errors
from instructrl.package_files import CONFIG_DIR, IMPORT_ROOT, IS_CHECKOUT
from instructrl.preemption import handle_signals
from instructrl.redaction import redact_words

FLAGS = {
    "--help": "print this help, with the values that the other arguments choose",
    "--cfg": "with `job`: print the composed settings and exit",
    "--multirun": "one run per combination of several values, like seed=0,1,2 or seed=range(0,4)",
    "--dry-run": "print the commands and the scripts for a cluster, and exit",
    "--config-dir": "with a folder: its YAML files, such as encoder/NAME.yaml, are options of the groups too",
}
HELP_WIDTH, MAX_HELP_COLUMN = 116, 44  # characters of a line of the help, and before the meaning of a setting
SHORT_FLAGS = {"-h": "--help", "-c": "--cfg", "-m": "--multirun", "-cd": "--config-dir"}
T = TypeVar("T")


@dataclass(frozen=True)
class SweepRequest:
    """Everything a launcher needs to run the jobs of a command."""

    config_name: str
    entry: tuple[str, ...]  # between interpreter and overrides: ("train.py",), or ("-m", module, "--config-dir", DIR)
    launcher: LauncherConfig
    jobs: Sequence[Sequence[str]]  # the overrides of each job
    configs: Sequence[Any]  # the composed configuration of each job
    command: str  # as typed
    search: bool = False  # a sweeper chooses other jobs: these are examples


def entry_point(
    config_name: str, schema: type[T], *, script: str | None = None
) -> Callable[[Callable[[T], Any]], Callable[[], None]]:
    """Decorator that turns a function of a typed configuration into a command composed from conf/{config_name}.yaml.

    All jobs are composed and validated first; only then does Hydra start them, through its launcher. The function's
    result is the objective of sweeper plugins.

    Args:
        config_name: name of the YAML file.
        schema: dataclass of the settings.
        script: the file at the top of a checkout that runs this command; without one, and in an installed package,
            jobs run it as a module.
    """

    def decorate(function: Callable[[T], Any]) -> Callable[[], None]:
        @functools.wraps(function)
        def job(_: DictConfig) -> Any:
            with report_job_errors(), handle_signals():
                announce_job()
                return function(compose(config_name, schema, list(HydraConfig.get().overrides.task)))

        start = hydra.main(version_base="1.3", config_path=str(CONFIG_DIR), config_name=config_name)(job)

        @functools.wraps(function)
        def run() -> None:
            composes_many = bool({"-m", "--multirun"} & set(sys.argv[1:]))
            # the processes of a single job end together, so a signal waits until they have met
            with report_user_errors(), handle_signals(working=not composes_many):
                flags, words = split_flags(take_folders(sys.argv[1:]))
                if "--help" in flags:
                    print(help_text(config_name, schema, words, about=inspect.getmodule(function).__doc__ or ""))
                    return
                words, launcher = compose_launcher(words, dry_run="--dry-run" in flags)
                plugins = chosen_plugins(words, config_name, schema) if "--multirun" in flags else Plugins()
                jobs = job_overrides(flags, words, plugins, config_name, schema)
                several = len(jobs) > 1  # hundreds take minutes
                bar = ProgressBar(jobs, description="settings", total=len(jobs), unit="jobs", shown=several, delay=1)
                configs = [compose(config_name, schema, overrides) for overrides in bar]
                check_distinct_outputs(configs)
                if "--cfg" in flags:
                    for overrides in jobs:
                        known = schema_of(config_name, schema, overrides)
                        print(OmegaConf.to_yaml(with_numbers(merge(config_name, known, overrides))))
                    return
                flags -= {"--dry-run"}
                if plugins.launcher:
                    check_only_launcher(plugins, launcher)
                    check_undivided(configs, f"hydra/launcher={plugins.launcher}")
                    add_import_path()
                elif "--multirun" in flags or is_launched(launcher) or any(map(is_divided, configs)):
                    entry = (*entry_words(function, script), *folder_words())
                    search = searches(plugins, launcher)
                    if plugins.searches:
                        check_undivided(configs, f"hydra/sweeper={plugins.sweeper}")
                    request = SweepRequest(config_name, entry, launcher, jobs, configs, command_line(), search)
                    job.sweep_request = request  # type: ignore[attr-defined]
                    flags |= {"--multirun"}  # without a search, the launcher has the jobs already
                    words = [*(words if search else []), "hydra/launcher=instructrl"]
                os.environ["HYDRA_FULL_ERROR"] = "1"  # full traceback of a bug
                words = without_empty_groups(words, config_name)
                sys.argv[1:] = [*sorted(flags), *folder_words(), *words]  # Hydra reads no flag between other words
                with report_plugin_errors():
                    start()

        return run

    return decorate


def job_overrides(
    flags: set[str], words: list[str], plugins: Plugins, config_name: str, schema: type[Any]
) -> list[list[str]]:
    """The overrides of every job; if a sweeper plugin chooses the jobs, those of some examples.

    Raises:
        InputError: a word of a sweep is invalid, or chooses a plugin of sweeps for a single job.
    """
    if plugins.searches:
        return example_jobs([*plugins.space, *words], config_name, schema)
    if "--multirun" in flags:
        return expand_sweep(words)
    for word in words:
        key = read_override(word).key_or_group
        if is_of_plugin(key):
            raise InputError(f"{key}: found without --multirun; allowed: with it, since plugins run sweeps; add -m")
    return [words]


def compose_launcher(words: Sequence[str], *, dry_run: bool = False) -> tuple[list[str], LauncherConfig]:
    """The words that are not the launcher's, and the launcher's settings: profile, the user's file, words.

    Raises:
        InputError: one of them, or a setting of that file, is invalid.
    """
    rest, launcher_words = split_launcher(words)
    config = compose("launch", LaunchConfig, launcher_words)
    return rest, replace(config.launcher, dry_run=config.launcher.dry_run or dry_run)


def split_launcher(words: Sequence[str]) -> tuple[list[str], list[str]]:
    """The words that are not the launcher's, and the launcher's with those of the user's file, the last one winning.

    Raises:
        InputError: a setting of that file is invalid.
    """
    own = [word for word in words if re.match(r"\+*~?launcher[=.@]", word)]
    from_file = user_overrides()
    profile = [word for word in own if word.startswith("launcher=")]
    try:
        if from_file:
            compose("launch", LaunchConfig, from_file)
    except InputError as error:
        raise InputError(f"{user_config_file()}: {error}") from None
    others = [word for word in own if word not in profile]
    return [word for word in words if word not in own], [*profile, *from_file, *others]


def searches(plugins: Plugins, launcher: LauncherConfig) -> bool:
    """Return True if a sweeper plugin chooses jobs for our launcher; a dry run shows the first example.

    Raises:
        InputError: the launcher would not wait for the values of the jobs, or run others after them.
    """
    if plugins.searches and launcher.then:
        raise InputError(
            f"launcher.then: found {launcher.then}; allowed: null with hydra/sweeper={plugins.sweeper}, and eval.py "
            "once the search is done"
        )
    if plugins.searches and not launcher.wait:
        raise InputError(
            f"launcher.wait: found false; allowed: true with hydra/sweeper={plugins.sweeper}, which chooses the next "
            "jobs by the values of these"
        )
    return plugins.searches and not launcher.dry_run


def check_only_launcher(plugins: Plugins, launcher: LauncherConfig) -> None:
    """Raise InputError if a launcher plugin starts the jobs, but settings of ours say otherwise."""
    if launcher.kind != "local" or launcher.dry_run or launcher.then:
        found = "--dry-run" if launcher.dry_run else f"launcher={launcher.name}"
        found = f"launcher.then={launcher.then}" if launcher.then else found
        raise InputError(
            f"hydra/launcher: found {plugins.launcher} beside {found}; allowed: one of them, since launcher= chooses "
            "InstructRL's own"
        )


def is_launched(launcher: LauncherConfig) -> bool:
    """Return True if the settings of the launcher ask for one, even for a single job."""
    return launcher.kind != "local" or launcher.dry_run or bool(launcher.then)


def check_undivided(configs: Sequence[Any], plugin: str) -> None:
    """Raise InputError if episodes are to be divided among jobs that a plugin chooses or starts."""
    for config in configs:
        if is_divided(config):
            raise InputError(f"jobs: found {config.jobs} with {plugin}; allowed: 1")


@contextmanager
def report_job_errors() -> Iterator[None]:
    """Report the error of a job that Hydra itself started here, which formats it otherwise, and end.

    That of a plugin's job is printed with its number, and raised for the sweeper, which ends the sweep or goes on.
    """
    started = HydraConfig.get()
    plugins = [started.runtime.choices[f"hydra/{group}"] for group in ("sweeper", "launcher")]
    if started.mode != RunMode.MULTIRUN or plugins == [HYDRAS_OWN, HYDRAS_OWN]:
        with report_user_errors():
            yield
        return
    try:
        yield
    except UserError as error:
        print(f"job {started.job.num + 1} failed: {' '.join(str(error).split())}", file=sys.stderr)
        raise


@contextmanager
def report_plugin_errors() -> Iterator[None]:
    """Report that Hydra cannot use a plugin.

    Raises:
        InputError: it was written for another version, or got a setting that it does not have.
    """
    try:
        yield
    except HydraException as error:
        text = " ".join(str(error).split())
        raise InputError(
            f"a plugin of hydra-core {hydra.__version__}: {text}; check the settings in hydra.sweeper and "
            "hydra.launcher, and that the plugin is for this version"
        ) from None


def entry_words(function: Callable, script: str | None = None) -> tuple[str, ...]:
    """Return the arguments of the interpreter that run a function's command."""
    if script is not None and IS_CHECKOUT:
        return (script,)
    path = Path(inspect.getfile(function)).resolve()  # its `__module__` may be `__main__`
    parts = path.relative_to(IMPORT_ROOT).with_suffix("").parts if IMPORT_ROOT in path.parents else ()
    module = ".".join(parts).removesuffix(".__main__")
    return ("-m", module) if len(parts) > 1 else (path.name,) if parts else (str(path),)


def announce_job() -> None:
    """Print the overrides of a sweep's job that starts."""
    started = HydraConfig.get()
    if started.mode == RunMode.MULTIRUN:
        print(f"job {started.job.num + 1}: {' '.join(redact_words(started.overrides.task))}", flush=True)


def split_flags(words: Sequence[str]) -> tuple[set[str], list[str]]:
    """The flags, by their long names, and the other words.

    Raises:
        InputError: an unknown flag.
    """
    flags = {SHORT_FLAGS.get(word, word) for word in words if word.startswith("-")}
    for flag in sorted(flags - set(FLAGS)):
        allowed = f"{', '.join([*FLAGS, *SHORT_FLAGS])} and key=value"
        raise InputError(f"{format_value(flag)}: no such flag; allowed: {allowed}")
    others = [word for word in words if not word.startswith("-")]
    if "--cfg" in flags:
        if "job" not in others:
            raise InputError("--cfg: found nothing to print; write --cfg job")
        others.remove("job")
    return flags, others


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


def with_numbers(config: DictConfig) -> DictConfig:
    """A composed configuration in which numbers that follow from other settings stand for themselves."""
    numbers = copy.deepcopy(config)
    for group in filter(OmegaConf.is_dict, numbers.values()):
        for key in group:
            if OmegaConf.is_interpolation(group, key) and isinstance(group[key], int | float):
                group[key] = group[key]
    return numbers


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


def command_line() -> str:
    """The command as typed, for files that record how they were made, without passwords and tokens."""
    program, words = Path(sys.argv[0]), redact_words(sys.argv[1:])
    return shlex.join(["python", str(program), *words] if program.suffix == ".py" else [program.name, *words])
