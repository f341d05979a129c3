"""Content of the batch script of a submission, and the names by which SLURM and the table know its jobs."""

import itertools
import math
import os
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from instructrl.config.launcher import SlurmConfig
from instructrl.errors import InputError
from instructrl.redaction import is_confidential
from launchers.job import JobSpec, import_path
from launchers.job_table import Job

SETUP_SUFFIX = ".setup.sh"  # of the private file with the lines of `setup`, beside the script


def divide(pairs: Sequence[tuple[Job, JobSpec]], limit: int) -> list[Sequence[tuple[Job, JobSpec]]]:
    """Divide jobs into as few arrays of at most `limit` jobs as possible, which differ by at most one job in size."""
    count = math.ceil(len(pairs) / limit)
    bounds = [len(pairs) * number // count for number in range(count + 1)]
    return [pairs[first:last] for first, last in itertools.pairwise(bounds)]


def divide_parallel(parallel: int, arrays: int) -> list[int]:
    """Return how many jobs of each array may run at a time, so that at most `parallel` of all do.

    Raises:
        InputError: fewer than one of each array.
    """
    if parallel < arrays:
        raise InputError(
            f"launcher.slurm.parallel: found {parallel}, but the jobs are {arrays} arrays, of which each runs at least "
            f"one job at a time; allowed: at least {arrays}, or fewer jobs in a command"
        )
    return [parallel // arrays + (number < parallel % arrays) for number in range(arrays)]


def script_parameters(
    root: Path, spec: JobSpec, jobs: Sequence[Job], *, parallel: int, needed: str = ""
) -> dict[str, Any]:
    """Return submitit's parameters of the batch script of one submission, in the folder of its sweep.

    Args:
        root: the folder of the sweep.
        spec: of one of the jobs, which share all that the script depends on.
        jobs: those of the submission.
        parallel: how many of them may run at a time.
        needed: the dependency on trainings, in place of that of the settings; SLURM cancels them if those fail.
    """
    settings = spec.resources.slurm
    distributed = spec.distributed
    token, array = token_of(jobs[0]), len(jobs) > 1
    names = " ".join(job.attempt.rpartition("-")[0] for job in jobs)
    attempt = f"{names}-{token}"
    if array:
        attempt = f"$(echo {names} | cut -d' ' -f$((SLURM_ARRAY_TASK_ID + 1)))-{token}.$SLURM_ARRAY_TASK_ID"
    number = "${SLURM_ARRAY_JOB_ID}_${SLURM_ARRAY_TASK_ID}" if array else "${SLURM_JOB_ID}"
    folder = shlex.quote(str(root))
    found: dict[str, Any] = {
        "job_name": spec.resources.sweep or "instructrl",
        "time": settings.minutes,
        "nodes": settings.nodes if distributed else 1,
        "ntasks_per_node": settings.tasks_per_node if distributed else 1,
        "cpus_per_task": settings.cpus_per_task,
        "mem": f"{int(settings.memory_gb * 1024)}M" if settings.memory_gb else None,
        "signal_delay_s": settings.save_seconds,
        "array_parallelism": parallel,
        "stderr_to_stdout": True,
        "srun_args": [*pyxis_options(spec), "--wait=60"],  # when a process fails, the others are killed after 60 s
        "setup": [
            *variables(settings),
            *([f". {folder}/slurm/{token}{SETUP_SUFFIX}"] if is_confidential_setup(settings) else settings.setup or []),
            " ".join(["export", *map(prepend_to_pythonpath, import_path()), "PYTHONUNBUFFERED=1"]),
            f"attempt={attempt}",
            f"ln -sf $attempt.pkl {folder}/slurm/{number}_submitted.pkl  # where submitit looks for it",
            "trap : TERM USR2  # this script stays to see how the command ends",
        ],
        "teardown": [
            "code=$?",
            f"{shlex.quote(sys.executable)} -m launchers.exit_status slurm {folder}/outcomes/$attempt.json $code "
            f"{settings.requeues}",
        ],
        "additional_parameters": {
            "requeue": True,
            "wckey": "instructrl",
            "comment": " ".join(filter(None, [comment(token), settings.comment])),
            **extra_options(settings, distributed=distributed),
            **({"dependency": needed, "kill-on-invalid-dep": "yes"} if needed else {}),
        },
        **{key: getattr(settings, key) for key in ("partition", "account", "qos", "constraint")},
    }
    return {key: value for key, value in found.items() if value is not None}


def prepend_to_pythonpath(folder: str) -> str:
    """Return a shell assignment that puts a folder before the present PYTHONPATH."""
    return f"PYTHONPATH={shlex.quote(folder)}${{PYTHONPATH:+:$PYTHONPATH}}"


def extra_options(settings: SlurmConfig, *, distributed: bool) -> dict[str, Any]:
    """Return sbatch options that submitit does not format, or only as others: those of nodes, mail and the like."""
    found: dict[str, Any] = {name: None if value is False else value for name, value in settings.extra.items()}
    if settings.gpus_per_node:
        count = settings.gpus_per_node if distributed else 1
        found["gpus-per-node"] = f"{settings.gpu}:{count}" if settings.gpu else count
    names = ("reservation", "nodelist", "exclude", "gres", "dependency", "nice")
    found |= {name: getattr(settings, name) for name in names}
    if settings.mail_user:
        found |= {"mail-user": settings.mail_user, "mail-type": ",".join(settings.mail_types) or None}
    return {name: value for name, value in found.items() if value is not None}


def variables(settings: SlurmConfig) -> list[str]:
    """Return the shell lines that set the variables of the jobs."""
    given = {name: str(value) for name, value in settings.environment.items() if value is not None}
    return [f"export {name}={shlex.quote(value)}" for name, value in given.items()]


def mounts(spec: JobSpec) -> list[str]:
    """Return the folders of a container: the working folder, the checkout, and those with and of the settings."""
    own = [str(Path.cwd()), *import_path(), *spec.config_folders]
    return list(dict.fromkeys([*own, *spec.resources.slurm.container_mounts]))


def pyxis_options(spec: JobSpec) -> list[str]:
    """Return the options of srun that start the tasks in a container; none without pyxis."""
    settings = spec.resources.slurm
    if settings.container is None or settings.container_runtime != "pyxis":
        return []
    pairs = ",".join(one if ":" in one else f"{one}:{one}" for one in mounts(spec))
    return [
        f"--container-image={settings.container}",
        f"--container-mounts={pairs}",
        f"--container-workdir={Path.cwd()}",
    ]


def interpreter(spec: JobSpec) -> list[str]:
    """Return the words that start Python for a task, in apptainer's container if there is one."""
    settings = spec.resources.slurm
    python = [job_python(settings)]
    if settings.container is None or settings.container_runtime != "apptainer":
        return python
    gpus = ["--nv"] if settings.gpus_per_node else []
    binds = [f"--bind={one}" for one in mounts(spec)]
    return ["apptainer", "exec", *gpus, *binds, settings.container, *python]


def job_python(settings: SlurmConfig) -> str:
    """Return the interpreter of the jobs."""
    return (settings.container and settings.container_python) or sys.executable


def is_confidential_setup(settings: SlurmConfig) -> bool:
    """Return True if lines of `setup` contain a password or a token."""
    return any(map(is_confidential, settings.setup or []))


def write_script(path: Path, text: str, settings: SlurmConfig) -> None:
    """Write a batch script, and the lines of `setup` if they are confidential: the controller shows scripts to others.

    Raises:
        OSError: a file cannot be written.
    """
    texts = {path: text}
    if is_confidential_setup(settings):
        texts[path.with_suffix(SETUP_SUFFIX)] = "\n".join([*(settings.setup or []), ""])
    for each, content in texts.items():
        with open(each, "x", encoding="utf-8", opener=lambda name, flags: os.open(name, flags, 0o600)) as file:
            file.write(content)


def begin_attempts(jobs: Sequence[Job], token: str) -> None:
    """Name the attempts of jobs that are submitted together, as one array if there are several."""
    for index, job in enumerate(jobs):
        job.begin_attempt("slurm", f"{token}.{index}" if len(jobs) > 1 else token)


def token_of(job: Job) -> str:
    """Return the token of the submission of a job."""
    return job.attempt.rpartition("-")[2].partition(".")[0]


def comment(token: str) -> str:
    """Return the comment by which SLURM knows a submission."""
    return f"instructrl-{token}"
