"""Construction that all objectives share: devices, recorded inputs, optimizer, initial state and jitted steps."""

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Generic, Protocol, Self, TypeVar

import optax
from jax.sharding import Mesh, NamedSharding
from jaxtyping import PyTree

from instructrl.config.training import HardwareConfig, TrainConfig, TrainingConfig
from instructrl.data.text.tokenizer import Tokenizer
from instructrl.models.layers.attention import has_cudnn
from instructrl.models.layers.block_stack import DEFAULT_EXECUTION, ExecutionConfig
from instructrl.training.distributed.mesh import (
    check_divisible,
    device_put_tree,
    gather,
    jit_sharded,
    make_mesh,
    shardings_of,
)
from instructrl.training.distributed.multihost import is_leader
from instructrl.training.objectives.base import BatchT, EvalStep, TrainStep
from instructrl.training.optimizer import learning_rate, make_optimizer
from instructrl.training.run_dir import DataEntry, DataRecord, record_data
from instructrl.training.state import TrainState, initial_state, merge_params
from instructrl.training.types import Params


class Model(Protocol):
    """A module that can be copied with other execution options."""

    def clone(self, *, execution: ExecutionConfig) -> Self:
        """Copy the module."""


ModelT = TypeVar("ModelT", bound=Model)
StepModelT = TypeVar("StepModelT", contravariant=True)
StepBatchT = TypeVar("StepBatchT", contravariant=True)


class MakeTrainStep(Protocol[StepModelT, StepBatchT]):
    """Makes the train step of a model; what is particular to an objective is already bound."""

    def __call__(
        self,
        model: StepModelT,
        optimizer: optax.GradientTransformation,
        /,
        *,
        accumulation: int,
        shardings: PyTree[NamedSharding],
        ema: float | None,
    ) -> TrainStep[StepBatchT]:
        """Make the jitted step (see `bc_step.make_train_step`)."""


class MakeEvalStep(Protocol[StepModelT, StepBatchT]):
    """Makes the validation step of a model."""

    def __call__(self, model: StepModelT, /, *, shardings: PyTree[NamedSharding]) -> EvalStep[StepBatchT]:
        """Make the jitted step."""


@dataclass(frozen=True)
class BuiltObjective(Generic[BatchT]):
    """The part of an `Objective` that does not depend on what is learnt."""

    config: TrainConfig
    mesh: Mesh
    frozen: Params  # parameters that are not trained
    train_step: TrainStep[BatchT]
    flops_step: TrainStep[BatchT]  # without remat and custom kernels; used only to count FLOPs, never executed
    eval_step: EvalStep[BatchT]
    learning_rate: optax.Schedule

    def params(self, state: TrainState) -> Params:
        """All parameters as used for validation and acting (averaged, with EMA)."""
        return merge_params(state.eval_params(), self.frozen)

    def gathered_params(self, state: TrainState) -> Params:
        """All-gather `params` to host-local arrays (collective)."""
        return gather(self.params(state), self.mesh)


def training_mesh(hardware: HardwareConfig, training: TrainingConfig) -> Mesh:
    """The mesh of the configured devices.

    Raises:
        InputError: there are too few devices, or a batch cannot be split evenly among them.
    """
    mesh = make_mesh(hardware)
    check_divisible(mesh, batch_size=training.batch_size, accumulation=hardware.accumulation)
    return mesh


def record_inputs(run: Path, record: DataRecord, tokenizer: Tokenizer, *, tokenizer_name: str) -> DataRecord:
    """Record what a run depends on in data.json, with the tokenizer; returns the complete record.

    Raises:
        InputError: an input differs from the one with which the run started.
    """
    entry = DataEntry(path=f"encoder.tokenizer={tokenizer_name}", checksum=tokenizer.checksum)
    complete: DataRecord = {**record, "tokenizer": entry}
    if is_leader():
        record_data(run, complete)
    return complete


def build(
    config: TrainConfig,
    mesh: Mesh,
    model: ModelT,
    *,
    trained: Params,
    frozen: Params,
    steps_per_epoch: int,
    make_train_step: MakeTrainStep[ModelT, BatchT],
    make_eval_step: MakeEvalStep[ModelT, BatchT],
) -> tuple[BuiltObjective[BatchT], TrainState]:
    """Place the parameters on the mesh; make the optimizer, the initial state and the jitted steps.

    Args:
        config: a resolved configuration.
        mesh: the devices.
        model: the model that is trained.
        trained: its trainable parameters; they are donated to the state.
        frozen: its other parameters.
        steps_per_epoch: number of batches in an epoch.
        make_train_step: makes the train step of a model.
        make_eval_step: makes its validation step.

    Raises:
        InputError: the warm-up is not shorter than the training, or a pattern matches no parameter.
    """
    schedule = learning_rate(
        config.optimizer,
        epochs=config.training.epochs,
        steps_per_epoch=steps_per_epoch,
        batch_size=config.training.batch_size,
    )
    optimizer, ema = make_optimizer(config.optimizer, schedule), config.optimizer.ema
    init_state = partial(initial_state, optimizer=optimizer, ema=ema is not None)
    state = jit_sharded(init_state, mesh, device_put_tree(trained, mesh))
    shardings = shardings_of(state, mesh)

    def train_step_of(model: ModelT) -> TrainStep[BatchT]:
        accumulation = config.hardware.accumulation
        return make_train_step(model, optimizer, accumulation=accumulation, shardings=shardings, ema=ema)

    train_step = flops_step = train_step_of(model)
    if config.hardware.remat != "none" or has_cudnn():
        flops_step = train_step_of(model.clone(execution=DEFAULT_EXECUTION))
    eval_step, frozen = make_eval_step(model, shardings=shardings), device_put_tree(frozen, mesh)
    return BuiltObjective(config, mesh, frozen, train_step, flops_step, eval_step, schedule), state
