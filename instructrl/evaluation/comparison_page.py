"""A comparison as one HTML page, like that of an evaluation: it asks for nothing else and runs no script."""

import os
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from statistics import fmean
from typing import Any
from urllib.parse import quote

from instructrl.evaluation import charts, sections
from instructrl.evaluation.charts import Line, Point
from instructrl.evaluation.comparison import Comparison, Group, best_loss
from instructrl.evaluation.document import document
from instructrl.evaluation.gathering import Run
from instructrl.evaluation.results import HEADLINE
from instructrl.evaluation.run import evaluation_folder

COLOURS = 8
MAIN = (  # the charts that are seen at once
    ("success_rate", "rollout"),
    ("loss", "val"),
    ("loss", "train"),
    ("position_cm", "val"),
    ("rotation_deg", "val"),
    ("gripper_accuracy", "val"),
)
SPLITS = {"train": "training", "val": "validation", "rollout": ""}


def page(found: Comparison, folder: Path) -> str:
    """The whole page; it will lie in `folder`, from where its links lead."""
    parts = [_header(found), _success(found), _curves(found), _runs(found, folder), _left_out(found)]
    return document(f"{found.name}: comparison", "".join(parts))


def _header(found: Comparison) -> str:
    runs = sum(len(group.runs) for group in found.groups)
    warnings = []
    if found.left_out:
        warnings.append(
            f"{len(found.left_out)} of {runs + len(found.left_out)} runs are left out; the last section says why."
        )
    if found.judge:
        warnings.append(f"Not all runs were judged yet: {found.judge}")
    count = f"{runs} run{'s' * (runs != 1)}, {len(found.groups)} setting{'s' * (len(found.groups) != 1)}"
    return f"""<header>
<p class="eyebrow">InstructRL comparison</p>
<h1>{escape(found.name)}</h1>
<p>{count}. Runs that differ in nothing but their seed are one line.</p>
<pre class="command">{escape(found.command)}</pre>
{"".join(f'<p class="warning">{escape(text)}</p>' + chr(10) for text in warnings)}</header>
"""


def _success(found: Comparison) -> str:
    """Means over seeds: the headline with bars, then all rows, then the tasks of a set."""
    if not any(group.rows for group in found.groups):
        return ""
    body = ""
    for place, group in enumerate(found.groups):
        row = group.rows.get(HEADLINE)
        cells = '<td class="faint" colspan="5">not judged yet</td>'
        if row is not None:
            each = ", ".join(f"{100 * rate:.1f}" for rate in row["rates"])
            cells = (
                f'<td class="number">{100 * row["success_rate"]:.1f}&nbsp;%</td>'
                f'<td class="bar">{sections.interval(row)}</td><td class="number">{sections.span(row)}</td>'
                f'<td class="number">{each}</td>'
                f'<td class="number">{row["episodes"]}</td>'
            )
        body += f"<tr><th>{colour(place)}{escape(group.label)}{_seeds(group)}</th>{cells}</tr>\n"
    text = f"""<section>
<h2>Success</h2>
<p>Trained sentences, in scenes that no demonstration has. Each run counts the same in the mean. The interval at 95 % is
Student's over the runs, and never narrower than what the number of episodes leaves open.</p>
<div class="card scroll"><table class="rows">
<thead><tr><th>Setting</th><th class="number">Mean</th><th class="bar"></th><th class="number">95 % interval</th>
<th class="number">Each run (%)</th><th class="number">Episodes</th></tr></thead>
<tbody>
{body}</tbody></table></div>
"""
    if len(found.rows) > 1:
        text += "<h3>All rows</h3>\n" + _grid(found, {key: sections.row_name(key) for key in found.rows}, "rows")
    if found.tasks:
        text += "<h3>By task</h3>\n" + _grid(found, {task: sections.words(task) for task in found.tasks}, "tasks")
    return text + "</section>\n"


def _grid(found: Comparison, heads: Mapping[str, str], what: str) -> str:
    """Groups against rows or tasks: a mean with its interval in each cell."""
    body = ""
    for place, group in enumerate(found.groups):
        cells = ""
        for key in heads:
            row = getattr(group, what).get(key)
            cells += f'<td class="number">{_mean(row)}</td>' if row else '<td class="number faint">&ndash;</td>'
        body += f"<tr><th>{colour(place)}{escape(group.label)}</th>{cells}</tr>\n"
    head = "".join(f'<th class="number">{name}</th>' for name in heads.values())
    return (
        f'<div class="card scroll"><table class="dense"><thead><tr><th>Setting</th>{head}</tr></thead>\n'
        f"<tbody>\n{body}</tbody></table></div>\n"
    )


def _mean(row: Mapping[str, Any]) -> str:
    return f"{100 * row['success_rate']:.1f}&nbsp;% ({sections.span(row)})"


def _seeds(group: Group) -> str:
    seeds = ", ".join(map(str, group.seeds))
    return f"<small>seed{'s' * (len(group.runs) > 1)} {seeds}</small>"


def _curves(found: Comparison) -> str:
    """A chart for each metric and split, with the mean of each group, and each run faintly."""
    drawn = {key: _chart(found.groups, *key) for key in _metrics(found.groups)}
    drawn = {key: figure for key, figure in drawn.items() if figure}
    if not drawn:
        return ""
    main = "".join(drawn[key] for key in MAIN if key in drawn)
    rest = "".join(figure for key, figure in drawn.items() if key not in MAIN)
    more = f'<details><summary>More curves</summary><div class="charts">{rest}</div></details>\n' if rest else ""
    legend = "".join(f"<span>{colour(place)}{escape(group.label)}</span>" for place, group in enumerate(found.groups))
    faint = " Each run is a faint line, the mean over the seeds a strong one." if _several(found.groups) else ""
    return f"""<section>
<h2>Curves</h2>
<p>The number of each colour is where its line ends.{faint}</p>
<div class="legend">{legend}</div>
<div class="charts">{main}</div>
{more}</section>
"""


def _several(groups: Sequence[Group]) -> bool:
    return any(len(group.runs) > 1 for group in groups)


def _metrics(groups: Sequence[Group]) -> list[tuple[str, str]]:
    """All pairs of a metric and a split, the known ones first."""
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
    for place, group in enumerate(groups):
        found = [charts.curves(run.metrics).get(metric, {}).get(split, []) for run in group.runs]
        curves = [points for points in found if points]
        if curves:
            faint += [Line(points, style(place), None) for points in curves if len(curves) > 1]
            strong.append(Line(averaged(curves), style(place), ""))
    where = SPLITS.get(split, split)
    heading = charts.title(metric) + (f", {where}" if where else "")
    return charts.figure(heading, [*faint, *strong], axis=charts.axis(every)) if strong else ""


def averaged(curves: Sequence[Sequence[Point]]) -> list[Point]:
    """The mean of curves at those places that all of them reach."""
    values = [dict(points) for points in curves]
    places = [place for place, _ in curves[0] if all(place in value for value in values)]
    return [(place, fmean(value[place] for value in values)) for place in places] or list(curves[0])


def _runs(found: Comparison, folder: Path) -> str:
    body = ""
    for place, group in enumerate(found.groups):
        for run in sorted(group.runs, key=lambda run: run.seed):
            loss = best_loss(run)
            judged = '<td class="number faint" colspan="2">not judged yet</td>'
            if run.results is not None:
                rate = f"{100 * run.results['success_rate']:.1f}&nbsp;%"
                judged = f'<td class="number">{rate}</td><td class="number">{sections.span(run.results)}</td>'
            last = max((line["step"] for line in run.metrics), default=0)
            body += (
                f"<tr><th>{colour(place)}{_link(run, folder)}<small>{escape(group.label)}</small></th>"
                f'<td class="number">{run.seed}</td>{judged}'
                f'<td class="number">{"&ndash;" if loss is None else f"{loss:.4g}"}</td>'
                f'<td class="number">{last:,.0f}</td></tr>\n'
            )
    return f"""<section>
<h2>Every run</h2>
<div class="card scroll"><table class="dense">
<thead><tr><th>Run</th><th class="number">Seed</th><th class="number">Success</th><th class="number">95 % interval</th>
<th class="number">Best validation loss</th><th class="number">Steps</th></tr></thead>
<tbody>
{body}</tbody></table></div>
</section>
"""


def _link(run: Run, folder: Path) -> str:
    """The run's name, leading to the page of its evaluation where that lies on this disk."""
    name = escape(run.kept.name)
    if isinstance(run.kept, Path):
        report = evaluation_folder(run.kept, run.protocol) / "report.html"
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


def style(place: int) -> str:
    """The class of a group's lines: the colours come again, dashed."""
    return f"g{place % COLOURS}" + (" dashed" if place // COLOURS % 2 else "")


def colour(place: int) -> str:
    """A piece of a group's line."""
    return f'<i class="colour {style(place)}"></i>'
