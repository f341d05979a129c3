"""The run that is judged, as far as it can be checked without jax."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from instructrl.config import HOUSE_PROTOCOL, TaskConfig, task_names
from instructrl.errors import InputError
from instructrl.sim import available_renderer
from instructrl.sim.graphics import RLBENCH_RENDERERS, rlbench_renderer
from instructrl.training.run_directory import check_agent, read_config, read_data


def check_run(run: Path, *, tasks: Sequence[str] | None = None) -> None:
    """Refuse a directory that cannot hold an agent trained on these tasks.

    Raises:
        InputError: there is none, or it has no settings, no record of its data, no checkpoint or no such task.
    """
    if not run.is_dir():
        raise InputError(f"run: found no directory {run}; train first, or give the directory that train.py printed")
    trained = read_config(run)
    check_agent(trained, run, key="run")
    if tasks is not None:
        chosen_tasks(trained.task, tasks)
    read_data(run)
    if not (run / "checkpoints").is_dir():
        raise InputError(f"{run}: no checkpoint yet; start its training again to go on")


def chosen_tasks(trained: TaskConfig, asked: Sequence[str] | None) -> tuple[str, ...]:
    """The tasks that are judged, in the run's order; `asked` None means all of them.

    Raises:
        InputError: the run was not trained on a task that is asked for.
    """
    known = task_names(trained)
    strange = [name for name in asked or () if name not in known]
    if strange:
        raise InputError(f"tasks: found {', '.join(strange)}; allowed for this run: {', '.join(known)}")
    return known if asked is None else tuple(name for name in known if name in asked)


def evaluation_folder(run: Path, protocol: str) -> Path:
    """Where a protocol's episodes, results and page lie: each has its own, that of the house is eval/."""
    return run / ("eval" if protocol == HOUSE_PROTOCOL else f"eval-{protocol}")


def recorded_renderer(run: Path) -> str:
    """The renderer that drew the run's training images.

    Raises:
        InputError: data.json does not say.
    """
    data: dict[str, Any] = read_data(run)
    try:
        [renderer] = {data[key]["provenance"]["renderer"] for key in data if key.partition("/")[0] == "train"}
    except (KeyError, TypeError, ValueError):
        raise InputError(
            f"{run / 'data.json'}: does not say which renderer drew the training data; "
            "start the training again to write it"
        ) from None
    return renderer


def choose_renderer(recorded: str, asked: str | None) -> str:
    """The renderer to judge with: that of the data, unless another is asked for by name (or `auto`).

    Raises:
        InputError: the data's does not work here and no other is asked for, or the one asked for does not work.
    """
    if recorded in RLBENCH_RENDERERS:
        return rlbench_renderer(recorded if asked in (None, "auto") else str(asked))
    try:
        if asked in (None, "auto", recorded):
            return available_renderer(recorded)
    except InputError as error:
        if asked is None:
            other = "raycast" if recorded == "opengl" else "opengl"
            raise InputError(
                f"renderer: the run's data were drawn by {recorded}, which does not work here ({error}); "
                f"to judge on images drawn by {other}, which look a little different, add renderer={other}"
            ) from None
    return available_renderer(asked or "auto")
