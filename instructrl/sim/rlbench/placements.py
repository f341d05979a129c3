"""Placements of a task that RLBench's planner rejects: counted when a scene is drawn, and repeated to restore it.

RLBench draws a placement from numpy's random numbers, plans the expert's way in it, and draws again if that fails. The
planner's random numbers belong to CoppeliaSim and cannot be seeded, so a seed alone does not name a scene: together
with the number of rejected placements it does. RLBench's own `reset(demo)` repeats a number of placements too, but does
not undo a rejected one, from which objects that are turned by a random angle end up elsewhere, and PerAct's fork lacks
it.
"""

from collections.abc import Callable
from contextlib import suppress
from typing import Any

_PLANS = 5  # attempts to plan the expert's way in a placement that is known to be feasible


class Placements:
    """Placements that were drawn and rejected since `begin`."""

    def __init__(self, error: type[Exception]):
        """`error`: RLBench's WaypointError, with which a task rejects its placement."""
        self.drawn = self.rejected = 0
        self._error = error
        self._repeated: int | None = None
        self._accepted: int | None = None
        self._plans = 0

    def begin(self, rejected: int | None, *, accepted: int | None = None, expert: bool = False) -> None:
        """Count from zero.

        Args:
            rejected: reject that many placements and accept the next; None: the planner decides.
            accepted: if it decides, instead accept the placement of this number from 1, which counts those too that
                RLBench gave up before it planned, as its demonstrations do (`num_reset_attempts`).
            expert: plan the expert's way in an accepted placement.
        """
        self.drawn = self.rejected = 0
        self._repeated, self._accepted = rejected, accepted if rejected is None else None
        self._plans = _PLANS if expert else 0

    def validate(self, plan: Callable[[], None], task: Any) -> None:
        """Validate a placement of a task, whose own method for it is `plan`.

        Raises:
            WaypointError: the placement is rejected.
        """
        if self._repeated is None and self._accepted is None:
            try:
                plan()
            except self._error:
                self.rejected += 1
                raise
        elif self.rejected < (self._repeated or 0) or self.drawn < (self._accepted or 0):
            self.rejected += 1
            raise self._error("This placement was rejected before.", task)
        else:
            self._plan_accepted(plan)

    def _plan_accepted(self, plan: Callable[[], None]) -> None:
        for _ in range(self._plans):
            with suppress(self._error):
                plan()
                return

    def counting(self, task_class: Any) -> Any:
        """A subclass of a task, of the same name, whose placements are counted and repeated here."""
        placements = self

        class Counting(task_class):  # type: ignore[misc]  # RLBench has no types
            def init_episode(self, index: int) -> Any:
                placements.drawn += 1
                return super().init_episode(index)

            def validate(self) -> None:
                placements.validate(super().validate, self)

        Counting.__name__ = task_class.__name__  # from which RLBench derives the name of the task's files
        return Counting
