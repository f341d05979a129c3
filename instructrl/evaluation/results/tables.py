"""Printed tables beside that of the conditions: paired differences, words, variations, causes of failures."""

from collections.abc import Container, Mapping, Sequence
from typing import Any

from instructrl.cli.table import align
from instructrl.evaluation.results.causes import causes_text
from instructrl.evaluation.results.pairs import pairs_text
from instructrl.evaluation.results.summary import HEADLINE

_MOST_WORDS, _MOST_VARIATIONS, _MOST_OF_A_TASK = 12, 20, 3  # lines; the page has all


def tables(results: Mapping[str, Any]) -> str:
    """All tables for which the results have numbers, separated by empty lines; empty if there are none."""
    made = (pairs_table(results), words_table(results), variations_table(results), causes_table(results))
    return "\n\n".join(filter(None, made))


def pairs_table(results: Mapping[str, Any]) -> str:
    """The paired difference of each condition to the headline one."""
    conditions = {name: one["paired"] for name, one in results["conditions"].items() if "paired" in one}
    cells = [[name, str(pairs["pairs"]), pairs_text(pairs)] for name, pairs in conditions.items()]
    return _text(["", "pairs", f"difference to {HEADLINE} in the same scenes"], cells, right=(1,))


def words_table(results: Mapping[str, Any]) -> str:
    """Success without each word; only the first lines of a long table."""
    rows = results["conditions"].get("dropped_word", {}).get("words", [])
    cells = [
        [row["word"], str(row["episodes"]), f"{row['success_rate']:.3f}", pairs_text(row["paired"])]
        for row in rows[:_MOST_WORDS]
    ]
    heads = ["word left out", "episodes", "success", f"difference to {HEADLINE} in the same scenes"]
    return _text(heads, cells, right=(1, 2), left_out=len(rows) - len(cells))


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
    return _text(heads, cells, right=(1, 2), left_out=left_out)


def causes_table(results: Mapping[str, Any]) -> str:
    """The causes of failures: one line for each task of a set, then for each condition, then what to improve."""
    by_task = {name: entry["conditions"][HEADLINE] for name, entry in results.get("tasks", {}).items()}
    rows = {**by_task, **results["conditions"]}
    counted = {name: row["diagnosis"] for name, row in rows.items() if "diagnosis" in row}
    cells = [[name, str(counts["failures"]), causes_text(counts)] for name, counts in counted.items()]
    table = _text(["", "failures", "cause, and the keyframe that it begins at"], cells, right=(1,))
    return "\n".join(filter(None, [table, results.get("improve_next")]))


def _text(heads: Sequence[str], rows: Sequence[Sequence[str]], *, right: Container[int], left_out: int = 0) -> str:
    """The rows below their heads, and how many are left out; empty without rows."""
    lines = align([heads, *rows], right=right) if rows else []
    return "\n".join(lines + ([f"... and {left_out} more, on the page"] if left_out else []))
