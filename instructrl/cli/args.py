"""Command-line parsing of the tools: options, or key=value for tools with a configuration."""

import argparse
from collections.abc import Sequence
from typing import NoReturn, TypeVar

from omegaconf import OmegaConf

from instructrl.config.fields import format_value
from instructrl.config.resolve import resolve
from instructrl.errors import InputError

T = TypeVar("T")


class Parser(argparse.ArgumentParser):
    """Argument parser that reports errors in one line."""

    def error(self, message: str) -> NoReturn:
        """Raise InputError instead of printing the usage."""
        raise InputError(f"{message}; see {self.prog} --help")


def parse_settings(words: Sequence[str], schema: type[T], *, prog: str) -> T:
    """Build a config from words of the form key=value.

    Raises:
        InputError: a word has another form, a key is unknown or a value is not allowed.
    """
    for word in words:
        if "=" not in word:
            raise InputError(f"{format_value(word)}: cannot be read as key=value; see {prog} --help")
    try:
        config = OmegaConf.from_dotlist(list(words))
    except Exception:  # YAML errors of invalid values
        raise InputError(f"{format_value(' '.join(words))}: cannot be read; see {prog} --help") from None
    return resolve(config, schema)
