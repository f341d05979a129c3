"""HTML page of `data_tools.stats`, in one self-contained file."""

from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

from data_tools.stats.duplicates import Duplicate, duplicate_lines
from data_tools.stats.measures import Measures
from instructrl.evaluation.report.charts import Figure
from instructrl.evaluation.report.histograms import bars, cell_map
from instructrl.evaluation.report.templates import render
from instructrl.storage.paths import StoragePath

MAX_SHOWN = 60  # instructions and outliers per file; the others are only counted


class File(NamedTuple):
    """A file's statistics and their plots."""

    measures: Measures
    figures: Sequence[Figure]


def page(sets: Sequence[Measures], found: Sequence[Duplicate], compared: Sequence[StoragePath]) -> str:
    """Render the page; `compared` are the files that were searched for duplicates."""
    episodes = sum(len(one.lengths) for one in sets)
    lines = duplicate_lines(found, compared)
    return render(
        "statistics.html.j2",
        title=f"{episodes:,} demonstrations",
        episodes=episodes,
        frames=sum(int(one.frames.sum()) for one in sets),
        duplicates=len(found) if found else lines[0],
        warnings=lines if found else [],
        files=[File(one, plots(one)) for one in sets],
        max_shown=MAX_SHOWN,
    )


def plots(one: Measures) -> list[Figure]:
    """Plots of lengths, variations and keyframe positions."""
    workspace = one.header.workspace
    x, y, z = ((f"{axis} (m)", low, high) for axis, low, high in zip("xyz", workspace.low, workspace.high, strict=True))
    return [
        bars("Episodes by their number of keyframes", Counter(one.lengths.tolist()), axis="keyframes"),
        bars("Episodes by their number of frames", Counter(one.frames.tolist()), axis="frames"),
        bars("Episodes by variation", one.variations, axis="variation"),
        cell_map("Keyframes from above", one.reached.sum(2), across=x, up=y),
        cell_map("Keyframes from the front", one.reached.sum(0), across=y, up=z),
        cell_map("Keyframes from the side", one.reached.sum(1), across=x, up=z),
    ]
