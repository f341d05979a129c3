"""What a run trains with: demonstrations, features, agent and steps, put together once."""

from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import jax

from instructrl.batch import Batch, BatchSizes, check_batch
from instructrl.config import TrainConfig, cached_features, token_dropout
from instructrl.data.episodes import Episodes
from instructrl.data.features import FeatureCache
from instructrl.data.loader import Loader, prefetched
from instructrl.data.tokenizer import Tokenizer, make_tokenizer
from instructrl.training.encoder import begin, in_file
from instructrl.training.features import open_features
from instructrl.training.optimizer import learning_rate, make_optimizer
from instructrl.training.run_directory import record_data
from instructrl.training.state import TrainState, initial_params, initial_state, make_agent, one_step, split
from instructrl.training.step import make_eval_step, make_train_step

Sets = tuple[Episodes, Episodes]  # for training and for validation


@dataclass(frozen=True)
class Training:
    """What one run trains with, put together once."""

    config: TrainConfig
    frozen: Any  # parameters that are not trained
    train: Loader
    val: Loader
    train_step: Callable[[TrainState, Any, Any], tuple[TrainState, Any]]
    eval_step: Callable[[Any, Any], Any]
    learning_rate: Callable[[int], Any]

    def batches(self, loader: Loader, start: int, stop: int) -> Generator[Batch]:
        """The loader's batches on the device, prepared ahead."""
        return prefetched(loader, start, stop, depth=self.config.hardware.prefetch, put=jax.device_put)

    def params(self, state: TrainState) -> Any:
        """All parameters of the agent."""
        return {**state.params, **self.frozen}


def prepare(config: TrainConfig, run: Path, *, data: dict[str, Path], sets: Sets) -> tuple[Training, TrainState]:
    """Everything that training needs, and the initial state. Missing features of a frozen encoder are computed.

    Raises:
        InputError: the weights or the features cannot be used, or the run began with others or other demonstrations.
    """
    tokenizer = make_tokenizer(config.encoder)
    agent = make_agent(config, vocabulary_size=tokenizer.vocabulary_size)
    from_file = ("encoder",) if in_file(config, run) else ()
    params = initial_params(agent, one_step(config, tokenizer), seed=config.seed, shapes_of=from_file)
    params, origin = begin(config, params, tokenizer, run=run)
    record = {name: described(data[name], one) for name, one in zip(("train", "val"), sets, strict=True)}
    if origin is not None:
        record["encoder"] = origin.described()
    record_data(run, record)
    trained, frozen = split(params, frozen=config.encoder.frozen)
    frozen = jax.device_put(frozen)
    caches: Sequence[FeatureCache | None] = (None, None)
    if cached_features(config):
        checksum = record["encoder"]["checksum"]
        caches = open_features(config, sets, tokenizer, agent=agent, params=frozen, checksum=checksum)
    train, val = loaders(config, sets, tokenizer, caches)
    epochs, per_epoch = config.training.epochs, train.steps_per_epoch
    schedule = learning_rate(config.optimizer, epochs=epochs, steps_per_epoch=per_epoch)
    optimizer = make_optimizer(config.optimizer, schedule)
    train_step = make_train_step(agent, optimizer, seed=config.seed, token_dropout=token_dropout(config))
    training = Training(config, frozen, train, val, train_step, make_eval_step(agent), schedule)
    return training, initial_state(trained, optimizer)


def described(path: Path, episodes: Episodes) -> dict[str, Any]:
    """What `data.json` says of one split."""
    return {"path": str(path), "checksum": episodes.digest(), "provenance": episodes.provenance}


def loaders(
    config: TrainConfig, sets: Sets, tokenizer: Tokenizer, caches: Sequence[FeatureCache | None]
) -> tuple[Loader, Loader]:
    """Batches of the training and of the validation demonstrations, of the same shapes.

    Raises:
        InputError: they are not as the configuration says.
    """
    size, steps = config.training.batch_size, max(one.steps for one in sets)
    train, val = (
        Loader(
            one,
            tokenizer,
            batch_size=size,
            seed=config.seed,
            steps=steps,
            shuffle=one is sets[0],
            sentences=config.training.sentences,
            features=cache,
        )
        for one, cache in zip(sets, caches, strict=True)
    )
    sizes = BatchSizes(size, steps, len(config.sim.cameras), config.sim.image_size, tokenizer.length)
    check_batch(train.batch(0), replace(sizes, features=train.sizes.features))
    return train, val
