"""Report section on training throughput; its numbers depend on the machine."""

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from instructrl.evaluation.report import charts

_TIME_PARTS = ("step", "data", "compiling", "validation", "rollout", "saving", "profiling")
_UNITS = ("episodes", "keyframes", "pairs")  # that throughput may be counted in
_MEMORY = {"device_memory_bytes": "on a device", "process_memory_bytes": "of the process"}


def training_speed(lines: Sequence[Mapping[str, Any]]) -> str:
    """The section for the lines of speed.jsonl; empty without any."""
    lines = [line for line in lines if line.get("steps_per_second") and line.get("seconds")]
    if not lines:
        return ""
    seconds = sum(line["seconds"] for line in lines)
    steps = sum(line["steps"] for line in lines)
    training = sum(line["steps"] / line["steps_per_second"] for line in lines)

    def mean(key: str) -> float:
        """Mean over the time spent in training steps."""
        return sum(line[key] * line["steps"] / line["steps_per_second"] for line in lines) / training

    durations = {part: sum(line.get(f"share_{part}", 0) * line["seconds"] for line in lines) for part in _TIME_PARTS}
    shares = ", ".join(f"{part} {time / seconds:.1%}" for part, time in durations.items() if time >= seconds / 2000)
    known = [what for what in _UNITS if all(f"{what}_per_second" in line for line in lines)]
    throughput = (f"{mean(f'{what}_per_second'):,.4g} {what}" for what in known)
    facts = {
        "Throughput": f"{' and '.join(throughput)} per second, without validation and logging",
        "Time": f"{seconds:,.0f} s for {steps:,.0f} steps: {shares}",
    }
    if all("flops_per_step" in line for line in lines):
        facts["Matrix products"] = f"{lines[-1]['flops_per_step']:.3g} operations per step"
    if all("utilisation" in line for line in lines):
        facts["Utilisation"] = f"{mean('utilisation'):.1%} of the devices' published bfloat16 peak"
    for key, scope in _MEMORY.items():
        peaks = [line[key] for line in lines if key in line]
        if peaks:
            facts["Memory"] = f"{max(peaks) / 1e9:,.3g} GB at most {scope}"
    entries = "".join(f"<dt>{key}</dt><dd>{escape(value)}</dd>" for key, value in facts.items())
    axis = charts.axis(lines)
    charted = f"{known[0]}_per_second"
    points = [(float(line[axis]), float(line[charted])) for line in lines]
    figure = charts.chart(charted, {"speed": points}, axis=axis)
    curves = f'<div class="charts">{figure}</div>\n'
    return f'<section>\n<h2>Training speed</h2>\n<dl class="card">{entries}</dl>\n{curves}</section>\n'
