"""Job specs of a command whose episodes several jobs share."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from instructrl.cli.entry import SweepRequest
from instructrl.config.environment import CollectConfig
from instructrl.config.evaluation import EvalConfig, effective_protocol
from instructrl.config.share import is_divided
from instructrl.errors import InputError
from instructrl.storage.paths import storage_path
from launchers.job import CHAINING, JobSpec


def check_shares(request: SweepRequest) -> None:
    """Raise InputError if episodes are to be divided among jobs of a launcher that cannot run one after others."""
    launcher = request.launcher
    for config in request.configs:
        if is_divided(config) and launcher.kind not in CHAINING:
            raise InputError(
                f"jobs: found {config.jobs} with launcher={launcher.name}; allowed: 1, or launcher=local or a profile "
                "of SLURM"
            )


def share_specs(whole: JobSpec, config: CollectConfig | EvalConfig, *, number: int) -> list[JobSpec]:
    """Return the specs of the jobs that share a command's episodes, and of the last one, which needs them all.

    The last one is the command without a division: it finds the episodes of the others, and those of none are its own.

    Args:
        whole: the command.
        config: its configuration, with the number of jobs.
        number: of specs before these.
    """
    words = [word for word in whole.overrides if word.partition("=")[0] != "jobs"]
    jobs = config.jobs
    shares = [with_words(whole, [*words, f"jobs={jobs}", f"job={job}"], f"job{job}") for job in range(1, jobs + 1)]
    last = with_words(whole, [*words, "jobs=1"], "whole")
    return [*shares, replace(last, after=tuple(range(number, number + jobs)), results=result_lines(config))]


def result_lines(config: CollectConfig | EvalConfig) -> tuple[str, ...]:
    """Return the lines with which a command names its files: demonstrations, or the report of an evaluation."""
    if isinstance(config, EvalConfig):
        from instructrl.evaluation.run_checks import evaluation_folder

        folder = evaluation_folder(Path(), effective_protocol(config).name).name
        return (f"report: {storage_path(config.run) / folder / 'report.html'}",)
    from instructrl.collection.collect import single_tasks
    from instructrl.collection.target_file import demonstration_paths

    files = [demonstration_paths(task, config.sim, config.data) for task in single_tasks(config.task)]
    return tuple(f"{split}: {paths[split]}" for split in files[0] for paths in files)


def with_words(spec: JobSpec, words: Sequence[str], label: str) -> JobSpec:
    """Return the spec with other overrides, and a label in its name."""
    return replace(spec, command=(*spec.entry, *words), overrides=tuple(words), name=f"{spec.name[:60]}-{label}")
