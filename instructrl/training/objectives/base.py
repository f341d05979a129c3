"""The training objective's interface: `behavior_cloning` and `masked_pretraining` implement it."""

from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, Protocol, TypeVar, runtime_checkable

import jax
from jax.sharding import Mesh
from jaxtyping import Array, Float

from instructrl.config.training import TrainConfig
from instructrl.storage.paths import StoragePath
from instructrl.training.state import TrainState
from instructrl.training.types import Params, StepMetrics

BatchT = TypeVar("BatchT")  # a pytree of arrays
LoadedT = TypeVar("LoadedT", covariant=True)
StepT = TypeVar("StepT", contravariant=True)
SplitsT = TypeVar("SplitsT")  # the open data of an objective
OpenT = TypeVar("OpenT", contravariant=True)
BuiltT = TypeVar("BuiltT")
DataFiles = Mapping[str, Sequence[StoragePath]]  # demonstrations: files by split, one per task


class BatchLoader(Protocol[LoadedT]):
    """A loader whose batch is a function of the step alone."""

    @property
    def steps_per_epoch(self) -> int: ...

    def batch(self, step: int) -> LoadedT:
        """The batch of a training step, counted from 0."""


@runtime_checkable
class TrainStep(Protocol[StepT]):
    """A jitted train step; the old state is donated."""

    def __call__(self, state: TrainState, batch: StepT, frozen: Params, /) -> tuple[TrainState, StepMetrics]:
        """Take a step; `frozen`: parameters that are not trained."""

    def trace(self, state: TrainState, batch: StepT, frozen: Params, /) -> jax.stages.Traced:
        """Trace the step without compiling it, for arrays or their shapes."""


@runtime_checkable
class EvalStep(Protocol[StepT]):
    """A jitted validation step."""

    def __call__(self, params: Params, batch: StepT, /) -> StepMetrics:
        """Mean metrics of a batch, and as `steps` the number of examples that they are means over."""


class Objective(Protocol[BatchT]):
    """Everything the training loop needs from an objective: parameters, loaders, steps, logging hooks."""

    @property
    def unit(self) -> str:
        """Name of a batch's examples, in the plural."""

    @property
    def advice(self) -> str:
        """Next action after a non-finite loss, for the error message."""

    @property
    def config(self) -> TrainConfig: ...

    @property
    def mesh(self) -> Mesh: ...

    @property
    def frozen(self) -> Params:
        """Parameters that are not trained; {} if there are none."""

    @property
    def train(self) -> BatchLoader[BatchT]: ...

    @property
    def val(self) -> Mapping[str, BatchLoader[BatchT]]:
        """A loader for each part of the validation data."""

    @property
    def train_step(self) -> TrainStep[BatchT]: ...

    @property
    def eval_step(self) -> EvalStep[BatchT]: ...

    @property
    def learning_rate(self) -> Callable[[int], float | Float[Array, ""]]: ...

    def batches(self, loader: BatchLoader[BatchT], start: int, stop: int) -> Generator[BatchT]:
        """Prefetch the loader's batches to the devices."""

    def params(self, state: TrainState) -> Params:
        """All parameters as used for validation (averaged, with EMA)."""

    def gathered_params(self, state: TrainState) -> Params:
        """All-gather `params` to host-local arrays (collective)."""

    def flops(self, state: TrainState, batch: BatchT) -> float:
        """FLOPs of the matrix products in a train step; nothing is executed."""

    def step_counts(self, step: int, values: Mapping[str, float]) -> dict[str, float]:
        """Number of examples consumed in a step, keyed by unit."""

    def summary(self) -> str:
        """Human-readable summary of the data, printed before training."""

    def describe_batch(self, step: int) -> str:
        """Contents of a step's batch, for an error message."""

    def epoch_line(self, epoch: int, train: Mapping[str, float], val: Mapping[str, float]) -> str:
        """One-line summary of an epoch."""

    def visualize(self, state: TrainState, *, step: int) -> Mapping[str, Path]:
        """Write validation visualizations; returns {name: path} (collective)."""

    def finish(self, state: TrainState, *, step: int) -> None:
        """Finalize the run after the last epoch (collective)."""


class Prepare(Protocol[OpenT, BuiltT]):
    """Builds an objective and the initial state from a run's open data."""

    def __call__(
        self, config: TrainConfig, run: Path, splits: OpenT, *, resuming: bool = False
    ) -> tuple[Objective[BuiltT], TrainState]:
        """Build both; if `resuming`, a checkpoint will replace the initial state."""


@dataclass(frozen=True)
class ObjectiveKind(Generic[SplitsT, BatchT]):
    """How the training loop opens the data of an objective and builds it."""

    open_data: Callable[[TrainConfig, DataFiles], AbstractContextManager[SplitsT]]
    prepare: Prepare[SplitsT, BatchT]
