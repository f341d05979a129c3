"""Entry points: parse the command line, compose with Hydra, validate with `resolve`, run the function.

Every error is one line with exit code 2, before jax is imported and before anything is written.
"""

import copy
import functools
import inspect
import os
import shlex
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from instructrl.cli.compose import compose, merge, schema_of
from instructrl.cli.flags import split_flags
from instructrl.cli.folders import folder_words, take_folders
from instructrl.cli.help import help_text
from instructrl.cli.launcher_words import compose_launcher, is_launched
from instructrl.cli.overrides import (
    expand_sweep,
    is_of_plugin,
    read_override,
    without_empty_groups,
)
from instructrl.cli.plugins import HYDRAS_OWN, Plugins, add_import_path, chosen_plugins, example_jobs
from instructrl.cli.progress import ProgressBar
from instructrl.config.launcher import LauncherConfig
from instructrl.config.resolve import check_distinct_outputs
from instructrl.config.share import is_divided
from instructrl.errors import InputError, UserError, package_errors, report_user_errors
from instructrl.package_files import CONFIG_DIR, IMPORT_ROOT, IS_CHECKOUT
from instructrl.preemption import handle_signals
from instructrl.redaction import redact_words

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
        with package_errors():
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


def with_numbers(config: DictConfig) -> DictConfig:
    """A composed configuration in which numbers that follow from other settings stand for themselves."""
    numbers = copy.deepcopy(config)
    for group in filter(OmegaConf.is_dict, numbers.values()):
        for key in group:
            if OmegaConf.is_interpolation(group, key) and isinstance(group[key], int | float):
                group[key] = group[key]
    return numbers


def command_line() -> str:
    """The command as typed, for files that record how they were made, without passwords and tokens."""
    program, words = Path(sys.argv[0]), redact_words(sys.argv[1:])
    return shlex.join(["python", str(program), *words] if program.suffix == ".py" else [program.name, *words])
