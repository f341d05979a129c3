"""Printed tables beside that of the conditions: why episodes fail."""

from collections.abc import Mapping, Sequence
from typing import Any

from instructrl.evaluation.results.causes import causes_text
from instructrl.evaluation.results.summary import HEADLINE


def tables(results: Mapping[str, Any]) -> str:
    """All tables for which the results have numbers, one below the other; empty if there are none."""
    return "\n".join(filter(None, [causes_table(results)]))


def causes_table(results: Mapping[str, Any]) -> str:
    """The causes of failures: one line for each task of a set, then for each condition, then what to improve."""
    by_task = {name: entry["conditions"][HEADLINE] for name, entry in results.get("tasks", {}).items()}
    rows = {**by_task, **results["conditions"]}
    counted = {name: row["diagnosis"] for name, row in rows.items() if "diagnosis" in row}
    if not counted:
        return ""
    cells = [[name, str(counts["failures"]), causes_text(counts)] for name, counts in counted.items()]
    lines = aligned(["", "failures", "cause, and the keyframe that it begins at"], cells, left=(2,))
    return "\n".join([lines, *filter(None, [results.get("improve_next")])])


def aligned(heads: Sequence[str], rows: Sequence[Sequence[str]], *, left: Sequence[int] = ()) -> str:
    """Rows below their heads in columns: the first and those in `left` begin, the others end below each other."""
    lines = [heads, *rows]
    widths = [max(len(line[column]) for line in lines) for column in range(len(heads))]
    return "\n".join(
        "   ".join(
            cell.ljust(width) if column in (0, *left) else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    )
