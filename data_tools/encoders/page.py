"""The comparison as a table in the terminal, as JSON, and as a page."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from statistics import fmean
from typing import Any, NamedTuple

from data_tools.encoders.record import Compared
from data_tools.encoders.settings import CompareConfig
from instructrl import __version__
from instructrl.cli.table import align
from instructrl.evaluation.compare.cautions import sweep_cautions
from instructrl.evaluation.compare.pairing import PairedDifference
from instructrl.evaluation.report import sections
from instructrl.evaluation.report.sections import Rate
from instructrl.evaluation.report.templates import render

PROBES = {  # those that are shown, with their heads
    "colour, pooled, accuracy": "Colour, pooled",
    "colour, its patch, accuracy": "Colour, its patch",
    "position, pooled, cm": "Position, pooled",
    "position, patches, cm": "Position, patches",
}
SHORT = {"colour, its patch, accuracy": "colour", "position, patches, cm": "position"}  # those in the terminal
MEMORY = {"device_memory_bytes": "of the device", "process_memory_bytes": "of the process"}


class Score(NamedTuple):
    """A probe's mean over the splits, with the least and the largest."""

    head: str
    mean: str
    range: str


class Row(NamedTuple):
    """An encoder on the page; the first has no difference."""

    label: str
    about: str
    seeds: Sequence[int]
    rate: Rate
    each: Sequence[float]
    difference: PairedDifference | None
    scores: Sequence[Score]
    speed: Mapping[str, float]
    memory: str
    features: str


def table(found: Sequence[Compared], left_out: Mapping[str, str]) -> str:
    """The encoders as text: success with its interval, paired difference to the first, probes, speed and memory."""
    head = ["encoder", "weights", "success", "95 % interval", *SHORT.values(), "images/s", "memory"]
    lines = [head]
    for one in found:
        success, probe = one.success, one.measured["probe"]
        scores = [score_of(probe, name).mean if probe else "-" for name in SHORT]
        interval = f"[{success['mean_low']:.3f}, {success['mean_high']:.3f}]"
        cells = [one.label, one.weights, f"{success['success_rate']:.3f}", interval, *scores]
        lines.append([*cells, f"{one.measured['images_per_second']['median']:,.0f}", memory_text(one)])
    text = align(lines, right=range(2, len(head)))
    for one in found[1:]:
        difference = one.minus(found[0])
        text.append(difference.text())
    text += [f"caution: {sentence}" for sentence in cautions(found)]
    return "\n".join([*text, *(f"not compared: {label}: {reason}" for label, reason in left_out.items())])


def numbers(
    config: CompareConfig, found: Sequence[Compared], left_out: Mapping[str, str], *, command: str
) -> dict[str, Any]:
    """The content of comparison.json."""
    encoders = [
        {
            "encoder": one.label,
            "weights": one.weights,
            "image_size": one.read_size,
            "success": one.success,
            "seeds": [run.seed for run in one.runs],
            "runs": [run.location for run in one.runs],
            "minus_first": one.minus(found[0]).record() if one is not found[0] else None,
            **one.measured,
        }
        for one in found
    ]
    about = {"suite": __version__, "command": command, "comparison": asdict(config)}
    return {**about, "encoders": encoders, "cautions": cautions(found), "not_compared": dict(left_out)}


def page(config: CompareConfig, found: Sequence[Compared], left_out: Mapping[str, str], *, command: str) -> str:
    """The page as HTML."""
    first = found[0]
    probe = next((one.measured["probe"] for one in found if one.measured["probe"]), None)
    return render(
        "encoders.html.j2",
        title=f"{len(found)} encoders",
        command=command,
        task=first.config.task.name.replace("_", " "),
        demonstrations=first.config.task.episodes,
        rendered=first.config.sim.image_size,
        policy=f"{first.config.policy.name}, head {first.config.head.name}",
        episodes=config.episodes,
        splits=config.splits,
        cautions=cautions(found),
        left_out=left_out,
        rows=[row(one, first) for one in found],
        probe=probe,
        nothing=probe and [score_text(name, probe["nothing"][unit_of(name)]) for name in PROBES],
        heads=list(PROBES.values()),
    )


def row(one: Compared, first: Compared) -> Row:
    """An encoder's line."""
    probe, success, parameters = one.measured["probe"], one.success, one.measured["parameters"] / 1e6
    return Row(
        one.label,
        f"{one.weights}, {parameters:,.1f} million parameters, reads {one.read_size} pixels",
        [run.seed for run in one.runs],
        sections.rate(success),
        [100 * rate for rate in success["rates"]],
        None if one is first else one.minus(first),
        [score_of(probe, name) for name in PROBES] if probe else [],
        one.measured["images_per_second"],
        memory_text(one),
        f"{one.measured['features_bytes'] / 1e6:,.0f} MB",
    )


def score_of(probe: Mapping[str, Any], name: str) -> Score:
    """A probe's result."""
    values = probe["scores"][name]
    low, high = score_text(name, min(values)).split()[0], score_text(name, max(values))
    return Score(PROBES[name], score_text(name, fmean(values)), f"{low} to {high}")


def score_text(name: str, value: float) -> str:
    """A score with its unit."""
    return f"{value:.1f} cm" if unit_of(name) == "cm" else f"{100 * value:.1f} %"


def unit_of(name: str) -> str:
    """The unit of a probe, by which its name ends."""
    return name.rpartition(", ")[2]


def memory_text(one: Compared) -> str:
    """The largest use of memory."""
    [(kind, size)] = one.measured["memory"].items()
    return f"{size / 1e9:.2f} GB {MEMORY[kind]}"


def cautions(found: Sequence[Compared]) -> list[str]:
    """Differences between the evaluations that are not of the encoders."""
    return sweep_cautions([run for one in found for run in one.runs])
