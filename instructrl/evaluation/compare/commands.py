"""The command that evaluates the runs of a sweep as the others were evaluated."""

import json
import re
import shlex
from collections.abc import Sequence
from typing import Any

from instructrl.cli.compose import protocol_preset
from instructrl.cli.overrides import options
from instructrl.config.evaluation import DEFAULT_PROTOCOL, RECORDED, protocol_record
from instructrl.config.fields import flatten
from instructrl.evaluation.compare.sweep_runs import Run, Sweep
from instructrl.package_files import EVALUATE

NOT_ITS_OWN = ("launcher.sweep=", "launcher.dry_run=")  # of a training's launcher


def evaluation_command(sweep: Sweep) -> str:
    """The command that evaluates the not yet evaluated runs of a sweep of train.py; empty if there are none."""
    if sweep.is_evaluation:
        return ""
    pending = [run for run in sweep.runs if not run.reason and run.results is None]
    if not pending:
        return ""
    names = [run.location if re.fullmatch(r"[\w./:+-]+", run.location) else json.dumps(run.location) for run in pending]
    launcher = [word for word in shlex.split(sweep.command) if word.startswith("launcher")]
    launcher = [word for word in launcher if not word.startswith(NOT_ITS_OWN)]
    chosen = evaluation_words(pending[0].protocol, sweep.runs)
    return shlex.join([*EVALUATE, "--multirun", f"run={','.join(names)}", *chosen, *launcher])


def evaluation_words(protocol: str, runs: Sequence[Run]) -> list[str]:
    """The settings of eval.py that ask for this protocol as the first evaluated run was asked.

    A protocol of one's own is no option: it is another one's with a name and what its results record as different.
    """
    results = next((run.results for run in runs if not run.reason and run.results is not None), {})
    like = protocol if protocol in options("protocol") else DEFAULT_PROTOCOL
    recorded = dict(flatten(results.get("protocol", {})))
    fixed = dict(flatten(protocol_record(protocol_preset(like))))
    words = [protocol_word(protocol)] if protocol != DEFAULT_PROTOCOL else []
    words += [
        f"{key}={_value(recorded[name])}"
        for key, name in RECORDED.items()
        if name in recorded and recorded[name] != fixed[name]
    ]
    if results.get("checkpoint", {}).get("name", "best") != "best":
        words.append(f"checkpoint={results['checkpoint']['name']}")
    renderer = results.get("renderer", {})
    if renderer.get("evaluation") != renderer.get("data"):
        words.append(f"renderer={renderer['evaluation']}")
    return words


def protocol_word(name: str) -> str:
    """The setting that asks for a protocol of this name."""
    return f"protocol={name}" if name in options("protocol") else f"protocol.name={name}"


def _value(value: Any) -> str:
    """A value as a command line has it."""
    if isinstance(value, list):
        return f"[{','.join(map(str, value))}]"
    if isinstance(value, bool):
        return str(value).lower()
    return "null" if value is None else str(value)
