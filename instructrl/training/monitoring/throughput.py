"""Throughput, time shares and memory of a training on its machine."""

import resource
import sys
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import jax

EXCLUDED = ("compiling", "validation", "rollout", "saving", "profiling")  # not part of the throughput
MAX_WAITING = 0.1  # share of the training time that steps may wait for data without being limited by it
PARTS = ("data", *EXCLUDED)  # the remaining time is spent in train steps


class ThroughputMeter:
    """Measures time where the loop blocks anyway, so that no step is delayed."""

    def __init__(self) -> None:
        self.flops: float | None = None  # of a step
        self._batch_bytes: float | None = None  # mean over the latest batches, over all processes
        self.peak: float | None = None  # FLOP/s of all devices together
        self.devices: Sequence[jax.Device] = ()
        self._clear()

    def _clear(self) -> None:
        self._start = time.perf_counter()
        self._seconds = dict.fromkeys(PARTS, 0.0)
        self._steps = 0
        self._counts: Counter[str] = Counter()
        self._bytes: list[int] = []

    @contextmanager
    def timed(self, part: str) -> Iterator[None]:
        """Attribute the time spent in a block to one of PARTS."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self._seconds[part] += time.perf_counter() - start

    def add_batch(self, nbytes: int) -> None:
        """Count the bytes of a batch, over all processes."""
        self._bytes.append(nbytes)

    def add(self, **counts: float) -> None:
        """Count a step and the examples consumed in it, by unit."""
        self._steps += 1
        self._counts.update(counts)

    def read(self) -> dict[str, float]:
        """Measurements since the last call; {} without a step."""
        seconds = time.perf_counter() - self._start
        training = seconds - sum(self._seconds[part] for part in EXCLUDED)
        if not self._steps or training <= 0:
            return {}
        shares = {part: value / seconds for part, value in self._seconds.items()}
        shares["step"] = 1 - sum(shares.values())
        measured = {
            "seconds": seconds,
            "steps": self._steps,
            "steps_per_second": self._steps / training,
            **{f"{unit}_per_second": count / training for unit, count in self._counts.items()},
            **{f"share_{part}": share for part, share in shares.items()},
            **memory(self.devices),
        }
        if self._bytes:
            self._batch_bytes = sum(self._bytes) / len(self._bytes)
        if self._batch_bytes is not None:
            measured["batch_bytes"] = self._batch_bytes
        if self.flops is not None:
            measured["flops_per_step"] = self.flops
            if self.peak is not None:
                measured["utilisation"] = self.flops * self._steps / training / self.peak
        self._clear()
        return measured


class Bottleneck:
    """The limit of the training steps of some time: the steps themselves, or the data that they wait for."""

    def __init__(self) -> None:
        self._waiting = self._training = self._bytes = 0.0

    def add(self, measured: Mapping[str, float]) -> None:
        """Add measurements of a `ThroughputMeter`."""
        self._waiting += measured["share_data"] * measured["seconds"]
        self._training += measured["steps"] / measured["steps_per_second"]
        self._bytes += measured["steps"] * measured["batch_bytes"]
        self._batch_bytes = measured["batch_bytes"]

    def read(self) -> str:
        """Return what limits the steps since the last call, with the data's size and rate; "" without a step."""
        if not self._training:
            return ""
        share, rate = self._waiting / self._training, self._bytes / self._training
        # Batches are prepared during the steps before: where steps wait at all, data is what takes longer.
        limit = "data" if share > MAX_WAITING else "steps"
        self._waiting = self._training = self._bytes = 0.0
        return (
            f"limited by {limit} ({100 * share:.0f} % waiting for data, {self._batch_bytes / 1e6:.1f} MB a batch, "
            f"{rate / 1e9:.2f} GB/s)"
        )


def memory(devices: Sequence[jax.Device]) -> dict[str, float]:
    """Peak memory in bytes: of the fullest of these devices, or else of this process."""
    own = [device.memory_stats() or {} for device in devices if device.process_index == jax.process_index()]
    peaks = [stats["peak_bytes_in_use"] for stats in own if "peak_bytes_in_use" in stats]
    if peaks:
        return {"device_memory_bytes": max(peaks)}
    unit = 1 if sys.platform == "darwin" else 1024
    return {"process_memory_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit}
