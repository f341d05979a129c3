"""How a command starts: Hydra composes, `resolve` checks, the function runs; errors are one line.

Hydra's own messages run over several lines with a hint about stack traces; here they are said again as
one line with exit code 2.
"""

import functools
import os
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import hydra
from hydra.core.config_store import ConfigStore
from hydra.errors import HydraException, MissingConfigException, OverrideParseException
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from instructrl.config import explain, resolve, unknown_key
from instructrl.errors import InputError, one_line_errors

CONFIG_DIR = Path(__file__).resolve().parent.parent / "conf"
T = TypeVar("T")


def command(config_name: str, schema: type[T]) -> Callable[[Callable[[T], None]], Callable[[], None]]:
    """Turn a function of a typed configuration into a command line composed from conf/{config_name}.yaml."""
    register(config_name, schema)

    def decorate(function: Callable[[T], None]) -> Callable[[], None]:
        begun = False

        @functools.wraps(function)
        def run_job(config: DictConfig) -> None:
            nonlocal begun
            begun = True
            with one_line_errors():
                function(resolve(config, schema))

        composed = hydra.main(version_base="1.3", config_path=str(CONFIG_DIR), config_name=config_name)(run_job)

        def run() -> None:
            os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra hands the exception on instead of printing it
            with one_line_errors():
                try:
                    composed()
                except Exception as error:
                    if begun:
                        raise
                    raise InputError(composition_error(error, schema)) from None

        return run

    return decorate


def register(config_name: str, schema: type) -> None:
    """Make the schema known to Hydra as the first entry of the defaults list."""
    ConfigStore.instance().store(name=f"{config_name}_schema", node=schema)


def compose(config_name: str, schema: type[T], overrides: list[str]) -> T:
    """What the command of that name would run with these overrides, as plain dataclasses.

    Raises:
        InputError: as the command would say it.
    """
    register(config_name, schema)
    try:
        with hydra.initialize_config_dir(version_base="1.3", config_dir=str(CONFIG_DIR)):
            config = hydra.compose(config_name, overrides=overrides)
    except Exception as error:
        raise InputError(composition_error(error, schema)) from None
    return resolve(config, schema)


def composition_error(error: Exception, schema: type) -> str:
    """One line for whatever Hydra or OmegaConf raise while composing: the key, what was found, what is allowed."""
    if isinstance(error, MissingConfigException) and error.options:
        group, _, option = (error.missing_cfg_file or "").rpartition("/")
        return f"{group}={option}: no such option; allowed: {', '.join(sorted(error.options))}"
    if isinstance(error, OverrideParseException):
        return f"{error.override}: cannot be read as key=value; quote values with special characters"
    message = " ".join(str(error).split())
    unknown = re.search(r"Could not (?:override|delete|append)[^']*'([^'=@]+)", message)
    if unknown:
        return unknown_key(unknown[1].strip("/+~"), schema)
    cause = error.__cause__ if isinstance(error, HydraException) else error
    if isinstance(cause, OmegaConfBaseException):
        return explain(cause, schema)
    return f"{message}; a group takes the name of one of its options, see --help"


def asked() -> str:
    """The command as the user gave it, for files that say how they were made."""
    return " ".join(["python", *sys.argv])
