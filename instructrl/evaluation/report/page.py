"""Evaluation report: one self-contained HTML page without scripts."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from instructrl.config.evaluation import DEFAULT_PROTOCOL
from instructrl.evaluation.diagnosis import POSITION_TOLERANCE, ROTATION_TOLERANCE
from instructrl.evaluation.report import charts, sections
from instructrl.evaluation.report.charts import Figure
from instructrl.evaluation.report.sections import Rate, Sections
from instructrl.evaluation.report.templates import render
from instructrl.evaluation.results.comparability import cautions, collected_with, unrecorded
from instructrl.evaluation.results.published import published_text
from instructrl.evaluation.results.summary import coverage_note, task_coverage_note
from instructrl.evaluation.results.variations import format_variations
from instructrl.sim import Outcome
from instructrl.storage.atomic import write_atomically
from instructrl.training.monitoring.metric_files import METRICS_FILE, SPEED_FILE, read_lines

_VARIATIONS = {
    "all": "all variations",
    "trained": "all trained variations",
    "held_out": "all variations that were not trained",
}
_TIME_PARTS = ("step", "data", "compiling", "validation", "rollout", "saving", "profiling")
_UNITS = ("episodes", "keyframes", "pairs")  # that throughput may be counted in
_MEMORY = {"device_memory_bytes": "on a device", "process_memory_bytes": "of the process"}


class Speed(NamedTuple):
    """Training throughput; its numbers depend on the machine."""

    facts: Mapping[str, str]
    figure: Figure


class Task(NamedTuple):
    """One task of a set; `variations`: how many of them the training instructions were evaluated in."""

    name: str
    rate: Rate
    note: str
    successes: int
    variations: int
    about: Sections


def write_report(path: Path, results: Mapping[str, Any], *, run: Path) -> None:
    """Write the report of results.json's content, with the run's curves, settings and videos.

    Raises:
        InputError: the file cannot be written, or the curves are damaged.
    """
    config = run / "config.yaml"
    settings = config.read_text(encoding="utf-8") if config.is_file() else ""
    metrics, speeds = (read_lines(run / name) for name in (METRICS_FILE, SPEED_FILE))
    write_atomically(path, page(results, metrics=metrics, speeds=speeds, settings=settings, folder=path.parent))


def page(
    results: Mapping[str, Any],
    *,
    metrics: Sequence[Mapping[str, Any]],
    speeds: Sequence[Mapping[str, Any]] = (),
    settings: str,
    folder: Path,
) -> str:
    """The page as HTML; videos are read from `folder`."""
    name, entries = Path(results["run"]).name, results.get("tasks", {}).values()
    axis = charts.axis(metrics)
    curves = {key: charts.chart(key, series, axis=axis) for key, series in charts.curves(metrics).items()}
    overall = (
        sections.of_means(results, tasks=len(entries)) if entries else sections.of_task(results, folder, meanings=True)
    )
    tasks = [_task(entry, folder) for entry in entries]
    return render(
        "report.html.j2",
        title=f"{name}: {results['success_rate']:.1%} success",
        name=name,
        results=results,
        heading=f"Tasks {', '.join(results['tasks'])}" if entries else f"Task {results['task']}",
        rate=sections.rate(results),
        note=coverage_note(results),
        own_protocol=results["protocol"]["name"] == DEFAULT_PROTOCOL,
        protocol=_protocol(results["protocol"]),
        warnings=[*results["problems"], *cautions(results)],
        outcome_names=list(Outcome),
        overall=overall,
        filmed=bool(overall.videos or any(task.about.videos for task in tasks)),
        tolerances=(POSITION_TOLERANCE, ROTATION_TOLERANCE),
        undiagnosed=_undiagnosed(results),
        tasks=tasks,
        main_curves=[figure for key, figure in curves.items() if key in charts.TITLES],
        other_curves=[figure for key, figure in curves.items() if key not in charts.TITLES],
        speed=training_speed(speeds),
        facts=_facts(results),
        settings=settings,
    )


def _undiagnosed(results: Mapping[str, Any]) -> str:
    """The reason why failures have no causes; empty if they have, without failures, or in earlier results."""
    diagnosed = any("diagnosis" in condition for condition in results["conditions"].values())
    if diagnosed or "improve_next" not in results or results["success_rate"] == 1:
        return ""
    simulator = results["simulator"].get("simulator", "none")
    return f"Not diagnosed: simulator {simulator} does not offer its expert's action in the states that agents reach."


def _protocol(protocol: Mapping[str, Any]) -> str:
    """The protocol's settings in a sentence or two."""
    variations = protocol["variations"]
    variations = format_variations(variations) if isinstance(variations, list) else _VARIATIONS[variations]
    instructions = (
        "the first instruction of each" if protocol["sentence"] == "first" else "instructions chosen by the seed"
    )
    limit, tries = protocol["keyframes"], protocol["tries"]
    keyframes = f"at most {limit} keyframes" if limit else "as many keyframes as the task allows"
    ends = "the first unreachable action" if tries == 1 else f"unreachable action number {tries}"
    return (
        f"{protocol['episodes']} episodes per condition, seed {protocol['seed']}, {variations} "
        f"({protocol['order'].replace('_', ' ')}), {instructions}, {keyframes}; {ends} ends an episode."
    )


def _task(entry: Mapping[str, Any], folder: Path) -> Task:
    caveat = "no simulator" if entry["task_variations"] is None else task_coverage_note(entry)
    variations = len(entry["conditions"]["trained"]["variations"])
    about = sections.of_task(entry, folder, meanings=False)
    return Task(entry["task"], sections.rate(entry), caveat, entry["successes"], variations, about)


def training_speed(lines: Sequence[Mapping[str, Any]]) -> Speed | None:
    """The throughput in the lines of speed.jsonl; None without any."""
    lines = [line for line in lines if all(line.get(key) for key in ("steps_per_second", "steps", "seconds"))]
    if not lines:
        return None
    seconds = sum(line["seconds"] for line in lines)
    steps = sum(line["steps"] for line in lines)
    training = sum(line["steps"] / line["steps_per_second"] for line in lines)

    def mean(key: str) -> float:
        """Mean over the time spent in training steps."""
        return sum(line[key] * line["steps"] / line["steps_per_second"] for line in lines) / training

    durations = {part: sum(line.get(f"share_{part}", 0) * line["seconds"] for line in lines) for part in _TIME_PARTS}
    shares = ", ".join(f"{part} {time / seconds:.1%}" for part, time in durations.items() if time >= seconds / 2000)
    known = [what for what in _UNITS if all(f"{what}_per_second" in line for line in lines)] or ["steps"]
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
    axis = charts.axis(lines)
    charted = f"{known[0]}_per_second"
    points = [(float(line[axis]), float(line[charted])) for line in lines]
    return Speed(facts, charts.chart(charted, {"speed": points}, axis=axis))


def _progress(training: Mapping[str, Any]) -> str:
    """The epoch that the run was trained to."""
    epoch = "unknown" if training["epoch"] is None else training["epoch"]
    return f"epoch {epoch} of {training['epochs']}" + (", not ended yet" if training["process"] else "")


def _facts(results: Mapping[str, Any]) -> dict[str, object]:
    renderer, simulator = results["renderer"], results["simulator"]
    speed = results["episodes_per_minute"]
    return {
        "Run": results["run"],
        "Date": results["date"],
        "Evaluation seed": results["seed"],
        "Simulator": f"{simulator['simulator']} {simulator['version']}",
        "Renderer": f"{renderer['evaluation']} (demonstrations: {renderer['data']})",
        "Demonstrations": " ".join([f"collected with {collected_with(results)}.", *unrecorded(results)]),
        **({"Training": _progress(results["training"])} if "training" in results else {}),
        **({"Published numbers": published_text(results)} if published_text(results) else {}),
        "Simulators": f"{results['workers']} in parallel",
        "Speed": f"{speed:,.0f} episodes per minute with the policy in the loop" if speed else "not measured",
        "Wall time": f"{results['wall_seconds']:,.0f} s for all conditions",
    }
