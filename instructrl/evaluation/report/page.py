"""Evaluation report: one self-contained HTML page without scripts."""

from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from instructrl.config.evaluation import DEFAULT_PROTOCOL
from instructrl.evaluation.report import charts, sections
from instructrl.evaluation.report.document import document
from instructrl.evaluation.report.speeds import training_speed
from instructrl.evaluation.results.summary import coverage_note, task_coverage_note
from instructrl.evaluation.results.variations import format_variations
from instructrl.storage.atomic import write_atomically
from instructrl.training.monitoring.metric_writer import SPEED_FILE, read_lines

_VARIATIONS = {
    "all": "all variations",
    "trained": "all trained variations",
    "held_out": "all variations that were not trained",
}


def write_report(path: Path, results: Mapping[str, Any], *, run: Path) -> None:
    """Write the report of results.json's content, with the run's curves, settings and videos.

    Raises:
        InputError: the file cannot be written.
    """
    config = run / "config.yaml"
    settings = config.read_text(encoding="utf-8") if config.is_file() else ""
    metrics, speeds = (read_lines(run / name) for name in ("metrics.jsonl", SPEED_FILE))
    write_atomically(path, page(results, metrics=metrics, speeds=speeds, settings=settings, folder=path.parent))


def page(
    results: Mapping[str, Any],
    *,
    metrics: Sequence[Mapping[str, Any]],
    speeds: Sequence[Mapping[str, Any]] = (),
    settings: str,
    folder: Path,
) -> str:
    """The page as HTML; videos are read from `folder`."""
    name = escape(Path(results["run"]).name)
    tasks: Mapping[str, Any] = results.get("tasks", {})
    parts = [_header(results, name)]
    if tasks:
        parts += [_overview(tasks), *_about_conditions(results, tasks=len(tasks)), _curves(metrics)]
        parts += [_task(entry, folder) for entry in tasks.values()]
    else:
        parts += [
            *_about_conditions(results, tasks=1),
            _videos(results, folder),
            _curves(metrics),
            _variations(results),
        ]
    parts += [training_speed(speeds), _about(results, settings)]
    return document(f"{Path(results['run']).name}: {results['success_rate']:.1%} success", "".join(parts))


def _header(results: Mapping[str, Any], name: str) -> str:
    renderer, checkpoint = results["renderer"], results["checkpoint"]
    warnings = list(results["problems"])
    if renderer["data"] != renderer["evaluation"]:
        warnings.append(
            f"The demonstrations were rendered by {renderer['data']}, these episodes by "
            f"{renderer['evaluation']}: the images differ from the training images."
        )
    tasks = results.get("tasks", {})
    counted = f"of {results['episodes']} episodes succeeded"
    if tasks:
        counted = f"mean success over {len(tasks)} tasks, {results['episodes']} episodes"
    note = coverage_note(results)
    note = f", <b>{escape(note)}</b>" if note else ""
    heading = f"Task {results['task']}" if not tasks else f"Tasks {', '.join(tasks)}"
    return f"""<header>
<p class="eyebrow">InstructRL evaluation</p>
<h1>{name}</h1>
<p>{escape(heading)}. {escape(checkpoint["name"]).capitalize()} checkpoint at step {checkpoint["step"]:,}.</p>
<div class="card headline">
<div class="rate">{100 * results["success_rate"]:.1f}<small>%</small></div>
<div class="about"><p><b>{counted}</b>{note},
in scenes and with seeds without demonstrations. 95 % interval: <b>{sections.span(results)}</b>.</p>
{sections.interval(results)}</div>
</div>
<p>{_protocol(results["protocol"])}</p>
<pre class="command">{escape(results["command"])}</pre>
{"".join(f'<p class="warning">{escape(text)}</p>' + chr(10) for text in warnings)}</header>
"""


def _protocol(protocol: Mapping[str, Any]) -> str:
    """The protocol in a sentence or two."""
    variations = protocol["variations"]
    variations = format_variations(variations) if isinstance(variations, list) else _VARIATIONS[variations]
    instructions = (
        "the first instruction of each" if protocol["sentence"] == "first" else "instructions chosen by the seed"
    )
    limit, tries = protocol["keyframes"], protocol["tries"]
    keyframes = f"at most {limit} keyframes" if limit else "as many keyframes as the task allows"
    name = escape(protocol["name"])
    name = f"Protocol <b>{name}</b>" + (" (InstructRL's own)" if protocol["name"] == DEFAULT_PROTOCOL else "")
    text = (
        f"{protocol['episodes']} episodes per condition, seed {protocol['seed']}, {variations} "
        f"({protocol['order'].replace('_', ' ')}), {instructions}, {keyframes}; "
    )
    ends = "the first unreachable action" if tries == 1 else f"unreachable action number {tries}"
    return f"{name}: {escape(text)}{ends} ends an episode."


def _overview(tasks: Mapping[str, Any]) -> str:
    body = ""
    for name, entry in tasks.items():
        note = f"<small>{escape(_caveat(entry))}</small>" if _caveat(entry) else ""
        name = escape(name)
        body += f'<tr><th><a href="#task-{name}">{_breakable(name)}</a>{note}</th>{sections.numbers(entry)}</tr>\n'
    return f"""<section>
<h2>Tasks</h2>
<p>Training instructions. All tasks have equal weight in the mean; its interval is that of Price and Bonett.</p>
{sections.bars("Task", body)}</section>
"""


def _caveat(entry: Mapping[str, Any]) -> str:
    """Caveat of a task's success rate."""
    return "no simulator" if entry["task_variations"] is None else task_coverage_note(entry)


def _breakable(name: str) -> str:
    """A name with line break opportunities after underscores."""
    return name.replace("_", "_<wbr>")


def _about_conditions(results: Mapping[str, Any], *, tasks: int) -> list[str]:
    means = f" Means over {tasks} tasks." if tasks > 1 else ""
    return [
        f"""<section>
<h2>Does it follow the instruction?</h2>
<p>The same scenes with different instructions.{means} The mark on each bar is the 95 % interval.</p>
{sections.conditions(results, tasks=tasks)}</section>
""",
        f"""<section>
<h2>Episode outcomes</h2>
{sections.legend()}{sections.outcomes(results)}</section>
""",
    ]


def _task(entry: Mapping[str, Any], folder: Path) -> str:
    """One task of a set: its conditions and videos, with long tables folded."""
    name, count = escape(entry["task"]), len(entry["conditions"]["trained"]["variations"])
    note = _caveat(entry)
    note = f", {escape(note)}" if note else ""
    folded = f"<summary>Episode outcomes</summary>{sections.outcomes(entry)}"
    folded = f"<details>{folded}</details>\n"
    if count:
        folded += f"<details><summary>By variation ({count})</summary>{sections.variations(entry)}</details>\n"
    return f"""<section id="task-{name}">
<h2>{_breakable(name)}</h2>
<p>{entry["successes"]} of {entry["episodes"]} episodes succeeded{note}.</p>
{sections.conditions(entry, meanings=False)}{sections.videos(entry, folder, headings=False)}{folded}</section>
"""


def _videos(results: Mapping[str, Any], folder: Path) -> str:
    shown = sections.videos(results, folder, headings=True)
    return f"<section>\n<h2>Videos</h2>\n{shown}</section>\n" if shown else ""


def _variations(results: Mapping[str, Any]) -> str:
    return f"<section>\n<h2>By variation</h2>\n{sections.variations(results)}</section>\n"


def _curves(metrics: Sequence[Mapping[str, Any]]) -> str:
    found = charts.curves(metrics)
    if not found:
        return "<section>\n<h2>Learning curves</h2>\n<p>This run has no metrics.jsonl.</p>\n</section>\n"
    axis = charts.axis(metrics)
    figures = {key: charts.chart(key, series, axis=axis) for key, series in found.items()}
    main = "".join(figure for key, figure in figures.items() if key in charts.TITLES)
    others = "".join(figure for key, figure in figures.items() if key not in charts.TITLES)
    more = f'<details><summary>More curves</summary><div class="charts">{others}</div></details>\n' if others else ""
    return f'<section>\n<h2>Learning curves</h2>\n<div class="charts">{main}</div>\n{more}</section>\n'


def _about(results: Mapping[str, Any], settings: str) -> str:
    renderer, simulator = results["renderer"], results["simulator"]
    speed = results["episodes_per_minute"]
    facts = {
        "Run": results["run"],
        "Date": results["date"],
        "Evaluation seed": results["seed"],
        "Simulator": f"{simulator['simulator']} {simulator['version']}",
        "Renderer": f"{renderer['evaluation']} (demonstrations: {renderer['data']})",
        "Simulators": f"{results['workers']} in parallel",
        "Speed": f"{speed:,.0f} episodes per minute with the policy in the loop" if speed else "not measured",
        "Wall time": f"{results['wall_seconds']:,.0f} s for all conditions",
    }
    entries = "".join(f"<dt>{key}</dt><dd>{escape(str(value))}</dd>" for key, value in facts.items())
    folded = f'<summary>Configuration of the run</summary><pre class="card">{escape(settings)}</pre>'
    folded = f"<details>{folded}</details>\n" if settings else ""
    return f'<section>\n<h2>About this evaluation</h2>\n<dl class="card">{entries}</dl>\n{folded}</section>\n'
