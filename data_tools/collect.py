"""python -m data_tools.collect task=push_button episodes=500: demonstrations from a simulator's expert.

The tasks of a set, as in task=multi_10, are collected one after another, each with so many episodes.
The result follows from the settings alone, whatever the number of processes and however often it was killed:
episode i of a split shows variation i (in turn), from the first of its own seeds with which the expert succeeds.
(On RLBench, whose planner is random and whose process may die of itself, this holds as far as these let it.)
"""

from collections import Counter, deque
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from time import monotonic
from typing import Any

from tqdm import tqdm

from data_tools.parts import Parts
from data_tools.split import (
    ATTEMPTS,
    FIRST_SEED,
    Split,
    agreed,
    check_provenance,
    check_renderer,
    check_same_renderer,
    chosen_variations,
    present,
    wanted_splits,
)
from instructrl import __version__
from instructrl.batch import Demonstration
from instructrl.command import command
from instructrl.config import CollectConfig, DataConfig, SimConfig, TaskConfig, task_names
from instructrl.data.format import Contents, Header
from instructrl.data.lock import only_process
from instructrl.data.reader import read
from instructrl.data.storage import Place
from instructrl.errors import RunError
from instructrl.sim import Outcome, Start, make_env
from instructrl.sim.workers import WorkerFailure, Workers, worker_count

MOST_LOST = 5  # episodes in a row on which a fragile simulator dies twice each: it no longer works at all


def ensure_demonstrations(task: TaskConfig, sim: SimConfig, data: DataConfig) -> dict[str, list[Place]]:
    """Collect what is missing of the splits train and val; returns their files, at once if nothing is missing.

    There is one file for each split and task, in the order of `task_names`; a set has the same as its tasks alone.

    Raises:
        InputError: a file is damaged or was made otherwise, or cannot be written.
        RunError: the simulator keeps dying or its expert failing; finished parts stay, the same command goes on.
    """
    tasks = each_task(task)
    splits = {one.name: wanted_splits(one, sim, data) for one in tasks}
    every = [split for of_task in splits.values() for split in of_task]
    for split in every:
        split.parts_from(present(split)).remove_merged()
    missing = {split.header.task for split in every if present(split) < split.episodes}
    settings = agreed(sim, every) if missing else sim
    for number, one in enumerate(tasks):
        if one.name in missing:
            if len(tasks) > 1:
                print(f"task {number + 1} of {len(tasks)}: {one.name}", flush=True)
            folder = splits[one.name][0].path.parent
            with only_process(folder, does="collects", remedy=None):
                collect(one, settings, splits[one.name])
    for split in every:
        check_renderer(sim, split)
    check_same_renderer(every)
    return {name: [split.path for split in every if split.header.split == name] for name in FIRST_SEED}


def each_task(task: TaskConfig) -> list[TaskConfig]:
    """The tasks of a set, each as it is alone."""
    return [replace(task, name=name, tasks=None, weights=None) for name in task_names(task)]


def collect(task: TaskConfig, sim: SimConfig, splits: list[Split]) -> None:
    """Bring every split to its number of episodes, with one set of processes for all."""
    number = worker_count(sim.workers)
    with Workers(partial(make_env, sim, task.name), number, timeout=sim.timeout) as workers:
        provenance = {**ask(workers, "provenance"), "suite": __version__}
        variations = chosen_variations(task, ask(workers, "variations"))
        for split in splits:
            header = replace(split.header, provenance=provenance)
            check_provenance(split, header)
            parts = split.parts_from(present(split))
            if parts.present < parts.wanted:
                collect_split(workers, split, parts, header=header, variations=variations)


def ask(workers: Workers, name: str) -> Any:
    """The value of an attribute, or of a method without arguments, of the environments."""
    [(_, answer)] = workers.map(name, [()])
    if isinstance(answer, WorkerFailure):
        raise RunError(f"the simulator cannot be used: {answer.reason}")
    return answer


def collect_split(workers: Workers, split: Split, parts: Parts, *, header: Header, variations: list[int]) -> None:
    """Make the unfinished parts, then the file."""
    ranges = parts.unfinished(header)
    missing, began = sum(map(len, ranges)), monotonic()
    what = f"{split.episodes - parts.present} {header.split} episodes of {header.task}"
    how = f"{header.provenance['renderer']}, {len(workers)} process{'es' * (len(workers) > 1)}"
    print(f"collecting {what} ({how}) for {split.path}", flush=True)
    part_of = {number: numbers for numbers in ranges for number in numbers}
    made: dict[range, dict[int, Demonstration]] = {numbers: {} for numbers in ranges}
    done, name = split.episodes - missing, f"{header.task} {header.split}"
    with tqdm(desc=name, total=split.episodes, initial=done, unit=" episodes", disable=None) as bar:
        for number, demonstration in demonstrate(workers, split, [*part_of], variations=variations):
            numbers = part_of[number]
            made[numbers][number] = demonstration
            if len(made[numbers]) == len(numbers):
                parts.write(numbers, [made[numbers][one] for one in numbers], header)
                made[numbers].clear()
            bar.update()
    parts.merge()
    print(f"{split.path}: {summary(split, read(split.path)[1])}, {monotonic() - began:.1f} s", flush=True)


def demonstrate(
    workers: Workers, split: Split, numbers: list[int], *, variations: list[int]
) -> Iterator[tuple[int, Demonstration]]:
    """Yield (episode number, demonstration) as they come; a failed one is tried again with its next seed.

    Raises:
        RunError: a process died twice on the same episode (a fragile simulator: on several in a row), or the expert
            failed with all of an episode's seeds.
    """
    waiting, given = deque((number, 0) for number in numbers), list[tuple[int, int]]()
    outcomes: Counter[str] = Counter()
    lost = 0  # episodes in a row

    def arguments() -> Iterator[tuple[Start]]:
        while waiting:
            given.append(waiting.popleft())
            yield (split.start(*given[-1], variations),)

    while waiting:
        given.clear()
        for index, result in workers.map("demonstrate", arguments()):
            number, attempt = given[index]
            start = split.start(number, attempt, variations)
            lost = lost + 1 if isinstance(result, WorkerFailure) else 0
            if isinstance(result, WorkerFailure):
                if lost == (MOST_LOST if split.fragile else 1):
                    raise RunError(f"{split.header.task}, {start}: {result.reason}; the same command goes on from here")
                result = None, Outcome.SIMULATOR_ERROR
            demonstration, outcome = result
            if outcome is Outcome.SUCCESS:
                yield number, demonstration
            elif attempt + 1 == ATTEMPTS:
                raise RunError(f"{split.header.task}, {start}: the expert failed {ATTEMPTS} times, at last: {outcome}")
            else:
                outcomes[outcome] += 1
                waiting.appendleft((number, attempt + 1))
    if outcomes:
        failed = ", ".join(f"{number} {outcome}" for outcome, number in sorted(outcomes.items()))
        print(f"{split.header.task} {split.header.split}: failed expert episodes replaced just now: {failed}")


def summary(split: Split, contents: Contents) -> str:
    """How many episodes there are, how many failed ones they replaced, and the oracle rate (told by their seeds)."""
    replaced, made = int(((contents.seed - split.first_seed) % ATTEMPTS).sum()), len(contents.seed)
    return f"{made} episodes, {replaced} failed ones of the expert replaced, oracle rate {made / (made + replaced):.3f}"


@command("collect", CollectConfig)
def main(config: CollectConfig) -> None:
    """Collect, and say where the files are."""
    task = replace(
        config.task,
        episodes=config.episodes or config.task.episodes,
        val_episodes=config.val_episodes or config.task.val_episodes,
    )
    for split, paths in ensure_demonstrations(task, config.sim, config.data).items():
        for path in paths:
            print(f"{split}: {path}")


if __name__ == "__main__":
    main()
