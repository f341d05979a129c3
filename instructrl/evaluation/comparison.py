"""Runs of a sweep in groups: all that differ in nothing but their seed, with means and intervals over these."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from instructrl.errors import InputError
from instructrl.evaluation.gathering import Run, Sweep, judge_command
from instructrl.evaluation.results import HEADLINE
from instructrl.evaluation.statistics import seeds_interval, student_interval
from instructrl.schema import shown

NOT_A_CHOICE = ("seed", "name")  # a run's name follows from its other settings
MEASURES = ("objective", "head", "task", "pretraining")  # the losses of runs that differ in these are not of one kind
NAMED = ("encoder", "policy", "head", "task", "optimizer", "sim", "hardware")  # groups whose options have names


@dataclass(frozen=True)
class Group:
    """Runs that differ in their seed alone.

    Attributes:
        label: what tells it from the other groups.
        rows: the rows of the judged runs, over their seeds: success_rate, mean_low, mean_high, episodes, runs.
        tasks: the same of the headline row for each task of a set.
        loss: the mean of the runs' best validation losses, and its interval if there are several.
    """

    label: str
    runs: Sequence[Run]
    rows: Mapping[str, Mapping[str, Any]]
    tasks: Mapping[str, Mapping[str, Any]]
    loss: tuple[float, tuple[float, float] | None] | None

    @property
    def seeds(self) -> list[int]:
        """In order."""
        return sorted(run.seed for run in self.runs)


@dataclass(frozen=True)
class Comparison:
    """Groups, best first, the runs that are in none, and the command that judges those that were not."""

    name: str
    command: str
    groups: Sequence[Group]
    left_out: Sequence[Run]
    judge: str

    @property
    def rows(self) -> list[str]:
        """The rows that some group has, in their usual order."""
        return list(dict.fromkeys(key for group in self.groups for key in group.rows))

    @property
    def tasks(self) -> list[str]:
        """The tasks of sets that some group has."""
        return list(dict.fromkeys(key for group in self.groups for key in group.tasks))

    def numbers(self) -> dict[str, Any]:
        """What comparison.json says."""
        groups = [
            {
                "settings": group.label,
                "seeds": group.seeds,
                "runs": [run.place for run in group.runs],
                "rows": group.rows,
                "tasks": group.tasks,
                "best_val_loss": group.loss and {"mean": group.loss[0], "interval": group.loss[1]},
            }
            for group in self.groups
        ]
        left_out = [{"run": run.place, "job": run.name, "reason": run.reason} for run in self.left_out]
        return {"sweep": self.name, "command": self.command, "groups": groups, "left_out": left_out}


def compared(sweep: Sweep, folder: Path) -> Comparison:
    """Group the runs of a sweep.

    Raises:
        InputError: no run has anything to compare.
    """
    runs = [run for run in sweep.runs if not run.reason]
    left_out = [run for run in sweep.runs if run.reason]
    if not runs:
        raise InputError(f"{folder}: none of the {len(left_out)} runs can be compared; {left_out[0].name} "
                         f"{left_out[0].reason}" if left_out else f"{folder}: the sweep has no runs")  # fmt: skip
    differing = choices(runs)
    grouped: dict[tuple[Any, ...], list[Run]] = {}
    for run in runs:
        grouped.setdefault((run.protocol, *(run.settings.get(key) for key in differing)), []).append(run)
    names = labels([members[0] for members in grouped.values()], differing)
    groups = [
        Group(name, members, over_seeds(members), over_tasks(members), best_losses(members))
        for name, members in zip(names, grouped.values(), strict=True)
    ]
    of_one_kind = not any(key.partition(".")[0] in MEASURES for key in differing)
    ranked = sorted(groups, key=lambda group: rank(group, by_loss=of_one_kind))
    return Comparison(sweep.name, sweep.command, ranked, left_out, judge_command(sweep))


def rank(group: Group, *, by_loss: bool) -> tuple[float, float]:
    """The best first: by success, else by loss where losses can be compared, else in the order of the jobs."""
    success = group.rows[HEADLINE]["success_rate"] if group.rows else -1.0
    return -success, (group.loss[0] if group.loss else float("inf")) if by_loss else 0.0


def choices(runs: Sequence[Run]) -> list[str]:
    """The settings in which runs differ, their seed aside."""
    keys = dict.fromkeys(key for run in runs for key in run.settings if key not in NOT_A_CHOICE)
    return [key for key in keys if len({run.settings.get(key) for run in runs}) > 1]


def labels(firsts: Sequence[Run], differing: Sequence[str]) -> list[str]:
    """What tells groups from each other, by one run of each; the name of an option stands for all that it sets."""
    named = [group for group in NAMED if f"{group}.name" in differing]

    def follows(key: str) -> bool:
        """Whether a setting is the same in all groups with the same option."""
        group = key.partition(".")[0]
        if group not in named or key == f"{group}.name":
            return False
        values: dict[Any, set[Any]] = {}
        for run in firsts:
            values.setdefault(run.settings[f"{group}.name"], set()).add(run.settings.get(key))
        return all(len(found) == 1 for found in values.values())

    told = [key for key in differing if not follows(key)]
    protocols = {run.protocol for run in firsts}
    found = []
    for run in firsts:
        words = [f"{key.removesuffix('.name')}={shown(run.settings.get(key))}" for key in told]
        words += [f"protocol={run.protocol}"] * (len(protocols) > 1)
        found.append(" ".join(words) or plain(run))
    return found


def plain(run: Run) -> str:
    """What a run is where there is nothing to tell it from."""
    return ", ".join(str(run.settings[f"{group}.name"]) for group in ("task", "encoder", "policy", "head"))


def over_seeds(runs: Sequence[Run]) -> dict[str, dict[str, Any]]:
    """Each row of those runs that were judged."""
    results = [run.results for run in runs if run.results is not None]
    keys = dict.fromkeys(key for found in results for key in found["rows"])
    rows = {}
    for key in keys:
        having = [found for found in results if key in found["rows"]]
        counts = [pair for found in having for pair in counted(found, key)]
        rows[key] = mean([found["rows"][key] for found in having], counts)
    return rows


def over_tasks(runs: Sequence[Run]) -> dict[str, dict[str, Any]]:
    """The headline row of each task of a set."""
    results = [run.results for run in runs if run.results is not None and "tasks" in run.results]
    tasks = {}
    for task in dict.fromkeys(task for found in results for task in found["tasks"]):
        rows = [found["tasks"][task]["rows"][HEADLINE] for found in results if task in found["tasks"]]
        tasks[task] = mean(rows, [(row["successes"], row["episodes"]) for row in rows])
    return tasks


def counted(results: Mapping[str, Any], key: str) -> list[tuple[int, int]]:
    """Successes and episodes of a row, of each task of a set."""
    entries = results.get("tasks", {"": results}).values()
    rows = [entry["rows"][key] for entry in entries if key in entry["rows"]]
    return [(row["successes"], row["episodes"]) for row in rows]


def mean(rows: Sequence[Mapping[str, Any]], counts: Sequence[tuple[int, int]]) -> dict[str, Any]:
    """One row over several runs, each of which counts the same."""
    rates = [float(row["success_rate"]) for row in rows]
    low, high = seeds_interval(rates, counts)
    return {
        "runs": len(rows),
        "success_rate": fmean(rates),
        "mean_low": low,
        "mean_high": high,
        "rates": rates,
        "episodes": sum(int(row["episodes"]) for row in rows),
    }


def best_loss(run: Run) -> float | None:
    """The smallest validation loss of a run, whose checkpoint is the best one."""
    losses = [float(line["loss"]) for line in run.metrics if line["split"] == "val" and "loss" in line]
    return min(losses, default=None)


def best_losses(runs: Sequence[Run]) -> tuple[float, tuple[float, float] | None] | None:
    """Their mean and its interval."""
    losses = [loss for loss in map(best_loss, runs) if loss is not None]
    return (fmean(losses), student_interval(losses)) if losses else None


def table(found: Comparison) -> str:
    """The groups as text: the headline with its interval, the other rows, the loss."""
    others = [key for key in found.rows if key != HEADLINE]
    head = ["runs", "success", "95 % interval", *others, "val loss"]
    lines = [[f"{len(found.groups)} settings" if len(found.groups) > 1 else "setting", *head]]
    for group in found.groups:
        row = group.rows.get(HEADLINE)
        judged = ["-", "-"]
        if row is not None:
            judged = [f"{row['success_rate']:.3f}", f"[{row['mean_low']:.3f}, {row['mean_high']:.3f}]"]
        rest = [f"{group.rows[key]['success_rate']:.3f}" if key in group.rows else "-" for key in others]
        loss = f"{group.loss[0]:.4g}" if group.loss else "-"
        lines.append([group.label, str(len(group.runs)), *judged, *rest, loss])
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    return "\n".join(
        "  ".join(
            [line[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(line[1:], widths[1:], strict=True))]
        )
        for line in lines
    )
