"""Histograms as inline SVG, coloured by the page's style sheet: bars over integers, and two-dimensional maps."""

import html
import math
from collections.abc import Mapping

import numpy as np

from instructrl.evaluation.report.charts import HEIGHT, WIDTH, round_ticks

_LEFT, _RIGHT, _TOP, _BOTTOM = 46, 14, 12, 30
_MOST_BARS = 60
_SIDE = 230  # of a map


def bars(title: str, counts: Mapping[int, int], *, axis: str) -> str:
    """A `<figure>` with a bar per integer, or per range of integers if there are many."""
    low, high = min(counts), max(counts)
    width = math.ceil((high - low + 1) / _MOST_BARS)
    positions = (high - low) // width + 1
    heights = [0] * positions
    for value, count in counts.items():
        heights[(value - low) // width] += count
    ticks = [tick for tick in round_ticks(0, max(heights)) if tick == int(tick)]
    across, up = (WIDTH - _LEFT - _RIGHT) / positions, (HEIGHT - _TOP - _BOTTOM) / ticks[-1]
    parts = []
    for tick in ticks:
        level = HEIGHT - _BOTTOM - tick * up
        parts.append(f'<line class="grid" x1="{_LEFT}" x2="{WIDTH - _RIGHT}" y1="{level:.1f}" y2="{level:.1f}"/>')
        parts.append(f'<text class="tick" x="{_LEFT - 7}" y="{level + 4:.1f}" text-anchor="end">{tick:g}</text>')
    thick = min(0.8 * across, 40.0)
    for position, count in enumerate(heights):
        if count:
            first = low + position * width
            text = f"{first}" if width == 1 else f"{first} to {min(first + width - 1, high)}"
            x, y = _LEFT + (position + 0.5) * across - thick / 2, HEIGHT - _BOTTOM - count * up
            shape = f'x="{x:.1f}" y="{y:.1f}" width="{thick:.1f}" height="{count * up:.1f}"'
            parts.append(f'<rect class="block" {shape}><title>{html.escape(axis)} {text}: {count}</title></rect>')
    labels = (
        [(0, "start", f"{axis} {low}"), (positions - 1, "end", str(high))]
        if high > low
        else [(0, "middle", f"{axis} {low}")]
    )
    for position, anchor, label in labels:
        x = {"start": _LEFT, "end": WIDTH - _RIGHT}.get(anchor, _LEFT + (position + 0.5) * across)
        parts.append(
            f'<text class="tick" x="{x:.1f}" y="{HEIGHT - 11}" text-anchor="{anchor}">{html.escape(label)}</text>'
        )
    return figure(title, "".join(parts), HEIGHT)


def cell_map(title: str, counts: np.ndarray, *, across: tuple[str, float, float], up: tuple[str, float, float]) -> str:
    """A `<figure>` of counts [A,B], A horizontal and B vertical; the axes are (name, lower end, upper end)."""
    columns, rows = counts.shape
    width, height = _SIDE / columns, _SIDE / rows
    left, parts = (WIDTH - _SIDE) / 2, []
    for column, row in np.argwhere(counts):
        count = int(counts[column, row])
        shade = 0.15 + 0.85 * math.log1p(count) / math.log1p(int(counts.max()))
        x, y = left + column * width, _TOP + _SIDE - (row + 1) * height
        shape = f'x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height:.1f}"'
        parts.append(f'<rect class="cell" {shape} fill-opacity="{shade:.2f}"><title>{count}</title></rect>')
    parts.append(f'<rect class="edge" x="{left}" y="{_TOP}" width="{_SIDE}" height="{_SIDE}"/>')
    bottom = _TOP + _SIDE + 16
    for x, anchor, label in (
        (left, "start", f"{across[1]:g}"),
        (left + _SIDE / 2, "middle", across[0]),
        (left + _SIDE, "end", f"{across[2]:g}"),
    ):
        parts.append(f'<text class="tick" x="{x}" y="{bottom}" text-anchor="{anchor}">{html.escape(label)}</text>')
    for y, label in ((_TOP + _SIDE, f"{up[1]:g}"), (_TOP + _SIDE / 2, up[0]), (_TOP + 8, f"{up[2]:g}")):
        parts.append(f'<text class="tick" x="{left - 7}" y="{y}" text-anchor="end">{html.escape(label)}</text>')
    return figure(title, "".join(parts), bottom + 12)


def figure(title: str, shapes: str, height: float) -> str:
    """A `<figure>` with a title above an SVG drawing."""
    name = html.escape(title)
    drawing = f'<svg viewBox="0 0 {WIDTH} {height:g}" role="img" aria-label="{name}">{shapes}</svg>'
    return f'<figure class="chart"><figcaption>{name}</figcaption>{drawing}</figure>'
