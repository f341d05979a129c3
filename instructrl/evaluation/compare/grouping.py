"""Groups the runs of a sweep that differ only in their seed, with means and intervals over the seeds."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from instructrl.cli.table import align
from instructrl.config.fields import format_value
from instructrl.errors import InputError
from instructrl.evaluation.compare.cautions import sweep_cautions
from instructrl.evaluation.compare.commands import evaluation_command, protocol_word
from instructrl.evaluation.compare.pairing import PairedDifference, paired_differences
from instructrl.evaluation.compare.sweep_runs import Run, Sweep
from instructrl.evaluation.results.statistics import seeds_interval, student_interval
from instructrl.evaluation.results.summary import HEADLINE

NOT_A_CHOICE = ("seed", "name")  # a run's name follows from its other settings
MEASURES = ("objective", "head", "task", "pretraining")  # losses of runs that differ in these are not comparable
SCALES = ("objective", "head", "pretraining")  # losses of runs that differ in these are not even on one scale
NAMED = ("encoder", "policy", "head", "task", "optimizer", "sim", "hardware")  # groups whose options have names


@dataclass(frozen=True)
class Group:
    """Runs that differ only in their seed.

    Attributes:
        label: the settings that distinguish it from the other groups.
        conditions: of the evaluated runs, over their seeds: success_rate, mean_low, mean_high, episodes, runs.
        tasks: the same for each task of a set, of the headline condition.
        loss: the mean of the runs' best validation losses, and its interval if there are several.
        measure: what distinguishes its losses from those of other groups, such as its head; empty if nothing does.
    """

    label: str
    runs: Sequence[Run]
    conditions: Mapping[str, Mapping[str, Any]]
    tasks: Mapping[str, Mapping[str, Any]]
    loss: tuple[float, tuple[float, float] | None] | None
    measure: str = ""

    @property
    def seeds(self) -> list[int]:
        """The seeds of the runs, sorted."""
        return sorted(run.seed for run in self.runs)


@dataclass(frozen=True)
class Comparison:
    """Groups sorted by success, paired differences, the runs left out, and the command that evaluates pending ones.

    `cautions`: what the groups differ in beside their settings.
    """

    name: str
    command: str
    groups: Sequence[Group]
    differences: Sequence[PairedDifference]
    left_out: Sequence[Run]
    pending_command: str
    cautions: Sequence[str]

    @property
    def conditions(self) -> list[str]:
        """The conditions of all groups, in their usual order."""
        return list(dict.fromkeys(key for group in self.groups for key in group.conditions))

    @property
    def tasks(self) -> list[str]:
        """The tasks of all groups that are sets of tasks."""
        return list(dict.fromkeys(key for group in self.groups for key in group.tasks))

    def numbers(self) -> dict[str, Any]:
        """The content of comparison.json."""
        groups = [
            {
                "settings": group.label,
                "seeds": group.seeds,
                "runs": [run.location for run in group.runs],
                "conditions": group.conditions,
                "tasks": group.tasks,
                "best_val_loss": group.loss and {"mean": group.loss[0], "interval": group.loss[1]},
            }
            for group in self.groups
        ]
        left_out = [{"run": run.location, "job": run.name, "reason": run.reason} for run in self.left_out]
        differences = [difference.record() for difference in self.differences]
        return {
            "sweep": self.name,
            "command": self.command,
            "groups": groups,
            "paired_differences": differences,
            "cautions": list(self.cautions),
            "left_out": left_out,
        }


def group_runs(sweep: Sweep, folder: Path) -> Comparison:
    """Group the runs of a sweep.

    Raises:
        InputError: no run has metrics or results to compare.
    """
    runs = [run for run in sweep.runs if not run.reason]
    left_out = [run for run in sweep.runs if run.reason]
    if not runs:
        raise InputError(f"{folder}: none of the {len(left_out)} runs can be compared; {left_out[0].name} "
                         f"{left_out[0].reason}" if left_out else f"{folder}: the sweep has no runs")  # fmt: skip
    differing = differing_settings(runs)
    grouped: dict[tuple[Any, ...], list[Run]] = {}
    for run in runs:
        grouped.setdefault((run.protocol, *(run.settings.get(key) for key in differing)), []).append(run)
    firsts = [members[0] for members in grouped.values()]
    names, of_scale = group_labels(firsts, differing), [key for key in differing if key.partition(".")[0] in SCALES]
    measures = group_labels(firsts, of_scale) if of_scale else [""] * len(firsts)
    groups = [
        Group(name, members, over_seeds(members), over_tasks(members), best_losses(members), measure)
        for name, measure, members in zip(names, measures, grouped.values(), strict=True)
    ]
    of_one_kind = not any(key.partition(".")[0] in MEASURES for key in differing)
    ranked = sorted(groups, key=lambda group: rank(group, by_loss=of_one_kind))
    differences = paired_differences([(group.label, group.runs) for group in ranked])
    pending = evaluation_command(sweep)
    return Comparison(sweep.name, sweep.command, ranked, differences, left_out, pending, sweep_cautions(runs))


def rank(group: Group, *, by_loss: bool) -> tuple[float, float]:
    """Sort key: success rate, then loss if losses are comparable, else the order of the jobs."""
    success = group.conditions[HEADLINE]["success_rate"] if group.conditions else -1.0
    return -success, (group.loss[0] if group.loss else float("inf")) if by_loss else 0.0


def differing_settings(runs: Sequence[Run]) -> list[str]:
    """The settings other than the seed in which the runs differ."""
    keys = dict.fromkeys(key for run in runs for key in run.settings if key not in NOT_A_CHOICE)
    return [key for key in keys if len({run.settings.get(key) for run in runs}) > 1]


def group_labels(firsts: Sequence[Run], differing: Sequence[str]) -> list[str]:
    """Label each group by the settings that distinguish it, given one run of each.

    The name of a config group's option stands for all settings that it determines.
    """
    named = [group for group in NAMED if f"{group}.name" in differing]

    def follows(key: str) -> bool:
        """Return True if a setting has the same value in all runs with the same option."""
        group = key.partition(".")[0]
        if group not in named or key == f"{group}.name":
            return False
        values: dict[Any, set[Any]] = {}
        for run in firsts:
            values.setdefault(run.settings[f"{group}.name"], set()).add(run.settings.get(key))
        return all(len(found) == 1 for found in values.values())

    shown_keys = [key for key in differing if not follows(key)]
    protocols = {run.protocol for run in firsts}
    found = []
    for run in firsts:
        parts = [f"{key.removesuffix('.name')}={format_value(run.settings.get(key))}" for key in shown_keys]
        parts += [protocol_word(run.protocol)] * (len(protocols) > 1)
        found.append(" ".join(parts) or describe(run))
    return found


def describe(run: Run) -> str:
    """Label of the only group: task, encoder, policy and head."""
    return ", ".join(str(run.settings[f"{group}.name"]) for group in ("task", "encoder", "policy", "head"))


def over_seeds(runs: Sequence[Run]) -> dict[str, dict[str, Any]]:
    """Each condition of the evaluated runs, over their seeds."""
    results = [run.results for run in runs if run.results is not None]
    keys = dict.fromkeys(key for found in results for key in found["conditions"])
    conditions = {}
    for key in keys:
        with_condition = [found for found in results if key in found["conditions"]]
        counts = [pair for found in with_condition for pair in counts_of(found, key)]
        conditions[key] = mean([found["conditions"][key] for found in with_condition], counts)
    return conditions


def over_tasks(runs: Sequence[Run]) -> dict[str, dict[str, Any]]:
    """The headline condition of each task of a set, over the seeds."""
    results = [run.results for run in runs if run.results is not None and "tasks" in run.results]
    tasks = {}
    for task in dict.fromkeys(task for found in results for task in found["tasks"]):
        conditions = [found["tasks"][task]["conditions"][HEADLINE] for found in results if task in found["tasks"]]
        tasks[task] = mean(conditions, [(condition["successes"], condition["episodes"]) for condition in conditions])
    return tasks


def counts_of(results: Mapping[str, Any], key: str) -> list[tuple[int, int]]:
    """(successes, episodes) of a condition, one pair per task."""
    entries = results.get("tasks", {"": results}).values()
    conditions = [entry["conditions"][key] for entry in entries if key in entry["conditions"]]
    return [(condition["successes"], condition["episodes"]) for condition in conditions]


def mean(conditions: Sequence[Mapping[str, Any]], counts: Sequence[tuple[int, int]]) -> dict[str, Any]:
    """One condition averaged over several runs with equal weight."""
    rates = [float(condition["success_rate"]) for condition in conditions]
    low, high = seeds_interval(rates, counts)
    return {
        "runs": len(conditions),
        "success_rate": fmean(rates),
        "mean_low": low,
        "mean_high": high,
        "rates": rates,
        "episodes": sum(int(condition["episodes"]) for condition in conditions),
    }


def best_loss(run: Run) -> float | None:
    """The lowest validation loss of a run."""
    losses = [float(line["loss"]) for line in run.metrics if line["split"] == "val" and "loss" in line]
    return min(losses, default=None)


def best_losses(runs: Sequence[Run]) -> tuple[float, tuple[float, float] | None] | None:
    """Mean and interval of the runs' lowest validation losses."""
    losses = [loss for loss in map(best_loss, runs) if loss is not None]
    return (fmean(losses), student_interval(losses)) if losses else None


def table(found: Comparison) -> str:
    """The groups as text: headline with interval, the other conditions, the loss."""
    others = [key for key in found.conditions if key != HEADLINE]
    head = ["runs", "success", "95 % interval", *others, "val loss"]
    lines = [[f"{len(found.groups)} settings" if len(found.groups) > 1 else "setting", *head]]
    for group in found.groups:
        condition = group.conditions.get(HEADLINE)
        cells = ["-", "-"]
        if condition is not None:
            cells = [f"{condition['success_rate']:.3f}", f"[{condition['mean_low']:.3f}, {condition['mean_high']:.3f}]"]
        rest = [f"{group.conditions[key]['success_rate']:.3f}" if key in group.conditions else "-" for key in others]
        loss = f"{group.loss[0]:.4g}" if group.loss else "-"
        lines.append([group.label, str(len(group.runs)), *cells, *rest, loss])
    return "\n".join(align(lines, right=range(1, len(lines[0]))))
