"""Training monitor: metrics, throughput, profiler and guard against non-finite values."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Generic

import jax

from instructrl.cli.progress import stopwatch
from instructrl.training.distributed.multihost import is_leader
from instructrl.training.flops import peak_flops
from instructrl.training.monitoring.finite_guard import NonFiniteGuard
from instructrl.training.monitoring.metric_writer import Metrics
from instructrl.training.monitoring.profiler import ProfilerWindow
from instructrl.training.monitoring.throughput import Bottleneck, ThroughputMeter
from instructrl.training.objectives.base import BatchT, Objective
from instructrl.training.state import TrainState
from instructrl.training.types import StepMetrics


class TrainMonitor(Generic[BatchT]):
    """Monitors every step without blocking it: a step's metrics are fetched after the next step is dispatched."""

    def __init__(self, objective: Objective[BatchT], run: Path, metrics: Metrics) -> None:
        self._objective, self._metrics = objective, metrics
        self._guard = NonFiniteGuard(objective.describe_batch, advice=objective.advice)
        self._profiler = ProfilerWindow(objective.config.hardware.profile, run)
        self._throughput, self._bottleneck = ThroughputMeter(), Bottleneck()
        self._compiled: set[tuple[tuple[int, ...], ...]] = set()  # shapes of batches
        self.timed = self._throughput.timed

    @contextmanager
    def step_context(self, step: int, state: TrainState, batch: BatchT) -> Iterator[None]:
        """Context manager around a train step, which is compiled for the first batch of its shapes in a process."""
        with self.timed("profiling"):
            self._profiler.before_step(step)
        leaves = jax.tree.leaves(batch)
        self._throughput.add_batch(sum(leaf.nbytes for leaf in leaves))
        shapes = tuple(leaf.shape for leaf in leaves)
        if shapes in self._compiled:
            with jax.profiler.StepTraceAnnotation("train", step_num=step):
                yield
            return
        with self._throughput.timed("compiling"), stopwatch("compiling the training step", shown=is_leader()):
            if not self._compiled:
                self._measure(state, batch)
            yield
        self._compiled.add(shapes)

    def _measure(self, state: TrainState, batch: BatchT) -> None:
        """Measure the FLOPs of a step and the peak rate of the devices."""
        self._throughput.flops = self._objective.flops(state, batch)
        devices = sorted(jax.tree.leaves(state.params)[0].sharding.device_set, key=lambda device: device.id)
        peak = self._objective.config.hardware.peak_flops or peak_flops(devices[0].device_kind)
        self._throughput.devices = devices
        self._throughput.peak = None if peak is None else peak * len(devices)

    def on_step_end(self, values: StepMetrics, *, step: int) -> dict[str, float]:
        """Fetch a step's metrics from the device, and log them every `training.log_every` steps.

        Raises:
            RunError: the loss or the gradient is not finite.
        """
        fetched = {key: float(value) for key, value in jax.device_get(values).items()}
        self._guard.check(fetched, step=step)
        self._throughput.add(**self._objective.step_counts(step, fetched))
        with self.timed("profiling"):
            message = self._profiler.after_step(step)
        if message is not None:
            print(message, flush=True)
        every, done = self._objective.config.training.log_every, step + 1
        if every and done % every == 0:
            epoch = done / self._objective.train.steps_per_epoch
            numbers = fetched | {"learning_rate": float(self._objective.learning_rate(step))}
            del numbers["steps"]
            self._metrics.write("step", numbers, step=done, epoch=epoch)
            self.write_speed(step=done, epoch=epoch)
        return fetched

    def write_speed(self, *, step: int, epoch: float) -> None:
        """Write the throughput since the last call."""
        measured = self._throughput.read()
        if measured:
            self._metrics.write_speed(measured, step=step, epoch=epoch)
            self._bottleneck.add(measured)

    def bottleneck(self) -> str:
        """Return what limited the steps since the last call, data or the steps themselves (see `Bottleneck`)."""
        return self._bottleneck.read()

    def close(self) -> None:
        """Stop an incomplete profiler trace."""
        self._profiler.close()
