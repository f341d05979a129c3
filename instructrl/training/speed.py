"""How fast a run goes, where its time goes, and how much memory it takes: of the machine, not of the training."""

import resource
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import jax

ASIDE = ("compiling", "validation", "rollout", "saving", "profiling")  # what throughput is not about
PARTS = ("data", *ASIDE)  # the rest of the time is the steps'


class Speed:
    """A clock that is read where the loop waits anyway, so that no step waits for it."""

    def __init__(self) -> None:
        self.flops: float | None = None  # of a step
        self.peak: float | None = None  # of all devices together, a second
        self.devices: Sequence[Any] = ()
        self._clear()

    def _clear(self) -> None:
        self._begun = time.perf_counter()
        self._spent = dict.fromkeys(PARTS, 0.0)
        self._steps = 0
        self._seen: Counter[str] = Counter()

    @contextmanager
    def spent(self, part: str) -> Iterator[None]:
        """Count the time until the block ends to one of PARTS."""
        begun = time.perf_counter()
        try:
            yield
        finally:
            self._spent[part] += time.perf_counter() - begun

    def add(self, **seen: float) -> None:
        """Count a step that was taken, and what was seen in it: so many episodes, keyframes or the like."""
        self._steps += 1
        self._seen.update(seen)

    def read(self) -> dict[str, float]:
        """What was measured since the last call; nothing without a step."""
        seconds = time.perf_counter() - self._begun
        training = seconds - sum(self._spent[part] for part in ASIDE)
        if not self._steps or training <= 0:
            return {}
        shares = {part: value / seconds for part, value in self._spent.items()}
        shares["step"] = 1 - sum(shares.values())
        found = {
            "seconds": seconds,
            "steps": self._steps,
            "steps_per_second": self._steps / training,
            **{f"{what}_per_second": count / training for what, count in self._seen.items()},
            **{f"share_{part}": share for part, share in shares.items()},
            **memory(self.devices),
        }
        if self.flops is not None:
            found["flops_per_step"] = self.flops
            if self.peak is not None:
                found["utilisation"] = self.flops * self._steps / training / self.peak
        self._clear()
        return found


def memory(devices: Sequence[Any]) -> dict[str, float]:
    """The most bytes in use so far: on the fullest of these devices, or else of this process."""
    seen = [device.memory_stats() or {} for device in devices if device.process_index == jax.process_index()]
    peaks = [stats["peak_bytes_in_use"] for stats in seen if "peak_bytes_in_use" in stats]
    if peaks:
        return {"device_memory_bytes": max(peaks)}
    unit = 1 if sys.platform == "darwin" else 1024
    return {"process_memory_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit}
