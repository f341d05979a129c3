"""Printed tables beside that of the conditions: paired differences, words, variations, causes of failures."""

from collections.abc import Mapping, Sequence
from typing import Any

from instructrl.evaluation.results.causes import causes_text
from instructrl.evaluation.results.pairs import pairs_text
from instructrl.evaluation.results.summary import HEADLINE

_MOST_WORDS, _MOST_VARIATIONS, _MOST_OF_A_TASK = 12, 20, 3  # lines; the page has all


def tables(results: Mapping[str, Any]) -> str:
    """All tables for which the results have numbers, one below the other; empty if there are none."""
    made = (pairs_table(results), words_table(results), variations_table(results), causes_table(results))
    return "\n".join(filter(None, made))


def pairs_table(results: Mapping[str, Any]) -> str:
    """The paired difference of each condition to the headline one."""
    conditions = {name: one["paired"] for name, one in results["conditions"].items() if "paired" in one}
    cells = [[name, str(pairs["pairs"]), pairs_text(pairs)] for name, pairs in conditions.items()]
    return aligned(["", "pairs", f"difference to {HEADLINE} in the same scenes"], cells, left=(2,))


def words_table(results: Mapping[str, Any]) -> str:
    """Success without each word; only the first lines of a long table."""
    rows = results["conditions"].get("dropped_word", {}).get("words", [])
    cells = [
        [row["word"], str(row["episodes"]), f"{row['success_rate']:.3f}", pairs_text(row["paired"])]
        for row in rows[:_MOST_WORDS]
    ]
    heads = ["word left out", "episodes", "success", f"difference to {HEADLINE} in the same scenes"]
    return _with_rest(aligned(heads, cells, left=(3,)), len(rows) - len(cells))


def variations_table(results: Mapping[str, Any]) -> str:
    """Success by variation in the headline condition; of a long table, or of several tasks, the lowest."""
    tasks = results.get("tasks", {"": results})
    most = _MOST_VARIATIONS if len(tasks) == 1 else _MOST_OF_A_TASK
    cells, left_out = [], 0
    for task, entry in tasks.items():
        rows = entry["conditions"][HEADLINE]["variations"]
        if len(rows) > 1:
            lowest = rows if len(rows) <= most else sorted(rows, key=lambda row: row["success_rate"])[:most]
            left_out += len(rows) - len(lowest)
            cells += [
                [task, str(row["variation"]), f"{row['successes']}/{row['episodes']}", row["sentence"]]
                for row in lowest
            ]
    heads = ["task" if any(tasks) else "", "variation", "success", "for instance"]
    return _with_rest(aligned(heads, cells, left=(3,)), left_out)


def causes_table(results: Mapping[str, Any]) -> str:
    """The causes of failures: one line for each task of a set, then for each condition, then what to improve."""
    by_task = {name: entry["conditions"][HEADLINE] for name, entry in results.get("tasks", {}).items()}
    rows = {**by_task, **results["conditions"]}
    counted = {name: row["diagnosis"] for name, row in rows.items() if "diagnosis" in row}
    cells = [[name, str(counts["failures"]), causes_text(counts)] for name, counts in counted.items()]
    table = aligned(["", "failures", "cause, and the keyframe that it begins at"], cells, left=(2,))
    return "\n".join(filter(None, [table, results.get("improve_next")]))


def aligned(heads: Sequence[str], rows: Sequence[Sequence[str]], *, left: Sequence[int] = ()) -> str:
    """Rows below their heads in columns: the first and those in `left` begin, the others end below each other.

    Empty without rows.
    """
    if not rows:
        return ""
    lines = [heads, *rows]
    widths = [max(len(line[column]) for line in lines) for column in range(len(heads))]
    return "\n".join(
        "   ".join(
            cell.ljust(width) if column in (0, *left) else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    )


def _with_rest(table: str, left_out: int) -> str:
    return f"{table}\n... and {left_out} more, on the page" if left_out else table
