"""The page of the method's comparisons, in Markdown, with its figure."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from data_tools.reproduce.comparisons import AMOUNTS, COMPARISONS, CURVES, FOLDER, Comparison, Curve
from data_tools.reproduce.figure import Rate, Series, draw
from data_tools.reproduce.results import Results
from instructrl.evaluation.report.sections import condition_name
from instructrl.evaluation.results.pairs import pairs_text
from instructrl.evaluation.results.summary import HEADLINE
from instructrl.storage.atomic import write_atomically

HINT = "choose another --out"
INTRODUCTION = """# The method's comparisons

Made by `{command}`

Each line is one file of `conf/experiment/paper`, trained with {seeds} and evaluated in {episodes} scenes that no
training saw, the same for all lines of a table. Brackets are intervals at 95 %, over scenes and training seeds. The
last column is the difference to the first line in the same scenes, and McNemar's p-value.
"""


def write_page(results: Results, path: Path, *, command: str) -> Path:
    """Write the page and the figure beside it; returns the page's path.

    Raises:
        InputError: a file cannot be written.
    """
    sections = [introduction(results, command)]
    sections += [text for one in COMPARISONS if (text := comparison_section(one, results))]
    series = [one for curve in CURVES if (one := series_of(curve, results)).rates]
    path.parent.mkdir(parents=True, exist_ok=True)
    if any(len(one.rates) > 1 for one in series):
        figure = path.with_name(f"{path.stem}-demonstrations.svg")
        write_atomically(figure, draw(series), hint=HINT)
        sections.append(amounts_section(figure.name, results))
    if results.left_out:
        lines = [f"- {run.name}: {run.reason}" for run in results.left_out]
        sections.append("\n".join(["## Left out", "", *lines, ""]))
    write_atomically(path, "\n".join(sections), hint=HINT)
    return path


def introduction(results: Results, command: str) -> str:
    """The heading, the command, and how the numbers were made."""
    seeds = sorted({run.seed for run in results.runs})
    episodes = sorted({run.results["episodes"] for run in results.runs if run.results is not None})
    return INTRODUCTION.format(
        command=command,
        seeds=f"seed{'s' if len(seeds) > 1 else ''} {', '.join(map(str, seeds))}",
        episodes=" or ".join(map(str, episodes)) or "no",
    )


def comparison_section(comparison: Comparison, results: Results) -> str:
    """A comparison as a table; empty if only its baseline was evaluated."""
    others = [name for name in comparison.others if results.conditions(name)]
    if not others:
        return ""
    names = [*([comparison.baseline] if results.conditions(comparison.baseline) else []), *others]
    shown = list(dict.fromkeys(key for name in names for key in results.conditions(name)))
    rest = [key for key in shown if key not in (HEADLINE, "oracle")]
    rows = [["experiment", "success", *map(condition_name, rest), "difference"]]
    for name in names:
        conditions = results.conditions(name)
        cells = [rate_text(conditions[key]) if key in conditions else "" for key in rest]
        difference = "" if name == comparison.baseline else difference_text(results, name, comparison.baseline)
        rows.append([f"`{FOLDER}{name}`", rate_text(conditions[HEADLINE], spread=True), *cells, difference])
    return "\n".join([f"## {comparison.title}", "", comparison.question, "", *markdown_table(rows), ""])


def amounts_section(figure: str, results: Results) -> str:
    """The figure, and a table over the number of demonstrations for each condition of the evaluation."""
    evaluated = {name: results.conditions(name) for curve in CURVES for name in curve.experiments.values()}
    image = f"![Success over the number of demonstrations]({figure})"
    lines = ["## Amount of demonstrations", "", image, ""]
    for key in dict.fromkeys(key for conditions in evaluated.values() for key in conditions if key != "oracle"):
        rates = {name: conditions[key] for name, conditions in evaluated.items() if key in conditions}
        lines += [f"{condition_name(key)}:", "", *markdown_table(amounts_rows(key, rates, results)), ""]
    return "\n".join(lines)


def amounts_rows(condition: str, rates: Mapping[str, Mapping[str, Any]], results: Results) -> list[list[str]]:
    """Success of each curve in a condition, and the paired differences of the first to the others.

    `rates`: success of the experiments that were evaluated in this condition.
    """
    counts = [count for count in AMOUNTS if any(curve.experiments[count] in rates for curve in CURVES)]
    rows = [["demonstrations", *(f"{count:,}" for count in counts)]]
    for curve in CURVES:
        names = [curve.experiments[count] for count in counts]
        if rates.keys() & {*names}:
            rows.append(
                [curve.label, *(rate_text(rates[name], spread=True) if name in rates else "" for name in names)]
            )
    first, *others = CURVES
    for other in others:
        pairs = [(first.experiments[count], other.experiments[count]) for count in counts]
        differences = [difference_text(results, *pair, condition) for pair in pairs]
        if any(differences):
            rows.append([f"{first.label}, minus {other.label}", *differences])
    return rows


def series_of(curve: Curve, results: Results) -> Series:
    """The success rates of a curve's experiments that were evaluated."""
    rates = []
    for count, name in curve.experiments.items():
        condition = results.conditions(name).get(HEADLINE)
        if condition is not None:
            rates.append(Rate(count, condition["success_rate"], condition["mean_low"], condition["mean_high"]))
    return Series(curve.label, rates)


def rate_text(condition: Mapping[str, Any], *, spread: bool = False) -> str:
    """A success rate, with its interval if `spread`."""
    rate = f"{condition['success_rate']:.3f}"
    return f"{rate} [{condition['mean_low']:.3f}, {condition['mean_high']:.3f}]" if spread else rate


def difference_text(results: Results, name: str, baseline: str, condition: str = HEADLINE) -> str:
    """The paired difference to the baseline, or why there is none."""
    difference = results.difference(name, baseline, condition)
    if difference is None:
        return ""
    return difference.refused if difference.numbers is None else pairs_text(difference.numbers)


def markdown_table(rows: list[list[str]]) -> list[str]:
    """Lines of a table, whose first row is the head."""
    head, *body = (f"| {' | '.join(row)} |" for row in rows)
    return [head, "|" + "---|" * len(rows[0]), *body]
