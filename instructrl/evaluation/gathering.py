"""What the runs of a sweep left: settings, curves, results, or why there are none."""

import json
import re
import shlex
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from instructrl.config import HOUSE_PROTOCOL
from instructrl.data import buckets
from instructrl.data.storage import Place, place, readable
from instructrl.errors import InputError
from instructrl.evaluation.run import evaluation_folder
from instructrl.schema import shown
from instructrl.training.metrics import read_lines
from instructrl.training.run_directory import FREE_KEYS, RECORDED_KEYS, read_config, settings

RESULTS = "results.json"
ENDED_BADLY = ("failed", "interrupted", "cancelled", "lost", "refused")


@dataclass
class Run:
    """A job of the sweep, and what is there of its run.

    Attributes:
        name: the job's number and choices.
        place: of the run, as the sweep has it.
        kept: the same as a path from here.
        reason: why it is not compared; empty if it is.
        settings: what decides what is computed, by dotted keys.
        metrics: lines of metrics.jsonl.
        results: of its evaluation.
    """

    name: str
    place: str
    kept: Place
    protocol: str = HOUSE_PROTOCOL
    seed: int = 0
    reason: str = ""
    settings: dict[str, Any] = field(default_factory=dict)
    metrics: list[dict[str, Any]] = field(default_factory=list)
    results: Mapping[str, Any] | None = None


@dataclass(frozen=True)
class Sweep:
    """Its command, its runs, and whether it judged them."""

    name: str
    command: str
    judges: bool
    runs: Sequence[Run]


def gather(folder: Path, *, protocol: str | None) -> Sweep:
    """All that the jobs of a sweep left behind.

    Raises:
        InputError: there is no sweep, or results of several protocols to choose from.
    """
    path = folder / "jobs.json"
    if not path.is_file():
        raise InputError(f"{path}: found no such file; give the folder that a sweep named at its end, multirun/NAME")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        jobs = [dict(job) for job in content["jobs"]]
        judges = all(any(word.startswith("run=") for word in job["overrides"]) for job in jobs)
        found = [begun(job, jobs, judges=judges) for job in jobs]
        name, command = str(content["sweep"]), str(content["command"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        raise InputError(f"{path}: damaged; give the sweep's command again, which writes it anew") from None
    with tempfile.TemporaryDirectory(prefix="instructrl-") as temporary:
        folders = {run.place: fetched(run.kept, Path(temporary) / str(index)) for index, run in enumerate(found)}
        if not judges:
            chosen = protocol or only_protocol([folders[run.place] for run in found if not run.reason])
            for run in found:
                run.protocol = chosen
        for run in found:
            if not run.reason and (protocol is None or run.protocol == protocol):
                fill(run, folders[run.place], judged=judges)
            elif not run.reason:
                run.reason = f"was judged by protocol {run.protocol}"
    return Sweep(name, command, judges, found)


def begun(job: Mapping[str, Any], jobs: Sequence[Mapping[str, Any]], *, judges: bool) -> Run:
    """A run as the table of jobs knows it."""
    words = [str(word) for word in job["overrides"]]
    own = [word for word in words if len(jobs) == 1 or any(word not in other["overrides"] for other in jobs)]
    run = Run(f"job {job['number']} ({' '.join(own)})", str(job["run"]), place(str(job["run"])))
    if judges:
        for key in ("protocol=", "protocol.name="):  # the latter has the last word
            named = [word.removeprefix(key) for word in words if word.startswith(key)]
            run.protocol = named[-1] if named else run.protocol
    if job["state"] in ENDED_BADLY:
        why = f": {job['error']}" if job.get("error") else ""
        again = "; the sweep's command goes on with it" if job["state"] == "interrupted" else ""
        run.reason = f"{job['state']}{why}{again}" + (f"  [{job['log']}]" if job.get("log") else "")
    return run


def fetched(run: Place, folder: Path) -> Path:
    """Where the files of a run can be read: itself, or copies of those that are needed."""
    if isinstance(run, Path):
        return run
    for name in buckets.listing(str(run)):
        if re.fullmatch(rf"config\.yaml|metrics\.jsonl|eval(-[^/]+)?/{re.escape(RESULTS)}", name):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            with readable(run / name) as copy:
                assert isinstance(copy, Path)  # copies are kept unless a data.cache_dir=null says otherwise
                (folder / name).write_bytes(copy.read_bytes())
    return folder


def only_protocol(folders: Sequence[Path]) -> str:
    """The protocol by which runs were judged: ours if some were, else the only one.

    Raises:
        InputError: there are several.
    """
    found = {path.parent.name for folder in folders for path in folder.glob(f"eval*/{RESULTS}")}
    names = sorted(name.removeprefix("eval-") if name != "eval" else HOUSE_PROTOCOL for name in found)
    if HOUSE_PROTOCOL in names or not names:
        return HOUSE_PROTOCOL
    if len(names) > 1:
        raise InputError(f"--protocol: not given, but there are results of {', '.join(names)}; name one of them")
    return names[0]


def fill(run: Run, folder: Path, *, judged: bool) -> None:
    """Read what a run left; `judged`: it is to have results."""
    try:
        config = read_config(folder)
    except InputError:
        run.reason = f"has no settings in {run.place}; give the sweep's command again"
        return
    run.seed = config.seed
    # a run may go on with the same weights or pairs from another place, but in a study other ones are a choice
    run.settings = dict(flat(settings(config, without=set(FREE_KEYS) - set(RECORDED_KEYS))))
    run.metrics = [line for line in read_lines(folder / "metrics.jsonl") if line.get("split") not in ("step", None)]
    results = evaluation_folder(folder, run.protocol) / RESULTS
    if results.is_file():
        try:
            run.results = json.loads(results.read_text(encoding="utf-8"))
            assert run.results is not None and run.results["rows"]["trained"]["episodes"] > 0
        except (OSError, ValueError, KeyError, TypeError, AssertionError):
            run.results = None
            run.reason = f"has damaged results in {results}; judge it again"
    elif judged:
        run.reason = f"has no results of protocol {run.protocol}; judge it with python eval.py run={run.place}"
    elif not run.metrics:
        run.reason = f"has neither curves nor results in {run.place} yet"


def flat(values: Mapping[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    """The leaves of nested dicts by their dotted keys; lists as text, so that they can be compared and shown."""
    found: list[tuple[str, Any]] = []
    for key, value in values.items():
        if isinstance(value, dict):
            found += flat(value, f"{prefix}{key}.")
        else:
            found.append((f"{prefix}{key}", shown(value) if isinstance(value, list) else value))
    return found


def judge_command(sweep: Sweep) -> str:
    """The command that judges those runs of a sweep of train.py that were not; empty if there are none."""
    if sweep.judges:
        return ""
    waiting = [run for run in sweep.runs if not run.reason and run.results is None]
    if not waiting:
        return ""
    names = [run.place if re.fullmatch(r"[\w./:+-]+", run.place) else json.dumps(run.place) for run in waiting]
    launcher = [word for word in shlex.split(sweep.command) if word.startswith("launcher")]
    protocol = [f"protocol={waiting[0].protocol}"] if waiting[0].protocol != HOUSE_PROTOCOL else []
    return shlex.join(["python", "eval.py", "--multirun", f"run={','.join(names)}", *protocol, *launcher])
