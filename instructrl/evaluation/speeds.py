"""The part of the page about how fast the training was; the numbers are those of the machine that it ran on."""

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from instructrl.evaluation import charts

_OF_TIME = ("step", "data", "compiling", "validation", "rollout", "saving", "profiling")
_SEEN = ("episodes", "keyframes", "pairs")  # what may be counted in a second
_MEMORY = {"device_memory_bytes": "on a device", "process_memory_bytes": "of the process"}


def training_speed(lines: Sequence[Mapping[str, Any]]) -> str:
    """The section for the lines of speed.jsonl; empty where there are none."""
    lines = [line for line in lines if line.get("steps_per_second") and line.get("seconds")]
    if not lines:
        return ""
    seconds = sum(line["seconds"] for line in lines)
    steps = sum(line["steps"] for line in lines)
    training = sum(line["steps"] / line["steps_per_second"] for line in lines)

    def mean(key: str) -> float:
        """Over the time in which steps were taken."""
        return sum(line[key] * line["steps"] / line["steps_per_second"] for line in lines) / training

    spent = {part: sum(line.get(f"share_{part}", 0) * line["seconds"] for line in lines) for part in _OF_TIME}
    shares = ", ".join(f"{part} {time / seconds:.1%}" for part, time in spent.items() if time >= seconds / 2000)
    known = [what for what in _SEEN if all(f"{what}_per_second" in line for line in lines)]
    throughput = (f"{mean(f'{what}_per_second'):,.4g} {what}" for what in known)
    facts = {
        "Throughput": f"{' and '.join(throughput)} a second, looking up aside",
        "Time": f"{seconds:,.0f} s for {steps:,.0f} steps: {shares}",
    }
    if all("flops_per_step" in line for line in lines):
        facts["Matrix products"] = f"{lines[-1]['flops_per_step']:.3g} operations a step"
    if all("utilisation" in line for line in lines):
        facts["Utilisation"] = f"{mean('utilisation'):.1%} of what the devices can do in bfloat16, as published"
    for key, whose in _MEMORY.items():
        peaks = [line[key] for line in lines if key in line]
        if peaks:
            facts["Memory"] = f"{max(peaks) / 1e9:,.3g} GB at most {whose}"
    entries = "".join(f"<dt>{key}</dt><dd>{escape(value)}</dd>" for key, value in facts.items())
    axis = charts.axis(lines)
    drawn = f"{known[0]}_per_second"
    points = [(float(line[axis]), float(line[drawn])) for line in lines]
    figure = charts.chart(drawn, {"speed": points}, axis=axis)
    curves = f'<div class="charts">{figure}</div>\n'
    return f'<section>\n<h2>Speed of the training</h2>\n<dl class="card">{entries}</dl>\n{curves}</section>\n'
