"""What is looked at while a run trains: its numbers, its speed, and whether something has gone wrong."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jax

from instructrl.training.flops import peak_flops
from instructrl.training.metrics import Metrics
from instructrl.training.objective import Objective
from instructrl.training.profile import Profile
from instructrl.training.speed import Speed
from instructrl.training.state import TrainState
from instructrl.training.watch import Watch


class Seeing:
    """Looks at every step without making it wait: a step's numbers are fetched when the next one is on its way."""

    def __init__(self, training: Objective, run: Path, metrics: Metrics) -> None:
        self._training, self._metrics = training, metrics
        self._watch = Watch(training.batch_told, advice=training.advice)
        self._profile = Profile(training.config.hardware.profile, run)
        self._speed = Speed()
        self.spent = self._speed.spent

    @contextmanager
    def taking(self, step: int, state: TrainState, batch: Any) -> Iterator[None]:
        """Around the call that takes a step; the first one of a start traces and compiles."""
        with self.spent("profiling"):
            self._profile.before(step)
        if self._speed.flops is not None:
            with jax.profiler.StepTraceAnnotation("train", step_num=step):
                yield
            return
        with self._speed.spent("compiling"):
            self._measure(state, batch)
            yield

    def _measure(self, state: TrainState, batch: Any) -> None:
        """How much a step computes, and what the devices can do."""
        self._speed.flops = self._training.flops(state, batch)
        devices = sorted(jax.tree.leaves(state.params)[0].sharding.device_set, key=lambda device: device.id)
        peak = self._training.config.hardware.peak_flops or peak_flops(devices[0].device_kind)
        self._speed.devices = devices
        self._speed.peak = None if peak is None else peak * len(devices)

    def fetched(self, values: Any, *, step: int) -> dict[str, float]:
        """A step's numbers, from the device; some are written when `training.log_every` asks for it.

        Raises:
            RunError: the loss or the gradient is not finite.
        """
        found = {key: float(value) for key, value in jax.device_get(values).items()}
        self._watch.look(found, step=step)
        self._speed.add(**self._training.counted(step, found))
        with self.spent("profiling"):
            said = self._profile.after(step)
        if said is not None:
            print(said, flush=True)
        every, taken = self._training.config.training.log_every, step + 1
        if every and taken % every == 0:
            epoch = taken / self._training.train.steps_per_epoch
            numbers = found | {"learning_rate": float(self._training.learning_rate(step))}
            del numbers["steps"]
            self._metrics.write("step", numbers, step=taken, epoch=epoch)
            self.write_speed(step=taken, epoch=epoch)
        return found

    def write_speed(self, *, step: int, epoch: float) -> None:
        """Write what was measured since the last time."""
        found = self._speed.read()
        if found:
            self._metrics.write_speed(found, step=step, epoch=epoch)

    def close(self) -> None:
        """End a trace that was not completed."""
        self._profile.close()
