"""Loads the runs of a sweep: settings, curves and results, or the reason why they are missing."""

import re
import shlex
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from instructrl.cli.overrides import options
from instructrl.config.evaluation import DEFAULT_PROTOCOL
from instructrl.config.fields import RENAMED_PROTOCOLS, flatten, format_value, with_current_name
from instructrl.errors import InputError
from instructrl.evaluation.results.summary import current_format
from instructrl.evaluation.run_checks import evaluation_folder
from instructrl.package_files import EVALUATE
from instructrl.storage import object_store
from instructrl.storage.json_file import read_json
from instructrl.storage.paths import StoragePath, open_source, storage_path
from instructrl.training.monitoring.metric_files import METRICS_FILE, missing_lines, read_lines
from instructrl.training.run_dir import FREE_KEYS, RECORDED_KEYS, read_config, settings

RESULTS = "results.json"
ENDED_BADLY = ("failed", "interrupted", "cancelled", "lost", "refused")


@dataclass
class Run:
    """A job of a sweep and the data of its run.

    Attributes:
        name: the job's number and overrides.
        location: of the run, as the sweep recorded it.
        path: the same as a path on this machine or in object storage.
        overrides: of the job.
        reason: why it is left out of the comparison; empty if it is compared.
        settings: those that determine the result, by dotted keys.
        metrics: lines of metrics.jsonl.
        missing: sentence on lines that it lacks; empty if none are known to be missing.
        results: of its evaluation.
    """

    name: str
    location: str
    path: StoragePath
    overrides: Sequence[str] = ()
    protocol: str = DEFAULT_PROTOCOL
    seed: int = 0
    reason: str = ""
    settings: dict[str, Any] = field(default_factory=dict)
    metrics: list[dict[str, Any]] = field(default_factory=list)
    missing: str = ""
    results: Mapping[str, Any] | None = None


@dataclass(frozen=True)
class Sweep:
    """A sweep's command and runs; `is_evaluation` if it is one of eval.py."""

    name: str
    command: str
    is_evaluation: bool
    runs: Sequence[Run]


def load_sweep(folder: Path, *, protocol: str | None) -> Sweep:
    """Load the runs of all jobs of a sweep.

    Raises:
        InputError: there is no sweep, `protocol` is None and there are results of several protocols, or there are none
            of it and it is not known.
    """
    table = folder / "jobs.json"
    if not table.is_file():
        raise InputError(f"{table}: found no such file; pass the folder that a sweep printed at its end, multirun/NAME")
    if protocol in RENAMED_PROTOCOLS:
        raise InputError(f"--protocol: {protocol} is now called {RENAMED_PROTOCOLS[protocol]}")
    try:
        content = read_json(table)
        jobs = [dict(job) for job in content["jobs"]]
        jobs = [job for job in jobs if job.get("entry") == content.get("entry")] or jobs  # those of the last program
        is_evaluation = all(any(override.startswith("run=") for override in job["overrides"]) for job in jobs)
        found = [run_of_job(job, jobs, is_evaluation=is_evaluation) for job in jobs]
        name, command = str(content["sweep"]), str(content["command"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        raise InputError(f"{table}: damaged; run the sweep's command again, which rewrites it") from None
    with tempfile.TemporaryDirectory(prefix="instructrl-") as temporary:
        folders = {
            run.location: local_run_folder(run.path, Path(temporary) / str(index)) for index, run in enumerate(found)
        }
        if not is_evaluation:
            chosen = choose_protocol([folders[run.location] for run in found if not run.reason], protocol)
            for run in found:
                run.protocol = chosen
        for run in found:
            if not run.reason and (protocol is None or run.protocol == protocol):
                load_run(run, folders[run.location], needs_results=is_evaluation)
            elif not run.reason:
                run.reason = f"was evaluated with protocol {run.protocol}"
    return Sweep(name, command, is_evaluation, found)


def run_of_job(job: Mapping[str, Any], jobs: Sequence[Mapping[str, Any]], *, is_evaluation: bool) -> Run:
    """A run as recorded in the sweep's job table."""
    overrides = [with_current_name(str(override)) for override in job["overrides"]]
    own = [
        override
        for override in overrides
        if len(jobs) == 1 or any(override not in other["overrides"] for other in jobs)
    ]
    run = Run(f"job {job['number']} ({' '.join(own)})", str(job["run"]), storage_path(str(job["run"])), overrides)
    if is_evaluation:
        for key in ("protocol=", "protocol.name="):  # the latter takes precedence
            names = [override.removeprefix(key) for override in overrides if override.startswith(key)]
            run.protocol = RENAMED_PROTOCOLS.get(names[-1], names[-1]) if names else run.protocol
    if job["state"] in ENDED_BADLY:
        why = f": {job['error']}" if job.get("error") else ""
        again = "; run the sweep's command again to resume it" if job["state"] == "interrupted" else ""
        run.reason = f"{job['state']}{why}{again}" + (f"  [{job['log']}]" if job.get("log") else "")
    return run


def local_run_folder(run: StoragePath, folder: Path) -> Path:
    """The folder of a run, or local copies of the needed files of one in object storage."""
    if isinstance(run, Path):
        return run
    for name in object_store.list_objects(str(run)):
        if re.fullmatch(rf"config\.yaml|metrics\.jsonl|eval(-[^/]+)?/{re.escape(RESULTS)}", name):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            with open_source(run / name) as copy:
                assert isinstance(copy, Path)  # copies are local unless data.cache_dir=null
                (folder / name).write_bytes(copy.read_bytes())
    return folder


def choose_protocol(folders: Sequence[Path], requested: str | None) -> str:
    """The requested protocol, else that of the runs' evaluations: the default one if any used it, else the only one.

    Raises:
        InputError: there are several and none is requested, or there are no results of the requested one and it is no
            option either.
    """
    found = {path.parent.name for folder in folders for path in folder.glob(f"eval*/{RESULTS}")}
    names = sorted(name.removeprefix("eval-") if name != "eval" else DEFAULT_PROTOCOL for name in found)
    if requested is not None:
        if requested not in (*names, *options("protocol")):
            allowed = ", ".join(dict.fromkeys([*names, *options("protocol")]))
            raise InputError(
                f"--protocol: found {format_value(requested)}, of which no run has results; allowed: {allowed}"
            )
        return requested
    if DEFAULT_PROTOCOL in names or not names:
        return DEFAULT_PROTOCOL
    if len(names) > 1:
        raise InputError(f"--protocol: not given, but there are results of {', '.join(names)}; pass one of them")
    return names[0]


def load_run(run: Run, folder: Path, *, needs_results: bool) -> None:
    """Read the settings, metrics and results of a run; with `needs_results`, missing results leave it out."""
    try:
        config = read_config(folder)
    except InputError:
        run.reason = f"has no settings in {run.location}; run the sweep's command again"
        return
    run.seed = config.seed
    # a run may resume with the same weights or pairs from another path, but in a sweep different paths are a choice
    values = flatten(settings(config, without=set(FREE_KEYS) - set(RECORDED_KEYS)))
    run.settings = {key: format_value(value) if isinstance(value, list) else value for key, value in values}
    try:
        lines = read_lines(folder / METRICS_FILE)
        run.missing = missing_lines(lines, validate_every=config.training.validate_every)
        run.metrics = [line for line in lines if line["split"] != "step"]
    except InputError as error:  # of a copy, where the run is in object storage
        run.reason = f"has damaged curves: {str(error).replace(str(folder), run.location)}"
        return
    results = evaluation_folder(folder, run.protocol) / RESULTS
    if results.is_file():
        try:
            run.results = current_format(read_json(results))
            assert run.results["conditions"]["trained"]["episodes"] > 0
        except (OSError, ValueError, KeyError, TypeError, AttributeError, AssertionError):
            run.results = None
            run.reason = f"has damaged results in {results}; evaluate it again"
    elif needs_results:
        command = shlex.join([*EVALUATE, *run.overrides])
        run.reason = f"has no results of protocol {run.protocol}; evaluate it with {command}"
    elif not run.metrics:
        run.reason = f"has no curves and no results in {run.location} yet"
