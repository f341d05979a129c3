"""What the loop must know of what it trains: behaviour cloning (preparation.py) or pretraining (pretraining.py)."""

from collections.abc import Callable, Generator, Mapping
from pathlib import Path
from typing import Any, Protocol

from jax.sharding import Mesh

from instructrl.config import TrainConfig
from instructrl.training.state import TrainState


class Batches(Protocol):
    """A loader, as far as the loop counts with it."""

    steps_per_epoch: int


class Objective(Protocol):
    """Parameters, batches and steps, put together once, and what is said and looked at on the way."""

    @property
    def unit(self) -> str:
        """What a batch consists of."""

    @property
    def advice(self) -> str:
        """What to do when a loss is not finite."""

    @property
    def config(self) -> TrainConfig: ...

    @property
    def mesh(self) -> Mesh: ...

    @property
    def frozen(self) -> Any:
        """Parameters that are not trained."""

    @property
    def train(self) -> Batches: ...

    @property
    def val(self) -> Mapping[str, Batches]:
        """For each part of the validation."""

    @property
    def train_step(self) -> Callable[[TrainState, Any, Any], tuple[TrainState, Any]]:
        """(state, batch, frozen parameters) -> state, metrics."""

    @property
    def eval_step(self) -> Callable[[Any, Any], Any]:
        """(parameters, batch) -> metrics."""

    @property
    def learning_rate(self) -> Callable[[int], Any]: ...

    def batches(self, loader: Any, start: int, stop: int) -> Generator[Any]:
        """The loader's batches on the devices, prepared ahead."""

    def params(self, state: TrainState) -> Any:
        """All parameters, as they validate."""

    def own_params(self, state: TrainState) -> Any:
        """The same whole, as this process' own; all processes take part."""

    def flops(self, state: TrainState, batch: Any) -> float:
        """Operations of the matrix products of a step; nothing is computed."""

    def counted(self, step: int, values: Mapping[str, float]) -> dict[str, float]:
        """How much was seen in a step, by what it is called."""

    def told(self) -> str:
        """What is said of the data before training begins."""

    def batch_told(self, step: int) -> str:
        """What a batch holds, for an error."""

    def epoch_line(self, epoch: int, train: Mapping[str, float], val: Mapping[str, float]) -> str:
        """What a person wants to know of an epoch."""

    def look(self, state: TrainState, *, step: int) -> Mapping[str, Path]:
        """Draw what there is to see at a validation: pictures by their names. All processes take part."""

    def finish(self, state: TrainState, *, step: int) -> None:
        """What is left to do after the last epoch. All processes take part."""
