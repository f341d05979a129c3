"""The runs of a sweep side by side: one table, with means and intervals over the seeds, and one page.

python -m instructrl.evaluation.compare multirun/NAME
python -m instructrl.evaluation.compare multirun/NAME --protocol peract

Writes comparison.html and comparison.json into the sweep's folder. A sweep of train.py has learning curves; what its
agents can do is there once they were judged, as the last lines say.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from instructrl.errors import InputError, one_line_errors
from instructrl.evaluation.comparison import Comparison, compared, table
from instructrl.evaluation.comparison_page import page
from instructrl.evaluation.gathering import gather
from instructrl.training.run_directory import write_atomically

PAGE, NUMBERS = "comparison.html", "comparison.json"


class Parser(argparse.ArgumentParser):
    """Says what is wrong with a command line in one line."""

    def error(self, message: str) -> NoReturn:
        """Raise InputError instead of printing the usage."""
        raise InputError(f"{message}; see {self.prog} --help")


def compare(folder: Path, *, protocol: str | None = None) -> tuple[Comparison, Path]:
    """Compare the runs of a sweep and write the page and the numbers.

    Args:
        folder: of the sweep, with its jobs.json.
        protocol: whose results count; None: those of the sweep's evaluations, or else the only ones that there are.

    Raises:
        InputError: there is no sweep, none of its runs has anything to compare, or the page cannot be written.
    """
    found = compared(gather(folder, protocol=protocol), folder)
    elsewhere = "go to another folder"
    write_atomically(folder / NUMBERS, json.dumps(found.numbers(), indent=2) + "\n", elsewhere=elsewhere)
    write_atomically(folder / PAGE, page(found, folder), elsewhere=elsewhere)
    return found, folder / PAGE


def told(found: Comparison, path: Path) -> str:
    """The table, what was left out, what to do about it, and where the page is."""
    lines = [table(found), *(f"left out: {run.name} {run.reason}" for run in found.left_out)]
    if found.judge:
        lines.append(f"not judged yet: {found.judge}")
    return "\n".join([*lines, f"comparison: {path}"])


def main(words: Sequence[str]) -> None:
    """The command."""
    parser = Parser(
        prog="python -m instructrl.evaluation.compare",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("folder", type=Path, help="of a sweep: multirun/NAME, where its jobs.json lies")
    parser.add_argument("--protocol", help="whose results are compared, if there are several")
    given = parser.parse_args(words)
    print(told(*compare(given.folder, protocol=given.protocol)))


if __name__ == "__main__":
    with one_line_errors():
        main(sys.argv[1:])
