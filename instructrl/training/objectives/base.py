"""The training objective's interface: behaviour cloning (preparation.py), masked pretraining (pretraining.py)."""

from collections.abc import Callable, Generator, Mapping
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from jax.sharding import Mesh

from instructrl.config.training import TrainConfig
from instructrl.training.state import TrainState


class BatchLoader(Protocol):
    """The part of a loader that the loop uses directly."""

    steps_per_epoch: int


class Objective(Protocol):
    """Everything the training loop needs from an objective: parameters, loaders, steps, logging hooks."""

    @property
    def unit(self) -> str:
        """Unit of a batch's examples, as in `unit`/s."""

    @property
    def advice(self) -> str:
        """Next action after a non-finite loss, for the error message."""

    @property
    def config(self) -> TrainConfig: ...

    @property
    def mesh(self) -> Mesh: ...

    @property
    def frozen(self) -> Any:
        """Parameters that are not trained; {} if there are none."""

    @property
    def train(self) -> BatchLoader: ...

    @property
    def val(self) -> Mapping[str, BatchLoader]:
        """A loader for each part of the validation data."""

    @property
    def train_step(self) -> Callable[[TrainState, Any, Any], tuple[TrainState, Any]]:
        """(state, batch, frozen parameters) -> state, metrics."""

    @property
    def eval_step(self) -> Callable[[Any, Any], Any]:
        """(parameters, batch) -> metrics."""

    @property
    def learning_rate(self) -> Callable[[int], Any]: ...

    def batches(self, loader: Any, start: int, stop: int) -> Generator[Any]:
        """Prefetch the loader's batches to the devices."""

    def params(self, state: TrainState) -> Any:
        """All parameters as used for validation (averaged, with EMA)."""

    def gathered_params(self, state: TrainState) -> Any:
        """All-gather `params` to host-local arrays (collective)."""

    def flops(self, state: TrainState, batch: Any) -> float:
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


class ObjectiveKind(NamedTuple):
    """How the training loop opens the data of an objective and builds it."""

    open_data: Callable[..., Any]  # (config, data files) -> context manager of the open data
    prepare: Callable[..., tuple[Any, TrainState]]  # (config, run, open data, resuming=...) -> objective, state
