"""The only access to submitit's internal functions, with a fallback.

submitit formats a batch script only while it submits it, without a time limit and without a way to find the job if
sbatch does not answer. The function that formats the script has no public name. If a later submitit lacks it, a dry run
prints the parameters instead of the script, and a submission is refused.
"""

import shlex
import sys
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any


def batch_script(
    folder: Path, count: int, parameters: Mapping[str, Any], *, interpreter: Sequence[str] = (sys.executable,)
) -> str:
    """Return the script that submitit would pass to sbatch for `count` jobs, or else its parameters.

    Args:
        folder: of the tasks and the logs.
        count: number of jobs.
        parameters: submitit's.
        interpreter: the words that start Python.
    """
    from submitit.core.utils import JobPaths

    try:
        from submitit.slurm.slurm import _make_sbatch_string

        folder = JobPaths.get_first_id_independent_folder(folder)
        command = shlex.join([*interpreter, "-u", "-m", "submitit.core._submit", str(folder)])
        return _make_sbatch_string(command, folder, map_count=count if count > 1 else None, **parameters)
    except (ImportError, AttributeError, TypeError):  # removed, or with other arguments
        lines = [f"# {name}: {value}" for name, value in sorted(parameters.items())]
        return "\n".join([f"# submitit {version('submitit')} does not expose its script; its parameters are:", *lines])


def pickle_task(task: Callable[[], None], path: Path, *, minutes: int) -> None:
    """Write a task as the file that submitit loads in a job.

    Raises:
        OSError: the file cannot be written.
    """
    from submitit.core.utils import DelayedSubmission

    delayed = DelayedSubmission(task)
    delayed.set_timeout(minutes, 0)
    delayed.dump(path)
