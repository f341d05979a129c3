"""A comparison as one self-contained HTML page without scripts, like that of an evaluation."""

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple
from urllib.parse import quote

from instructrl.evaluation.compare.grouping import Comparison, Group, best_loss
from instructrl.evaluation.compare.sweep_runs import Run
from instructrl.evaluation.report import charts, sections
from instructrl.evaluation.report.charts import Figure, Line, Point
from instructrl.evaluation.report.sections import Rate
from instructrl.evaluation.report.templates import render
from instructrl.evaluation.results.summary import HEADLINE
from instructrl.evaluation.run_checks import evaluation_folder

COLOURS = 8
MAIN = (  # the charts that are not folded
    ("success_rate", "rollout"),
    ("loss", "val"),
    ("loss", "train"),
    ("position_cm", "val"),
    ("rotation_deg", "val"),
    ("gripper_accuracy", "val"),
)
SPLITS = {"train": "training", "val": "validation", "rollout": ""}


class Setting(NamedTuple):
    """A group of runs; without a rate, it is not evaluated yet. `each`: the rate of each run, in percent."""

    style: str
    label: str
    seeds: Sequence[int]
    rate: Rate | None
    each: Sequence[float]


class Grid(NamedTuple):
    """A table of groups by conditions or tasks, with a rate in each cell."""

    names: Sequence[str]
    rows: Sequence[Sequence[Rate | None]]


class RunRow(NamedTuple):
    """A run in the table of all runs; `link` leads to its report."""

    style: str
    name: str
    link: str
    label: str
    seed: int
    rate: Rate | None
    best_loss: float | None
    steps: int


def page(found: Comparison, folder: Path) -> str:
    """The page as HTML; links are relative to `folder`."""
    figures = {key: _charts(found.groups, *key) for key in _metrics(found.groups)}
    return render(
        "comparison.html.j2",
        title=f"{found.name}: comparison",
        name=found.name,
        command=found.command,
        pending_command=found.pending_command,
        cautions=found.cautions,
        left_out=found.left_out,
        groups=[_setting(index, group) for index, group in enumerate(found.groups)],
        conditions=_grid([group.conditions for group in found.groups], found.conditions, sections.condition_name),
        tasks=_grid([group.tasks for group in found.groups], found.tasks, lambda task: task.replace("_", " ")),
        differences=found.differences,
        several_measures=len({group.measure for group in found.groups}) > 1,
        several_seeds=any(len(group.runs) > 1 for group in found.groups),
        main_curves=[figure for key in MAIN for figure in figures.get(key, ())],
        other_curves=[figure for key, several in figures.items() if key not in MAIN for figure in several],
        runs=[
            _run_row(index, group.label, run, folder)
            for index, group in enumerate(found.groups)
            for run in sorted(group.runs, key=lambda run: run.seed)
        ],
    )


def _setting(index: int, group: Group) -> Setting:
    condition = group.conditions.get(HEADLINE)
    if condition is None:
        return Setting(style(index), group.label, group.seeds, None, [])
    each = [100 * rate for rate in condition["rates"]]
    return Setting(style(index), group.label, group.seeds, sections.rate(condition), each)


def _grid(groups: Sequence[Mapping[str, Any]], keys: Sequence[str], name: Callable[[str], str]) -> Grid:
    return Grid(
        [name(key) for key in keys],
        [[sections.rate(rates[key]) if key in rates else None for key in keys] for rates in groups],
    )


def _metrics(groups: Sequence[Group]) -> list[tuple[str, str]]:
    """All (metric, split) pairs, the main ones first."""
    found = {
        (metric, split)
        for group in groups
        for run in group.runs
        for metric, series in charts.curves(run.metrics).items()
        for split in series
    }
    return [*(key for key in MAIN if key in found), *sorted(key for key in found if key not in MAIN)]


def _charts(groups: Sequence[Group], metric: str, split: str) -> list[Figure]:
    """The figure of a metric; of losses one for each scale, with what distinguishes it."""
    numbered = list(enumerate(groups))
    if "loss" not in metric:
        return [figure for figure in [_chart(numbered, metric, split)] if figure]
    kinds: dict[str, list[tuple[int, Group]]] = {}
    for index, group in numbered:
        kinds.setdefault(group.measure, []).append((index, group))
    found = ((kind, _chart(some, metric, split)) for kind, some in kinds.items())
    return [
        replace(figure, title=f"{figure.title} ({kind})" if len(kinds) > 1 else figure.title)
        for kind, figure in found
        if figure
    ]


def _chart(groups: Sequence[tuple[int, Group]], metric: str, split: str) -> Figure | None:
    """A group's mean as a strong and each of its runs as a faint line, in the colour of the group's number."""
    every = [line for _, group in groups for run in group.runs for line in run.metrics]
    faint, strong = [], []
    for index, group in groups:
        found = [charts.curves(run.metrics).get(metric, {}).get(split, []) for run in group.runs]
        curves = [points for points in found if points]
        if curves:
            faint += [Line(points, style(index), None) for points in curves if len(curves) > 1]
            strong.append(Line(averaged(curves), style(index), ""))
    where = SPLITS.get(split, split)
    heading = charts.title(metric) + (f", {where}" if where else "")
    return charts.figure(heading, [*faint, *strong], axis=charts.axis(every)) if strong else None


def averaged(curves: Sequence[Sequence[Point]]) -> list[Point]:
    """The mean of curves at the positions that all of them have."""
    values = [dict(points) for points in curves]
    positions = [index for index, _ in curves[0] if all(index in value for value in values)]
    return [(index, fmean(value[index] for value in values)) for index in positions] or list(curves[0])


def _run_row(index: int, label: str, run: Run, folder: Path) -> RunRow:
    rate = sections.rate(run.results) if run.results is not None else None
    steps = max((line["step"] for line in run.metrics), default=0)
    return RunRow(style(index), run.path.name, _link(run, folder), label, run.seed, rate, best_loss(run), steps)


def _link(run: Run, folder: Path) -> str:
    """The run's evaluation report, if that is on this file system."""
    if isinstance(run.path, Path):
        report = evaluation_folder(run.path, run.protocol) / "report.html"
        if report.is_file():
            return quote(os.path.relpath(report.resolve(), folder.resolve()))
    return ""


def style(index: int) -> str:
    """CSS class of a group's lines; colours repeat with dashed lines."""
    return f"g{index % COLOURS}" + (" dashed" if index // COLOURS % 2 else "")
