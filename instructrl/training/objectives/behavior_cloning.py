"""The behaviour-cloning objective: data loaders, agent, optimizer and jitted steps."""

from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import ClassVar, NamedTuple

import jax
import numpy as np

from instructrl.config.environment import TaskConfig, task_names
from instructrl.config.fields import number_ranges
from instructrl.config.heads import SlotsConfig, chunk_size, history_window
from instructrl.config.model import HEADS, HeadConfig
from instructrl.config.training import TrainConfig, token_dropout_rate, uses_cached_features
from instructrl.data.demonstrations.dataset import DemonstrationDataset, check_alike
from instructrl.data.demonstrations.world import check_inside, check_world
from instructrl.data.feature_cache.cache import FeatureCache
from instructrl.data.loading.loader import Loader, prefetch
from instructrl.data.text.tokenizer import Tokenizer, make_tokenizer
from instructrl.errors import InputError
from instructrl.models.agent import Agent
from instructrl.storage.paths import StoragePath
from instructrl.training.distributed.mesh import gather, global_batch
from instructrl.training.distributed.multihost import is_leader, leader_first, process_shard
from instructrl.training.feature_extraction import open_features
from instructrl.training.flops import step_flops
from instructrl.training.model_factory import dummy_batch, make_agent, random_params
from instructrl.training.objectives.base import BatchLoader
from instructrl.training.objectives.bc_step import make_eval_step, make_train_step
from instructrl.training.objectives.build import BuiltObjective, build, record_inputs, training_mesh
from instructrl.training.parameters.training_words import words_of
from instructrl.training.parameters.warm_start import init_params, record_words
from instructrl.training.resident_features import ResidentFeatures, resident_features
from instructrl.training.run_dir import DataEntry, DataRecord
from instructrl.training.state import TrainState, split_params
from instructrl.training.types import Params
from instructrl.types import Batch, BatchSizes, action_size, batch_spec, check_batch

ADVICE = (
    "the last checkpoint is from before this step; inspect the episodes with python -m data_tools.inspect, or lower "
    "optimizer.learning_rate or optimizer.clip_norm, and train under another name=..."
)


class DemonstrationSplits(NamedTuple):
    """Open demonstration files of a run: per split one file per task, in the order of `task_names`."""

    train: list[DemonstrationDataset]
    val: list[DemonstrationDataset]


@contextmanager
def open_demonstrations(
    config: TrainConfig, data: Mapping[str, Sequence[StoragePath]]
) -> Iterator[DemonstrationSplits]:
    """Open the demonstration files of the splits `train` and `val`, limited to the configured episode counts.

    Raises:
        InputError: a file is missing, damaged or too short, the files are incompatible, of another world than the
            settings, or with keyframes outside the workspace.
    """
    with ExitStack() as stack:
        share = config.training.intermediate_share
        train = [DemonstrationDataset(path, config.task.episodes, intermediate=share > 0) for path in data["train"]]
        val = [DemonstrationDataset(path, config.task.val_episodes) for path in data["val"]]
        splits = DemonstrationSplits(*([stack.enter_context(one) for one in files] for files in (train, val)))
        check_alike([*splits.train, *splits.val])
        for dataset in (*splits.train, *splits.val):
            sim = config.sim
            check_world(dataset.path, dataset.header, workspace=sim.bounds, state=tuple(sim.state), actions=sim.actions)
            check_cameras(config.head, dataset)
            line = check_inside(dataset, clip=config.data.outside_workspace == "clip")
            if line and is_leader():
                print(line, flush=True)
        if share:
            check_intermediate(share, splits.train)
        yield splits


def check_intermediate(share: float, files: Sequence[DemonstrationDataset]) -> None:
    """Raise InputError if steps are to be observed on the way to keyframes and a file has no frames there."""
    for one in files:
        if not (one.view_counts > one.lengths).any():
            raise InputError(
                f"training.intermediate_share: found {share:g}, but {one.path} has no frames between keyframes; "
                "collect with sim.intermediate_frames=5, convert with intermediate_frames=5, or set it to 0"
            )


def without_unknown_cameras(head: HeadConfig, splits: DemonstrationSplits) -> HeadConfig:
    """The head's settings without the loss on its slots if some file has no camera matrices, which is reported."""
    if not isinstance(head, SlotsConfig) or not head.supervises_slots:
        return head
    without = next(filter(lacks_cameras, (*splits.train, *splits.val)), None)
    if without is None:
        return head
    if is_leader():
        print(f"head.heatmap_weight: 0, not {head.heatmap_weight:g}: {without.path} has no camera matrices")
    return replace(head, heatmap_weight=0.0)


def lacks_cameras(episodes: DemonstrationDataset) -> bool:
    """Return True if a demonstration file was converted without camera matrices."""
    return episodes.provenance.get("cameras") == "unknown"


def check_cameras(head: HeadConfig, episodes: DemonstrationDataset) -> None:
    """Raise InputError if the head needs camera matrices that a demonstration file does not have."""
    if head.reads_cameras and lacks_cameras(episodes):
        without = [name for name in HEADS.own if not HEADS.load_own(name).reads_cameras]
        raise InputError(
            f"head.kind: found {head.kind}, but {episodes.path} was converted without camera matrices; "
            f"allowed without them: {', '.join(without)}"
        )


@dataclass(frozen=True)
class BehaviorCloning(BuiltObjective[Batch]):
    """Behaviour cloning on demonstrations (see `Objective`)."""

    unit: ClassVar[str] = "sequences"
    advice: ClassVar[str] = ADVICE
    train: Loader
    val: Mapping[str, Loader]  # by task
    resident: ResidentFeatures | None = None  # None: batches have the features that the loaders read

    def batches(self, loader: BatchLoader[Batch], start: int, stop: int) -> Generator[Batch]:
        """Prefetch the loader's batches to the devices."""
        put, depth = partial(global_batch, mesh=self.mesh), self.config.hardware.prefetch
        if self.resident is not None and isinstance(loader, Loader):
            return self.resident.batches(loader, start, stop, depth=depth)
        return prefetch(loader, start, stop, depth=depth, put=put)

    def flops(self, state: TrainState, batch: Batch) -> float:
        """FLOPs of the matrix products in a train step of mean length; nothing is executed."""
        count = step_flops(self.flops_step, state, batch, self.frozen)
        return count * self.train.mean_length / batch.step_mask.shape[1]

    def step_counts(self, step: int, values: Mapping[str, float]) -> dict[str, float]:
        """Numbers of episodes (or windows of them) and of steps consumed in a step."""
        return {
            "episodes": sum(len(numbers) for _, numbers in self.train.episodes_in_batch(step)),
            "keyframes": values["steps"],
        }

    def summary(self) -> str:
        """Shapes of a batch and, with several tasks, the number of sequences per epoch and task."""
        spec = batch_spec(self.train.sizes)
        lines = ["batch", *(f"  {key:<18}{dtype}{shape}" for key, (shape, dtype) in spec.items())]
        if len(self.train.lengths) > 1:
            allowed, mean = ", ".join(map(str, self.train.lengths)), self.train.mean_length
            lines.append(f"steps of a batch: {allowed}, as its longest sequence needs; {mean:.1f} on average")
        tasks = task_names(self.config.task)
        if len(tasks) > 1:
            shares = zip(tasks, self.train.sampler.shares, strict=True)
            lines += ["sequences of an epoch", *(f"  {task:<36}{share:>8,}" for task, share in shares)]
        return "\n".join(lines)

    def describe_batch(self, step: int) -> str:
        """Tasks, files and numbers of a batch's episodes."""
        return describe_episodes(self.train.episodes_in_batch(step))

    def epoch_line(self, epoch: int, train: Mapping[str, float], val: Mapping[str, float]) -> str:
        """Losses, and action errors in cm, degrees and percent."""
        return (
            f"epoch {epoch:>4}  loss {train['loss']:.4f}  val loss {val['loss']:.4f}  "
            f"position {val['position_cm']:.2f} cm  rotation {val['rotation_deg']:.2f} degrees  "
            f"gripper {100 * val['gripper_accuracy']:.1f} %"
        )

    def visualize(self, state: TrainState, *, step: int) -> Mapping[str, Path]:
        """Return {}: there is nothing to visualize."""
        del state, step
        return {}

    def finish(self, state: TrainState, *, step: int) -> None:
        """Do nothing."""


def prepare_behavior_cloning(
    config: TrainConfig, run: Path, splits: DemonstrationSplits, *, resuming: bool = False
) -> tuple[BehaviorCloning, TrainState]:
    """Build the objective and the initial state. Missing features of a frozen encoder are computed.

    `resuming`: a checkpoint of the run will replace the initial state.

    Raises:
        InputError: weights or features cannot be used, or differ, like the demonstrations, from those at the start
            of the run.
    """
    mesh, tokenizer = training_mesh(config.hardware, config.training), make_tokenizer(config.encoder)
    config = replace(config, head=without_unknown_cameras(config.head, splits))
    agent = make_agent(config, vocabulary_size=tokenizer.vocabulary_size)
    params = random_params(agent, dummy_batch(config, tokenizer), seed=config.seed, mesh=mesh)
    if config.init_from is not None or config.training.freeze or (config.encoder.frozen and not config.encoder.weights):
        params = gather(params, mesh)  # some are compared with files or written
    with leader_first():
        params, initialization = init_params(config, params, tokenizer, run=run, resuming=resuming)
    record = data_record(config.task, splits) | initialization
    record = record_inputs(run, record, tokenizer, tokenizer_name=config.encoder.reader.tokenizer)
    trained, frozen = split_params(params, config.training, config.encoder)
    caches = None
    if uses_cached_features(config):
        caches = cached_features(config, splits, tokenizer, agent, frozen, checksum=record["encoder"]["checksum"])
    train, val = make_loaders(config, splits, tokenizer, caches)
    if is_leader():
        record_words(config, run, words_of(train.sentences(), tokenizer), resuming=resuming)
    built, state = build(
        config,
        mesh,
        agent,
        trained=trained,
        frozen=frozen,
        steps_per_epoch=train.steps_per_epoch,
        make_train_step=partial(
            make_train_step,
            seed=config.seed,
            token_dropout=token_dropout_rate(config.training, config.encoder),
            special_token_ids=tokenizer.special_token_ids,
            image_shift=config.training.image_shift,
        ),
        make_eval_step=make_eval_step,
    )
    resident = None if caches is None else resident_features(config.hardware, caches, mesh)
    if resident is not None and is_leader():
        print(f"features: {resident.nbytes / 1e6:.1f} MB on the devices", flush=True)
    return BehaviorCloning(**vars(built), train=train, val=val, resident=resident), state


def cached_features(
    config: TrainConfig,
    splits: DemonstrationSplits,
    tokenizer: Tokenizer,
    agent: Agent,
    frozen: Params,
    *,
    checksum: str,
) -> list[FeatureCache]:
    """The features of all demonstration files; all processes compute missing ones.

    Raises:
        InputError: the features cannot be written.
    """
    encoder = {"encoder": jax.device_put(frozen["encoder"])}
    files = [*splits.train, *splits.val]
    return open_features(config, files, tokenizer, agent=agent, params=encoder, checksum=checksum)


def data_record(task: TaskConfig, splits: DemonstrationSplits) -> DataRecord:
    """Entries of data.json for the demonstrations, keyed by split, or by split and task if there are several."""
    tasks = task_names(task)
    return {
        split if len(tasks) == 1 else f"{split}/{name}": DataEntry(
            path=str(dataset.path), checksum=dataset.digest(), provenance=dataset.provenance
        )
        for split, datasets in splits._asdict().items()
        for name, dataset in zip(tasks, datasets, strict=True)
    }


def make_loaders(
    config: TrainConfig, splits: DemonstrationSplits, tokenizer: Tokenizer, caches: Sequence[FeatureCache] | None
) -> tuple[Loader, dict[str, Loader]]:
    """The training loader and one validation loader per task; their batches have the same few shapes.

    Raises:
        InputError: the demonstrations do not match the configuration.
    """
    size, steps = config.training.batch_size, max(dataset.steps for datasets in splits for dataset in datasets)
    chunk, window = chunk_size(config.head), history_window(config.head, config.policy)
    steps = min(steps, window or steps)
    make_loader = partial(
        Loader,
        tokenizer=tokenizer,
        batch_size=size,
        seed=config.seed,
        steps=steps,
        window=window,
        chunk=chunk,
        max_instructions=config.training.max_instructions,
        shard=process_shard(),
    )
    count = len(splits.train)
    train_features = None if caches is None else caches[:count]
    train = make_loader(
        splits.train,
        features=train_features,
        weights=config.task.weights,
        intermediate_share=config.training.intermediate_share,
    )
    val = {}
    for index, (task, dataset) in enumerate(zip(task_names(config.task), splits.val, strict=True), count):
        features = None if caches is None else [caches[index]]
        val[task] = make_loader([dataset], lengths=train.lengths, shuffle=False, features=features)
    sizes = BatchSizes(
        size // process_shard()[1],
        steps,
        len(config.sim.cameras),
        config.sim.image_size,
        tokenizer.length,
        state=len(config.sim.state),
        chunk=chunk,
        actions=action_size(config.sim.actions),
    )
    check_batch(train.batch(0), replace(sizes, steps=train.sizes_of(0).steps, features=train.sizes.features))
    return train, val


def describe_episodes(batch: Sequence[tuple[DemonstrationDataset, np.ndarray]]) -> str:
    """Tasks, files and numbers of a batch's episodes."""
    parts = []
    for dataset, indices in batch:
        ranges = (
            f"{first}" if first == last else f"{first}-{last}"
            for first, last in number_ranges(sorted({*map(int, indices)}))
        )
        parts.append(f"{dataset.task} in {dataset.path}, episodes {' '.join(ranges)}")
    return " and ".join(parts)
