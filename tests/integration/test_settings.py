"""Every setting reaches what it controls: a probe records an effect, and another value changes that record.

Settings change on dataclasses, composed once per choice of options. Probes trace programs, read files and watch what
crosses a boundary (worker processes, jax, W&B); no agent is compiled. A setting without a probe fails a test.
"""

import contextlib
import dataclasses
import hashlib
import json
import sys
import tempfile
import types
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from instructrl.config.environment import CollectConfig, task_names
from instructrl.config.evaluation import EvalConfig
from instructrl.config.training import TrainConfig
from instructrl.errors import InputError
from instructrl.training.monitoring.trackers import chosen_trackers
from instructrl.training.monitoring.trackers.trackio import TrackioTracker
from instructrl.training.monitoring.trackers.weights_and_biases import WandbTracker
from tests.fixtures.settings import SCHEMAS, changed, every_leaf

TINY = ("policy=vit_debug", "sim.image_size=32", "encoder.dim=16", "policy.dim=16", "policy.heads=2", "head.dim=16")


# Models, optimizer, devices.


def agent_and_batch(config: TrainConfig) -> tuple[Any, Any]:
    from instructrl.config.heads import chunk_size
    from instructrl.training.model_factory import make_agent
    from instructrl.types import BatchSizes, action_size, fake_batch

    sizes = BatchSizes(2, 3, len(config.sim.cameras), config.sim.image_size, 5, chunk=chunk_size(config.head))
    batch = fake_batch(dataclasses.replace(sizes, actions=action_size(config.sim.actions)))
    return make_agent(config, vocabulary_size=11), batch


def shapes(config: TrainConfig) -> Any:
    """Shapes of the agent's parameters; nothing is computed."""
    import jax

    from instructrl.training.model_factory import abstract_params

    leaves_with_path = jax.tree_util.tree_leaves_with_path(abstract_params(*agent_and_batch(config)))
    return {jax.tree_util.keystr(path): leaf.shape for path, leaf in leaves_with_path}


def loss_program(config: TrainConfig) -> Any:
    """The jaxpr of the loss, with its constants."""
    import jax
    import numpy as np

    from instructrl.training.model_factory import abstract_params

    agent, batch = agent_and_batch(config)
    params = abstract_params(agent, batch)
    traced = jax.make_jaxpr(lambda params, batch: agent.apply({"params": params}, batch)[0])(params, batch)
    return str(traced), [np.asarray(constant).tobytes() for constant in traced.consts]


def predictions(config: TrainConfig) -> Any:
    """The number of times that an agent's network is asked in 24 steps."""
    import numpy as np

    from instructrl.data.text.tokenizer import make_tokenizer
    from instructrl.inference.batched_agent import BatchedAgent
    from instructrl.types import Observation

    calls = []
    agent = BatchedAgent(agent_and_batch(config)[0], None, make_tokenizer(config.encoder), slots=1, steps=24)
    agent._step = lambda _: calls.append(1) or np.zeros((1, 16, 8))
    matrices = np.zeros((1, 3, 3), np.float32), np.zeros((1, 4, 4), np.float32)
    for _ in range(24):
        agent.act({0: Observation(np.zeros((1, 8, 8, 3), np.uint8), np.zeros(4, np.float32), *matrices, "")})
    return len(calls)


def attention(config: TrainConfig) -> Any:
    """Attention implementations that a policy requests on an NVIDIA GPU."""
    import jax

    from instructrl.models.layers import attention as blocks

    asked, known = [], jax.nn.dot_product_attention

    def noted(*given: Any, implementation: str, **more: Any) -> Any:
        asked.append(implementation)
        return known(*given, implementation="xla", **more)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(blocks, "has_cudnn", lambda: True)
        patch.setattr(jax.nn, "dot_product_attention", noted)
        shapes(config)
    return asked


def updates(config: TrainConfig) -> Any:
    """Toy parameters after five optimizer steps."""
    import jax
    import jax.numpy as jnp
    import optax

    from instructrl.training.optimizer import learning_rate, make_optimizer

    length = {"epochs": config.training.epochs, "steps_per_epoch": 2, "batch_size": config.training.batch_size}
    optimizer = make_optimizer(config.optimizer, learning_rate(config.optimizer, **length))
    matrix, vector = jnp.array([[1.0, 2.0]]), jnp.array([3.0])
    params = {"encoder": {"block_0": {"kernel": matrix}}, "policy": {"kernel": matrix, "bias": vector}}
    state = optimizer.init(params)
    for step in range(5):
        gradients = jax.tree.map(lambda leaf: (4 - 2 * leaf) * 10 ** (step - 1), params)  # noqa: B023
        change, state = optimizer.update(gradients, state, params)
        params = optax.apply_updates(params, change)
    return [leaf.tolist() for leaf in jax.tree.leaves(params)]


def platform(config: TrainConfig) -> Any:
    """Device settings passed to jax."""
    import jax

    from instructrl.training.distributed import platform as hardware

    calls = []
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("JAX_COMPILATION_CACHE_DIR", raising=False)
        patch.setattr(jax.config, "update", lambda *pair: calls.append(pair))
        hardware.select_platform(config.hardware)
    return calls


def devices(config: TrainConfig) -> Any:
    """The device mesh, and the arguments of jax.distributed.initialize."""
    import jax

    from instructrl.training.distributed import mesh, multihost

    calls: list[Any] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(jax.distributed, "is_initialized", lambda: False)
        patch.setattr(jax.distributed, "initialize", lambda *given, **more: calls.append((given, more)))
        with multihost.process_group(config.hardware):
            grid = mesh.make_mesh(config.hardware)
    return calls, grid.shape


def tokens(config: TrainConfig) -> Any:
    """Tokens of an instruction, or the error."""
    from instructrl.data.text.tokenizer import make_tokenizer

    try:
        return [part.tolist() for part in make_tokenizer(config.encoder)(["reach the red ball"])]
    except InputError as error:
        return str(error)


# Data and objectives of a training.


def digest(tree: Any) -> str:
    """Hash of the arrays in a tree, with their shapes."""
    import jax
    import numpy as np

    arrays = [np.asarray(leaf) for leaf in jax.tree.leaves(tree)]
    return hashlib.sha256(b"".join(str(a.shape).encode() + a.tobytes() for a in arrays)).hexdigest()


def demonstration_files(config: TrainConfig, folder: Path) -> dict[str, list[Path]]:
    """Random demonstrations that match a configuration, ten for training and ten for validation of each task."""
    from instructrl.data.demonstrations.schema import Header
    from tests.fixtures.demonstrations import HEADER, demonstration, write

    cameras, size = tuple(config.sim.cameras), config.sim.image_size
    files: dict[str, list[Path]] = {"train": [], "val": []}
    for split, paths in files.items():
        for number, task in enumerate(task_names(config.task)):
            header = Header(task, split, cameras, size, HEADER.provenance, config.sim.bounds, tuple(config.sim.state))
            paths.append(folder / f"{split}-{task}-{size}-{'-'.join(cameras)}.hdf5")
            if not paths[-1].exists():
                seeds = range(20 * number, 20 * number + 10)
                write(paths[-1], [demonstration(seed, between=3, header=header) for seed in seeds], header)
    return files


def batches(config: TrainConfig) -> Any:
    """Sizes and content of the batches of an epoch, for training and validation."""
    from instructrl.data.text.tokenizer import make_tokenizer
    from instructrl.training.objectives.behavior_cloning import make_loaders, open_demonstrations

    with open_demonstrations(config, demonstration_files(config, Path())) as splits:
        train, val = make_loaders(config, splits, make_tokenizer(config.encoder), None)
        return [
            (loader.sizes, [digest(loader.batch(step)) for step in range(loader.steps_per_epoch)])
            for loader in (train, *val.values())
        ]


@contextmanager
def prepared(config: TrainConfig) -> Iterator[tuple[Any, Any]]:
    """The objective of a training on random demonstrations and its initial state."""
    from instructrl.training.objectives.behavior_cloning import open_demonstrations, prepare_behavior_cloning

    Path("run").mkdir(exist_ok=True)
    with open_demonstrations(config, demonstration_files(config, Path())) as splits:
        yield prepare_behavior_cloning(config, Path("run"), splits)


def train_step(config: TrainConfig) -> Any:
    """Program of a training step, the state and the frozen parameters that it takes, and the features in a batch."""
    with prepared(config) as (objective, state):
        return traced_step(objective, state), objective.train.sizes.features is None


def traced_step(objective: Any, state: Any) -> str:
    """The jaxpr of a training step of an objective."""
    import jax

    traced = jax.make_jaxpr(objective.train_step)(state, objective.train.batch(0), objective.frozen)
    return str(traced)


def reading_ahead(config: TrainConfig) -> Any:
    """The number of batches that are read before the first one is used."""
    import time

    import numpy as np

    read: list[int] = []
    loader = SimpleNamespace(steps_per_epoch=20, batch=lambda step: read.append(step) or np.zeros(1))
    with prepared(config) as (objective, _):
        waiting = objective.batches(loader, 0, 20)
        next(waiting)
        for _ in range(100):
            before = len(read)
            time.sleep(0.02)
            if len(read) == before > 1:
                break
        waiting.close()
    return len(read)


def encoded_images(config: TrainConfig) -> Any:
    """The number of images that are encoded at a time for the cached features."""
    from instructrl.training import feature_extraction

    counts, make = set(), feature_extraction.make_encode_fn

    def counting(*arguments: Any) -> Any:
        encode = make(*arguments)

        def counted(images: Any, *text: Any) -> Any:
            counts.add(images.shape[0] * images.shape[1])
            return encode(images, *text)

        return counted

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(feature_extraction, "make_encode_fn", counting)
        with prepared(config):
            return counts


def features_on_devices(config: TrainConfig) -> Any:
    """True if the features are copied to the devices."""
    with prepared(config) as (objective, _):
        return objective.resident is not None


def features_folder(config: TrainConfig) -> Any:
    """Where the features of a frozen encoder are stored."""
    with prepared(config):
        return sorted(str(path) for path in Path().rglob("*") if path.is_dir())


def stored_runs(config: TrainConfig) -> None:
    """Write the runs `run` and `elsewhere`, each with a best and a last checkpoint of other parameters."""
    import jax
    import numpy as np

    from instructrl.data.text.tokenizer import make_tokenizer
    from instructrl.training.checkpointing.manager import open_checkpoints
    from instructrl.training.model_factory import abstract_params, dummy_batch, make_agent
    from instructrl.training.run_dir import open_run, record_data
    from instructrl.training.state import TrainState

    tokenizer = make_tokenizer(config.encoder)
    agent = make_agent(config, vocabulary_size=tokenizer.vocabulary_size)
    shapes = abstract_params(agent, dummy_batch(config, tokenizer))
    for first, name in ((1.0, "run"), (3.0, "elsewhere")):
        source = dataclasses.replace(config, name=name, output_dir=".", init_from=None)
        source.training = dataclasses.replace(config.training, reinit=None)
        run = open_run(source)
        record_data(run, {"tokenizer": {"path": "", "checksum": tokenizer.checksum}})
        with open_checkpoints(run) as checkpoints:
            for step, loss in ((1, 0.1), (2, 0.2)):  # the first one is best
                params = jax.tree.map(lambda leaf: np.full(leaf.shape, first + step, leaf.dtype), shapes)  # noqa: B023
                state = TrainState(np.int32(step), params, {})
                checkpoints.save(state, step=step, metrics={"loss": loss})


def initial_params(config: TrainConfig) -> Any:
    """Sums of the parameters with which a run starts that takes them from another one."""
    import jax
    import numpy as np

    from instructrl.training.parameters import warm_start

    stored_runs(config)
    tokenizer, shapes = warm_start.abstract_agent(config)
    zeros = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), shapes)
    params, _ = warm_start.warm_start(config, zeros, tokenizer, run=Path("new"))
    return [float(leaf.sum()) for leaf in jax.tree.leaves(params)]


def missing_weights(config: TrainConfig) -> Any:
    """The line on encoder weights that are missing."""
    from instructrl.training.preflight import check_inputs

    with pytest.raises(InputError) as error:
        check_inputs(config)
    return str(error.value)


def missing_text_weights(config: TrainConfig) -> Any:
    """The line on weights of a text tower that are missing beside those of the image encoder."""
    import numpy as np

    from instructrl.models.encoders.registry import encoder_shapes
    from instructrl.models.weight_files import weights_path, write_weights

    image = config.encoder.parts["image"]
    arrays = {name: np.zeros(shape) for name, shape in encoder_shapes(image, vocabulary_size=1).items()}
    path = weights_path(image)
    assert path is not None
    write_weights(path, arrays, kind=image.kind, source="zeros")
    return missing_weights(config)


@contextmanager
def prepared_pretraining(config: TrainConfig) -> Iterator[tuple[Any, Any]]:
    """The objective of a masked pretraining on images of coloured squares, and its initial state."""
    from instructrl.training.objectives.masked_pretraining import open_image_text, prepare_masked_pretraining
    from tests.fixtures.pretraining import write_images

    for name, count in (("here", 40), ("there", 20)):
        if not Path(name).exists():
            Path(name).mkdir()
            write_images(Path(name), count=count)
    run = Path(tempfile.mkdtemp(dir="."))
    with open_image_text(config, {}) as splits:
        yield prepare_masked_pretraining(config, run, splits)


def pair_batches(config: TrainConfig) -> Any:
    """Kinds, sizes and content of the first batches, and of those of the validation."""
    with prepared_pretraining(config) as (objective, _):
        loaders = (objective.train, *objective.val.values())
        return [(loader.steps_per_epoch, [digest(loader.batch(step)) for step in range(2)]) for loader in loaders]


def pretraining_step(config: TrainConfig) -> Any:
    """Program of a training step on pairs."""
    with prepared_pretraining(config) as (objective, state):
        return traced_step(objective, state)


def reconstructions(config: TrainConfig) -> Any:
    """The number of pairs that are drawn with their reconstruction."""
    with prepared_pretraining(config) as (objective, state):
        images = objective.visualize(state, step=1)
        return [len(json.loads(path.with_suffix(".json").read_text())) for path in images.values()]


# The training loop and its monitor.


def loop(config: TrainConfig) -> Any:
    """Epochs that were trained, validated and rolled out, and the checkpoints that there were after each save."""
    from instructrl.training.run_dir import open_run
    from instructrl.training.train_loop import train
    from tests.fixtures.tiny_objective import kind

    run = open_run(config, Path(tempfile.mkdtemp(dir=".")))
    rollouts: list[int] = []
    saved: list[list[str]] = []
    train(
        config,
        run,
        data={},
        objective_kind=kind(),
        rollout=lambda params, epoch: rollouts.append(epoch) or {"success_rate": 0.0},
        on_saved=lambda: saved.append(
            sorted(path.name for path in (run / "checkpoints").iterdir() if path.name.isdecimal())
        ),
    )
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return rollouts, saved, [(line["split"], line["step"], line["epoch"]) for line in lines]


def monitored(config: TrainConfig) -> Any:
    """Lines of metrics and speed of six steps, and the steps that are traced."""
    import jax

    from instructrl.training.monitoring.monitor import TrainMonitor
    from tests.fixtures.tiny_objective import kind

    notes: list[Any] = []
    objective, state = kind().prepare(config, Path(), None)
    metrics: Any = SimpleNamespace(
        write=lambda split, values, step, epoch: notes.append((split, step)),
        write_speed=lambda values, step, epoch: notes.append((step, "utilisation" in values)),
    )

    def start_trace(folder: Path, **options: Any) -> None:
        notes.append("trace begins")
        folder.mkdir(parents=True)
        (folder / "perfetto_trace.json.gz").touch()

    with pytest.MonkeyPatch.context() as patch:  # a real trace takes seconds: tests/integration/test_monitor.py
        patch.setattr(jax.profiler, "start_trace", start_trace)
        patch.setattr(jax.profiler, "stop_trace", lambda: notes.append("trace ends"))
        monitor = TrainMonitor(objective, Path(tempfile.mkdtemp(dir=".")), metrics)
        for step in range(6):
            batch = objective.train.batch(step)
            with monitor.step_context(step, state, batch):
                state, values = objective.train_step(state, batch, {})
            monitor.on_step_end(values, step=step)
        monitor.write_speed(step=6, epoch=1)
    return notes


def trial(config: TrainConfig) -> Any:
    """The value of a training for a sweeper."""
    from launchers.job_table import Job
    from launchers.sweep.trials import result_of

    lines = [
        {"step": 1, "split": "val", "loss": 0.25},
        {"step": 1, "split": "rollout", "success_rate": 0.75},
    ]
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
        run = dataclasses.replace(config, output_dir=str(Path(folder).parent), name=Path(folder).name)
        return result_of(Job(1, "", [], "", state="done"), run)


def run_directory(config: TrainConfig) -> Any:
    """The run directory."""
    from instructrl.training.run_dir import open_run

    run = open_run(config)
    assert (run / "config.yaml").exists()
    return run


# Simulators: what starts worker processes.


class Reached(Exception):  # noqa: N818
    """Ends a call once a test has recorded enough of it."""


def collected(config: Any) -> Any:
    """The files to be collected, and the simulators and processes for what is missing of them."""
    from instructrl.collection import collect
    from instructrl.collection.target_file import required_splits

    seen: list[Any] = []

    class Workers:
        def __init__(self, make: Any, count: int, *, timeout: float, python: str | None) -> None:
            seen.append((make.args, count, timeout, python))

        def __enter__(self) -> Any:
            raise Reached

        def __exit__(self, *error: object) -> None:
            pass

    for task in collect.single_tasks(config.task):
        for split in required_splits(task, config.sim, config.data):
            seen.append((split.path, split.header, split.episodes, split.compression, split.clip))
    if config.sim.kind == "tabletop" and "://" not in config.data.dir:
        with pytest.MonkeyPatch.context() as patch, pytest.raises((Reached, InputError)) as ended:
            patch.setattr(collect, "Workers", Workers)
            collect.ensure_demonstrations(config.task, config.sim, config.data)
        seen.append(str(ended.value))
    return seen


def rlbench_arguments(config: Any) -> Any:
    """Arguments with which RLBench's environment is created; CoppeliaSim does not start."""
    from instructrl.sim.rlbench.env import RLBench

    class Recorded(RLBench):
        def __init__(self, task: str, **arguments: Any) -> None:
            self.arguments = task, arguments

    return Recorded.from_config(config.sim, "reach_target").arguments


def collect_command(config: CollectConfig) -> Any:
    """The episodes of the splits that the command collects, and its share of them."""
    from instructrl.commands import collect

    seen: list[Any] = []
    keys = ("episodes", "val_episodes", "jobs", "job")
    words = [f"{key}={getattr(config, key)}" for key in keys if getattr(config, key)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["collect", *words])
        patch.setattr(collect, "ensure_demonstrations", lambda task, *_, share: seen.append((task, share)) or {})
        collect.main()
    return seen


def write_run(name: str, config: TrainConfig, *, renderer: str = "raycast") -> Path:
    """Write the settings and the record of the demonstrations of a run."""
    from instructrl.training.run_dir import open_run

    run = open_run(dataclasses.replace(config, name=name, output_dir="outputs"))
    data = {"train": {"path": "x", "checksum": "y", "provenance": {"renderer": renderer}}}
    (run / "data.json").write_text(json.dumps(data))
    return run


def rollouts(config: TrainConfig) -> Any:
    """The calls that the rollouts of a training make of simulators."""
    from instructrl.evaluation import rollout_callback
    from tests.fakes.sim import FakePolicy, InlineWorkers

    opened: list[InlineWorkers] = []

    def start(sim: Any, task: str, *, renderer: str, count: int | None) -> InlineWorkers:
        opened.append(InlineWorkers(2))
        opened[-1].close = lambda: None  # type: ignore[attr-defined]
        return opened[-1]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rollout_callback, "start_eval_workers", start)
        patch.setattr(rollout_callback, "BatchedAgent", lambda *_, **__: FakePolicy())
        with rollout_callback.rollout_callback(config, write_run("rollouts", config)) as play:
            play({}, 1)
    return [repr(workers.calls) for workers in opened]


def evaluation(config: EvalConfig, trained: TrainConfig | None = None) -> Any:
    """What an evaluation loads, opens, runs and films, and the files that it writes."""
    from instructrl.evaluation import evaluate
    from tests.fakes.sim import FakePolicy, InlineWorkers

    seen: list[Any] = []
    actor = FakePolicy()
    trained = trained or changed("task.tasks=[reach_target,push_button]", "task.variations=null")
    for name in ("x", "y"):
        write_run(name, trained, renderer="rlbench_opengl3" if trained.sim.kind == "rlbench" else "raycast")

    def workers(sim: Any, task: str, **settings: Any) -> InlineWorkers:
        opened = InlineWorkers(settings["count"], limits=settings["limits"])
        seen.append((task, settings, opened.calls))
        return opened

    def film(workers: Any, episodes: Any, indices: list[int], *, folder: Path) -> list[Any]:
        seen.append((indices, folder))
        return []

    def load(run: Path, **settings: Any) -> Any:
        seen.append((run, settings))
        return actor, 3

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(evaluate, "load_batched_agent", load)
        patch.setattr(evaluate, "start_eval_workers", workers)
        patch.setattr(evaluate, "film_episodes", film)
        try:
            evaluate.evaluate(config)
        except InputError as error:
            seen.append(str(error))
    written = sorted(str(path) for path in Path("outputs").rglob("*") if "eval" in str(path))
    return repr(seen), actor.started, written


def run_evaluation(config: TrainConfig) -> Any:
    """What an evaluation of such a run does."""
    return evaluation(changed("episodes=2", "conditions=[trained]", "workers=2", name="eval"), config)


def rlbench_evaluation(config: EvalConfig) -> Any:
    """The calls that the evaluation of a run on RLBench makes."""
    return evaluation(config, changed("sim=rlbench", "task.name=close_jar"))


class Spy:
    """Stand-in for any object that records its calls."""

    def __init__(self, name: str, notes: list[Any], answer: Any = None) -> None:
        self.name, self.notes, self.answer = name, notes, answer

    def __call__(self, *given: Any, **named: Any) -> Any:
        self.notes.append((self.name, repr(given), repr(sorted(named.items()))))
        return self.answer or Spy(f"{self.name}()", self.notes)

    def __getattr__(self, name: str) -> Any:
        return Spy(f"{self.name}.{name}", self.notes)

    def __repr__(self) -> str:
        return self.name

    def __enter__(self) -> Any:
        return self

    def __exit__(self, *error: object) -> None:
        pass

    def __iter__(self) -> Any:
        return iter(())

    def __len__(self) -> int:
        return 1


def wandb_start(config: TrainConfig) -> Any:
    """Arguments of wandb.init."""
    return tracker_start("wandb", lambda: WandbTracker(config, Path("run")))


def trackio_start(config: TrainConfig) -> Any:
    """Arguments of trackio.init."""
    return tracker_start("trackio", lambda: TrackioTracker(config, Path("run")))


def tracker_start(package: str, start: Callable[[], object]) -> Any:
    """Arguments with which a tracker is initialized."""
    seen: list[dict[str, Any]] = []
    fake = types.ModuleType(package)
    fake.init = lambda **given: seen.append(given) or Spy("run", [])  # type: ignore[attr-defined]
    fake.Settings = lambda **given: given  # type: ignore[attr-defined]
    fake.Error = RuntimeError  # type: ignore[attr-defined]
    fake.Api = lambda: Spy("api", [])  # type: ignore[attr-defined]
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, package, fake)
        start()
    absolute = ("config", "id", "name" if package == "trackio" else "id")  # they depend on the place of the run
    return [{key: value for key, value in given.items() if key not in absolute} for given in seen]


def trackers(config: TrainConfig) -> Any:
    """The chosen trackers."""
    return chosen_trackers(config)


LABELS = {
    "encoder.name",
    "policy.name",
    "head.name",
    "optimizer.name",
    "hardware.name",
    "sim.name",
}  # for names of runs
UNUSED_BY = {  # settings of a group that a command does not use
    "collect": {"task.weights"},
    "eval": {
        f"hardware.{key}"
        for key in (
            "feature_cache",
            "encode_batch",
            "fsdp",
            "accumulation",
            "local_devices",
            "coordinator",
            "num_processes",
            "process_id",
        )
    },
}
ONE_CHOICE = {"optimizer.kind"}  # so far, hence without an effect to prove
# They change which settings are valid: tests/integration/test_pretraining.py, tests/integration/test_dense.py.
PROVED_ELSEWHERE = {"objective", "sim.actions"}
MASKED = ("experiment=pretrain_tiny", "sim.image_size=32", "encoder.dim=16", "encoder.depth=1", "encoder.heads=2",
          "encoder.patch_size=8", "encoder.text_length=8", "pretraining.load_size=36", "pretraining.decoder_dim=16",
          "pretraining.decoder_depth=1", "pretraining.decoder_heads=2", "training.batch_size=16",
          "hardware.local_devices=1", "pretraining.train=[here/train.hdf5]",
          "pretraining.val=[here/val.hdf5]")  # fmt: skip
DATA = (*TINY, "training.batch_size=2", "task.episodes=5", "task.val_episodes=3")
AGENT = (*TINY, "encoder.depth=1", "head=regression", "training.batch_size=4", "task.episodes=4", "task.val_episodes=2",
         "hardware.local_devices=1", "sim.cameras=[front]")  # fmt: skip
DENSE = (*TINY, "experiment=dense", "head=chunk")
LOOP = ("training.epochs=4", "training.rollout_every=1", "optimizer.warmup_epochs=0", "hardware.local_devices=1",
        "hardware.peak_flops=1")  # fmt: skip
SHORT = ("training.epochs=4", "optimizer.warmup_epochs=0.5")
CLIP = ("policy=vit_debug", "sim.image_size=32", "policy.dim=16", "policy.heads=2", "encoder=clip_b32",
        "encoder.dim=16", "encoder.depth=2", "encoder.heads=2", "encoder.patch_size=8", "encoder.image_size=16",
        "encoder.text_dim=16", "encoder.text_depth=2", "encoder.text_heads=2", "encoder.projection=8")  # fmt: skip
SMALL_IMAGES = ("policy=vit_debug", "sim.image_size=32", "policy.dim=16", "policy.heads=2", "encoder.dim=16",
                "encoder.depth=2", "encoder.heads=2", "encoder.patch_size=8", "encoder.image_size=16")  # fmt: skip
DINOV2 = (*SMALL_IMAGES, "encoder=dinov2_s14")
SIGLIP2 = (*SMALL_IMAGES, "encoder=siglip2_b16", "encoder.position_grid=2", "encoder.mlp_dim=16",
           "encoder.text_dim=16", "encoder.text_depth=2", "encoder.text_heads=2", "encoder.text_mlp_dim=16",
           "encoder.text_length=8", "encoder.tokenizer=small")  # fmt: skip
PAIR = (*DINOV2, "encoder.text=clip_b32")
TWO_PROCESSES = ("hardware.coordinator=host:1", "hardware.num_processes=2", "hardware.process_id=0")
# setting -> (another value, function that records its effect, further overrides)
Probe = tuple[str, Callable[[Any], Any], tuple[str, ...]]
TRAIN_PROBES: dict[str, Probe] = {
    "name": ("other", run_directory, ()),
    "seed": ("1", batches, DATA),
    "output_dir": ("elsewhere", run_directory, ()),
    "features": ("live", train_step, (*AGENT, "encoder.frozen=true")),
    "features_dir": ("elsewhere", features_folder, (*AGENT, "encoder.frozen=true")),
    "init_from": ("elsewhere", initial_params, (*TINY, "init_from=run")),
    "init_checkpoint": ("last", initial_params, (*TINY, "init_from=run")),
    "encoder.kind": ("m3ae", shapes, TINY),
    "encoder.heads": ("2", loss_program, (*TINY, "encoder.kind=m3ae")),
    "encoder.image_size": ("16", loss_program, TINY),
    "encoder.text_dim": ("8", shapes, CLIP),
    "encoder.text_depth": ("3", shapes, CLIP),
    "encoder.text_heads": ("4", loss_program, CLIP),
    "encoder.projection": ("12", shapes, CLIP),
    "encoder.activation": ("gelu", loss_program, CLIP),
    "encoder.layer_norm_epsilon": ("1e-3", loss_program, CLIP),
    "encoder.image_mean": ("[0.5,0.5,0.5]", loss_program, CLIP),
    "encoder.image_std": ("[0.5,0.5,0.5]", loss_program, CLIP),
    "encoder.registers": ("2", shapes, DINOV2),
    "encoder.position_grid": ("3", shapes, DINOV2),
    "encoder.mlp_dim": ("24", shapes, SIGLIP2),
    "encoder.text_mlp_dim": ("24", shapes, SIGLIP2),
    "encoder.text_weights": ("elsewhere", missing_text_weights, (*PAIR, "encoder.weights=here.safetensors")),
    "encoder.text_tokenizer": ("elsewhere", tokens, PAIR),
    "encoder.layers": ("all", shapes, TINY),
    "encoder.pooling": ("slots", shapes, TINY),
    "encoder.frozen": ("true", train_step, (*AGENT, "features=live")),
    "encoder.weights": ("elsewhere.safetensors", missing_weights, ("encoder.weights=here.safetensors",)),
    "encoder.tokenizer": ("elsewhere", tokens, ()),
    "encoder.text_length": ("12", tokens, ()),
    "encoder.dim": ("24", shapes, TINY),
    "encoder.depth": ("3", shapes, TINY),
    "encoder.patch_size": ("16", shapes, TINY),
    "encoder.text": ("false", loss_program, TINY),
    "encoder.joint": ("false", loss_program, (*TINY, "encoder.kind=m3ae")),
    "policy.dim": ("32", shapes, TINY),
    "policy.depth": ("3", shapes, TINY),
    "policy.heads": ("4", shapes, TINY),
    "policy.mlp_ratio": ("2", shapes, TINY),
    "policy.window": ("2", loss_program, TINY),
    "head.kind": ("regression", shapes, TINY),
    "head.dim": ("24", shapes, TINY),
    "head.position_bins": ("10", shapes, (*TINY, "head=discrete")),
    "head.position_sigma": ("1.5", loss_program, (*TINY, "head=discrete")),
    "head.rotation_bins": ("12", shapes, (*TINY, "head=discrete")),
    "head.rotation_sigma": ("1.5", loss_program, TINY),
    "head.slots": ("3", shapes, (*TINY, "head=regression")),
    "head.position_weight": ("7.5", loss_program, (*TINY, "head=regression")),
    "head.rotation_weight": ("7.5", loss_program, TINY),
    "head.gripper_weight": ("7.5", loss_program, TINY),
    "head.collision_weight": ("7.5", loss_program, (*TINY, "sim=rlbench", "sim.actions=keyframe_collisions")),
    "head.heatmap_weight": ("7.5", loss_program, TINY),
    "head.offset_weight": ("7.5", loss_program, TINY),
    "head.chunk": ("20", shapes, DENSE),
    "head.execute": ("4", predictions, DENSE),
    "head.steps": ("3", loss_program, (*DENSE, "head=flow")),
    "task.name": ("push_button", collected, ()),
    "task.episodes": ("7", batches, DATA),
    "task.val_episodes": ("7", batches, DATA),
    "task.variations": ("[1]", rollouts, ()),
    "task.tasks": ("[reach_target,push_button]", run_evaluation, ()),
    "task.weights": ("[1,2]", batches, (*DATA, "task.tasks=[reach_target,push_button]")),
    "optimizer.learning_rate": ("0.01", updates, ()),
    "optimizer.base_batch_size": ("7", updates, ()),
    "optimizer.schedule": ("linear", updates, SHORT),
    "optimizer.end_factor": ("0.5", updates, SHORT),
    "optimizer.warmup_epochs": ("2", updates, ()),
    "optimizer.warmup_steps": ("3", updates, ("optimizer.warmup_epochs=null", "optimizer.warmup_steps=1")),
    "optimizer.weight_decay": ("0.1", updates, ()),
    "optimizer.decay": ("[policy]", updates, ("optimizer.weight_decay=0.1",)),
    "optimizer.layer_lr_decay": ("0.5", updates, ()),
    "optimizer.encoder_lr_scale": ("0.5", updates, ()),
    "optimizer.clip_norm": ("0.1", updates, ()),
    "optimizer.ema": ("0.9", train_step, AGENT),
    "optimizer.beta1": ("0.5", updates, ()),
    "optimizer.beta2": ("0.5", updates, ()),
    "hardware.platform": ("cpu", platform, ()),
    "hardware.precision": ("bfloat16", loss_program, TINY),
    "hardware.prefetch": ("5", reading_ahead, AGENT),
    "hardware.feature_cache": ("devices", features_on_devices, (*AGENT, "encoder.frozen=true")),
    "hardware.encode_batch": ("6", encoded_images, (*AGENT, "encoder.frozen=true", "sim.cameras=[front,wrist]")),
    "hardware.attention": ("xla", attention, (*TINY, "hardware.precision=bfloat16")),
    "hardware.remat": ("blocks", loss_program, TINY),
    "hardware.scan": ("true", loss_program, (*TINY, "policy.depth=3")),
    "hardware.fsdp": ("2", devices, ()),
    "hardware.accumulation": ("2", train_step, AGENT),
    "hardware.local_devices": ("2", devices, ()),
    "hardware.coordinator": ("auto", devices, ()),
    "hardware.num_processes": ("3", devices, TWO_PROCESSES),
    "hardware.process_id": ("1", devices, TWO_PROCESSES),
    "hardware.compilation_cache": ("elsewhere", platform, ()),
    "hardware.peak_flops": ("1e9", monitored, ()),
    "hardware.profile": ("[1,3]", monitored, ()),
    "sim.cameras": ("[wrist]", batches, DATA),
    "sim.image_size": ("64", batches, DATA),
    "sim.intermediate_frames": ("5", collected, ()),
    "sim.kind": ("rlbench", collected, ()),
    "sim.workspace": ("[0,0,0,1,1,1]", collected, ()),
    "sim.state": ("[height,angle]", collected, ()),
    "sim.renderer": ("opengl", collected, ("sim.renderer=raycast",)),
    "sim.workers": ("7", collected, ()),
    "sim.timeout": ("7", collected, ()),
    "sim.python": ("no/python", collected, ()),
    "sim.planner_attempts": ("7", rlbench_arguments, ("sim.kind=rlbench",)),
    "data.dir": ("elsewhere", collected, ()),
    "data.compression": ("zstd", collected, ()),
    "data.outside_workspace": ("clip", collected, ()),
    "data.cache_dir": ("elsewhere", collected, ("data.dir=gs://bucket/folder",)),
    "data.cache_gb": ("7", collected, ("data.dir=gs://bucket/folder",)),
    "training.epochs": ("5", loop, LOOP),
    "training.batch_size": ("3", batches, DATA),
    "training.token_dropout": ("0.3", train_step, AGENT),
    "training.intermediate_share": ("0.5", batches, DATA),
    "training.image_shift": ("3", train_step, (*AGENT, "head=spatial")),
    "training.max_instructions": ("1", batches, DATA),
    "training.validate_every": ("2", loop, LOOP),
    "training.save_every": ("2", loop, LOOP),
    "training.keep_last": ("2", loop, LOOP),
    "training.keep_best": ("2", loop, LOOP),
    "training.rollout_every": ("2", loop, LOOP),
    "training.rollout_episodes": ("3", rollouts, ()),
    "training.log_every": ("2", monitored, ()),
    "training.objective": ("rollout/success_rate", trial, ("training.rollout_every=1",)),
    "training.freeze": ("[policy]", train_step, AGENT),
    "training.reinit": ("[head]", initial_params, (*TINY, "init_from=run")),
    "pretraining.train": ("[there/train.hdf5]", pair_batches, MASKED),
    "pretraining.val": ("[there/val.hdf5]", pair_batches, MASKED),
    "pretraining.pair_rate": ("0.5", pair_batches, (*MASKED, "pretraining.text_rate=1")),
    "pretraining.image_rate": ("2", pair_batches, MASKED),
    "pretraining.text_rate": ("2", pair_batches, MASKED),
    "pretraining.load_size": ("40", pair_batches, MASKED),
    **{
        f"pretraining.{key}": (value, pretraining_step, MASKED)
        for key, value in {
            "image_mask_ratio": "0.25",
            "text_mask_ratio": "0.25",
            "image_weight": "7",
            "text_weight": "7",
            "crop_low": "0.1",
            "crop_high": "0.9",
            "flip": "true",
            "decoder_dim": "24",
            "decoder_depth": "2",
            "decoder_heads": "4",
        }.items()
    },
    "pretraining.num_visualized": ("2", reconstructions, (*MASKED, "pretraining.num_visualized=1")),
    "wandb.mode": ("offline", wandb_start, ()),
    "wandb.project": ("other", wandb_start, ()),
    "wandb.entity": ("someone", wandb_start, ()),
    "wandb.group": ("study", wandb_start, ()),
    "tensorboard.enabled": ("true", trackers, ()),
    "trackio.enabled": ("true", trackers, ()),
    "trackio.project": ("other", trackio_start, ()),
    "trackio.space": ("some/one", trackio_start, ()),
    "trackio.group": ("study", trackio_start, ()),
}
COLLECT_PROBES: dict[str, Probe] = {
    **dict.fromkeys(("episodes", "val_episodes"), ("7", collect_command, ())),
    **dict.fromkeys(("jobs", "job"), ("7", collect_command, ("jobs=9", "job=3"))),
    **dict.fromkeys(("task.episodes", "task.val_episodes"), ("7", collected, ())),
    **{key: TRAIN_PROBES[key] for key in TRAIN_PROBES if key.startswith(("sim.", "data.")) or key == "task.name"},
    "task.variations": ("[1]", collected, ()),
    "task.tasks": ("[pick_and_lift,push_button]", collected, ()),
    "sim.cameras": ("[wrist]", collected, ()),
    "sim.image_size": ("64", collected, ()),
}
FEW = ("protocol.episodes=6", "workers=2")
OWN = (*FEW, "protocol.name=mine")
EVAL_PROBES: dict[str, Probe] = {
    "run": ("outputs/y", evaluation, FEW),
    "tasks": ("[push_button]", evaluation, FEW),
    "episodes": ("7", evaluation, FEW),
    "seed": ("7", evaluation, FEW),
    "checkpoint": ("last", evaluation, FEW),
    "conditions": ("[trained]", evaluation, FEW),
    "strict": ("true", evaluation, FEW),
    **dict.fromkeys(("jobs", "job"), ("3", evaluation, (*FEW, "jobs=5", "job=2"))),
    "videos": ("2", evaluation, FEW),
    "renderer": ("opengl", evaluation, FEW),
    "workers": ("7", evaluation, ("protocol.episodes=6",)),
    "python": ("no/python", evaluation, FEW),
    "protocol.name": ("mine", evaluation, FEW),
    "protocol.episodes": ("7", evaluation, ("protocol=peract", "workers=2")),
    "protocol.seed": ("7", evaluation, FEW),
    "protocol.conditions": ("[trained]", evaluation, FEW),
    "protocol.variations": ("held_out", evaluation, OWN),
    "protocol.order": ("shuffled", evaluation, (*OWN, "protocol.variations=all")),
    "protocol.sentence": ("first", evaluation, OWN),
    "protocol.max_keyframes": ("2", evaluation, OWN),
    "protocol.max_unreachable": ("2", evaluation, OWN),
    "protocol.scenes": ("stored", rlbench_evaluation, OWN),
    "protocol.rlbench.renderer": ("rlbench_opengl", rlbench_evaluation, OWN),
    "protocol.rlbench.planner_attempts": ("1", rlbench_evaluation, OWN),
    "protocol.rlbench.motion_attempts": ("10", rlbench_evaluation, OWN),
    "protocol.rlbench.separate_gripper": ("true", rlbench_evaluation, OWN),
    "protocol.rlbench.failure_ends": ("false", rlbench_evaluation, OWN),
    "protocol.rlbench.clip_to_workspace": ("true", rlbench_evaluation, OWN),
    "protocol.rlbench.ignore_collisions": ("false", rlbench_evaluation, OWN),
    "hardware.platform": ("cpu", evaluation, FEW),
    "hardware.precision": ("bfloat16", evaluation, FEW),
    "hardware.prefetch": ("5", evaluation, FEW),
    "hardware.attention": ("xla", evaluation, FEW),
    "hardware.remat": ("blocks", evaluation, FEW),
    "hardware.scan": ("true", evaluation, FEW),
    "hardware.compilation_cache": ("elsewhere", evaluation, FEW),
    "hardware.peak_flops": ("1e9", evaluation, FEW),
    "hardware.profile": ("[1,3]", evaluation, FEW),
}
PROBES = {"train": TRAIN_PROBES, "collect": COLLECT_PROBES, "eval": EVAL_PROBES}
BASES: dict[Any, Any] = {}  # records without the change; they are deterministic


@pytest.mark.parametrize(("name", "key"), [(name, key) for name, probes in PROBES.items() for key in probes])
def test_every_setting_reaches_what_it_turns(name: str, key: str) -> None:
    value, probe, extra = PROBES[name][key]
    if (name, probe, extra) not in BASES:
        BASES[name, probe, extra] = record(probe, changed(*extra, name=name))
    assert record(probe, changed(*extra, f"{key}={value}", name=name)) != BASES[name, probe, extra]


def record(probe: Callable[[Any], Any], config: Any) -> Any:
    """What a probe records, with relative paths in an empty folder."""
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        return probe(config)


@pytest.mark.parametrize("name", SCHEMAS)
def test_no_setting_is_without_such_a_proof(name: str) -> None:
    assert set(every_leaf(SCHEMAS[name])) - LABELS - ONE_CHOICE - PROVED_ELSEWHERE - UNUSED_BY.get(name, set()) == set(
        PROBES[name]
    )
    for key in ONE_CHOICE & set(every_leaf(SCHEMAS[name])):
        assert len(every_leaf(SCHEMAS[name])[key].metadata["choices"]) == 1, (
            f"{key} has a choice now: prove what it does"
        )
