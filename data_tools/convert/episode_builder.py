"""Episodes built in this process or in worker processes, with the same results in the same order."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext

from data_tools.convert.skip_report import Converted, Skipped, SkippedError, SkipReason
from instructrl.errors import InputError, RunError
from instructrl.preemption import raise_if_preempted
from instructrl.sim.vector.pool import WorkerFailure, Workers, worker_count
from instructrl.types import Demonstration

Make = Callable[[], Demonstration | Converted]
TIMEOUT = 600.0  # seconds for one episode, on a slow file system
ERRORS = (  # to which invalid values of an episode lead
    *(SkippedError, InputError),
    *(ValueError, TypeError, OverflowError, LookupError, AttributeError, OSError),
)
EPISODES_PER_WORKER = 20  # below which starting a process takes longer than it saves


class EpisodeBuilder:
    """Builds episodes; each worker process has one."""

    def build(self, make: Make) -> Converted | Skipped:
        """Build an episode; whatever error its values lead to makes it a skipped one."""
        try:
            made = make()
            return Converted(made) if isinstance(made, Demonstration) else made
        except ERRORS as error:
            return skipped_for(error)


def skipped_for(error: Exception) -> Skipped:
    """The reason for skipping an episode, whatever error its values led to."""
    if isinstance(error, SkippedError):
        return Skipped(error.reason, error.text)
    text = str(error) if isinstance(error, InputError) else f"{type(error).__name__}: {error}"
    return Skipped(SkipReason.NUMBERS, text)


def episode_workers(requested: int | None, episodes: int) -> AbstractContextManager[Workers | None]:
    """Start the processes that build episodes: as many as requested, or one per core; none for a few episodes.

    Raises:
        SimulatorError: a process cannot start.
    """
    count = worker_count(requested)
    if requested is None:
        count = min(count, episodes // EPISODES_PER_WORKER)
    return Workers(EpisodeBuilder, count, timeout=TIMEOUT) if count > 1 else nullcontext()


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

    for index, result in workers.map("build", calls()):
        if isinstance(result, WorkerFailure):
            raise RunError(f"{names[index]}: {result.reason}; leave it out, or add workers=1 to read in one process")
        results[index] = result
        while position in results:
            yield names[position], results.pop(position)
            position += 1
