"""Command lines with options, for the tools that have no configuration."""

import argparse
from typing import NoReturn

from instructrl.errors import InputError


class Parser(argparse.ArgumentParser):
    """Says what is wrong with a command line in one line."""

    def error(self, message: str) -> NoReturn:
        """Raise InputError instead of printing the usage."""
        raise InputError(f"{message}; see {self.prog} --help")
