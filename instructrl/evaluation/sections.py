"""The parts of the page that a single task and a set of tasks share: tables, bars, videos."""

import base64
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from instructrl.evaluation.protocol import ROW_MEANINGS
from instructrl.evaluation.results import bounds
from instructrl.sim import Outcome


def rows(results: Mapping[str, Any], *, tasks: int = 1, meanings: bool = True) -> str:
    """The rows with their bars; of a set of `tasks`, a row that only some of them have says so."""
    body = ""
    for key, row in results["rows"].items():
        notes = [ROW_MEANINGS[key][1]] if meanings else []
        if row.get("averaged_tasks", tasks) < tasks:
            notes.append(f"mean of the {row['averaged_tasks']} tasks that have this row")
        small = f"<small>{escape('; '.join(notes))}</small>" if notes else ""
        body += f"<tr><th>{row_name(key)}{small}</th>{numbers(row)}</tr>\n"
    for key, reason in results["absent_rows"].items():
        body += f'<tr><th>{row_name(key)}</th><td class="faint" colspan="5">not played: {escape(reason)}</td></tr>\n'
    return bars("Row", body)


def bars(first: str, body: str) -> str:
    """A table of rates; `first` heads the column of names."""
    return f"""<div class="card scroll"><table class="rows">
<thead><tr><th>{first}</th><th class="number">Success</th><th class="bar"></th><th class="number">95 % interval</th>
<th class="number">Episodes</th><th class="number">Mean steps</th></tr></thead>
<tbody>
{body}</tbody></table></div>
"""


def numbers(row: Mapping[str, Any]) -> str:
    """The cells of one rate."""
    return (
        f'<td class="number">{100 * row["success_rate"]:.1f}&nbsp;%</td><td class="bar">{interval(row)}</td>'
        f'<td class="number">{span(row)}</td><td class="number">{row["episodes"]}</td>'
        f'<td class="number">{row["mean_steps"]:.2f}</td>'
    )


def legend() -> str:
    """Which colour is which outcome."""
    dots = "".join(f'<span><i class="dot {word}"></i>{words(word)}</span>' for word in Outcome)
    return f'<div class="legend">{dots}</div>\n'


def outcomes(results: Mapping[str, Any]) -> str:
    """How the episodes of each row ended, as coloured bars."""
    body = ""
    for key, row in results["rows"].items():
        met = {word: count for word, count in row["outcomes"].items() if count}
        share = {word: 100 * count / row["episodes"] for word, count in met.items()}
        bar = "".join(f'<i class="{escape(word)}" style="width:{share[word]:.3f}%"></i>' for word in met)
        counts = " · ".join(f"<span>{words(word)} {count}</span>" for word, count in met.items())
        bar = f'<td class="bar"><span class="outcomes">{bar}</span></td>'
        body += f"<tr><th>{row_name(key)}</th>{bar}<td>{counts}</td></tr>\n"
    return f'<div class="card scroll"><table class="ends"><tbody>\n{body}</tbody></table></div>\n'


def videos(entry: Mapping[str, Any], folder: Path, *, headed: bool) -> str:
    """The videos, read from `folder`: successes first, with or without headings."""
    parts = []
    for heading, success in (("Successes", True), ("Failures", False)):
        films = [video for video in entry["videos"] if (video["outcome"] == Outcome.SUCCESS) is success]
        if films:
            shown = "".join(_film(video, folder) for video in films)
            parts.append(f'<h3>{heading}</h3>\n<div class="videos">\n{shown}</div>\n' if headed else shown)
    return "".join(parts) if headed or not parts else f'<div class="videos">\n{"".join(parts)}</div>\n'


def _film(video: Mapping[str, Any], folder: Path) -> str:
    data = base64.b64encode((folder / video["file"]).read_bytes()).decode()
    label = escape(f"{video['instruction']} ({words(video['outcome'])})")
    return (
        f'<video controls autoplay loop muted playsinline aria-label="{label}" title="{label}" '
        f'src="data:video/mp4;base64,{data}"></video>\n'
    )


def variations(entry: Mapping[str, Any]) -> str:
    """Successes by what was asked for, in every row of one task."""
    by_row = entry["rows"]
    cells: dict[int, dict[str, Mapping[str, Any]]] = {}
    for key, row in by_row.items():
        for one in row["variations"]:
            cells.setdefault(one["variation"], {})[key] = one
    head = "".join(f'<th class="number">{words(key)}</th>' for key in by_row)
    body = "".join(_variation(variation, cells[variation], list(by_row)) for variation in sorted(cells))
    return f"""<p>Successes of episodes by what was asked for; bars are those of the trained sentences.</p>
<div class="card scroll"><table class="dense">
<thead><tr><th></th><th>Asked for, for instance</th><th></th>{head}</tr></thead>
<tbody>
{body}</tbody></table></div>
"""


def _variation(variation: int, entries: Mapping[str, Mapping[str, Any]], keys: Sequence[str]) -> str:
    sentence = next(iter(entries.values()))["sentence"]
    bar = interval(entries["trained"]) if "trained" in entries else ""
    counts = ""
    for key in keys:
        entry = entries.get(key)
        counts += f'<td class="number">{entry["successes"]}/{entry["episodes"]}</td>' if entry else "<td></td>"
    return f'<tr><td class="faint">{variation}</td><td>{escape(sentence)}</td><td class="bar">{bar}</td>{counts}</tr>\n'


def interval(row: Mapping[str, Any]) -> str:
    """A bar as long as the rate, with the interval marked on it."""
    low, high = (100 * end for end in bounds(row))
    return (
        f'<span class="interval"><i style="width:{100 * row["success_rate"]:.2f}%"></i>'
        f'<b style="left:{low:.2f}%;width:{max(high - low, 0.5):.2f}%"></b></span>'
    )


def span(row: Mapping[str, Any]) -> str:
    """The interval in numbers."""
    low, high = (100 * end for end in bounds(row))
    return f"{low:.1f}&thinsp;&ndash;&thinsp;{high:.1f}&nbsp;%"


def row_name(key: str) -> str:
    """What a row is called on the page."""
    return escape(ROW_MEANINGS[key][0])


def words(word: str) -> str:
    """A name of ours in plain words."""
    return escape(word.replace("_", " "))
