"""What a run trains with: demonstrations, features, agent and steps, put together once."""

from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import jax
from jax.sharding import Mesh

from instructrl.batch import Batch, BatchSizes, batch_spec, check_batch
from instructrl.config import TrainConfig, cached_features, task_names, token_dropout
from instructrl.data.episodes import Episodes, check_alike
from instructrl.data.features import FeatureCache
from instructrl.data.loader import Loader, prefetched
from instructrl.data.storage import Place
from instructrl.data.tokenizer import Tokenizer, make_tokenizer
from instructrl.errors import InputError
from instructrl.models.blocks import PLAIN, has_cudnn
from instructrl.training.beginning import begin
from instructrl.training.features import open_features
from instructrl.training.flops import step_flops
from instructrl.training.mesh import check_share, global_batch, made, make_mesh, placed, placement, whole
from instructrl.training.optimizer import learning_rate, make_optimizer
from instructrl.training.processes import first_ahead, is_first, shard
from instructrl.training.run_directory import record_data
from instructrl.training.state import TrainState, initial_params, initial_state, make_agent, merged, one_step, split
from instructrl.training.step import make_eval_step, make_train_step
from instructrl.training.watch import ADVICE, told


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
    """What one run trains with, put together once (see `Objective`)."""

    unit: ClassVar[str] = "episodes"
    advice: ClassVar[str] = ADVICE
    config: TrainConfig
    mesh: Mesh
    frozen: Any  # parameters that are not trained
    train: Loader
    val: Mapping[str, Loader]  # for each task
    train_step: Callable[[TrainState, Any, Any], tuple[TrainState, Any]]
    counted_step: Any  # the same without what is computed twice or out of jax's sight; never called, only counted
    eval_step: Callable[[Any, Any], Any]
    learning_rate: Callable[[int], Any]

    def batches(self, loader: Loader, start: int, stop: int) -> Generator[Batch]:
        """The loader's batches on the devices, prepared ahead."""
        put = partial(global_batch, mesh=self.mesh)
        return prefetched(loader, start, stop, depth=self.config.hardware.prefetch, put=put)

    def params(self, state: TrainState) -> Any:
        """All parameters of the agent, as it validates and acts with them."""
        return merged(state.acting(), self.frozen)

    def own_params(self, state: TrainState) -> Any:
        """All parameters, whole, as this process' own; all processes take part."""
        return whole(self.params(state), self.mesh)

    def flops(self, state: TrainState, batch: Any) -> float:
        """Operations of the matrix products of a step; nothing is computed."""
        return step_flops(self.counted_step, state, batch, self.frozen)

    def counted(self, step: int, values: Mapping[str, float]) -> dict[str, float]:
        """How many episodes and keyframe steps were seen in a step."""
        return {"episodes": sum(len(numbers) for _, numbers in self.train.shown(step)), "keyframes": values["steps"]}

    def told(self) -> str:
        """The shapes of a batch, and the tasks' shares where there are several."""
        spec = batch_spec(self.train.sizes)
        lines = ["batch", *(f"  {key:<18}{dtype}{shape}" for key, (shape, dtype) in spec.items())]
        tasks = task_names(self.config.task)
        if len(tasks) > 1:
            shares = zip(tasks, self.train.order.shares, strict=True)
            lines += ["sequences of an epoch", *(f"  {task:<36}{share:>8,}" for task, share in shares)]
        return "\n".join(lines)

    def batch_told(self, step: int) -> str:
        """The tasks, files and numbers of a batch's episodes."""
        return told(self.train.shown(step))

    def epoch_line(self, epoch: int, train: Mapping[str, float], val: Mapping[str, float]) -> str:
        """The losses, and the errors in units that mean something."""
        return (
            f"epoch {epoch:>4}  loss {train['loss']:.4f}  val loss {val['loss']:.4f}  "
            f"position {val['position_cm']:.2f} cm  rotation {val['rotation_deg']:.2f} degrees  "
            f"gripper {100 * val['gripper_accuracy']:.1f} %"
        )

    def look(self, state: TrainState, *, step: int) -> Mapping[str, Path]:
        """There is nothing to draw."""
        del state, step
        return {}

    def finish(self, state: TrainState, *, step: int) -> None:
        """Nothing is left to do."""


def prepare(config: TrainConfig, run: Path, sets: Sets, *, resumes: bool = False) -> tuple[Training, TrainState]:
    """Everything that training needs, and the initial state. Missing features of a frozen encoder are computed.

    `resumes`: a checkpoint of the run will take the initial state's place.

    Raises:
        InputError: the weights or the features cannot be used, or the run began with others or other demonstrations.
    """
    mesh = make_mesh(config.hardware)
    check_share(mesh, batch_size=config.training.batch_size, accumulation=config.hardware.accumulation)
    tokenizer = make_tokenizer(config.encoder)
    agent = make_agent(config, vocabulary_size=tokenizer.vocabulary_size)
    params = made(partial(initial_params, agent, one_step(config, tokenizer), seed=config.seed), mesh)
    if config.init_from is not None or config.training.freeze or (config.encoder.frozen and not config.encoder.weights):
        params = whole(params, mesh)  # parts of them are compared with files, or written down
    with first_ahead():
        params, beginning = begin(config, params, tokenizer, run=run, resumes=resumes)
    record = described(config, sets) | beginning
    record["tokenizer"] = {"path": f"encoder.tokenizer={config.encoder.tokenizer}", "checksum": tokenizer.checksum}
    if is_first():
        record_data(run, record)
    trained, frozen = split(params, config)
    caches = None
    if cached_features(config):
        own = {"encoder": jax.device_put(frozen["encoder"])}
        source = {"agent": agent, "params": own, "checksum": record["encoder"]["checksum"]}
        with first_ahead():
            caches = open_features(config, [*sets.train, *sets.val], tokenizer, **source)
    train, val = loaders(config, sets, tokenizer, caches)
    length = {"epochs": config.training.epochs, "steps_per_epoch": train.steps_per_epoch}
    schedule = learning_rate(config.optimizer, batch_size=config.training.batch_size, **length)
    optimizer, ema = make_optimizer(config.optimizer, schedule), config.optimizer.ema
    begins = partial(initial_state, optimizer=optimizer, ema=ema is not None)
    state = made(begins, mesh, placed(trained, mesh))
    lies: Any = {"shardings": placement(state, mesh)}
    how: dict[str, Any] = {
        "seed": config.seed,
        "token_dropout": token_dropout(config),
        "markers": tokenizer.markers,
        "ema": ema,
        "accumulation": config.hardware.accumulation,
    }
    train_step = counted = make_train_step(agent, optimizer, **how, **lies)
    if config.hardware.remat != "none" or has_cudnn():
        counted = make_train_step(agent.clone(strategy=PLAIN), optimizer, **how, **lies)
    eval_step = make_eval_step(agent, **lies)
    return Training(config, mesh, placed(frozen, mesh), train, val, train_step, counted, eval_step, schedule), state


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
        "shard": shard(),
    }
    begin = len(sets.train)
    learnt = None if caches is None else caches[:begin]
    train = Loader(sets.train, tokenizer, features=learnt, weights=config.task.weights, **options)
    val = {}
    for place, (task, episodes) in enumerate(zip(task_names(config.task), sets.val, strict=True), begin):
        features = None if caches is None else [caches[place]]
        val[task] = Loader([episodes], tokenizer, shuffle=False, features=features, **options)
    sizes = BatchSizes(size // shard()[1], steps, len(config.sim.cameras), config.sim.image_size, tokenizer.length)
    check_batch(train.batch(0), replace(sizes, features=train.sizes.features))
    return train, val
