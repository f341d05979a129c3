"""The masked-pretraining objective: image-text loaders, M3AE with decoder, optimizer and jitted steps."""

import os
from collections.abc import Generator, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import ClassVar, NamedTuple

import jax
import numpy as np

from instructrl.config.training import TrainConfig, batch_kind_rates, loaded_image_size, pretraining_image_size
from instructrl.data.image_text.loader import PairLoader, PairSet, open_pairs
from instructrl.data.loading.loader import prefetch
from instructrl.data.text.tokenizer import Tokenizer, make_tokenizer
from instructrl.training.distributed.mesh import global_batch
from instructrl.training.distributed.multihost import is_leader, process_shard
from instructrl.training.flops import step_flops
from instructrl.training.model_factory import make_masked_model, random_masked_params
from instructrl.training.objectives.base import BatchLoader
from instructrl.training.objectives.build import BuiltObjective, build, record_inputs, training_mesh
from instructrl.training.objectives.mae_step import Pairs, StepBatch, make_masked_eval_step, make_masked_train_step
from instructrl.training.objectives.reconstructions import Reconstructions
from instructrl.training.parameters.export_encoder import export_encoder
from instructrl.training.parameters.mae_weights import init_masked_params
from instructrl.training.run_dir import DataEntry, DataRecord
from instructrl.training.state import TrainState

TEXT_ONLY, IMAGE_ONLY = "text", "image"


class ImageTextSplits(NamedTuple):
    """Open image and text sources of a pretraining."""

    train: list[PairSet]
    val: list[PairSet]


class KindBatches:
    """A loader's batches with their step numbers, restricted to the modalities of their kind."""

    def __init__(self, loader: PairLoader) -> None:
        self.loader, self.steps_per_epoch = loader, loader.steps_per_epoch

    def batch(self, step: int) -> StepBatch:
        """The batch of a step."""
        return StepBatch(np.uint32(step), select_modalities(Pairs(*self.loader.batch(step)), self.loader.kind(step)))


def select_modalities(pairs: Pairs, kind: str) -> Pairs:
    """Drop the modality that a batch of this kind does not have."""
    if kind == TEXT_ONLY:
        return pairs._replace(images=None)
    return pairs._replace(tokens=None, text_padding_mask=None) if kind == IMAGE_ONLY else pairs


@dataclass(frozen=True)
class MaskedPretraining(BuiltObjective[StepBatch]):
    """Masked pretraining of an encoder (see `Objective`)."""

    unit: ClassVar[str] = "pairs"
    advice: ClassVar[str] = (
        "the last checkpoint is from before this step; lower optimizer.learning_rate or optimizer.clip_norm, and "
        "train under another name=..."
    )
    tokenizer: Tokenizer
    train: KindBatches
    val: Mapping[str, KindBatches]  # by kind of batch
    reconstructions: Reconstructions
    run: Path
    checksums: Mapping[str, str]  # of the data

    def batches(self, loader: BatchLoader[StepBatch], start: int, stop: int) -> Generator[StepBatch]:
        """Prefetch the loader's batches to the devices."""

        def put(batch: StepBatch) -> StepBatch:
            return batch._replace(pairs=global_batch(batch.pairs, self.mesh))

        return prefetch(loader, start, stop, depth=self.config.hardware.prefetch, put=put)

    def flops(self, state: TrainState, batch: StepBatch) -> float:
        """FLOPs of the matrix products in a train step, averaged over the kinds of batches; nothing is executed."""
        rates = {kind: rate for kind, rate in batch_kind_rates(self.config.pretraining).items() if rate}
        pairs = abstract_batch(self.config, self.tokenizer)
        counts = {
            kind: step_flops(self.flops_step, state, batch._replace(pairs=select_modalities(pairs, kind)), self.frozen)
            for kind in rates
        }
        return sum(rate * counts[kind] for kind, rate in rates.items()) / sum(rates.values())

    def step_counts(self, step: int, values: Mapping[str, float]) -> dict[str, float]:
        """Number of pairs, images or texts consumed in a step."""
        return {self.unit: values["steps"]}

    def summary(self) -> str:
        """Shapes of a batch, and the share of each kind of batch."""
        spec = abstract_batch(self.config, self.tokenizer)._asdict().items()
        lines = ["batch", *(f"  {key:<18}{leaf.dtype}{leaf.shape}" for key, leaf in spec)]
        rates = batch_kind_rates(self.config.pretraining)
        shares = (f"{kind} {rate / sum(rates.values()):.0%}" for kind, rate in rates.items() if rate)
        return "\n".join([*lines, f"kinds of batches: {', '.join(shares)}"])

    def describe_batch(self, step: int) -> str:
        """Number, kind and sources of a step's batch."""
        kind = self.train.loader.kind(step)
        return f"number {step}, of kind {kind}, drawn from {', '.join(self.config.pretraining.train or [])}"

    def epoch_line(self, epoch: int, train: Mapping[str, float], val: Mapping[str, float]) -> str:
        """Losses, and the accuracy of predicted masked tokens."""
        parts = [f"epoch {epoch:>4}  loss {train['loss']:.4f}  val loss {val['loss']:.4f}"]
        parts += [f"pixels {val['pixel_loss']:.4f}"] if "pixel_loss" in val else []
        if "word_loss" in val:
            parts.append(f"words {val['word_loss']:.4f}  accuracy {100 * val['word_accuracy']:.1f} %")
        return "  ".join(parts)

    def visualize(self, state: TrainState, *, step: int) -> Mapping[str, Path]:
        """Draw reconstructions of the first validation pairs."""
        if "pair" not in self.val or not self.config.pretraining.num_visualized:
            return {}
        params = self.gathered_params(state)
        return self.reconstructions.draw(params, self.val["pair"], step=step) if is_leader() else {}

    def finish(self, state: TrainState, *, step: int) -> None:
        """Export the encoder's weights in the format that `encoder.weights` reads."""
        params = self.gathered_params(state)
        if is_leader():
            path = export_encoder(self.run, self.config, self.tokenizer, params, step=step, data=self.checksums)
            print(f"encoder weights: {path}")
            skipped = self.train.loader.skipped
            if skipped:
                print(f"{skipped} images could not be read and were replaced by others")


@contextmanager
def open_image_text(config: TrainConfig, data: object = None) -> Iterator[ImageTextSplits]:
    """Open the configured image and text sources; `data` is unused.

    Raises:
        InputError: a source is missing or damaged.
    """
    del data
    with ExitStack() as stack:
        paths = {"train": config.pretraining.train or [], "val": config.pretraining.val or []}
        yield ImageTextSplits(
            **{split: stack.enter_context(open_pairs(paths[split], split)) for split in ImageTextSplits._fields}
        )


def abstract_batch(config: TrainConfig, tokenizer: Tokenizer) -> Pairs:
    """Shapes and types of the arrays in a global batch of pairs."""
    count, canvas = config.training.batch_size, loaded_image_size(config)
    tokens = (count, tokenizer.length)
    return Pairs(
        jax.ShapeDtypeStruct((count, canvas, canvas, 3), np.uint8),
        jax.ShapeDtypeStruct(tokens, np.int32),
        jax.ShapeDtypeStruct(tokens, np.float32),
    )


def prepare_masked_pretraining(
    config: TrainConfig, run: Path, splits: ImageTextSplits, *, resuming: bool = False
) -> tuple[MaskedPretraining, TrainState]:
    """Build the objective and the initial state.

    `resuming`: a checkpoint of the run will replace the initial state.

    Raises:
        InputError: weights or data cannot be used, or differ from those at the start of the run.
    """
    del resuming  # initial weights are always read, so that changed ones are noticed
    mesh, tokenizer = training_mesh(config.hardware, config.training), make_tokenizer(config.encoder)
    model, size = make_masked_model(config, vocabulary_size=tokenizer.vocabulary_size), pretraining_image_size(config)
    params = random_masked_params(model, size=size, length=tokenizer.length, seed=config.seed, mesh=mesh)
    params, initialization = init_masked_params(config.encoder, params, tokenizer)
    data = data_record(splits)
    record_inputs(run, data | initialization, tokenizer, tokenizer_name=config.encoder.tokenizer)
    train, val = make_loaders(config, splits, tokenizer)
    options, seed = config.pretraining, config.seed
    built, state = build(
        config,
        mesh,
        model,
        trained=params,
        frozen={},
        steps_per_epoch=train.steps_per_epoch,
        make_train_step=partial(make_masked_train_step, options=options, size=size, seed=seed),
        make_eval_step=partial(make_masked_eval_step, options=options, size=size, seed=seed),
    )
    objective = MaskedPretraining(
        **vars(built),
        tokenizer=tokenizer,
        train=train,
        val=val,
        reconstructions=Reconstructions(model, tokenizer, run, options=options, size=size, seed=seed),
        run=run,
        checksums={name: entry["checksum"] for name, entry in data.items()},
    )
    return objective, state


def data_record(splits: ImageTextSplits) -> DataRecord:
    """Entries of data.json for the data, keyed by split and number."""
    return {
        f"{split}/{number}": DataEntry(path=str(source.path), checksum=source.checksum())
        for split, sources in splits._asdict().items()
        for number, source in enumerate(sources)
    }


def make_loaders(
    config: TrainConfig, splits: ImageTextSplits, tokenizer: Tokenizer
) -> tuple[KindBatches, dict[str, KindBatches]]:
    """The training loader, and one validation loader per kind of batch.

    Raises:
        InputError: there is no data for a kind of batch.
    """
    make_loader = partial(
        PairLoader,
        tokenizer=tokenizer,
        batch_size=config.training.batch_size,
        image_size=loaded_image_size(config),
        seed=config.seed,
        shard=process_shard(),
        threads=len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
    )
    rates = batch_kind_rates(config.pretraining)
    train = KindBatches(make_loader(splits.train, rates=rates))
    val = {}
    for kind in (kind for kind, rate in rates.items() if rate):
        single = {other: float(other == kind) for other in rates}
        val[kind] = KindBatches(make_loader(splits.val, rates=single, shuffle=False))
    return train, val
