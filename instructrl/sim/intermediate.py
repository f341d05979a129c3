"""Observations on the way to keyframes, which a simulator records beside those at the keyframes."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Protocol

from instructrl.types import Observation


class Ticks(Protocol):
    """Protocol of the motions of a simulator, which call `on_step`, if it is set, after every tick."""

    on_step: Callable[[], None] | None


class IntermediateFrames:
    """Observes a motion each time that `interval` ticks have passed, counted from the keyframe before."""

    def __init__(self, interval: int, observe: Callable[[], Observation]) -> None:
        self._interval, self._observe = interval, observe
        self._ticks, self._observed = 0, list[tuple[int, Observation]]()

    def tick(self) -> None:
        """Count a tick of the simulator, after it."""
        self._ticks += 1
        if self._ticks % self._interval == 0:
            self._observed.append((self._ticks, self._observe()))

    def take(self) -> list[Observation]:
        """Return what was observed since the last call, which is at a keyframe, and count from there.

        Without the last half of an interval: there the motion has all but ended, and a frame looks like the keyframe,
        at which another action is right.
        """
        kept = [observation for tick, observation in self._observed if 2 * (self._ticks - tick) >= self._interval]
        self._ticks, self._observed = 0, []
        return kept


@contextmanager
def observed_between(
    motion: Ticks, interval: int | None, observe: Callable[[], Observation]
) -> Iterator[Callable[[], list[Observation]]]:
    """Observe all motions in this context; yields what `replay` takes as `between`. Nothing if the interval is None."""
    if interval is None:
        yield list
        return
    frames = IntermediateFrames(interval, observe)
    motion.on_step = frames.tick
    try:
        yield frames.take
    finally:
        motion.on_step = None
