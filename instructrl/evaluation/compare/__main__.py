"""Compares the runs of a sweep: a table with means and intervals over the seeds, and an HTML page.

python -m instructrl.evaluation.compare multirun/NAME
python -m instructrl.evaluation.compare multirun/NAME --protocol peract

Writes comparison.html and comparison.json into the sweep's folder. A sweep of train.py has learning curves; success
rates are added once its runs are evaluated, by the command in the last lines of the output.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from instructrl.cli.args import Parser
from instructrl.errors import report_user_errors
from instructrl.evaluation.compare.grouping import Comparison, group_runs, table
from instructrl.evaluation.compare.page import page
from instructrl.evaluation.compare.sweep_runs import load_sweep
from instructrl.storage.atomic import write_atomically
from instructrl.storage.writable import check_writable

PAGE, NUMBERS = "comparison.html", "comparison.json"


def compare(folder: Path, *, protocol: str | None = None) -> tuple[Comparison, Path]:
    """Compare the runs of a sweep and write the page and the numbers.

    Args:
        folder: of the sweep, with its jobs.json.
        protocol: whose results are compared; None: that of the sweep's evaluations, else the only one with results.

    Raises:
        InputError: there is no sweep, no run has anything to compare, or the page cannot be written.
    """
    hint, runs = "go to another folder", load_sweep(folder, protocol=protocol)
    check_writable(folder, hint=hint)
    found = group_runs(runs, folder)
    write_atomically(folder / NUMBERS, json.dumps(found.numbers(), indent=2) + "\n", hint=hint)
    write_atomically(folder / PAGE, page(found, folder), hint=hint)
    return found, folder / PAGE


def summary(found: Comparison, path: Path) -> str:
    """The table, differences to the best setting, cautions, runs left out, the pending command, and the page."""
    best = [difference.text() for difference in found.differences if difference.first == found.groups[0].label]
    lines = [table(found), *best, *(f"caution: {sentence}" for sentence in found.cautions)]
    lines += [f"left out: {run.name} {run.reason}" for run in found.left_out]
    if found.pending_command:
        lines.append(f"not evaluated yet: {found.pending_command}")
    return "\n".join([*lines, f"comparison: {path}"])


def main(words: Sequence[str]) -> None:
    """Run the command."""
    parser = Parser(
        prog="python -m instructrl.evaluation.compare",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("folder", type=Path, help="folder of a sweep with its jobs.json: multirun/NAME")
    parser.add_argument("--protocol", help="protocol whose results are compared, if there are several")
    arguments = parser.parse_args(words)
    print(summary(*compare(arguments.folder, protocol=arguments.protocol)))


if __name__ == "__main__":
    with report_user_errors():
        main(sys.argv[1:])
