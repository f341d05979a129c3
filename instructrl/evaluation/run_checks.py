"""Checks of the run to evaluate that do not need jax."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from instructrl.config.environment import SimConfig, TaskConfig, task_names
from instructrl.config.evaluation import DEFAULT_PROTOCOL, ProtocolConfig, RLBenchProtocol
from instructrl.config.fields import format_value
from instructrl.errors import InputError
from instructrl.sim import StoredScenes, follows_protocol, stored_scenes, working_renderer
from instructrl.training.memory_limit import check_memory_limit
from instructrl.training.run_dir import check_agent, read_config, read_data


def check_run(run: Path, *, tasks: Sequence[str] | None = None) -> None:
    """Check that a directory holds an agent trained on these tasks, and that jax can start.

    Raises:
        InputError: memory is limited too much; the directory, its settings, data.json or a checkpoint is missing; or a
            task was not trained.
    """
    check_memory_limit()
    if not run.is_dir():
        raise InputError(f"run: found no directory {run}; train first, or pass the directory that train.py printed")
    trained = read_config(run)
    check_agent(trained, run, key="run")
    if tasks is not None:
        chosen_tasks(trained.task, tasks)
    read_data(run)
    if not (run / "checkpoints").is_dir():
        raise InputError(f"{run}: no checkpoint yet; run its training command again to resume it")


def chosen_tasks(trained: TaskConfig, requested: Sequence[str] | None) -> tuple[str, ...]:
    """The tasks to evaluate, in the run's order; `requested` None means all of them.

    Raises:
        InputError: the run was not trained on a requested task.
    """
    known = task_names(trained)
    unknown = [name for name in requested or () if name not in known]
    if unknown:
        raise InputError(f"tasks: found {', '.join(unknown)}; allowed for this run: {', '.join(known)}")
    return known if requested is None else tuple(name for name in known if name in requested)


def evaluation_folder(run: Path, protocol: str) -> Path:
    """The folder of a protocol's episodes, results and report: eval/ for the default one, else eval-NAME/."""
    return run / ("eval" if protocol == DEFAULT_PROTOCOL else f"eval-{protocol}")


def recorded_renderer(run: Path) -> str:
    """The renderer of the run's training images.

    Raises:
        InputError: data.json does not record it.
    """
    data: dict[str, Any] = read_data(run)
    try:
        [renderer] = {data[key]["provenance"]["renderer"] for key in data if key.partition("/")[0] == "train"}
    except (KeyError, TypeError, ValueError):
        raise InputError(
            f"{run / 'data.json'}: does not record which renderer was used for the training data; "
            "run the training command again to write it"
        ) from None
    return renderer


def choose_renderer(sim: SimConfig, recorded: str, requested: str | None) -> str:
    """The renderer for the evaluation: that of the training data, unless another (or `auto`) is requested.

    Raises:
        InputError: the data's renderer does not work on this machine and no other is requested, or the requested one
            does not work.
    """
    renderers = sim.choices("renderer")
    if renderers and requested not in (None, *renderers):
        raise InputError(f"renderer: found {requested}; allowed for this run's sim={sim.kind}: {', '.join(renderers)}")
    try:
        if requested in (None, "auto", recorded):
            return working_renderer(sim, recorded)
    except InputError as error:
        if requested is None:
            other = next((name for name in renderers if name not in ("auto", recorded)), "auto")
            raise InputError(
                f"renderer: the training images were rendered by {recorded}, which does not work here ({error}); "
                f"to evaluate on images rendered by {other}, which look slightly different, add renderer={other}"
            ) from None
    return working_renderer(sim, requested or "auto")


def choices_for(sim: SimConfig, protocol: ProtocolConfig) -> RLBenchProtocol | None:
    """The protocol's choices for RLBench; None on a simulator that has no such choices, as results then say."""
    return protocol.rlbench if follows_protocol(sim) else None


def scenes_of(sim: SimConfig, protocol: ProtocolConfig, task: str) -> StoredScenes:
    """The stored scenes of a task that a protocol with `scenes` plays.

    Raises:
        InputError: the simulator stores none, or there are fewer than episodes; or one cannot be restored.
    """
    folder = str(protocol.scenes)
    found = stored_scenes(sim, Path(folder), task)
    if found is None:
        raise InputError(
            f"protocol.scenes: found {folder}; allowed for this run's sim={sim.kind}: null; "
            "RLBench alone plays scenes that it stored"
        )
    if protocol.variations != "all":
        raise InputError(
            f"protocol.variations: found {format_value(protocol.variations)}; allowed with protocol.scenes: all; "
            "a stored scene has its own variation"
        )
    if len(found.starts) < protocol.episodes:
        raise InputError(
            f"protocol.scenes: found {len(found.starts)} scenes of {task} in {folder}; allowed: one for each of the "
            f"{protocol.episodes} episodes; store more, or add episodes={len(found.starts)}"
        )
    return found
