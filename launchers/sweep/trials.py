"""Trials: jobs that a sweeper plugin of Hydra chooses, a few at a time, by the values of earlier ones."""

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from instructrl.cli.compose import compose
from instructrl.cli.entry import SweepRequest
from instructrl.config.resolve import check_distinct_outputs
from instructrl.config.training import TrainConfig
from instructrl.errors import InputError
from instructrl.storage.paths import StoragePath, open_source
from instructrl.training.monitoring.metric_files import METRICS_FILE, best_value
from instructrl.training.run_dir import run_path
from launchers.job_table import Job, merge_jobs, read_table
from launchers.sweep.plan import job_specs
from launchers.sweep.runner import EXIT_CTRL_C, EXIT_RESUMABLE, FOLDER, run_sweep, sweep_name


@dataclass(frozen=True)
class Trial:
    """The result of a job that a sweeper chose: `training.objective` of a training, or why it has no value."""

    value: float | None = None
    error: str = ""


def run_trials(request: SweepRequest, jobs: Sequence[Sequence[str]]) -> list[Trial]:
    """Run jobs and wait for them; all those of one search are in one table, and one that is done is not run again.

    Raises:
        InputError: two of them have the same run directory.
        SystemExit: they were interrupted.
    """
    configs, results = {}, {}
    for words in dict.fromkeys(map(tuple, jobs)):  # a sweeper may choose the same values twice
        try:
            configs[words] = compose(request.config_name, type(request.configs[0]), words)
        except InputError as error:
            results[words] = Trial(error=str(error))
    check_distinct_outputs(list(configs.values()))
    if configs:
        ended = run_jobs(request, list(configs), list(configs.values()))
        for (words, config), job in zip(configs.items(), ended, strict=True):
            results[words] = result_of(job, config)
            if results[words].value is not None:
                print(f"job {job.number}: {config.training.objective} {results[words].value:.6g}", flush=True)
    return [results[tuple(words)] for words in jobs]


def search_folder(request: SweepRequest) -> Path:
    """Return the folder of a search: of its name, or one that follows from the searched settings."""
    return FOLDER / (request.launcher.sweep or sweep_name(request.jobs, entry=request.config_name))


def run_jobs(request: SweepRequest, jobs: Sequence[Sequence[str]], configs: Sequence[object]) -> list[Job]:
    """Run the jobs of valid trials; returns their entries in the table of the search."""
    name = search_folder(request).name
    batch = replace(request, jobs=jobs, configs=configs, launcher=replace(request.launcher, sweep=name))
    specs, _ = job_specs(batch)
    code = run_sweep(specs, name, command=request.command, compares=False)
    if code in (EXIT_RESUMABLE, EXIT_CTRL_C):
        raise SystemExit(code)
    return merge_jobs(read_table(FOLDER / name), specs)


def result_of(job: Job, config: object) -> Trial:
    """The value of a job that has ended; of a command that returns none, neither value nor error."""
    if job.state != "done":
        return Trial(error=f"{job.state}: {job.error.removeprefix('error: ')}  [{job.log}]")
    if not isinstance(config, TrainConfig):
        return Trial()
    location, name = run_path(config), config.training.objective
    value = best_value_at(location / METRICS_FILE, name) if (location / METRICS_FILE).exists() else None
    return Trial(value) if value is not None else Trial(error=f"{location / METRICS_FILE}: found no {name}")


def best_value_at(path: StoragePath, objective: str) -> float | None:
    """The best value of a metric in a run's metrics file, which may be in object storage."""
    with tempfile.TemporaryDirectory(prefix="instructrl-") as folder, open_source(path) as source:
        copy = Path(folder) / METRICS_FILE
        copy.write_bytes(source.read_bytes() if isinstance(source, Path) else source.read())
        return best_value(Path(folder), objective)
