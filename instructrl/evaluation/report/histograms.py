"""Histograms as shapes of an SVG drawing: bars over integers, and two-dimensional maps."""

import math
from collections.abc import Mapping

import numpy as np

from instructrl.evaluation.report.charts import (
    BOTTOM,
    HEIGHT,
    LEFT,
    RIGHT,
    TOP,
    WIDTH,
    Figure,
    Shape,
    grid_line,
    round_ticks,
    tick_label,
)

_MOST_BARS = 60
_SIDE = 230  # of a map


def bars(title: str, counts: Mapping[int, int], *, axis: str) -> Figure:
    """A figure with a bar per integer, or per range of integers if there are many."""
    low, high = min(counts), max(counts)
    width = math.ceil((high - low + 1) / _MOST_BARS)
    positions = (high - low) // width + 1
    heights = [0] * positions
    for value, count in counts.items():
        heights[(value - low) // width] += count
    ticks = [tick for tick in round_ticks(0, max(heights)) if tick == int(tick)]
    across, up = (WIDTH - LEFT - RIGHT) / positions, (HEIGHT - TOP - BOTTOM) / ticks[-1]
    shapes = [shape for tick in ticks for shape in grid_line(HEIGHT - BOTTOM - tick * up, tick)]
    thick = min(0.8 * across, 40.0)
    for position, count in enumerate(heights):
        if count:
            first = low + position * width
            text = f"{first}" if width == 1 else f"{first} to {min(first + width - 1, high)}"
            x, y = LEFT + (position + 0.5) * across - thick / 2, HEIGHT - BOTTOM - count * up
            shapes.append(_rectangle("block", x, y, thick, count * up, tooltip=f"{axis} {text}: {count}"))
    if high > low:
        shapes.append(tick_label(LEFT, HEIGHT - 11, f"{axis} {low}", "start"))
        shapes.append(tick_label(WIDTH - RIGHT, HEIGHT - 11, str(high), "end"))
    else:
        shapes.append(tick_label(LEFT + across / 2, HEIGHT - 11, f"{axis} {low}", "middle"))
    return Figure(title, shapes)


def cell_map(
    title: str, counts: np.ndarray, *, across: tuple[str, float, float], up: tuple[str, float, float]
) -> Figure:
    """A figure of counts [A,B], A horizontal and B vertical; the axes are (name, lower end, upper end)."""
    columns, rows = counts.shape
    width, height = _SIDE / columns, _SIDE / rows
    left, bottom = (WIDTH - _SIDE) / 2, TOP + _SIDE
    shapes = []
    for column, row in np.argwhere(counts):
        count = int(counts[column, row])
        shade = 0.15 + 0.85 * math.log1p(count) / math.log1p(int(counts.max()))
        x, y = left + column * width, bottom - (row + 1) * height
        shapes.append(_rectangle("cell", x, y, width, height, tooltip=str(count), **{"fill-opacity": f"{shade:.2f}"}))
    shapes.append(_rectangle("edge", left, TOP, _SIDE, _SIDE))
    for x, label, anchor in (
        (left, f"{across[1]:g}", "start"),
        (left + _SIDE / 2, across[0], "middle"),
        (left + _SIDE, f"{across[2]:g}", "end"),
    ):
        shapes.append(tick_label(x, bottom + 16, label, anchor))
    for y, label in ((bottom, f"{up[1]:g}"), (bottom - _SIDE / 2, up[0]), (TOP + 8, f"{up[2]:g}")):
        shapes.append(tick_label(left - 7, y, label, "end"))
    return Figure(title, shapes, height=bottom + 28)


def _rectangle(style: str, x: float, y: float, width: float, height: float, *, tooltip: str = "", **more: str) -> Shape:
    place = {"x": f"{x:.1f}", "y": f"{y:.1f}", "width": f"{width:.1f}", "height": f"{height:.1f}"}
    return Shape("rect", {"class": style, **place, **more}, tooltip=tooltip)
