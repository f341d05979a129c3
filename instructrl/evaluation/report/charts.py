"""Learning curves as shapes of an SVG drawing, coloured by the page's style sheet (light and dark)."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

WIDTH, HEIGHT = 340, 210
LEFT, RIGHT, TOP, BOTTOM = 46, 14, 12, 30  # margins
_MOST_POINTS = 300  # longer curves are averaged in buckets, which keeps pages small

TITLES = {
    "loss": "Loss",
    "position_cm": "Position error (cm)",
    "heatmap_cm": "Error of the heatmaps' best candidate (cm)",
    "decoding_cm": "Error added by the choice among candidates (cm)",
    "rotation_deg": "Rotation error (degrees)",
    "gripper_accuracy": "Gripper accuracy",
    "success_rate": "Success rate of rollouts",
}
_AXES = ("step", "epoch")
Point = tuple[float, float]


class Shape(NamedTuple):
    """An SVG element: its attributes, and the text that it shows or that appears when it is pointed at."""

    tag: str
    attributes: Mapping[str, object]
    text: str = ""
    tooltip: str = ""


class Key(NamedTuple):
    """An entry of a legend."""

    style: str
    label: str
    value: str


@dataclass(frozen=True)
class Figure:
    """A drawing with its title and legend, for the templates' macro of the same name."""

    title: str
    shapes: Sequence[Shape]
    legend: Sequence[Key] | None = None
    width: int = WIDTH
    height: int = HEIGHT


@dataclass(frozen=True)
class Line:
    """A curve: its points, CSS class and legend label; with label None it is faint and has no legend entry."""

    points: Sequence[Point]
    style: str
    label: str | None


def curves(lines: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, list[Point]]]:
    """Metric -> split -> points (epoch, or step where there are no epochs; value), the known metrics first."""
    position = axis(lines)
    found: dict[str, dict[str, dict[float, float]]] = {}
    for line in lines:
        for key, value in line.items():
            number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
            if number and key not in _AXES and position in line:
                found.setdefault(key, {}).setdefault(str(line.get("split", "")), {})[float(line[position])] = float(
                    value
                )
    order = [*(key for key in TITLES if key in found), *sorted(key for key in found if key not in TITLES)]
    return {key: {split: sorted(points.items()) for split, points in found[key].items()} for key in order}


def axis(lines: Sequence[Mapping[str, Any]]) -> str:
    """The x axis of the curves: epoch, or step if some lines have no epoch."""
    return "epoch" if all("epoch" in line for line in lines) else "step"


def title(metric: str) -> str:
    """The title of a metric's chart."""
    return TITLES.get(metric, metric.replace("_", " ").capitalize())


def chart(metric: str, series: Mapping[str, Sequence[Point]], *, axis: str) -> Figure:
    """A figure with a line per split."""
    splits = sorted(series, key=_split_order)
    return figure(title(metric), [Line(series[split], _split_class(split), split) for split in splits], axis=axis)


def figure(heading: str, lines: Sequence[Line], *, axis: str) -> Figure:
    """A figure with several lines; the y axis is logarithmic if the values span decades."""
    points = [point for line in lines for point in line.points]
    x_low, x_high = min(x for x, _ in points), max(x for x, _ in points)
    scale = _Scale([y for _, y in points])

    def position(point: Point) -> Point:
        across = (point[0] - x_low) / (x_high - x_low) if x_high > x_low else 0.5
        x = LEFT + across * (WIDTH - LEFT - RIGHT)
        return x, HEIGHT - BOTTOM - scale.share(point[1]) * (HEIGHT - TOP - BOTTOM)

    shapes = [shape for tick in scale.ticks for shape in grid_line(position((x_low, tick))[1], tick)]
    for x, anchor in ((x_low, "start"), (x_high, "end")) if x_high > x_low else ((x_low, "middle"),):
        shapes.append(tick_label(position((x, scale.ticks[0]))[0], HEIGHT - 11, f"{axis} {x:g}", anchor))
    for line in lines:
        positions = [f"{x:.1f},{y:.1f}" for x, y in map(position, thinned(line.points))]
        style = f"series {line.style}" + (" thin" if line.label is None else "")
        shapes.append(Shape("polyline", {"class": style, "points": " ".join(positions)}))
        if line.label is not None:
            end_x, end_y = positions[-1].split(",")
            shapes.append(Shape("circle", {"class": style, "cx": end_x, "cy": end_y, "r": 3}))
    legend = [Key(line.style, line.label, f"{line.points[-1][1]:.3g}") for line in lines if line.label is not None]
    return Figure(heading, shapes, legend)


def grid_line(level: float, tick: float) -> tuple[Shape, Shape]:
    """A horizontal line across a chart, and its label."""
    ends = {"x1": LEFT, "x2": WIDTH - RIGHT, "y1": f"{level:.1f}", "y2": f"{level:.1f}"}
    return Shape("line", {"class": "grid", **ends}), tick_label(LEFT - 7, level + 4, f"{tick:g}", "end")


def tick_label(x: float, y: float, text: str, anchor: str) -> Shape:
    """A label of an axis."""
    return Shape("text", {"class": "tick", "x": f"{x:.1f}", "y": f"{y:.1f}", "text-anchor": anchor}, text)


def thinned(points: Sequence[Point]) -> list[Point]:
    """Downsample to a few hundred points by averaging neighbours; the last point is kept."""
    if len(points) <= _MOST_POINTS:
        return list(points)
    size = math.ceil((len(points) - 1) / (_MOST_POINTS - 1))
    buckets = [points[start : start + size] for start in range(0, len(points) - 1, size)]
    return [(sum(x for x, _ in b) / len(b), sum(y for _, y in b) / len(b)) for b in buckets] + [points[-1]]


class _Scale:
    """A vertical axis with round ticks, linear or logarithmic."""

    def __init__(self, values: Sequence[float]):
        low, high = min(values), max(values)
        self._log = low > 0 and high / low > 50
        if self._log:
            first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
            self.ticks = [10.0**power for power in range(first, last + 1)]
        else:
            from_zero = low >= 0 and (low <= high / 2 or low == high)
            self.ticks = round_ticks(0.0 if from_zero else low, high)

    def share(self, value: float) -> float:
        low, high = self._measure(self.ticks[0]), self._measure(self.ticks[-1])
        return (self._measure(value) - low) / (high - low)

    def _measure(self, value: float) -> float:
        return math.log10(value) if self._log else value


def round_ticks(low: float, high: float) -> list[float]:
    """Three to six round numbers whose first and last enclose [low, high]."""
    span = high - low or abs(high) or 1.0
    power = 10.0 ** math.floor(math.log10(span / 4))
    step = next(size * power for size in (1, 2, 2.5, 5, 10, 20) if span <= 4 * size * power)
    first = math.floor(low / step + 1e-9)
    last = max(math.ceil(high / step - 1e-9), first + 1)
    return [round(number * step, 12) for number in range(first, last + 1)]


def _split_order(split: str) -> tuple[int, str]:
    known = ("train", "val", "rollout")
    return (known.index(split) if split in known else len(known)), split


def _split_class(split: str) -> str:
    return split if split in ("train", "val", "rollout") else "other"
