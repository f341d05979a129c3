"""Collection of demonstrations from a simulator's expert.

The result is a function of the settings alone, whatever the number of processes and however often it was killed:
episode i of a split shows variation i modulo their number, from the first of its own seeds with which the expert
succeeds. (On RLBench this is best effort: its planner is random and its process may crash.)
"""

from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from time import monotonic

from instructrl import __version__
from instructrl.cli.progress import ProgressBar, stopwatch
from instructrl.collection.shards import Parts
from instructrl.collection.target_file import (
    ATTEMPTS,
    FIRST_SEED,
    Split,
    check_provenance,
    check_renderer,
    check_same_renderer,
    demonstration_paths,
    num_present,
    other_image_sizes,
    required_splits,
    select_variations,
    with_available_renderer,
    with_shares,
)
from instructrl.config.environment import DataConfig, SimConfig, TaskConfig, task_names
from instructrl.config.share import Share
from instructrl.data.demonstrations.reader import read
from instructrl.data.demonstrations.schema import Contents, Header
from instructrl.errors import RunError
from instructrl.sim import EpisodeStart, Outcome, check_tasks, make_checked_env
from instructrl.sim.vector.pool import WorkerFailure, Workers, worker_count
from instructrl.storage.file_lock import exclusive_lock, shared_lock
from instructrl.storage.paths import StoragePath
from instructrl.storage.writable import check_outputs
from instructrl.types import Demonstration
from instructrl.workspace import Workspace

OUTSIDE = "success outside the workspace"
MAX_LOST = 5  # consecutive episodes on which a fragile simulator crashes twice each before collection fails


def start_workers(sim: SimConfig, task: str) -> Workers:
    """Start the processes that collect a task."""
    factory = partial(make_checked_env, sim, task)
    return Workers(factory, worker_count(sim.workers), timeout=sim.timeout, python=sim.interpreter)


def ensure_demonstrations(
    task: TaskConfig,
    sim: SimConfig,
    data: DataConfig,
    *,
    start: Callable[[SimConfig, str], Workers] = start_workers,
    outputs: Sequence[tuple[str, StoragePath]] = (),
    share: Share | None = None,
) -> dict[str, list[StoragePath]]:
    """Collect missing episodes of the splits train and val and return the files; does nothing if all are present.

    There is one file per split and task, in the order of `task_names`; a task has the same file alone and in a set.
    `start` starts the workers of a task that has missing episodes. `outputs` are folders that are written afterwards,
    with the settings that name them: they are checked before anything is collected. With a `share`, only its episodes
    are collected, and stay beside the files as parts, which a call without one merges.

    Raises:
        InputError: a file is damaged, has other settings, or cannot be written, or one of the outputs cannot.
        RunError: the simulator keeps crashing or its expert failing; finished parts are kept and the same command
            resumes.
    """
    tasks = single_tasks(task)
    every = [split for one in tasks for split in required_splits(one, sim, data)]
    if share is None:
        for split in every:
            split.parts_from(num_present(split)).remove_merged()
    else:
        every = with_shares(every, share)
    missing = {split.header.task for split in every if split.is_missing()}
    settings = with_available_renderer(sim, every) if missing else sim
    if missing:
        check_outputs([*outputs, *(("data.dir", split.path.parent) for split in every if split.header.task in missing)])
        sim.check_playable()
        check_tasks(settings, sorted(missing))
    for number, one in enumerate(tasks):
        if one.name in missing:
            note_other_sizes(one, sim, data)
            if len(tasks) > 1:
                print(f"task {number + 1} of {len(tasks)}: {one.name}", flush=True)
            splits = [split for split in every if split.header.task == one.name]
            folder = splits[0].path.parent
            with shared_lock(folder) if share else exclusive_lock(folder, activity="collects", busy_hint=None):
                print(f"starting the simulators of {one.name} ({sim.kind})", flush=True)
                with start(settings, one.name) as workers:
                    collect(workers, one, splits)
    for split in every:
        check_renderer(sim, split)
    check_same_renderer(every)
    return {name: [split.path for split in every if split.header.split == name] for name in FIRST_SEED}


def single_tasks(task: TaskConfig) -> list[TaskConfig]:
    """Split a set into its tasks, each configured as if alone."""
    return [replace(task, name=name, tasks=None, weights=None) for name in task_names(task)]


def note_other_sizes(task: TaskConfig, sim: SimConfig, data: DataConfig) -> None:
    """Say which demonstrations of a task there are instead, if there are none with images of this size."""
    sizes = other_image_sizes(task, sim, data)
    if sizes and not demonstration_paths(task, sim, data)["train"].exists():
        print(
            f"{data.dir}: found no demonstrations of {task.name} with images of {sim.image_size} pixels, which are "
            f"collected now; add sim.image_size={sizes[-1]} to use those of {sizes[-1]} pixels",
            flush=True,
        )


def collect(workers: Workers, task: TaskConfig, splits: list[Split]) -> None:
    """Complete all splits of a task with one pool of processes."""
    provenance = {**workers.ask("provenance"), "suite": __version__}
    variations = select_variations(task, workers.ask("variations"))
    for split in splits:
        header = replace(split.header, provenance=provenance)
        check_provenance(split, header, splits)
        parts = split.parts_from(num_present(split))
        if split.is_missing():
            collect_split(workers, split, parts, header=header, variations=variations)


def collect_split(workers: Workers, split: Split, parts: Parts, *, header: Header, variations: list[int]) -> None:
    """Collect the unfinished parts, then merge them into the file unless it is a job's share."""
    ranges = parts.unfinished(header, split.own)
    missing, started = sum(map(len, ranges)), monotonic()
    total = split.episodes if split.own is None else len(split.own)
    what = f"{split.episodes - parts.present if split.own is None else total} {header.split} episodes of {header.task}"
    how = f"{header.provenance['renderer']}, {len(workers)} process{'es' * (len(workers) > 1)}"
    print(f"collecting {what} ({how}) for {split.path}", flush=True)
    part_of = {number: numbers for numbers in ranges for number in numbers}
    collected: dict[range, dict[int, Demonstration]] = {numbers: {} for numbers in ranges}
    done, name = total - missing, f"{header.task} {header.split}"
    with ProgressBar(description=name, total=total, initial=done, unit="episodes") as bar:
        for number, demonstration in demonstrate(workers, split, [*part_of], variations=variations):
            numbers = part_of[number]
            collected[numbers][number] = demonstration
            if len(collected[numbers]) == len(numbers):
                parts.write(numbers, [collected[numbers][one] for one in numbers], header)
                collected[numbers].clear()
            bar.update()
    if split.own is not None:
        return
    with stopwatch(f"merging {name}"):
        parts.merge(header)
    print(f"{split.path}: {summary(split, read(split.path)[1])}, {monotonic() - started:.1f} s", flush=True)


def demonstrate(
    workers: Workers, split: Split, numbers: list[int], *, variations: list[int]
) -> Iterator[tuple[int, Demonstration]]:
    """Yield (episode number, demonstration) in order of completion; failed episodes are retried with their next seed.

    Raises:
        RunError: a process crashed twice on the same episode (a fragile simulator: on several in a row), or the expert
            failed with all seeds of an episode.
    """
    pending, submitted = deque((number, 0) for number in numbers), list[tuple[int, int]]()
    outcomes: Counter[str] = Counter()
    consecutive_losses = 0  # consecutive episodes

    def arguments() -> Iterator[tuple[EpisodeStart]]:
        while pending:
            submitted.append(pending.popleft())
            yield (split.start(*submitted[-1], variations),)

    while pending:
        submitted.clear()
        for index, result in workers.map("demonstrate", arguments()):
            number, attempt = submitted[index]
            start = split.start(number, attempt, variations)
            where = f"{split.header.task}, variation {start.variation}, seed {start.seed}"
            consecutive_losses = consecutive_losses + 1 if isinstance(result, WorkerFailure) else 0
            if isinstance(result, WorkerFailure):
                if consecutive_losses == (MAX_LOST if split.fragile else 1):
                    raise RunError(f"{where}: {result.reason}; the same command resumes")
                result = None, Outcome.SIMULATOR_ERROR
            demonstration, outcome = result
            reason = str(outcome)
            if outcome is Outcome.SUCCESS:
                reason = "" if split.clip else position_outside(demonstration, split.header.workspace)
            if not reason:
                yield number, demonstration
            elif attempt + 1 == ATTEMPTS:
                raise RunError(
                    f"{where}: the expert failed {ATTEMPTS} times, last outcome: {reason}; correct the expert, or "
                    "leave this variation out of task.variations"
                )
            else:
                outcomes[OUTSIDE if outcome is Outcome.SUCCESS else reason] += 1
                pending.appendleft((number, attempt + 1))
    if outcomes:
        failed = ", ".join(f"{number} {outcome}" for outcome, number in sorted(outcomes.items()))
        print(f"{split.header.task} {split.header.split}: failed expert episodes replaced: {failed}")


def position_outside(demonstration: Demonstration, workspace: Workspace) -> str:
    """Describe the first action outside the workspace; empty if there is none."""
    positions = demonstration.actions[:, :3]
    outside = ~workspace.contains(positions)
    if not outside.any():
        return ""
    found = ", ".join(f"{value:.4g}" for value in positions[outside.argmax()])
    return f"{OUTSIDE} {workspace}: {found}; data.outside_workspace=clip keeps such episodes"


def summary(split: Split, contents: Contents) -> str:
    """Number of episodes, of failed ones that they replaced, and the oracle rate (both follow from the seeds)."""
    replaced, count = int(((contents.seed - split.first_seed) % ATTEMPTS).sum()), len(contents.seed)
    return (
        f"{count} episodes, {replaced} failed ones of the expert replaced, oracle rate {count / (count + replaced):.3f}"
    )
