"""Report sections shared by single tasks and sets of tasks: tables, bars and videos."""

import base64
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from instructrl.evaluation.evaluator import CONDITION_DESCRIPTIONS
from instructrl.evaluation.results.summary import bounds
from instructrl.sim import Outcome


def conditions(results: Mapping[str, Any], *, tasks: int = 1, meanings: bool = True) -> str:
    """Table of the conditions with bars; for a set of `tasks`, notes conditions that only some tasks have."""
    body = ""
    for key, condition in results["conditions"].items():
        notes = [CONDITION_DESCRIPTIONS[key][1]] if meanings else []
        if condition.get("averaged_tasks", tasks) < tasks:
            notes.append(f"mean of the {condition['averaged_tasks']} tasks that have this condition")
        small = f"<small>{escape('; '.join(notes))}</small>" if notes else ""
        body += f"<tr><th>{condition_name(key)}{small}</th>{numbers(condition)}</tr>\n"
    for key, reason in results["absent_conditions"].items():
        body += f'<tr><th>{condition_name(key)}</th><td class="faint" colspan="5">not run: {escape(reason)}</td></tr>\n'
    return bars("Condition", body)


def bars(first: str, body: str) -> str:
    """A table of success rates; `first` is the heading of the first column."""
    return f"""<div class="card scroll"><table class="rows">
<thead><tr><th>{first}</th><th class="number">Success</th><th class="bar"></th><th class="number">95 % interval</th>
<th class="number">Episodes</th><th class="number">Mean steps</th></tr></thead>
<tbody>
{body}</tbody></table></div>
"""


def numbers(condition: Mapping[str, Any]) -> str:
    """The table cells of one success rate."""
    return (
        f'<td class="number">{100 * condition["success_rate"]:.1f}&nbsp;%</td>'
        f'<td class="bar">{interval(condition)}</td>'
        f'<td class="number">{span(condition)}</td><td class="number">{condition["episodes"]}</td>'
        f'<td class="number">{condition["mean_steps"]:.2f}</td>'
    )


def legend() -> str:
    """Legend of the outcome colours."""
    dots = "".join(f'<span><i class="dot {word}"></i>{readable(word)}</span>' for word in Outcome)
    return f'<div class="legend">{dots}</div>\n'


def outcomes(results: Mapping[str, Any]) -> str:
    """The outcomes of each condition's episodes, as coloured bars."""
    body = ""
    for key, condition in results["conditions"].items():
        counts_by_outcome = {word: count for word, count in condition["outcomes"].items() if count}
        share = {word: 100 * count / condition["episodes"] for word, count in counts_by_outcome.items()}
        bar = "".join(f'<i class="{escape(word)}" style="width:{share[word]:.3f}%"></i>' for word in counts_by_outcome)
        counts = " · ".join(f"<span>{readable(word)} {count}</span>" for word, count in counts_by_outcome.items())
        bar = f'<td class="bar"><span class="outcomes">{bar}</span></td>'
        body += f"<tr><th>{condition_name(key)}</th>{bar}<td>{counts}</td></tr>\n"
    return f'<div class="card scroll"><table class="ends"><tbody>\n{body}</tbody></table></div>\n'


def videos(entry: Mapping[str, Any], folder: Path, *, headings: bool) -> str:
    """The videos, read from `folder`: successes first, with or without headings."""
    parts = []
    for heading, success in (("Successes", True), ("Failures", False)):
        films = [video for video in entry["videos"] if (video["outcome"] == Outcome.SUCCESS) is success]
        if films:
            shown = "".join(_video_tag(video, folder) for video in films)
            parts.append(f'<h3>{heading}</h3>\n<div class="videos">\n{shown}</div>\n' if headings else shown)
    return "".join(parts) if headings or not parts else f'<div class="videos">\n{"".join(parts)}</div>\n'


def _video_tag(video: Mapping[str, Any], folder: Path) -> str:
    data = base64.b64encode((folder / video["file"]).read_bytes()).decode()
    label = escape(f"{video['instruction']} ({readable(video['outcome'])})")
    return (
        f'<video controls autoplay loop muted playsinline aria-label="{label}" title="{label}" '
        f'src="data:video/mp4;base64,{data}"></video>\n'
    )


def variations(entry: Mapping[str, Any]) -> str:
    """Successes by requested variation, for every condition of one task."""
    by_condition = entry["conditions"]
    cells: dict[int, dict[str, Mapping[str, Any]]] = {}
    for key, condition in by_condition.items():
        for one in condition["variations"]:
            cells.setdefault(one["variation"], {})[key] = one
    head = "".join(f'<th class="number">{readable(key)}</th>' for key in by_condition)
    body = "".join(_variation(variation, cells[variation], list(by_condition)) for variation in sorted(cells))
    return f"""<p>Successes of episodes by requested variation; bars are those of the training instructions.</p>
<div class="card scroll"><table class="dense">
<thead><tr><th></th><th>Example instruction</th><th></th>{head}</tr></thead>
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


def interval(condition: Mapping[str, Any]) -> str:
    """A bar for the rate with its interval marked."""
    low, high = (100 * end for end in bounds(condition))
    return (
        f'<span class="interval"><i style="width:{100 * condition["success_rate"]:.2f}%"></i>'
        f'<b style="left:{low:.2f}%;width:{max(high - low, 0.5):.2f}%"></b></span>'
    )


def span(condition: Mapping[str, Any]) -> str:
    """The interval as text, in percent."""
    low, high = (100 * end for end in bounds(condition))
    return f"{low:.1f}&thinsp;&ndash;&thinsp;{high:.1f}&nbsp;%"


def condition_name(key: str) -> str:
    """Display name of a condition."""
    return escape(CONDITION_DESCRIPTIONS[key][0])


def readable(word: str) -> str:
    """An identifier with spaces instead of underscores."""
    return escape(word.replace("_", " "))
