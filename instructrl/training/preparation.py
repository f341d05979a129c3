"""What a run trains with: demonstrations, features, agent and steps, put together once."""

from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import jax

from instructrl.batch import Batch, BatchSizes, check_batch
from instructrl.config import TrainConfig, cached_features, task_names, token_dropout
from instructrl.data.episodes import Episodes, check_alike
from instructrl.data.features import FeatureCache
from instructrl.data.loader import Loader, prefetched
from instructrl.data.storage import Place
from instructrl.data.tokenizer import Tokenizer, make_tokenizer
from instructrl.errors import InputError
from instructrl.training.encoder import begin
from instructrl.training.features import open_features
from instructrl.training.optimizer import learning_rate, make_optimizer
from instructrl.training.run_directory import record_data
from instructrl.training.state import TrainState, initial_params, initial_state, make_agent, one_step, split
from instructrl.training.step import make_eval_step, make_train_step


class Sets(NamedTuple):
    """The files of demonstrations of a run, open: for each split one for each task, in the order of `task_names`."""

    train: list[Episodes]
    val: list[Episodes]


@contextmanager
def open_sets(config: TrainConfig, data: Mapping[str, Sequence[Place]]) -> Iterator[Sets]:
    """The demonstrations of a run from the files of the splits `train` and `val`, as far as they are in use.

    Raises:
        InputError: a file is missing, damaged or too short, or the files do not go together.
    """
    with ExitStack() as opened:
        limits = {"train": config.task.episodes, "val": config.task.val_episodes}
        sets = Sets(
            **{
                split: [opened.enter_context(Episodes(path, limit=limits[split])) for path in data[split]]
                for split in Sets._fields
            }
        )
        check_alike([*sets.train, *sets.val])
        for episodes in (*sets.train, *sets.val):
            check_cameras(config, episodes)
        yield sets


def check_cameras(config: TrainConfig, episodes: Episodes) -> None:
    """Raise InputError where a head looks through cameras of which a file does not know where they are."""
    if config.head.kind == "spatial" and episodes.provenance.get("cameras") == "unknown":
        raise InputError(
            f"head.kind: found spatial, but {episodes.path} was converted without camera matrices; "
            "allowed for it: regression, discrete"
        )


@dataclass(frozen=True)
class Training:
    """What one run trains with, put together once."""

    config: TrainConfig
    frozen: Any  # parameters that are not trained
    train: Loader
    val: Mapping[str, Loader]  # for each task
    train_step: Callable[[TrainState, Any, Any], tuple[TrainState, Any]]
    eval_step: Callable[[Any, Any], Any]
    learning_rate: Callable[[int], Any]

    def batches(self, loader: Loader, start: int, stop: int) -> Generator[Batch]:
        """The loader's batches on the device, prepared ahead."""
        return prefetched(loader, start, stop, depth=self.config.hardware.prefetch, put=jax.device_put)

    def params(self, state: TrainState) -> Any:
        """All parameters of the agent."""
        return {**state.params, **self.frozen}


def prepare(config: TrainConfig, run: Path, sets: Sets) -> tuple[Training, TrainState]:
    """Everything that training needs, and the initial state. Missing features of a frozen encoder are computed.

    Raises:
        InputError: the weights or the features cannot be used, or the run began with others or other demonstrations.
    """
    tokenizer = make_tokenizer(config.encoder)
    agent = make_agent(config, vocabulary_size=tokenizer.vocabulary_size)
    params = initial_params(agent, one_step(config, tokenizer), seed=config.seed)
    params, origin = begin(config, params, tokenizer, run=run)
    record = described(config, sets)
    record["tokenizer"] = {"path": f"encoder.tokenizer={config.encoder.tokenizer}", "checksum": tokenizer.checksum}
    if origin is not None:
        record["encoder"] = origin.described()
    record_data(run, record)
    trained, frozen = split(params, frozen=config.encoder.frozen)
    frozen = jax.device_put(frozen)
    caches = None
    if cached_features(config):
        source = {"agent": agent, "params": frozen, "checksum": record["encoder"]["checksum"]}
        caches = open_features(config, [*sets.train, *sets.val], tokenizer, **source)
    train, val = loaders(config, sets, tokenizer, caches)
    epochs, per_epoch = config.training.epochs, train.steps_per_epoch
    schedule = learning_rate(config.optimizer, epochs=epochs, steps_per_epoch=per_epoch)
    optimizer = make_optimizer(config.optimizer, schedule)
    dropout, markers = token_dropout(config), tokenizer.markers
    train_step = make_train_step(agent, optimizer, seed=config.seed, token_dropout=dropout, markers=markers)
    training = Training(config, frozen, train, val, train_step, make_eval_step(agent), schedule)
    return training, initial_state(trained, optimizer)


def described(config: TrainConfig, sets: Sets) -> dict[str, dict[str, Any]]:
    """What `data.json` says of the demonstrations: by split, or by split and task where there are several."""
    tasks = task_names(config.task)
    return {
        split if len(tasks) == 1 else f"{split}/{task}": {
            "path": str(episodes.path),
            "checksum": episodes.digest(),
            "provenance": episodes.provenance,
        }
        for split, files in sets._asdict().items()
        for task, episodes in zip(tasks, files, strict=True)
    }


def loaders(
    config: TrainConfig, sets: Sets, tokenizer: Tokenizer, caches: Sequence[FeatureCache] | None
) -> tuple[Loader, dict[str, Loader]]:
    """Batches of the training demonstrations, and for each task those of its validation; all of the same shapes.

    Raises:
        InputError: they are not as the configuration says.
    """
    size, steps = config.training.batch_size, max(episodes.steps for files in sets for episodes in files)
    options: dict[str, Any] = {
        "batch_size": size,
        "seed": config.seed,
        "steps": steps,
        "sentences": config.training.sentences,
    }
    begin = len(sets.train)
    learnt = None if caches is None else caches[:begin]
    train = Loader(sets.train, tokenizer, features=learnt, weights=config.task.weights, **options)
    val = {}
    for place, (task, episodes) in enumerate(zip(task_names(config.task), sets.val, strict=True), begin):
        features = None if caches is None else [caches[place]]
        val[task] = Loader([episodes], tokenizer, shuffle=False, features=features, **options)
    sizes = BatchSizes(size, steps, len(config.sim.cameras), config.sim.image_size, tokenizer.length)
    check_batch(train.batch(0), replace(sizes, features=train.sizes.features))
    return train, val
