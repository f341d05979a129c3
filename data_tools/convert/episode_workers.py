"""Episodes built in this process or in worker processes, with the same results in the same order."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from data_tools.convert.episode_builder import EpisodeBuilder, Make
from data_tools.convert.skip_report import Converted, Skipped
from instructrl.errors import RunError
from instructrl.preemption import raise_if_preempted
from instructrl.sim.vector.pool import WorkerFailure, Workers, worker_count

TIMEOUT = 600.0  # seconds for one episode, on a slow file system
EPISODES_PER_WORKER = 20  # below which starting a process takes longer than it saves


@contextmanager
def episode_workers(requested: int | None, episodes: int) -> Iterator[Workers | None]:
    """Start the processes that build episodes: as many as requested, or one per core; none for a few episodes.

    Raises:
        SimulatorError: a process cannot start.
    """
    count = worker_count(requested)
    if requested is None:
        count = min(count, episodes // EPISODES_PER_WORKER)
    if count < 2:
        yield None
        return
    workers = Workers(EpisodeBuilder, count, timeout=TIMEOUT)
    try:
        yield workers
    finally:
        workers.kill()  # rather than close: they hold nothing


def build_all(
    candidates: Iterable[tuple[str, Make]], workers: Workers | None
) -> Iterator[tuple[str, Converted | Skipped]]:
    """Build episodes and yield them in their order; with `workers` their functions are pickled.

    Raises:
        RunError: the process of an episode ended twice.
    """
    if workers is None:
        builder = EpisodeBuilder()
        for name, make in candidates:
            raise_if_preempted()
            yield name, builder.build(make)
        return
    names, results, position = list[str](), dict[int, Converted | Skipped](), 0

    def calls() -> Iterator[tuple[Make]]:
        for name, make in candidates:
            names.append(name)
            yield (make,)

    for index, result in workers.map("build", calls(), ahead=True):
        if isinstance(result, WorkerFailure):
            raise RunError(f"{names[index]}: {result.reason}; leave it out, or add workers=1 to read in one process")
        results[index] = result
        while position in results:
            yield names[position], results.pop(position)
            position += 1
