"""Conversion of third-party demonstrations to files that train.py reads.

python -m data_tools.convert kind=rlbench src=/data/peract/train/close_jar out=data
python -m data_tools.convert kind=windows src=reach_target_train.hdf5 out=data 'cameras=[front,left_shoulder]'

kind=rlbench reads RLBench's stored demonstrations (a task's folder, or the one that holds tasks), in the original
layout and in PerAct's. kind=windows reads the HDF5 windows of the method's first release. out is a folder, in which
each file has the path that train.py expects with data.dir=OUT sim=rlbench, or the name of one .hdf5 file. Without
split=, the last tenth of the episodes becomes the split val. Episodes that cannot be used, and copies of others, are
named, counted and skipped; so are tasks of which none can be used. The same command resumes with the tasks that are
missing.
"""

import sys
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path

from data_tools.convert.copies import held_out_folders, identical_files
from data_tools.convert.episode_workers import episode_workers
from data_tools.convert.rlbench_dataset import (
    ConversionOptions,
    EpisodeFolder,
    demonstration,
    find_episodes,
    find_task_folders,
    first_image_size,
)
from data_tools.convert.settings import ConvertConfig, num_variations, parse, rule_of, workspace_of
from data_tools.convert.task_files import Candidate, TaskEpisodes, print_training, write
from data_tools.convert.windows import window_demonstration
from instructrl.cli.help import tool_help
from instructrl.cli.progress import stopwatch
from instructrl.config.simulators import RLBenchConfig
from instructrl.data.demonstrations.legacy_windows import Windows, open_windows
from instructrl.errors import InputError, RunError, report_user_errors
from instructrl.preemption import handle_signals
from instructrl.sim.vector.pool import Workers
from instructrl.storage.paths import storage_path
from instructrl.storage.writable import check_writable
from instructrl.types import COLLISIONS

StartWorkers = Callable[[int | None, int], AbstractContextManager[Workers | None]]


def convert(config: ConvertConfig, *, start: StartWorkers = episode_workers) -> None:
    """Convert all tasks of the source; `start` starts the processes that build their episodes.

    Raises:
        InputError: the source cannot be converted. RunError: some of its tasks cannot.
    """
    out = storage_path(config.out)
    check_writable(out.parent if out.suffix == ".hdf5" else out, hint="choose another out=")
    if config.kind == "windows":
        with open_windows(Path(config.src), config.cameras) as windows:
            convert_windows(config, windows)
        return
    folders = find_task_folders(Path(config.src))
    if config.out.endswith(".hdf5") and len(folders) > 1:
        names = ", ".join(folder.name for folder in folders)
        raise InputError(f"out: found one file for the tasks {names}; name a folder")
    tasks = {folder: find_episodes(folder) for folder in folders}
    print(f"converting {sum(map(len, tasks.values()))} episodes in {config.src}", flush=True)
    with start(config.workers, sum(map(len, tasks.values()))) as workers:
        if len(tasks) == 1:
            convert_rlbench(config, *next(iter(tasks.items())), workers)
            return
        convert_tasks(config, tasks, workers)


def convert_tasks(config: ConvertConfig, tasks: dict[Path, list[EpisodeFolder]], workers: Workers | None) -> None:
    """Convert several tasks; one that cannot be converted stops none of the others.

    Raises:
        RunError: some were not converted; names them. InputError: all were refused, as by a wrong setting.
    """
    failed: dict[str, InputError | RunError] = {}
    for folder, episodes in tasks.items():
        try:
            convert_rlbench(config, folder, episodes, workers)
        except (InputError, RunError) as error:
            print(f"not converted: {folder.name}: {' '.join(str(error).split())}", flush=True)
            failed[folder.name] = error
    if len(failed) == len(tasks) and all(isinstance(error, InputError) for error in failed.values()):
        first = next(iter(failed.values()))
        raise InputError(f"none of the tasks {', '.join(failed)} was converted; of the first, {first}")
    if failed:
        raise RunError(
            f"{len(failed)} of {len(tasks)} tasks were not converted: {', '.join(failed)}; the lines above say why; "
            "mend them or take them out of src, and the same command converts what is missing"
        )


def convert_rlbench(
    config: ConvertConfig, folder: Path, episodes: list[EpisodeFolder], workers: Workers | None
) -> None:
    """Convert RLBench's stored demonstrations of one task."""
    if not episodes:
        raise InputError(f"{folder}: found no episodes/episode<N> in it; download it again")
    task, rule = config.task or folder.resolve().name, rule_of(config)
    size = config.image_size or first_image_size(episodes, config.cameras)
    limit = num_variations(config, task)
    options = ConversionOptions(
        tuple(config.cameras),
        size,
        limit,
        rule,
        crop=config.crop,
        depth=config.depth,
        workspace=workspace_of(config),
        collisions=config.actions == COLLISIONS,
        intermediate_frames=config.intermediate_frames,
    )
    origin = {"simulator": "rlbench", "expert": "waypoints, stored demonstrations", "keyframes": str(rule)}
    if config.intermediate_frames is not None:
        origin["intermediate_frames"] = str(config.intermediate_frames)
    with stopwatch(f"comparing {len(episodes)} episodes of {task}"):
        copies = identical_files(episodes, config.cameras)
    found = TaskEpisodes(
        candidates([episode for episode in episodes if episode not in copies], options, below=folder),
        origin,
        {episode_name(copy, folder): episode_name(other, folder) for copy, other in copies.items()},
        [one for beside in held_out_folders(folder) for one in candidates(find_episodes(beside), options)],
    )
    written = write(config, task, size, found, workers)
    if config.depth:
        print("depth: decoded and checked at all keyframes; not stored, as the format has no field for it")
    print_training(config.out, written)


def candidates(
    episodes: Sequence[EpisodeFolder], options: ConversionOptions, *, below: Path | None = None
) -> list[Candidate]:
    """Names of episodes, which are paths `below` a folder, and functions that convert them."""
    return [(episode_name(episode, below), partial(demonstration, episode, options)) for episode in episodes]


def episode_name(episode: EpisodeFolder, below: Path | None) -> str:
    """The path of an episode's folder, `below` another one."""
    return str(episode.folder if below is None else episode.folder.relative_to(below))


def convert_windows(config: ConvertConfig, windows: Windows) -> None:
    """Convert one file of windows."""
    task = config.task or windows.task()
    try:
        RLBenchConfig().check_task("task", task)
    except InputError as error:
        raise InputError(f"{windows.path}: {error}; set task=NAME") from None
    episodes, stored = windows.episodes()
    print(f"{windows.path}: {windows.count} windows with {stored} frames, {len(episodes)} episodes in them", flush=True)
    limit = num_variations(config, task)
    made: list[Candidate] = [
        (f"episode {number}", partial(window_demonstration, windows, episode, task, limit))
        for number, episode in enumerate(episodes)
    ]
    origin = {"simulator": "rlbench", "expert": "waypoints, windows of the first release", "cameras": "unknown"}
    print_training(config.out, write(config, task, windows.image_size, TaskEpisodes(made, origin)))


def main() -> None:
    """Run the command."""
    with report_user_errors(), handle_signals():
        argv = sys.argv[1:]
        if "--help" in argv or "-h" in argv:
            print(tool_help(__doc__, {"": ConvertConfig}))
            return
        convert(parse(argv))


if __name__ == "__main__":
    main()
