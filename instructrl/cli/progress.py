"""Progress on a terminal: bars with the time left, and the seconds of what has no steps. A pipe gets few lines."""

import sys
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from tqdm import tqdm

SHOWN_AFTER = 1.0  # seconds after which an activity without steps is shown, and said when it has ended
FORMAT = "{desc}: {percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt} [{elapsed}, {time_left}, {speed}{postfix}]"


class ProgressBar(tqdm):
    """A bar with the time left and the rate in a unit that is counted; absent where nobody sees it."""

    def __init__(
        self,
        iterable: Iterable[Any] | None = None,
        *,
        description: str,
        total: int,
        unit: str,
        initial: int = 0,
        each: int = 1,
        shown: bool = True,
        delay: float = 0.0,
    ) -> None:
        """Begin a bar on standard error.

        Args:
            iterable: what is counted; None: `update` counts.
            description: text in front of the bar.
            total: number of steps.
            unit: of the rate, in the plural.
            initial: steps that were done before.
            each: number of units in a step.
            shown: False: no bar.
            delay: seconds before the bar appears.
        """
        self._unit, self._each = unit, each
        super().__init__(
            iterable,
            desc=description,
            total=total,
            initial=initial,
            disable=None if shown else True,
            dynamic_ncols=True,
            mininterval=0.5,
            smoothing=0.1,
            delay=delay,
            bar_format=FORMAT,
        )

    @property
    def format_dict(self) -> dict[str, Any]:
        """The parts of the bar's text."""
        parts = super().format_dict
        rate, left = parts["rate"], (parts["total"] or 0) - parts["n"]
        if not rate and parts["n"] > parts["initial"] and parts["elapsed"]:
            rate = (parts["n"] - parts["initial"]) / parts["elapsed"]
        parts["speed"] = format_rate(rate * self._each, self._unit) if rate else f"? {self._unit}/s"
        parts["time_left"] = f"{tqdm.format_interval(left / rate)} left" if rate else "? left"
        return parts


def format_rate(rate: float, unit: str) -> str:
    """A rate per second, or per minute if it is below one in ten seconds, in three digits."""
    seconds, name = (1, "s") if rate >= 0.1 else (60, "min")
    number = f"{rate * seconds:.0f}" if rate * seconds >= 100 else f"{rate * seconds:.3g}"
    return f"{number} {unit}/{name}"


@contextmanager
def stopwatch(activity: str, *, shown: bool = True, said: bool = True) -> Iterator[None]:
    """Show the seconds of an activity without steps while it goes on, and say them when it has ended.

    Args:
        activity: such as "compiling".
        shown: False: nothing is shown.
        said: False: nothing remains of it.
    """
    started = time.monotonic()
    form = f"{activity}: {{elapsed_s:.0f}} s"
    clock = tqdm(total=1, bar_format=form, leave=False, disable=None if shown else True, delay=SHOWN_AFTER)
    ended = threading.Event()

    def show() -> None:
        while not ended.wait(SHOWN_AFTER):
            clock.refresh()

    thread = threading.Thread(target=show, name="stopwatch", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
        clock.clear()  # which `close` leaves to others where only `refresh` has shown it
        clock.close()
    seconds = time.monotonic() - started
    if shown and said and seconds >= SHOWN_AFTER:
        tqdm.write(f"{activity}: {seconds:.1f} s", file=sys.stdout)
        sys.stdout.flush()
