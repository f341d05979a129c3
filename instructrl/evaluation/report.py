"""One HTML page that holds a whole evaluation: it asks for nothing else and runs no script."""

import base64
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from instructrl.evaluation import charts
from instructrl.evaluation.protocol import ROW_MEANINGS
from instructrl.sim import Outcome
from instructrl.training.metrics import read_lines
from instructrl.training.run_directory import write_atomically

STYLE = Path(__file__).with_name("report.css")
# The browser itself then keeps the promise: no request leaves the page, and nothing in it is executed.
_POLICY = "default-src 'none'; style-src 'unsafe-inline'; media-src data:; img-src data:"


def write_report(path: Path, results: Mapping[str, Any], *, run: Path) -> None:
    """Write the page for results.json's content, with the run's curves, settings and videos.

    Raises:
        InputError: the file cannot be written.
    """
    config = run / "config.yaml"
    settings = config.read_text(encoding="utf-8") if config.is_file() else ""
    write_atomically(
        path, page(results, metrics=read_lines(run / "metrics.jsonl"), settings=settings, folder=path.parent)
    )


def page(results: Mapping[str, Any], *, metrics: Sequence[Mapping[str, Any]], settings: str, folder: Path) -> str:
    """The whole page; videos are read from `folder`."""
    name = escape(Path(results["run"]).name)
    sections = [
        _header(results, name),
        _rows(results),
        _outcomes(results),
        _videos(results, folder),
        _curves(metrics),
        _variations(results),
        _about(results, settings),
    ]
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{_POLICY}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<link rel="icon" href="data:,">
<title>{name}: {results["success_rate"]:.1%} success</title>
<style>
{STYLE.read_text(encoding="utf-8")}</style>
</head>
<body>
<main>
{"".join(sections)}</main>
</body>
</html>
"""


def _header(results: Mapping[str, Any], name: str) -> str:
    drawn = results["renderer"]
    warning = ""
    if drawn["data"] != drawn["evaluation"]:
        warning = (
            f'<p class="warning">The demonstrations were drawn by {escape(drawn["data"])}, these episodes by '
            f"{escape(drawn['evaluation'])}: the policy sees other images than it learnt from.</p>\n"
        )
    checkpoint = results["checkpoint"]
    return f"""<header>
<p class="eyebrow">InstructRL evaluation</p>
<h1>{name}</h1>
<p>Task {escape(results["task"])}, {escape(checkpoint["name"])} checkpoint at step {checkpoint["step"]:,}.</p>
<div class="card headline">
<div class="rate">{100 * results["success_rate"]:.1f}<small>%</small></div>
<div class="about"><p><b>of {results["episodes"]} episodes succeeded</b>,
in scenes and with seeds that no demonstration has. 95 % interval: <b>{_range(results)}</b>.</p>
{_interval(results)}</div>
</div>
<pre class="command">{escape(results["command"])}</pre>
{warning}</header>
"""


def _rows(results: Mapping[str, Any]) -> str:
    body = ""
    for key, row in results["rows"].items():
        body += (
            f"<tr><th>{_row_name(key)}<small>{escape(ROW_MEANINGS[key][1])}</small></th>"
            f'<td class="number">{100 * row["success_rate"]:.1f}&nbsp;%</td><td class="bar">{_interval(row)}</td>'
            f'<td class="number">{_range(row)}</td><td class="number">{row["episodes"]}</td>'
            f'<td class="number">{row["mean_steps"]:.2f}</td></tr>\n'
        )
    for key, reason in results["absent_rows"].items():
        body += f'<tr><th>{_row_name(key)}</th><td class="faint" colspan="5">not played: {escape(reason)}</td></tr>\n'
    return f"""<section>
<h2>Does it follow the instruction?</h2>
<p>The same scenes, asked for in different ways. The mark on each bar is the 95 % Wilson interval.</p>
<div class="card scroll"><table class="rows">
<thead><tr><th>Row</th><th class="number">Success</th><th class="bar"></th><th class="number">95 % interval</th>
<th class="number">Episodes</th><th class="number">Mean steps</th></tr></thead>
<tbody>
{body}</tbody></table></div>
</section>
"""


def _outcomes(results: Mapping[str, Any]) -> str:
    legend = "".join(f'<span><i class="dot {word}"></i>{_words(word)}</span>' for word in Outcome)
    body = ""
    for key, row in results["rows"].items():
        met = {word: count for word, count in row["outcomes"].items() if count}
        share = {word: 100 * count / row["episodes"] for word, count in met.items()}
        bar = "".join(f'<i class="{escape(word)}" style="width:{share[word]:.3f}%"></i>' for word in met)
        counts = " · ".join(f"<span>{_words(word)} {count}</span>" for word, count in met.items())
        bar = f'<td class="bar"><span class="outcomes">{bar}</span></td>'
        body += f"<tr><th>{_row_name(key)}</th>{bar}<td>{counts}</td></tr>\n"
    return f"""<section>
<h2>How the episodes ended</h2>
<div class="legend">{legend}</div>
<div class="card scroll"><table class="ends"><tbody>
{body}</tbody></table></div>
</section>
"""


def _videos(results: Mapping[str, Any], folder: Path) -> str:
    if not results["videos"]:
        return ""
    parts = []
    for heading, success in (("Successes", True), ("Failures", False)):
        films = [video for video in results["videos"] if (video["outcome"] == Outcome.SUCCESS) is success]
        if films:
            parts.append(
                f'<h3>{heading}</h3>\n<div class="videos">\n{"".join(_film(video, folder) for video in films)}</div>\n'
            )
    return f"<section>\n<h2>Videos</h2>\n{''.join(parts)}</section>\n"


def _film(video: Mapping[str, Any], folder: Path) -> str:
    data = base64.b64encode((folder / video["file"]).read_bytes()).decode()
    label = escape(f"{video['instruction']} ({_words(video['outcome'])})")
    return (
        f'<video controls autoplay loop muted playsinline aria-label="{label}" title="{label}" '
        f'src="data:video/mp4;base64,{data}"></video>\n'
    )


def _variations(results: Mapping[str, Any]) -> str:
    rows = results["rows"]
    cells: dict[int, dict[str, Mapping[str, Any]]] = {}
    for key, row in rows.items():
        for entry in row["variations"]:
            cells.setdefault(entry["variation"], {})[key] = entry
    head = "".join(f'<th class="number">{_words(key)}</th>' for key in rows)
    body = "".join(_variation(variation, cells[variation], list(rows)) for variation in sorted(cells))
    return f"""<section>
<h2>By variation</h2>
<p>Successes of episodes by what was asked for; bars and intervals are those of the trained sentences.</p>
<div class="card scroll"><table class="dense">
<thead><tr><th></th><th>Asked for, for instance</th><th></th>{head}</tr></thead>
<tbody>
{body}</tbody></table></div>
</section>
"""


def _variation(variation: int, entries: Mapping[str, Mapping[str, Any]], keys: Sequence[str]) -> str:
    sentence = next(iter(entries.values()))["sentence"]
    bar = _interval(entries["trained"]) if "trained" in entries else ""
    counts = ""
    for key in keys:
        entry = entries.get(key)
        counts += f'<td class="number">{entry["successes"]}/{entry["episodes"]}</td>' if entry else "<td></td>"
    return f'<tr><td class="faint">{variation}</td><td>{escape(sentence)}</td><td class="bar">{bar}</td>{counts}</tr>\n'


def _curves(metrics: Sequence[Mapping[str, Any]]) -> str:
    found = charts.curves(metrics)
    if not found:
        return "<section>\n<h2>Learning curves</h2>\n<p>This run has no metrics.jsonl.</p>\n</section>\n"
    axis = charts.axis(metrics)
    drawn = {key: charts.chart(key, series, axis=axis) for key, series in found.items()}
    main = "".join(figure for key, figure in drawn.items() if key in charts.TITLES)
    rest = "".join(figure for key, figure in drawn.items() if key not in charts.TITLES)
    more = f'<details><summary>More curves</summary><div class="charts">{rest}</div></details>\n' if rest else ""
    return f'<section>\n<h2>Learning curves</h2>\n<div class="charts">{main}</div>\n{more}</section>\n'


def _about(results: Mapping[str, Any], settings: str) -> str:
    drawn, simulator = results["renderer"], results["simulator"]
    speed = results["episodes_per_minute"]
    facts = {
        "Run": results["run"],
        "Date": results["date"],
        "Evaluation seed": results["seed"],
        "Simulator": f"{simulator['simulator']} {simulator['version']}",
        "Renderer": f"{drawn['evaluation']} (demonstrations: {drawn['data']})",
        "Simulators": f"{results['workers']} in parallel",
        "Speed": f"{speed:,.0f} episodes a minute with the policy in the loop" if speed else "not measured",
        "Wall time": f"{results['wall_seconds']:,.0f} s for all rows",
    }
    entries = "".join(f"<dt>{key}</dt><dd>{escape(str(value))}</dd>" for key, value in facts.items())
    folded = f'<summary>Configuration of the run</summary><pre class="card">{escape(settings)}</pre>'
    folded = f"<details>{folded}</details>\n" if settings else ""
    return f'<section>\n<h2>About this evaluation</h2>\n<dl class="card">{entries}</dl>\n{folded}</section>\n'


def _interval(row: Mapping[str, Any]) -> str:
    """A bar as long as the rate, with the interval marked on it."""
    low, high, rate = (100 * row[key] for key in ("wilson_low", "wilson_high", "success_rate"))
    return (
        f'<span class="interval"><i style="width:{rate:.2f}%"></i>'
        f'<b style="left:{low:.2f}%;width:{max(high - low, 0.5):.2f}%"></b></span>'
    )


def _range(row: Mapping[str, Any]) -> str:
    return f"{100 * row['wilson_low']:.1f}&thinsp;&ndash;&thinsp;{100 * row['wilson_high']:.1f}&nbsp;%"


def _row_name(key: str) -> str:
    return escape(ROW_MEANINGS[key][0])


def _words(word: str) -> str:
    return escape(word.replace("_", " "))
