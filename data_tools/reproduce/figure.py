"""Drawing of success over the number of demonstrations, as an SVG file."""

import math
from collections.abc import Sequence
from typing import NamedTuple

from instructrl.evaluation.report.charts import Figure, Shape, tick_label
from instructrl.evaluation.report.templates import render

WIDTH, HEIGHT = 640, 360
LEFT, RIGHT, TOP, BOTTOM = 56, 24, 24, 70  # margins


class Rate(NamedTuple):
    """A success rate with its interval, for a number of demonstrations."""

    demonstrations: int
    rate: float
    low: float
    high: float


class Series(NamedTuple):
    """A curve with its label."""

    label: str
    rates: Sequence[Rate]


def draw(series: Sequence[Series]) -> str:
    """The figure as SVG: a logarithmic axis of demonstrations, rates with intervals."""
    counts = sorted({rate.demonstrations for one in series for rate in one.rates})
    shapes = [shape for level in (0, 0.25, 0.5, 0.75, 1) for shape in grid(level)]
    shapes += [tick_label(across(count, counts), HEIGHT - BOTTOM + 20, f"{count:,}", "middle") for count in counts]
    shapes.append(tick_label((LEFT + WIDTH - RIGHT) / 2, HEIGHT - BOTTOM + 38, "demonstrations", "middle"))
    for number, one in enumerate(series):
        shapes += curve(number, one, counts)
        shapes += key(number, len(series), one.label)
    title = "Success over the number of demonstrations"
    return render("drawing.svg.j2", drawing=Figure(title, shapes, width=WIDTH, height=HEIGHT))


def across(count: int, counts: Sequence[int]) -> float:
    """Horizontal place of a number of demonstrations."""
    low, high = math.log(counts[0]), math.log(counts[-1])
    return LEFT + 24 + ((math.log(count) - low) / (high - low) if high > low else 0.5) * (WIDTH - LEFT - RIGHT - 48)


def up(rate: float) -> float:
    """Vertical place of a rate."""
    return HEIGHT - BOTTOM - rate * (HEIGHT - TOP - BOTTOM)


def grid(level: float) -> tuple[Shape, Shape]:
    """A horizontal line with its label."""
    ends = {"x1": LEFT, "x2": WIDTH - RIGHT, "y1": f"{up(level):.1f}", "y2": f"{up(level):.1f}"}
    return Shape("line", {"class": "grid", **ends}), tick_label(LEFT - 8, up(level) + 4, f"{level:g}", "end")


def curve(number: int, series: Series, counts: Sequence[int]) -> list[Shape]:
    """A line through the rates, with an interval and a dot at each."""
    style = f"g{number}"
    places = [(across(rate.demonstrations, counts) + 4 * (number - 1), rate) for rate in series.rates]
    points = " ".join(f"{x:.1f},{up(rate.rate):.1f}" for x, rate in places)
    shapes = [Shape("polyline", {"class": f"series {style}", "points": points})]
    for x, rate in places:
        interval = f"{x:.1f},{up(rate.low):.1f} {x:.1f},{up(rate.high):.1f}"
        shapes.append(Shape("polyline", {"class": f"series thin {style}", "points": interval}))
        shapes.append(
            Shape("circle", {"class": f"series {style}", "cx": f"{x:.1f}", "cy": f"{up(rate.rate):.1f}", "r": 4})
        )
    return shapes


def key(number: int, count: int, label: str) -> list[Shape]:
    """An entry of the legend."""
    x, y = LEFT + number * (WIDTH - LEFT - RIGHT) / count, HEIGHT - 12
    return [
        Shape("circle", {"class": f"series g{number}", "cx": f"{x + 6:.1f}", "cy": y - 4, "r": 4}),
        Shape("text", {"x": f"{x + 16:.1f}", "y": y}, label),
    ]
