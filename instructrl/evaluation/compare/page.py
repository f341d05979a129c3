"""A comparison as one self-contained HTML page without scripts, like that of an evaluation."""

import os
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from statistics import fmean
from typing import Any
from urllib.parse import quote

from instructrl.evaluation.compare.grouping import Comparison, Group, best_loss
from instructrl.evaluation.compare.sweep_runs import Run
from instructrl.evaluation.report import charts, sections
from instructrl.evaluation.report.charts import Line, Point
from instructrl.evaluation.report.document import document
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


def page(found: Comparison, folder: Path) -> str:
    """The page as HTML; links are relative to `folder`."""
    parts = [_header(found), _success(found), _curves(found), _runs(found, folder), _left_out(found)]
    return document(f"{found.name}: comparison", "".join(parts))


def _header(found: Comparison) -> str:
    runs = sum(len(group.runs) for group in found.groups)
    warnings = []
    if found.left_out:
        warnings.append(
            f"{len(found.left_out)} of {runs + len(found.left_out)} runs are left out; see the last section."
        )
    if found.pending_command:
        warnings.append(f"Not all runs have been evaluated yet: {found.pending_command}")
    count = f"{runs} run{'s' * (runs != 1)}, {len(found.groups)} setting{'s' * (len(found.groups) != 1)}"
    return f"""<header>
<p class="eyebrow">InstructRL comparison</p>
<h1>{escape(found.name)}</h1>
<p>{count}. Runs that differ only in their seed share one line.</p>
<pre class="command">{escape(found.command)}</pre>
{"".join(f'<p class="warning">{escape(text)}</p>' + chr(10) for text in warnings)}</header>
"""


def _success(found: Comparison) -> str:
    """Means over seeds: the headline with bars, then all conditions, then the tasks of a set."""
    if not any(group.conditions for group in found.groups):
        return ""
    body = ""
    for index, group in enumerate(found.groups):
        condition = group.conditions.get(HEADLINE)
        cells = '<td class="faint" colspan="5">not evaluated yet</td>'
        if condition is not None:
            each = ", ".join(f"{100 * rate:.1f}" for rate in condition["rates"])
            cells = (
                f'<td class="number">{100 * condition["success_rate"]:.1f}&nbsp;%</td>'
                f'<td class="bar">{sections.interval(condition)}</td><td class="number">{sections.span(condition)}</td>'
                f'<td class="number">{each}</td>'
                f'<td class="number">{condition["episodes"]}</td>'
            )
        body += f"<tr><th>{color_mark(index)}{escape(group.label)}{_seeds(group)}</th>{cells}</tr>\n"
    text = f"""<section>
<h2>Success</h2>
<p>Training instructions, in scenes without demonstrations. All runs have equal weight in the mean. The 95 % interval is
Student's t over the runs, and never narrower than the interval that follows from the number of episodes.</p>
<div class="card scroll"><table class="rows">
<thead><tr><th>Setting</th><th class="number">Mean</th><th class="bar"></th><th class="number">95 % interval</th>
<th class="number">Each run (%)</th><th class="number">Episodes</th></tr></thead>
<tbody>
{body}</tbody></table></div>
"""
    if len(found.conditions) > 1:
        text += "<h3>All conditions</h3>\n"
        text += _grid(found, {key: sections.condition_name(key) for key in found.conditions}, "conditions")
    if found.tasks:
        text += "<h3>By task</h3>\n" + _grid(found, {task: sections.readable(task) for task in found.tasks}, "tasks")
    return text + "</section>\n"


def _grid(found: Comparison, heads: Mapping[str, str], what: str) -> str:
    """Table of groups by conditions or tasks, with a mean and its interval in each cell."""
    body = ""
    for index, group in enumerate(found.groups):
        cells = ""
        for key in heads:
            condition = getattr(group, what).get(key)
            cells += (
                f'<td class="number">{_mean(condition)}</td>' if condition else '<td class="number faint">&ndash;</td>'
            )
        body += f"<tr><th>{color_mark(index)}{escape(group.label)}</th>{cells}</tr>\n"
    head = "".join(f'<th class="number">{name}</th>' for name in heads.values())
    return (
        f'<div class="card scroll"><table class="dense"><thead><tr><th>Setting</th>{head}</tr></thead>\n'
        f"<tbody>\n{body}</tbody></table></div>\n"
    )


def _mean(condition: Mapping[str, Any]) -> str:
    return f"{100 * condition['success_rate']:.1f}&nbsp;% ({sections.span(condition)})"


def _seeds(group: Group) -> str:
    seeds = ", ".join(map(str, group.seeds))
    return f"<small>seed{'s' * (len(group.runs) > 1)} {seeds}</small>"


def _curves(found: Comparison) -> str:
    """A chart for each metric and split, with each group's mean as a strong and each run as a faint line."""
    drawn = {key: _chart(found.groups, *key) for key in _metrics(found.groups)}
    drawn = {key: figure for key, figure in drawn.items() if figure}
    if not drawn:
        return ""
    main = "".join(drawn[key] for key in MAIN if key in drawn)
    rest = "".join(figure for key, figure in drawn.items() if key not in MAIN)
    more = f'<details><summary>More curves</summary><div class="charts">{rest}</div></details>\n' if rest else ""
    legend = "".join(
        f"<span>{color_mark(index)}{escape(group.label)}</span>" for index, group in enumerate(found.groups)
    )
    faint = " Faint lines are single runs, strong ones the mean over the seeds." if _several(found.groups) else ""
    return f"""<section>
<h2>Curves</h2>
<p>The number of each colour is the last value of its line.{faint}</p>
<div class="legend">{legend}</div>
<div class="charts">{main}</div>
{more}</section>
"""


def _several(groups: Sequence[Group]) -> bool:
    return any(len(group.runs) > 1 for group in groups)


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


def _chart(groups: Sequence[Group], metric: str, split: str) -> str:
    every = [line for group in groups for run in group.runs for line in run.metrics]
    faint, strong = [], []
    for index, group in enumerate(groups):
        found = [charts.curves(run.metrics).get(metric, {}).get(split, []) for run in group.runs]
        curves = [points for points in found if points]
        if curves:
            faint += [Line(points, style(index), None) for points in curves if len(curves) > 1]
            strong.append(Line(averaged(curves), style(index), ""))
    where = SPLITS.get(split, split)
    heading = charts.title(metric) + (f", {where}" if where else "")
    return charts.figure(heading, [*faint, *strong], axis=charts.axis(every)) if strong else ""


def averaged(curves: Sequence[Sequence[Point]]) -> list[Point]:
    """The mean of curves at the positions that all of them have."""
    values = [dict(points) for points in curves]
    positions = [index for index, _ in curves[0] if all(index in value for value in values)]
    return [(index, fmean(value[index] for value in values)) for index in positions] or list(curves[0])


def _runs(found: Comparison, folder: Path) -> str:
    body = ""
    for index, group in enumerate(found.groups):
        for run in sorted(group.runs, key=lambda run: run.seed):
            loss = best_loss(run)
            cells = '<td class="number faint" colspan="2">not evaluated yet</td>'
            if run.results is not None:
                rate = f"{100 * run.results['success_rate']:.1f}&nbsp;%"
                cells = f'<td class="number">{rate}</td><td class="number">{sections.span(run.results)}</td>'
            last = max((line["step"] for line in run.metrics), default=0)
            body += (
                f"<tr><th>{color_mark(index)}{_link(run, folder)}<small>{escape(group.label)}</small></th>"
                f'<td class="number">{run.seed}</td>{cells}'
                f'<td class="number">{"&ndash;" if loss is None else f"{loss:.4g}"}</td>'
                f'<td class="number">{last:,.0f}</td></tr>\n'
            )
    return f"""<section>
<h2>All runs</h2>
<div class="card scroll"><table class="dense">
<thead><tr><th>Run</th><th class="number">Seed</th><th class="number">Success</th><th class="number">95 % interval</th>
<th class="number">Best validation loss</th><th class="number">Steps</th></tr></thead>
<tbody>
{body}</tbody></table></div>
</section>
"""


def _link(run: Run, folder: Path) -> str:
    """The run's name, linked to its evaluation report if that is on this file system."""
    name = escape(run.path.name)
    if isinstance(run.path, Path):
        report = evaluation_folder(run.path, run.protocol) / "report.html"
        if report.is_file():
            target = quote(os.path.relpath(report.resolve(), folder.resolve()))
            return f'<a href="{escape(target)}">{name}</a>'
    return name


def _left_out(found: Comparison) -> str:
    if not found.left_out:
        return ""
    body = "".join(f"<tr><th>{escape(run.name)}</th><td>{escape(run.reason)}</td></tr>\n" for run in found.left_out)
    return f"""<section>
<h2>Left out</h2>
<div class="card scroll"><table class="dense wrap"><tbody>
{body}</tbody></table></div>
</section>
"""


def style(index: int) -> str:
    """CSS class of a group's lines; colours repeat with dashed lines."""
    return f"g{index % COLOURS}" + (" dashed" if index // COLOURS % 2 else "")


def color_mark(index: int) -> str:
    """Colour mark of a group in tables and legends."""
    return f'<i class="colour {style(index)}"></i>'
