"""What a pretraining trains with: images and sentences, the masked model and its steps, put together once."""

import os
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh

from instructrl.config import TrainConfig, canvas_size, kind_rates, pretraining_size
from instructrl.data.loader import prefetched
from instructrl.data.pairs import PairLoader, PairSet, open_pairs
from instructrl.data.tokenizer import Tokenizer, make_tokenizer
from instructrl.models.blocks import PLAIN, has_cudnn
from instructrl.models.masked import MaskedM3AE
from instructrl.training.export import export_encoder
from instructrl.training.flops import step_flops
from instructrl.training.hardware import compute_dtype, strategy
from instructrl.training.masked_parameters import begin_masked, initial_masked
from instructrl.training.masked_step import Numbered, Pairs, make_masked_eval_step, make_masked_train_step
from instructrl.training.mesh import check_share, global_batch, made, make_mesh, placed, placement, whole
from instructrl.training.optimizer import learning_rate, make_optimizer
from instructrl.training.processes import is_first, shard
from instructrl.training.reconstructions import Reconstructions
from instructrl.training.run_directory import record_data
from instructrl.training.state import TrainState, initial_state

TEXT_ONLY, IMAGE_ONLY = "text", "image"


class PairSets(NamedTuple):
    """Where the images and sentences of a pretraining are, open."""

    train: list[PairSet]
    val: list[PairSet]


class Kinds:
    """A loader's batches, numbered, without what their kind does not have."""

    def __init__(self, loader: PairLoader) -> None:
        self.loader, self.steps_per_epoch = loader, loader.steps_per_epoch

    def batch(self, step: int) -> Numbered:
        """Batch number `step`."""
        return Numbered(np.uint32(step), of_kind(Pairs(*self.loader.batch(step)), self.loader.kind(step)))


def of_kind(pairs: Pairs, kind: str) -> Pairs:
    """A batch without the half that its kind does not have."""
    if kind == TEXT_ONLY:
        return pairs._replace(images=None)
    return pairs._replace(tokens=None, text_padding_mask=None) if kind == IMAGE_ONLY else pairs


@dataclass(frozen=True)
class Pretraining:
    """What one pretraining trains with (see `Objective`)."""

    unit: ClassVar[str] = "pairs"
    advice: ClassVar[str] = (
        "nothing of it was saved, and the last checkpoint is from before; lower optimizer.learning_rate or "
        "optimizer.clip_norm, and start under another name=..."
    )
    config: TrainConfig
    mesh: Mesh
    tokenizer: Tokenizer
    train: Kinds
    val: Mapping[str, Kinds]  # by the kind of their batches
    train_step: Callable[[TrainState, Any, Any], tuple[TrainState, Any]]
    counted_step: Any  # the same without what is computed twice or out of jax's sight; never called, only counted
    eval_step: Callable[[Any, Any], Any]
    learning_rate: Callable[[int], Any]
    reconstructions: Reconstructions
    run: Path
    checksums: Mapping[str, str]  # of the data
    frozen: Any = field(default_factory=dict)  # nothing is

    def batches(self, loader: Kinds, start: int, stop: int) -> Generator[Numbered]:
        """The loader's batches on the devices, prepared ahead."""

        def put(batch: Numbered) -> Numbered:
            return batch._replace(pairs=global_batch(batch.pairs, self.mesh))

        return prefetched(loader, start, stop, depth=self.config.hardware.prefetch, put=put)

    def params(self, state: TrainState) -> Any:
        """All parameters, as they validate."""
        return state.acting()

    def own_params(self, state: TrainState) -> Any:
        """The same whole, as this process' own; all processes take part."""
        return whole(self.params(state), self.mesh)

    def flops(self, state: TrainState, batch: Any) -> float:
        """Operations of the matrix products of a step, as kinds of batches come on average; nothing is computed."""
        rates = {kind: rate for kind, rate in kind_rates(self.config.pretraining).items() if rate}
        whole = described_batch(self.config, self.tokenizer)
        counts = {
            kind: step_flops(self.counted_step, state, batch._replace(pairs=of_kind(whole, kind)), self.frozen)
            for kind in rates
        }
        return sum(rate * counts[kind] for kind, rate in rates.items()) / sum(rates.values())

    def counted(self, step: int, values: Mapping[str, float]) -> dict[str, float]:
        """How many pairs, images or sentences were seen."""
        return {self.unit: values["steps"]}

    def told(self) -> str:
        """The shapes of a batch, and how often it is of which kind."""
        spec = described_batch(self.config, self.tokenizer)._asdict().items()
        lines = ["batch", *(f"  {key:<18}{leaf.dtype}{leaf.shape}" for key, leaf in spec)]
        rates = kind_rates(self.config.pretraining)
        shares = (f"{kind} {rate / sum(rates.values()):.0%}" for kind, rate in rates.items() if rate)
        return "\n".join([*lines, f"kinds of batches: {', '.join(shares)}"])

    def batch_told(self, step: int) -> str:
        """What a batch holds."""
        kind = self.train.loader.kind(step)
        return f"number {step}, of kind {kind}, drawn from {', '.join(self.config.pretraining.train or [])}"

    def epoch_line(self, epoch: int, train: Mapping[str, float], val: Mapping[str, float]) -> str:
        """The losses, and how often a hidden word is told right."""
        parts = [f"epoch {epoch:>4}  loss {train['loss']:.4f}  val loss {val['loss']:.4f}"]
        parts += [f"pixels {val['pixel_loss']:.4f}"] if "pixel_loss" in val else []
        if "word_loss" in val:
            parts.append(f"words {val['word_loss']:.4f}  right {100 * val['word_accuracy']:.1f} %")
        return "  ".join(parts)

    def look(self, state: TrainState, *, step: int) -> Mapping[str, Path]:
        """Draw what is told of the first pairs of the validation."""
        if "pair" not in self.val or not self.config.pretraining.pictures:
            return {}
        params = self.own_params(state)
        return self.reconstructions.draw(params, self.val["pair"], step=step) if is_first() else {}

    def finish(self, state: TrainState, *, step: int) -> None:
        """Write the encoder's weights, as `encoder.weights` reads them."""
        params = self.own_params(state)
        if is_first():
            path = export_encoder(self.run, self.config, self.tokenizer, params, step=step, data=self.checksums)
            print(f"weights of the encoder: {path}")
            skipped = self.train.loader.skipped
            if skipped:
                print(f"{skipped} images could not be read, and others took their place")


@contextmanager
def open_pair_sets(config: TrainConfig, data: Any = None) -> Iterator[PairSets]:
    """The images and sentences that the settings name; `data` is of no use here.

    Raises:
        InputError: one of them is missing or damaged.
    """
    del data
    with ExitStack() as opened:
        places = {"train": config.pretraining.train or [], "val": config.pretraining.val or []}
        yield PairSets(**{split: opened.enter_context(open_pairs(places[split], split)) for split in PairSets._fields})


def make_masked_model(config: TrainConfig, *, vocabulary_size: int) -> MaskedM3AE:
    """The encoder and decoder that a configuration describes."""
    options = config.pretraining
    return MaskedM3AE(
        config.encoder,
        vocabulary_size,
        compute_dtype(config.hardware),
        strategy(config.hardware),
        decoder_dim=options.decoder_dim,
        decoder_depth=options.decoder_depth,
        decoder_heads=options.decoder_heads,
    )


def described_batch(config: TrainConfig, tokenizer: Tokenizer) -> Pairs:
    """Shapes and types of the arrays in a batch of pairs, those of all processes together."""
    count, canvas = config.training.batch_size, canvas_size(config)
    tokens = (count, tokenizer.length)
    return Pairs(
        jax.ShapeDtypeStruct((count, canvas, canvas, 3), np.uint8),
        jax.ShapeDtypeStruct(tokens, np.int32),
        jax.ShapeDtypeStruct(tokens, np.float32),
    )


def prepare_pretraining(
    config: TrainConfig, run: Path, sets: PairSets, *, resumes: bool = False
) -> tuple[Pretraining, TrainState]:
    """Everything that pretraining needs, and the initial state.

    `resumes`: a checkpoint of the run will take the initial state's place.

    Raises:
        InputError: weights or data cannot be used, or the run began with other ones.
    """
    del resumes  # weights to begin with are read again, so that other ones are noticed
    mesh = make_mesh(config.hardware)
    check_share(mesh, batch_size=config.training.batch_size, accumulation=config.hardware.accumulation)
    tokenizer = make_tokenizer(config.encoder)
    model, size = make_masked_model(config, vocabulary_size=tokenizer.vocabulary_size), pretraining_size(config)
    params = made(partial(initial_masked, model, size=size, length=tokenizer.length, seed=config.seed), mesh)
    params, beginning = begin_masked(config, params, tokenizer)
    data = described_sets(sets)
    record = data | beginning
    record["tokenizer"] = {"path": f"encoder.tokenizer={config.encoder.tokenizer}", "checksum": tokenizer.checksum}
    if is_first():
        record_data(run, record)
    train, val = pair_loaders(config, sets, tokenizer)
    length = {"epochs": config.training.epochs, "steps_per_epoch": train.steps_per_epoch}
    schedule = learning_rate(config.optimizer, batch_size=config.training.batch_size, **length)
    optimizer, ema = make_optimizer(config.optimizer, schedule), config.optimizer.ema
    state = made(partial(initial_state, optimizer=optimizer, ema=ema is not None), mesh, placed(params, mesh))
    seen: dict[str, Any] = {"options": config.pretraining, "size": size, "seed": config.seed}
    lies: dict[str, Any] = {"shardings": placement(state, mesh)}
    how: dict[str, Any] = {**seen, **lies, "accumulation": config.hardware.accumulation, "ema": ema}
    train_step = counted = make_masked_train_step(model, optimizer, **how)
    if config.hardware.remat != "none" or has_cudnn():
        counted = make_masked_train_step(model.clone(strategy=PLAIN), optimizer, **how)
    eval_step = make_masked_eval_step(model, **seen, **lies)
    pictures = Reconstructions(model, tokenizer, run, **seen)
    checksums = {name: entry["checksum"] for name, entry in data.items()}
    steps: Any = {"train_step": train_step, "counted_step": counted, "eval_step": eval_step, "learning_rate": schedule}
    ends: Any = {"reconstructions": pictures, "run": run, "checksums": checksums}
    return Pretraining(config, mesh, tokenizer, train, val, **steps, **ends), state


def described_sets(sets: PairSets) -> dict[str, dict[str, Any]]:
    """What `data.json` says of the data, by split and number."""
    return {
        f"{split}/{number}": {"path": str(one.path), "checksum": one.checksum()}
        for split, found in sets._asdict().items()
        for number, one in enumerate(found)
    }


def pair_loaders(config: TrainConfig, sets: PairSets, tokenizer: Tokenizer) -> tuple[Kinds, dict[str, Kinds]]:
    """Batches of the training data, and for each kind those of the validation.

    Raises:
        InputError: there is no data for a kind of batches.
    """
    options: dict[str, Any] = {
        "batch_size": config.training.batch_size,
        "canvas": canvas_size(config),
        "seed": config.seed,
        "shard": shard(),
        "threads": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
    }
    rates = kind_rates(config.pretraining)
    train = Kinds(PairLoader(sets.train, tokenizer, rates=rates, **options))
    val = {}
    for kind in (kind for kind, rate in rates.items() if rate):
        alone = {other: float(other == kind) for other in rates}
        val[kind] = Kinds(PairLoader(sets.val, tokenizer, rates=alone, shuffle=False, **options))
    return train, val
