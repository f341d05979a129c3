"""Command-line parsing of the tools: options, or key=value for tools with a configuration."""

import argparse
from collections.abc import Sequence
from typing import NoReturn, TypeVar

from omegaconf import OmegaConf

from instructrl.config.fields import format_value, leaves, subdict, takes_words
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
    values = OmegaConf.to_container(config)
    for key, entry in leaves(schema).items():
        *groups, name = key.split(".")
        given = subdict(values, groups).get(name)
        if takes_words(entry) and isinstance(given, str) and "${" not in given:
            OmegaConf.update(config, key, [given])
    return resolve(config, schema)
