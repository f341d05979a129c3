"""Command lines of the tools: options for those that have no configuration, key=value for those that have one."""

import argparse
from collections.abc import Sequence
from typing import NoReturn, TypeVar

from omegaconf import OmegaConf

from instructrl.config import resolve
from instructrl.errors import InputError
from instructrl.schema import shown

T = TypeVar("T")


class Parser(argparse.ArgumentParser):
    """Says what is wrong with a command line in one line."""

    def error(self, message: str) -> NoReturn:
        """Raise InputError instead of printing the usage."""
        raise InputError(f"{message}; see {self.prog} --help")


def settings(words: Sequence[str], schema: type[T], *, prog: str) -> T:
    """What words of the form key=value ask for.

    Raises:
        InputError: a word of another form, an unknown key or a value that is not allowed.
    """
    for word in words:
        if "=" not in word:
            raise InputError(f"{shown(word)}: cannot be read as key=value; see {prog} --help")
    try:
        config = OmegaConf.from_dotlist(list(words))
    except Exception:  # of YAML, for a value that is none
        raise InputError(f"{shown(' '.join(words))}: cannot be read; see {prog} --help") from None
    return resolve(config, schema)
