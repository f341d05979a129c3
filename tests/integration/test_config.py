"""Every option composes, every setting has an effect, and every invalid override is an error of one line."""

import ast
import contextlib
import dataclasses
import shutil
import sys
import tempfile
import types
from collections.abc import Callable
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf

from instructrl.cli.entry import compose
from instructrl.cli.overrides import CONFIG_DIR, groups, options
from instructrl.config.environment import (
    EMBEDDED_TASKS,
    RENDERERS,
    RLBENCH_RENDERERS,
    CollectConfig,
    SimConfig,
    TaskConfig,
    task_names,
)
from instructrl.config.evaluation import EvalConfig, effective_protocol
from instructrl.config.fields import (
    RENAMED_KEYS,
    RENAMED_VALUES,
    SYNONYMS,
    format_value,
    known_keys,
    leaves,
    summarize_allowed,
)
from instructrl.config.launcher import LaunchConfig, LauncherConfig
from instructrl.config.resolve import differences, resolve
from instructrl.config.training import TrainConfig
from instructrl.errors import InputError
from tests.paths import ROOT

SCHEMAS: dict[str, type] = {"train": TrainConfig, "eval": EvalConfig, "collect": CollectConfig}
NEEDED = {"train": [], "collect": [], "eval": ["run=outputs/x"]}
OPTIONS = [(name, group, option) for name in SCHEMAS for group in groups(name) for option in options(group)]
TWO = "task.tasks=[reach_target,push_button]"
TINY = ("policy=vit_debug", "sim.image_size=32", "encoder.dim=16", "policy.dim=16", "policy.heads=2", "head.dim=16")


def composed(*overrides: str, name: str = "train") -> Any:
    return compose(name, SCHEMAS[name], [*NEEDED[name], *overrides])


def chosen(group: str, option: str) -> list[str]:
    """The overrides that choose an option, with the settings that it requires."""
    extra = ["sim=rlbench"] if group == "task" and option not in EMBEDDED_TASKS else []
    if (group, option) == ("experiment", "pretrain_m3ae"):
        extra = ["pretraining.train=[here]", "pretraining.val=[there]"]
    return [f"{group}={option}", *extra]


# Every option of every group composes.


@pytest.mark.parametrize(("name", "group", "option"), OPTIONS)
def test_every_option_composes_and_is_taken(name: str, group: str, option: str) -> None:
    config = composed(*chosen(group, option), name=name)
    if group == "experiment":
        assert differences(dataclasses.asdict(composed(name=name)), dataclasses.asdict(config))
    else:
        assert getattr(config, group).name == option


def test_every_file_of_conf_is_an_option_of_some_command() -> None:
    files = {path.relative_to(CONFIG_DIR).as_posix() for path in CONFIG_DIR.rglob("*") if path.is_file()}
    chosen = {(group, option) for _, group, option in OPTIONS} | {("launcher", one) for one in options("launcher")}
    known = {f"{group}/{option}.yaml" for group, option in chosen} | {f"{name}.yaml" for name in (*SCHEMAS, "launch")}
    assert files == known | {"quiet.yaml"}


@pytest.mark.parametrize("group", [group for group in groups("train") if group != "experiment"])
def test_options_of_a_group_differ_in_more_than_a_label(group: str) -> None:
    label = set() if group == "task" else {"name"}  # a task's name is what it is
    parts = [dataclasses.asdict(getattr(composed(*chosen(group, option)), group)) for option in options(group)]
    contents = [tuple((key, str(part[key])) for key in part if key not in label) for part in parts]
    assert len(set(contents)) == len(contents)


# Every setting has an effect. A setting without an entry here fails a test.


def agent_and_batch(config: TrainConfig) -> tuple[Any, Any]:
    from instructrl.training.model_factory import make_agent
    from instructrl.types import BatchSizes, fake_batch

    sizes = BatchSizes(2, 3, len(config.sim.cameras), config.sim.image_size, 5)
    return make_agent(config, vocabulary_size=11), fake_batch(sizes)


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


class Reached(Exception):  # noqa: N818
    """Ends a call once a test has recorded enough of it."""


def training_loop(config: TrainConfig) -> Any:
    """Record of what `train` opens and builds and of its actions in each epoch, with fake steps."""
    import numpy as np

    from instructrl.training import train_loop
    from instructrl.training.objectives import behavior_cloning
    from instructrl.training.parameters.encoder_weights import WeightSource

    seen: list[Any] = []

    class Set:
        provenance: Any = {}
        steps = 3

        def __init__(self, path: str, *, limit: int) -> None:
            seen.append((path, limit))
            self.count = limit

        def __enter__(self) -> Any:
            return self

        def __exit__(self, *error: Any) -> None:
            pass

    class Batches:
        def __init__(self, files: list[Set], tokenizer: Any, *, batch_size: int, seed: int, **more: Any) -> None:
            seen.append((batch_size, seed, more))
            self.steps_per_epoch = -(-sum(episodes.count for episodes in files) // batch_size)
            self.sizes = SimpleNamespace(batch=batch_size, features=more["features"])

        def batch(self, step: int) -> None:
            return None

    def prefetch(loader: Any, start: int, stop: int, *, depth: int, put: Any) -> Any:
        seen.append((start, stop, depth))
        yield from [None] * (stop - start)

    values = {"loss": 1.0, "position_cm": 1.0, "rotation_deg": 1.0, "gripper_accuracy": 1.0, "steps": 1.0}
    checkpoints = SimpleNamespace(
        step=lambda which: None,
        save=lambda state, step, metrics=None, progress=None: seen.append(("save", step)),
        wait=lambda: None,
    )
    params = {"encoder": np.zeros(2), "policy": np.zeros(3)}

    def rollout(params: Any, epoch: int) -> dict[str, float]:
        seen.append(("rollout", epoch))
        return {}

    class Opened:
        def __init__(self, value: Any) -> None:
            self.value = value

        def __enter__(self) -> Any:
            return self.value

        def __exit__(self, *error: Any) -> None:
            pass

    def init(config: TrainConfig, params: Any, tokenizer: Any, *, run: Path, resuming: bool) -> Any:
        return params, {"encoder": WeightSource(Path("w"), "0").record()} if config.encoder.frozen else {}

    def state(params: Any, optimizer: Any, *, ema: bool) -> Any:
        seen.append(("trained", sorted(params), ema))
        return train_loop.TrainState(np.int32(0), params, {})

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(behavior_cloning, "DemonstrationDataset", Set)
        patch.setattr(behavior_cloning, "check_alike", lambda files: None)
        patch.setattr(behavior_cloning, "Loader", Batches)
        patch.setattr(behavior_cloning, "prefetch", prefetch)
        patch.setattr(behavior_cloning, "check_batch", lambda batch, sizes: seen.append(sizes))
        patch.setattr(behavior_cloning, "random_params", lambda *given, seed: seen.append(seed) or params)
        patch.setattr(behavior_cloning, "init_params", init)
        patch.setattr(behavior_cloning, "open_features", lambda c, files, *given, **more: ["features"] * len(files))
        patch.setattr(behavior_cloning, "initial_state", state)
        step = lambda state, batch, frozen: (state, dict(values))  # noqa: E731
        patch.setattr(behavior_cloning, "make_train_step", lambda *given, **more: seen.append(more) or step)
        patch.setattr(behavior_cloning, "make_eval_step", lambda agent, **_: lambda params, batch: dict(values))
        patch.setattr(behavior_cloning, "record_data", lambda run, data: None)
        patch.setattr(behavior_cloning, "data_record", lambda config, sets: {})
        patch.setattr(train_loop, "print_summary", lambda *given: None)
        patch.setattr(train_loop, "open_checkpoints", lambda run, keep: seen.append(keep) or Opened(checkpoints))
        patch.setattr(train_loop, "exclusive_lease", lambda run, **_: Opened(SimpleNamespace(check=lambda: None)))
        patch.setattr(train_loop, "TrainMonitor", NullMonitor)
        metrics = SimpleNamespace(
            write=lambda split, values, step, epoch: seen.append((split, step, epoch)),
            log_images=lambda pictures, step: None,
        )
        patch.setattr(train_loop, "open_metrics", lambda config, run, **_: Opened(metrics))
        data = {split: [Path(split, task) for task in task_names(config.task)] for split in ("train", "val")}
        train_loop.train(config, Path("run"), data=data, rollout=rollout)
    return seen


class NullMonitor:
    """A monitor that does nothing."""

    def __init__(self, *given: Any) -> None:
        self.timed = self.step_context = lambda *given: contextlib.nullcontext()
        self.close = lambda: None

    def on_step_end(self, values: Any, *, step: int) -> Any:
        return values

    def write_speed(self, *, step: int, epoch: float) -> None:
        pass


def seen(config: TrainConfig) -> Any:
    """Record of metrics and traces of six steps."""
    import jax
    import numpy as np

    from instructrl.training import flops
    from instructrl.training.monitoring import monitor
    from instructrl.training.state import TrainState

    notes: list[Any] = []
    loader: Any = SimpleNamespace(episodes_in_batch=lambda step: [], steps_per_epoch=10)
    values = {"loss": 1.0, "gradient_norm": 1.0, "steps": 1.0}
    params = {"kernel": jax.numpy.zeros((2, 2))}
    step = jax.jit(lambda state, batch, frozen: (state.params["kernel"] @ batch).sum())
    training: Any = SimpleNamespace(
        config=config,
        train=loader,
        learning_rate=lambda _: 0,
        advice="",
        describe_batch=str,
        step_counts=lambda step, values: {"keyframes": values["steps"]},
        flops=lambda state, batch: flops.step_flops(step, state, batch, {}),
    )
    metrics: Any = SimpleNamespace(
        write=lambda split, values, step, epoch: notes.append((split, step)),
        write_speed=lambda values, step, epoch: notes.append((step, "utilisation" in values)),
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(jax.profiler, "start_trace", lambda folder, **more: notes.append(folder))
        patch.setattr(jax.profiler, "stop_trace", lambda: notes.append("whole"))
        patch.setattr(Path, "rglob", lambda folder, pattern: [folder / pattern])
        looks = monitor.TrainMonitor(training, Path("run"), metrics)
        for number in range(6):
            with looks.step_context(number, TrainState(0, params, {}), np.zeros((2, 2))):
                pass
            looks.on_step_end(values, step=number)
        looks.write_speed(step=6, epoch=1)
    return notes


def inputs(config: TrainConfig) -> Any:
    """The first file that is checked before training starts."""
    from instructrl.training import preflight

    return spied(preflight, lambda: preflight.check_inputs(config), keep="check_inputs")[:1]


def tokens(config: TrainConfig) -> Any:
    """Tokens of an instruction, or the error."""
    from instructrl.data.text.tokenizer import make_tokenizer

    try:
        return [part.tolist() for part in make_tokenizer(config.encoder)(["reach the red ball"])]
    except InputError as error:
        return str(error)


def feature_cache(config: TrainConfig) -> Any:
    """Arguments with which features of a frozen encoder are computed."""
    from instructrl.data.text.tokenizer import make_tokenizer
    from instructrl.training import feature_extraction
    from instructrl.training.model_factory import abstract_params, dummy_batch, make_agent

    seen: list[Any] = []
    tokenizer = make_tokenizer(config.encoder)
    agent = make_agent(config, vocabulary_size=tokenizer.vocabulary_size)
    params = abstract_params(agent, dummy_batch(config, tokenizer))
    episodes: Any = SimpleNamespace(image_size=config.sim.image_size, cameras=config.sim.cameras)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(feature_extraction, "ensure_features", lambda *given, encode, **more: seen.append(more))
        feature_extraction.open_features(config, [episodes], tokenizer, agent=agent, params=params, checksum="0")
    return seen


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


def spied(module: Any, act: Callable[[], Any], *, keep: str, **answers: Any) -> list[Any]:
    """Record a module's calls of other parts of the package during `act`; of its own names only `keep` stays real."""
    notes: list[Any] = []
    with pytest.MonkeyPatch.context() as patch:
        for name, value in list(vars(module).items()):
            if callable(value) and name != keep and getattr(value, "__module__", "").startswith("instructrl."):
                patch.setattr(module, name, Spy(name, notes, answers.get(name)))
        act()
    return notes


def rollouts(config: TrainConfig) -> Any:
    """Record of the calls of a training's rollouts."""
    from instructrl.evaluation import rollout_callback

    def play() -> None:
        for task in task_names(config.task):
            rollout_callback.RolloutCallback(config, Path("run"))._run_task(task, None)

    return spied(rollout_callback, play, keep="RolloutCallback")


def evaluation(config: EvalConfig, trained: Any = None) -> Any:
    """Record of what an evaluation loads, opens, runs and films, and of the paths that it writes, not their content."""
    from instructrl.evaluation import evaluate
    from tests.fakes.sim import FakePolicy, InlineWorkers

    seen: list[Any] = []
    tasks = ["reach_target", "push_button"]
    trained = trained or SimpleNamespace(sim=SimConfig(), task=TaskConfig("reach_target", 1, 1, [0, 1], tasks))
    actor = FakePolicy()

    def workers(sim: SimConfig, task: str, **settings: Any) -> InlineWorkers:
        opened = InlineWorkers(settings["count"], limits=settings["limits"])
        seen.append((task, settings, opened.calls))
        return opened

    def film(workers: Any, episodes: Any, indices: list[int], *, folder: Path) -> list[Any]:
        seen.append((indices, folder))
        return []

    with pytest.MonkeyPatch.context() as patch, tempfile.TemporaryDirectory() as place:
        patch.chdir(place)
        patch.setattr(evaluate, "read_config", lambda run: seen.append(run) or trained)
        patch.setattr(evaluate, "recorded_renderer", lambda run: seen.append(run) or "raycast")
        patch.setattr(evaluate, "choose_renderer", lambda recorded, asked: seen.append((recorded, asked)) or "raycast")
        patch.setattr(
            evaluate, "load_batched_agent", lambda run, **settings: seen.append((run, settings)) or (actor, 3)
        )
        patch.setattr(evaluate, "run_fingerprint", lambda run: "")
        patch.setattr(evaluate, "start_eval_workers", workers)
        patch.setattr(evaluate, "film_episodes", film)
        patch.setattr(evaluate, "write_atomically", lambda path, text: seen.append(path))
        patch.setattr(evaluate, "write_report", lambda path, results, *, run: seen.append((path, run)))
        evaluate.evaluate(config)
    return repr(seen), actor.started


def run_evaluation(config: TrainConfig) -> Any:
    """Record of an evaluation of such a run."""
    return evaluation(compose("eval", EvalConfig, ["run=outputs/x", "episodes=2", "conditions=[trained]"]), config)


def collected(config: Any) -> Any:
    """Record of the files to be collected, their episodes, environments and number of processes."""
    from data_tools import collect
    from instructrl.collection.shards import Parts

    seen: list[Any] = []

    class Processes:
        def __init__(self, make: Any, count: int, *, timeout: float) -> None:
            seen.append((make.args, count, timeout))

        def __enter__(self) -> Any:
            raise Reached

        def __exit__(self, *error: Any) -> None:
            pass

    def files(split: Any) -> int:
        seen.append((split.path, split.header, split.episodes, split.compression))
        return 0

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(collect, "Workers", Processes)
        patch.setattr(collect, "num_present", files)
        patch.setattr(Parts, "remove_merged", lambda parts: None)
        patch.setattr(collect, "exclusive_lock", lambda folder, **_: __import__("contextlib").nullcontext())
        patch.setattr(collect, "with_available_renderer", lambda sim, splits: sim)
        patch.setattr(sys, "argv", ["collect"])
        with pytest.raises(Reached):
            if isinstance(config, CollectConfig):
                command = sys.modules["instructrl.cli.entry"]
                patch.setattr(command, "compose_launcher", lambda words, **_: (words, LauncherConfig("local", "local")))
                patch.setattr(command, "resolve", lambda *given: config)
                collect.main()
            else:
                collect.ensure_demonstrations(config.task, config.sim, config.data)
    return seen


def pretrained(config: TrainConfig) -> Any:
    """Record of the image-text pairs read, the compiled step, and the number of pairs visualized."""
    import jax

    from instructrl.training.objectives import masked_pretraining
    from instructrl.training.objectives.mae_step import StepBatch

    seen: list[Any] = []

    def read(sets: Any, tokenizer: Any, **options: Any) -> Any:
        seen.append(options)
        return SimpleNamespace(steps_per_epoch=3)

    @contextmanager
    def opened(places: Any, split: str) -> Any:
        seen.append((places, split))
        yield []

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(masked_pretraining, "PairLoader", read)
        patch.setattr(masked_pretraining, "open_pairs", opened)
        patch.setattr(masked_pretraining, "record_data", lambda run, record: None)
        with masked_pretraining.open_image_text(config) as sets:
            training, state = masked_pretraining.prepare_masked_pretraining(config, Path("run"), sets)
    pairs = masked_pretraining.abstract_batch(config, training.tokenizer)
    number = jax.ShapeDtypeStruct((), "uint32")
    seen.append(training.train_step.lower(state, StepBatch(number, pairs), {}).as_text())  # type: ignore[attr-defined]
    return [*seen, training.reconstructions._count]


def beginning(config: TrainConfig) -> Any:
    """The run that parameters are read from, and the resulting parameters."""
    import jax
    import numpy as np

    from instructrl.training.parameters import warm_start
    from instructrl.training.parameters.load_agent import LoadedAgent

    seen: list[Any] = []
    tokenizer, shapes = warm_start.abstract_agent(config)
    zeros, ones = (jax.tree.map(lambda leaf: np.full(leaf.shape, value, leaf.dtype), shapes) for value in (0, 1))  # noqa: B023

    def read(run: Path, *, checkpoint: str, hardware: Any) -> Any:
        seen.append((run, checkpoint))
        return LoadedAgent(config, tokenizer, ones, 3)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(warm_start, "load_agent", read)
        params, _ = warm_start.warm_start(config, zeros, tokenizer, run=Path("run"))
    return seen, [float(leaf.sum()) for leaf in jax.tree.leaves(params)]


def wandb_start(config: TrainConfig) -> Any:
    """Arguments of wandb.init."""
    from instructrl.training.monitoring import metric_writer

    seen: list[dict[str, Any]] = []
    fake = types.ModuleType("wandb")
    fake.init = lambda **given: seen.append(given) or Spy("run", [])  # type: ignore[attr-defined]
    fake.Settings = lambda **given: given  # type: ignore[attr-defined]
    fake.Error = RuntimeError  # type: ignore[attr-defined]
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "wandb", fake)
        metric_writer.start_wandb(config, Path("run"))
    return [{key: value for key, value in given.items() if key != "config"} for given in seen]


def run_folder(config: TrainConfig) -> Any:
    """The run directory."""
    from instructrl.training import run_dir

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run_dir, "write_atomically", lambda path, text: None)
        return run_dir.open_run(config)


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
        for key in ("fsdp", "accumulation", "local_devices", "coordinator", "num_processes", "process_id")
    },
}
ONE_CHOICE = {"optimizer.kind"}  # so far, hence without an effect to prove
PROVED_ELSEWHERE = {"objective"}  # it changes which settings are valid: tests/integration/test_pretraining.py
MASKED = ("experiment=pretrain_tiny", "sim.image_size=32", "encoder.dim=16", "encoder.depth=1", "encoder.heads=2",
          "encoder.patch_size=8", "pretraining.load_size=36", "pretraining.decoder_dim=16",
          "pretraining.decoder_depth=1",
          "pretraining.decoder_heads=2", "training.batch_size=16", "hardware.local_devices=1")  # fmt: skip
LOOP = ("training.batch_size=2", "task.episodes=5", "task.val_episodes=3", "training.epochs=4",
        "training.rollout_every=1", "optimizer.warmup_epochs=0", "hardware.local_devices=1")  # fmt: skip
SHORT = ("training.epochs=4", "optimizer.warmup_epochs=0.5")
CLIP = ("policy=vit_debug", "sim.image_size=32", "policy.dim=16", "policy.heads=2", "encoder=clip_b32",
        "encoder.dim=16", "encoder.depth=2", "encoder.heads=2", "encoder.patch_size=8", "encoder.image_size=16",
        "encoder.text_dim=16", "encoder.text_depth=2", "encoder.text_heads=2", "encoder.projection=8")  # fmt: skip
TWO_PROCESSES = ("hardware.coordinator=host:1", "hardware.num_processes=2", "hardware.process_id=0")
FROZEN = (*TINY, "encoder.frozen=true", "head=regression")
# setting -> (another value, function that records its effect, further overrides)
Probe = tuple[str, Callable[[Any], Any], tuple[str, ...]]
TRAIN_PROBES: dict[str, Probe] = {
    "name": ("other", run_folder, ()),
    "seed": ("1", training_loop, LOOP),
    "output_dir": ("elsewhere", run_folder, ()),
    "features": ("live", training_loop, (*LOOP, "encoder.frozen=true")),
    "features_dir": ("elsewhere", feature_cache, FROZEN),
    "init_from": ("elsewhere", beginning, (*TINY, "init_from=run")),
    "init_checkpoint": ("last", beginning, (*TINY, "init_from=run")),
    "encoder.kind": ("m3ae", shapes, TINY),
    "encoder.heads": ("2", loss_program, (*TINY, "encoder.kind=m3ae")),
    "encoder.image_size": ("16", loss_program, TINY),
    "encoder.text_dim": ("8", shapes, CLIP),
    "encoder.text_depth": ("3", shapes, CLIP),
    "encoder.text_heads": ("4", loss_program, CLIP),
    "encoder.projection": ("12", shapes, CLIP),
    "encoder.layers": ("all", shapes, TINY),
    "encoder.frozen": ("true", training_loop, LOOP),
    "encoder.weights": ("elsewhere.safetensors", inputs, ()),
    "encoder.tokenizer": ("elsewhere", tokens, ()),
    "encoder.text_length": ("12", tokens, ()),
    "encoder.dim": ("24", shapes, TINY),
    "encoder.depth": ("3", shapes, TINY),
    "encoder.patch_size": ("16", shapes, TINY),
    "encoder.text": ("false", loss_program, TINY),
    "policy.dim": ("32", shapes, TINY),
    "policy.depth": ("3", shapes, TINY),
    "policy.heads": ("4", shapes, TINY),
    "policy.mlp_ratio": ("2", shapes, TINY),
    "policy.window": ("2", loss_program, TINY),
    "head.kind": ("regression", shapes, TINY),
    "head.dim": ("24", shapes, TINY),
    "head.position_bins": ("10", shapes, (*TINY, "head=discrete")),
    "head.rotation_bins": ("12", shapes, (*TINY, "head=discrete")),
    "head.position_weight": ("7.5", loss_program, (*TINY, "head=regression")),
    "head.rotation_weight": ("7.5", loss_program, TINY),
    "head.gripper_weight": ("7.5", loss_program, TINY),
    "head.heatmap_weight": ("7.5", loss_program, TINY),
    "head.offset_weight": ("7.5", loss_program, TINY),
    "task.name": ("push_button", collected, ()),
    "task.episodes": ("7", training_loop, LOOP),
    "task.val_episodes": ("7", training_loop, LOOP),
    "task.variations": ("[1]", rollouts, ()),
    "task.tasks": ("[reach_target,push_button]", run_evaluation, ()),
    "task.weights": ("[1,2]", training_loop, (*LOOP, "task.tasks=[reach_target,push_button]")),
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
    "optimizer.ema": ("0.9", training_loop, LOOP),
    "optimizer.beta1": ("0.5", updates, ()),
    "optimizer.beta2": ("0.5", updates, ()),
    "hardware.platform": ("cpu", platform, ()),
    "hardware.precision": ("bfloat16", loss_program, TINY),
    "hardware.prefetch": ("5", training_loop, LOOP),
    "hardware.attention": ("xla", attention, (*TINY, "hardware.precision=bfloat16")),
    "hardware.remat": ("blocks", loss_program, TINY),
    "hardware.scan": ("true", loss_program, (*TINY, "policy.depth=3")),
    "hardware.fsdp": ("2", devices, ()),
    "hardware.accumulation": ("2", training_loop, LOOP),
    "hardware.local_devices": ("2", devices, ()),
    "hardware.coordinator": ("auto", devices, ()),
    "hardware.num_processes": ("3", devices, TWO_PROCESSES),
    "hardware.process_id": ("1", devices, TWO_PROCESSES),
    "hardware.compilation_cache": ("elsewhere", platform, ()),
    "hardware.peak_flops": ("1e9", seen, ()),
    "hardware.profile": ("[1,3]", seen, ()),
    "sim.cameras": ("[wrist]", training_loop, LOOP),
    "sim.image_size": ("64", training_loop, LOOP),
    "sim.kind": ("rlbench", collected, ()),
    "sim.renderer": ("raycast", collected, ()),
    "sim.workers": ("7", collected, ()),
    "sim.timeout": ("7", collected, ()),
    "sim.planner_attempts": ("7", collected, ()),
    "data.dir": ("elsewhere", collected, ()),
    "data.compression": ("lz4", collected, ()),
    "data.cache_dir": ("elsewhere", collected, ("data.dir=gs://bucket/folder",)),
    "data.cache_gb": ("7", collected, ("data.dir=gs://bucket/folder",)),
    "training.epochs": ("5", training_loop, LOOP),
    "training.batch_size": ("3", training_loop, LOOP),
    "training.token_dropout": ("0.3", training_loop, LOOP),
    "training.max_instructions": ("1", training_loop, LOOP),
    "training.validate_every": ("2", training_loop, LOOP),
    "training.save_every": ("2", training_loop, LOOP),
    "training.keep_last": ("2", training_loop, LOOP),
    "training.keep_best": ("2", training_loop, LOOP),
    "training.rollout_every": ("2", training_loop, LOOP),
    "training.rollout_episodes": ("3", rollouts, ()),
    "training.log_every": ("2", seen, ()),
    "training.freeze": ("[policy]", training_loop, LOOP),
    "training.reinit": ("[head]", beginning, (*TINY, "init_from=run")),
    **{
        f"pretraining.{key}": (value, pretrained, MASKED)
        for key, value in {
            "train": "[elsewhere]",
            "val": "[elsewhere]",
            "pair_rate": "2",
            "image_rate": "2",
            "text_rate": "2",
            "image_mask_ratio": "0.25",
            "text_mask_ratio": "0.25",
            "image_weight": "7",
            "text_weight": "7",
            "load_size": "40",
            "crop_low": "0.1",
            "crop_high": "0.9",
            "flip": "true",
            "decoder_dim": "24",
            "decoder_depth": "2",
            "decoder_heads": "4",
            "num_visualized": "1",
        }.items()
    },
    "wandb.mode": ("offline", wandb_start, ()),
    "wandb.project": ("other", wandb_start, ()),
    "wandb.entity": ("someone", wandb_start, ()),
    "wandb.group": ("study", wandb_start, ()),
}
COLLECT_PROBES: dict[str, Probe] = {
    **dict.fromkeys(("episodes", "val_episodes", "task.episodes", "task.val_episodes"), ("7", collected, ())),
    **{key: TRAIN_PROBES[key] for key in TRAIN_PROBES if key.startswith(("sim.", "data.")) or key == "task.name"},
    "task.variations": ("[1]", collected, ()),
    "task.tasks": ("[pick_and_lift,push_button]", collected, ()),
    "sim.cameras": ("[wrist]", collected, ()),
    "sim.image_size": ("64", collected, ()),
}
FEW = ("protocol.episodes=6", "workers=2")
EVAL_PROBES: dict[str, Probe] = {
    "run": ("outputs/y", evaluation, FEW),
    "tasks": ("[push_button]", evaluation, FEW),
    "episodes": ("7", evaluation, FEW),
    "seed": ("7", evaluation, FEW),
    "checkpoint": ("last", evaluation, FEW),
    "conditions": ("[trained]", evaluation, FEW),
    "videos": ("2", evaluation, FEW),
    "renderer": ("opengl", evaluation, FEW),
    "workers": ("7", evaluation, ("protocol.episodes=6",)),
    "protocol.name": ("mine", evaluation, FEW),
    "protocol.episodes": ("7", evaluation, ("protocol=peract", "workers=2")),
    "protocol.seed": ("7", evaluation, FEW),
    "protocol.conditions": ("[trained]", evaluation, FEW),
    "protocol.variations": ("held_out", evaluation, FEW),
    "protocol.order": ("shuffled", evaluation, (*FEW, "protocol.variations=all")),
    "protocol.sentence": ("first", evaluation, FEW),
    "protocol.max_keyframes": ("2", evaluation, FEW),
    "protocol.max_unreachable": ("2", evaluation, FEW),
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
        BASES[name, probe, extra] = probe(composed(*extra, name=name))
    assert probe(composed(*extra, f"{key}={value}", name=name)) != BASES[name, probe, extra]


@pytest.mark.parametrize("name", SCHEMAS)
def test_no_setting_is_without_such_a_proof(name: str) -> None:
    assert set(leaves(SCHEMAS[name])) - LABELS - ONE_CHOICE - PROVED_ELSEWHERE - UNUSED_BY.get(name, set()) == set(
        PROBES[name]
    )
    for key in ONE_CHOICE & set(leaves(SCHEMAS[name])):
        assert len(leaves(SCHEMAS[name])[key].metadata["choices"]) == 1, f"{key} has a choice now: prove what it does"


def read_attributes(root: Path) -> set[str]:
    """Every attribute that is read in the code, validation excluded."""
    files = [
        root / "train.py",
        root / "eval.py",
        *(root / "data_tools").rglob("*.py"),
        *(root / "instructrl").rglob("*.py"),
    ]
    parts = [part for path in files for part in ast.parse(path.read_text()).body]
    parts = [part for part in parts if not getattr(part, "name", "").startswith("check_")]
    nodes = [node for part in parts for node in ast.walk(part) if isinstance(node, ast.Attribute)]
    return {node.attr for node in nodes if isinstance(node.ctx, ast.Load)}


def test_every_field_is_read_somewhere() -> None:
    read = read_attributes(ROOT)
    unread = {key for schema in SCHEMAS.values() for key in leaves(schema) if key.rpartition(".")[2] not in read}
    assert unread == set()


# Help texts, former names, suggestions.


def tool_schemas() -> list[type]:
    """Settings of the tools, and of commands on pods."""
    from data_tools.convert.__main__ import ConvertConfig
    from data_tools.frames.renderer import FramesConfig
    from data_tools.probe.__main__ import ProbeConfig
    from data_tools.rlds.__main__ import ExportConfig, ImportConfig
    from data_tools.rlds.mapping import Mapping
    from data_tools.weights.__main__ import SCHEMAS as WEIGHTS
    from launchers.tpu.settings import PodConfig

    return [ConvertConfig, FramesConfig, ProbeConfig, ExportConfig, ImportConfig, Mapping, PodConfig, *WEIGHTS.values()]


def test_every_setting_has_a_help_text() -> None:
    for schema in (*SCHEMAS.values(), LaunchConfig, *tool_schemas()):
        for key, entry in leaves(schema).items():
            text = entry.metadata.get("help", "")
            assert text.strip() == text != "" and "\n" not in text and len(text) <= 120, (
                f"{schema.__name__}: {key}: {text!r}"
            )
            assert summarize_allowed(entry)


def test_former_names_lead_to_settings_that_exist() -> None:
    known = {key for schema in SCHEMAS.values() for key in known_keys(schema)}
    assert set(RENAMED_KEYS.values()) | set(SYNONYMS.values()) <= known and not set(RENAMED_KEYS) & known
    for key, table in RENAMED_VALUES.items():
        for schema in SCHEMAS.values():
            for entry in [leaves(schema)[key]] if key in leaves(schema) else []:
                choices = entry.metadata.get("choices", table.values())
                assert set(table.values()) <= set(choices) and not set(table) & set(choices)


@pytest.mark.parametrize("former", RENAMED_KEYS)
def test_a_former_name_is_refused_with_the_current_one(former: str) -> None:
    current = RENAMED_KEYS[former]
    [name, *_] = [name for name, schema in SCHEMAS.items() if current in leaves(schema)]
    group, _, last = former.rpartition(".")
    nested = [f"{group}={{{last}: 1}}"] if group and group not in groups(name) else []
    for word in (f"{former}=1", f"+{former}=1", f"++{former}=1", f"~{former}", *nested):
        with pytest.raises(InputError) as error:
            composed(word, name=name)
        assert str(error.value) == f"{former}: is now called {current}; write {current}=..."
    with pytest.raises(InputError) as error:
        resolve(OmegaConf.create({group: {last: 1}} if group else {former: 1}), SCHEMAS[name])
    assert str(error.value) == f"{former}: is now called {current}; write {current}=..."


@pytest.mark.parametrize(("former", "current"), RENAMED_VALUES["objective"].items())
def test_a_former_value_is_refused_with_the_current_one(former: str, current: str) -> None:
    with pytest.raises(
        InputError, match=f"^objective: found {former} \\({former} is now called {current}\\); allowed: "
    ):
        composed(f"objective={former}")


def test_former_names_in_a_users_yaml_are_refused_with_the_current_ones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(CONFIG_DIR, tmp_path / "conf")
    monkeypatch.setattr("instructrl.cli.entry.CONFIG_DIR", tmp_path / "conf")
    monkeypatch.setattr("instructrl.cli.overrides.CONFIG_DIR", tmp_path / "conf")
    options.cache_clear()
    lines = {
        "optimizer: {base_batch: 3}": "experiment/mine: optimizer.base_batch: is now called optimizer.base_batch_",
        "objective: cloning": "objective: found cloning (cloning is now called behavior_cloning); allowed: ",
        "name: ${training.fresh}": "name: Interpolation key 'training.fresh' not found; training.fresh is now called ",
        "training: {epoch: 3}": "experiment/mine: training.epoch: no such setting; did you mean training.epochs?",
    }
    try:
        for text, line in lines.items():
            (tmp_path / "conf/experiment/mine.yaml").write_text(f"# @package _global_\n{text}\n")
            with pytest.raises(InputError) as error:
                composed("experiment=mine")
            assert str(error.value).startswith(line) and "\n" not in str(error.value)
    finally:
        options.cache_clear()


@pytest.mark.parametrize(
    ("name", "key", "suggestion"),
    [
        ("train", "lr", "optimizer.learning_rate"),
        ("train", "training.lr", "optimizer.learning_rate"),
        ("train", "learning_rate", "optimizer.learning_rate"),
        ("train", "batch_size", "training.batch_size"),
        ("train", "batchsize", "training.batch_size"),
        ("train", "epochs", "training.epochs"),
        ("train", "optimizer.epochs", "training.epochs"),
        ("train", "num_gpus", "hardware.local_devices"),
        ("train", "depth", "encoder.depth or policy.depth"),
        ("train", "image_size", "encoder.image_size or sim.image_size"),
        ("train", "optimizer.lerning_rate", "optimizer.learning_rate"),
        ("eval", "max_keyframes", "protocol.max_keyframes"),
        ("eval", "num_episodes", "episodes"),
        ("collect", "num_workers", "sim.workers"),
    ],
)
def test_an_unknown_key_suggests_full_paths(name: str, key: str, suggestion: str) -> None:
    with pytest.raises(InputError) as error:
        composed(f"{key}=3", name=name)
    assert str(error.value) == f"{key}: no such setting; did you mean {suggestion}?"


def test_a_key_without_a_similar_one_lists_its_group() -> None:
    with pytest.raises(
        InputError, match=r"^training.nonsense: no such setting; allowed in training: training.batch_size"
    ):
        composed("training.nonsense=3")


# Constraints that types cannot express.


@pytest.mark.parametrize(
    ("overrides", "found"),
    [
        (["encoder.patch_size=6", "encoder.dim=66"], "encoder.patch_size: found 6; allowed: a multiple of 4"),
        (["encoder=m3ae_b16", "sim.image_size=100"], "sim.image_size: found 100; allowed: a multiple of encoder.patch"),
        (["encoder=clip_b16", "encoder.image_size=100"], "encoder.image_size: found 100; allowed: a multiple of"),
        (["encoder=clip_b16", "encoder.projection=null"], "encoder.projection: found null; allowed: a number"),
        (["encoder=clip_b16", "encoder.text_heads=7"], "encoder.text_heads: found 7; allowed: a divisor of"),
        (["encoder=m3ae_b16", "encoder.heads=7"], "encoder.heads: found 7; allowed: a divisor of encoder.dim=768"),
        (["encoder=m3ae_b16", "encoder.dim=770", "encoder.heads=1"], "encoder.dim: found 770; allowed: a multiple of"),
        (["encoder=m3ae_b16", "encoder.depth=0"], "encoder.depth: found 0; allowed: at least 1 for m3ae"),
        (["encoder=m3ae_b16", "encoder.layers=[12]"], "encoder.layers: found [12]; allowed: all, last, or a list of"),
        (["encoder=m3ae_b16", "encoder.layers=[0,0]"], "encoder.layers: found [0, 0]; allowed: all, last, or a list"),
        (["encoder=m3ae_b16", "encoder.layers=[]"], "encoder.layers: found []; allowed: all, last, or a list"),
        (["encoder=m3ae_b16", "encoder.layers=some"], "encoder.layers: found some; allowed: all, last, or a list"),
        (["encoder=m3ae_b16", "encoder.layers=null"], "encoder.layers: found null; allowed: all, last, or a list"),
        (["encoder=m3ae_b16", "encoder.layers=[true]"], "encoder.layers: found [true]; allowed: all, last, or a list"),
        (["features=cached"], "features: found cached; allowed: auto or live for an encoder that is not frozen"),
        (["encoder=m3ae_b16", "training.token_dropout=0.1"], "training.token_dropout: found 0.1; allowed: null or 0"),
        (["encoder.patch_size=6"], "encoder.patch_size: found 6; allowed: a multiple of 4"),
        (["sim.image_size=100"], "sim.image_size: found 100; allowed: a multiple of encoder.patch_size=8"),
        (["policy.dim=33", "policy.heads=3"], "policy.dim: found 33; allowed: an even number"),
        (["training.reinit=[head]"], "training.reinit: found [head]; allowed: null without init_from"),
        (["hardware.profile=[3]"], "hardware.profile: found [3]; allowed: null, or the first and the last step"),
        (["hardware.profile=[5,3]"], "hardware.profile: found [5, 3]; allowed: null, or the first and the last step"),
        (["policy.heads=5"], "policy.heads: found 5; allowed: a divisor of policy.dim=384"),
        (["training.epochs=3"], "optimizer.warmup_epochs: found 5.0; allowed: less than training.epochs=3"),
        (["hardware.fsdp=0"], "hardware.fsdp: found 0; allowed: an integer at least 1"),
        (["hardware.coordinator=here"], "hardware.coordinator: found here; allowed: host:port, auto, or null"),
        (["hardware.coordinator=a:1"], "hardware.num_processes: found null; allowed: a number with hardware.coord"),
        (["hardware.num_processes=2"], "hardware.num_processes: found 2; allowed: null without hardware.coordinator="),
        ([*TWO_PROCESSES, "hardware.process_id=2"], "hardware.process_id: found 2; allowed: at least 0 and less than "),
        (["hardware.coordinator=auto", "output_dir=gs://b/o"], "output_dir: found gs://b/o; allowed: a folder that"),
        (["optimizer.warmup_epochs=null"], "optimizer.warmup_epochs: found null; allowed: a number, or one for optim"),
        (["optimizer.warmup_steps=9"], "optimizer.warmup_steps: found 9; allowed: null with optimizer.warmup_epochs=5"),
        (["optimizer.schedule=step"], "optimizer.schedule: found step; allowed: cosine, linear, constant"),
        (["optimizer.schedule=constant", "optimizer.end_factor=0.1"], "optimizer.end_factor: found 0.1; allowed: 0 wi"),
        (["optimizer.layer_lr_decay=0"], "optimizer.layer_lr_decay: found 0.0; allowed: a number above 0 and at m"),
        (["optimizer.layer_lr_decay=0.5", "encoder=m3ae_b16"], "optimizer.layer_lr_decay: found 0.5; allowed: 1 with"),
        (["optimizer.encoder_lr_scale=0.5", "encoder.frozen=true"], "optimizer.encoder_lr_scale: found 0.5; allowed: "),
        (["hardware.attention=cudnn"], "hardware.attention: found cudnn; allowed: auto or xla, or hardware.precision="),
        (["optimizer.ema=1"], "optimizer.ema: found 1.0; allowed: a number above 0 and at most 0.999999, or null"),
        (["optimizer.decay=[]"], "optimizer.decay: found []; allowed: a list like [a,b], without repetition, or null"),
        (["name=a/b"], "name: found a/b"),
        (["name=.."], "name: found .."),
        (["name='" + "é" * 150 + "'"], "name: found éé"),
        (["name="], "name: found ''"),
        (["output_dir="], "output_dir: found ''"),
        (["data.dir=' x'"], "data.dir: found ' x'"),
        (["task.variations=[]"], "task.variations: found []"),
        (["task.variations=[0,0]"], "task.variations: found [0, 0]"),
        (["task.variations=[-1]"], "task.variations: found [-1]"),
        (["sim.cameras=[front,back]"], "sim.cameras: found [front, back]; allowed: a list of front, left_shoulder"),
        (["sim.cameras=[front,front]"], "sim.cameras: found [front, front]"),
        (["task.name=Close", "sim=rlbench"], "task.name: found Close; allowed: the name of a task of RLBench"),
        (["task.name=a.b", "sim=rlbench"], "task.name: found a.b; allowed: the name of a task of RLBench, like close"),
        (["sim=rlbench", "sim.renderer=opengl"], "sim.renderer: found opengl; allowed with sim=rlbench: auto, rl"),
        (["sim.renderer=rlbench_opengl"], "sim.renderer: found rlbench_opengl; allowed with sim=tabletop: auto"),
        (["sim.cameras=[front,overhead]"], "sim.cameras: found [front, overhead]; allowed: overhead only with sim=rl"),
        (["task=unknown"], f"task: found unknown; allowed: {', '.join(options('task'))}"),
        (["task.name=unknown"], f"task.name: found unknown; allowed: {', '.join(EMBEDDED_TASKS)}, or any"),
        (["task.tasks=[]"], "task.tasks: found []; allowed: a list like [a,b], without repetition"),
        (["task.tasks=[reach_target,dance]"], f"task.tasks: found dance; allowed: {', '.join(EMBEDDED_TASKS)}"),
        (["task.tasks=[push_button,push_button]"], "task.tasks: found [push_button, push_button]; allowed: a list"),
        ([TWO, "task.variations=[0,1]"], "task.variations: found [0, 1] for 2 tasks; allowed: null, or choose one"),
        (["task.weights=[1]"], "task.weights: found [1.0]; allowed: null without a set in task.tasks"),
        ([TWO, "task.weights=[1]"], "task.weights: found [1.0]; allowed: null, or a number for each of task.tasks=[re"),
        ([TWO, "task.weights=[1,0]"], "task.weights: found [1.0, 0.0]; allowed: a list of numbers above 0 and at most"),
        ([TWO, "task.weights=[1,nan]"], "task.weights: found [1.0, nan]; allowed: a list of numbers above 0"),
        ([TWO, "task.weights=[]"], "task.weights: found []; allowed: a list of numbers above 0"),
        ([TWO, "task.weights=[1,true]"], "task.weights: found [1, true]; allowed: a list of numbers above 0"),
        ([TWO, "task.weights=[4000,1]"], "task.weights: found [4000.0, 1.0]; allowed: at least 1.00025 for push_"),
        (["task=close_jar"], "task.name: found close_jar; allowed: meat_off_grill, "),
        (["policy=[a,b]"], "policy: found [a, b]; allowed: vit_base, vit_debug, vit_large, vit_small"),
        (["policy=3"], "policy: found 3; allowed: vit_base, vit_debug, vit_large, vit_small"),
        (["policy=null"], "policy: found null; allowed: vit_base, vit_debug, vit_large, vit_small"),
        (["experiment=x"], "experiment: found x; allowed: pretrain_m3ae, pretrain_tiny, quickstart, null"),
        (["policy.depth=abc"], "policy.depth: found abc; allowed: an integer at least 1 and at most 64"),
        (["policy.depth=1.5"], "policy.depth: found 1.5; allowed: an integer at least 1 and at most 64"),
        (["policy.depth=null"], "policy.depth: found null; allowed: an integer"),
        (["encoder.text=maybe"], "encoder.text: found maybe; allowed: true or false"),
        (["sim.cameras=front"], "sim.cameras: found front; allowed: a list of front"),
        (["wandb={mode: on}"], "wandb.mode: found on; allowed: off, offline, online"),
        (["wandb={modes: off}"], "wandb.modes: no such setting; did you mean wandb.mode"),
        (["wandb=off"], "wandb: found off; allowed: its settings wandb.mode, wandb.project, wandb.entity, wandb.group"),
        (["+policy.dept=3"], "policy.dept: no such setting; did you mean policy.depth?"),
        (["nonsense=3"], "nonsense: no such setting; allowed here: data, encoder, "),
        (["seed=${nowhere.at.all}"], "seed: Interpolation key 'nowhere.at.all' not found"),
        (["name=${name}"], "name: Recursive interpolation detected"),
        (["name=\\${seed}"], "name: found ${seed}; allowed: ${...} without a backslash"),
        (["task.tasks=\\${seed}"], "task.tasks: found ${seed}; allowed: ${...} without a backslash"),
        (["seed=???"], "seed: no value given; write seed=...; allowed: an integer"),
        (["seed=0,1"], "seed: found several values; add --multirun"),
        (["seed=" + "9" * 400], "seed: found 999"),
        (["optimizer.beta1=" + "9" * 400], "optimizer.beta1: found 999"),
        (["sim.timeout=" + "9" * 400], "sim.timeout: found 999"),
        (["training={token_dropout: " + "9" * 400 + "}"], "training.token_dropout: found 999"),
        ([TWO, "task.weights=[1," + "9" * 400 + "]"], "task.weights: found [1, 999"),
        (["sim.cameras=[{a: b}]"], "sim.cameras: found [{'a': 'b'}]; allowed: a list of front"),
        (["~policy"], "~policy: a setting cannot be deleted"),
        (["+seed=1"], "+seed=1: seed already exists"),
        (["policy@head=vit_base"], "policy@head=vit_base: a group cannot be moved"),
        (["optimizer.learning_rate=1e400"], "optimizer.learning_rate: found inf; allowed: a number above 0"),
    ],
)  # fmt: skip
def test_the_line_says_what_was_found_and_what_is_allowed(overrides: list[str], found: str) -> None:
    with pytest.raises(InputError) as error:
        composed(*overrides)
    assert str(error.value).startswith(found)


def test_any_task_of_rlbench_may_be_named() -> None:
    config = composed("task.name=open_door", "sim=rlbench", "sim.cameras=[overhead,wrist]", name="collect")
    assert (config.task.name, config.sim.kind, config.sim.planner_attempts) == ("open_door", "rlbench", 10)
    assert composed("sim=rlbench").task.name == "reach_target", "also tasks that are embedded under the same name"


def test_the_simulators_know_the_same_renderers() -> None:
    from instructrl.sim import rendering

    assert (rendering.RENDERERS, rendering.RLBENCH_RENDERERS) == (RENDERERS, RLBENCH_RENDERERS)


def test_a_set_has_the_tasks_and_weights_that_it_is_given() -> None:
    config = composed("task.name=pair", TWO, "task.weights=[1,2]", "name=${task.name}")
    assert (config.name, task_names(config.task), config.task.weights) == (
        "pair",
        ("reach_target", "push_button"),
        [1, 2],
    )
    assert task_names(composed("task=push_button").task) == ("push_button",)
    assert task_names(composed("task.tasks=[push_button]", "task.variations=[1]").task) == ("push_button",)
    composed(TWO, "task.weights=[0.1,0.1]", "task.episodes=1")  # one episode each, despite the rounding of 0.1 + 0.1
    composed(TWO, "task.weights=[3999,1]", "task.name=pair")  # just one of 4000


def test_the_sets_of_the_benchmark_hold_tasks_that_there_are() -> None:
    ten, eighteen = (task_names(composed(f"task={name}").task) for name in ("multi_10", "multi_18"))
    assert (len(ten), len(eighteen)) == (10, 18)
    assert set(ten) < set(eighteen) <= set(EMBEDDED_TASKS)


def test_an_evaluation_needs_a_run_and_the_headline_row() -> None:
    with pytest.raises(InputError, match=r"run: no value given; write run=\.\.\."):
        compose("eval", EvalConfig, [])
    with pytest.raises(InputError, match=r"^conditions: found .*trained"):
        composed("conditions=[oracle]", name="eval")
    with pytest.raises(InputError, match=r"^protocol.conditions: found .*trained"):
        composed("protocol.conditions=[oracle]", name="eval")


def test_a_protocol_fixes_what_is_not_set_beside_it() -> None:
    plain = effective_protocol(composed("protocol=peract", name="eval"))
    assert (plain.name, plain.episodes, plain.seed, plain.conditions) == ("peract", 25, 0, ["trained", "oracle"])
    words = (
        "protocol=peract",
        "protocol.max_keyframes=7",
        "seed=0",
        "episodes=3",
        "conditions=[trained]",
        "protocol.episodes=9",
    )
    changed = effective_protocol(composed(*words, name="eval"))
    assert (changed.episodes, changed.conditions, changed.max_keyframes) == (3, ["trained"], 7)
    assert dataclasses.replace(changed, episodes=25, conditions=plain.conditions, max_keyframes=25) == plain
    assert effective_protocol(composed("protocol=hiveformer", "seed=0", name="eval")).seed == 0, "zero is a value"


@pytest.mark.parametrize("name", ["a/b", "..", ".hidden"])
def test_a_protocols_name_must_be_a_folders(name: str) -> None:
    with pytest.raises(InputError, match=r"^protocol.name: found"):
        composed(f"protocol.name={name}", name="eval")


@pytest.mark.parametrize(
    ("word", "line"),
    [
        ("protocol=rlbench", "protocol: found rlbench; allowed: default, hiveformer, peract"),
        ("protocol.variations=some", "protocol.variations: found some; allowed: all, trained, held_out, or a list"),
        ("protocol.variations=[-1]", "protocol.variations: found [-1]; allowed: all, trained, held_out, or a list"),
        ("protocol.variations=[]", "protocol.variations: found []; allowed: all, trained, held_out, or a list"),
        ("protocol.max_keyframes=0", "protocol.max_keyframes: found 0; allowed: an integer at least 1"),
        ("protocol.max_unreachable=0", "protocol.max_unreachable: found 0; allowed: an integer at least 1"),
        ("protocol.sentence=last", "protocol.sentence: found last; allowed: seed, first"),
        ("variations=[1]", "variations: no such setting; did you mean protocol.variations?"),
        ("tasks=[]", "tasks: found []; allowed: a list like [a,b], without repetition, or null"),
    ],
)
def test_what_a_protocol_cannot_be_is_one_line(word: str, line: str) -> None:
    with pytest.raises(InputError) as error:
        composed(word, name="eval")
    assert str(error.value).startswith(line)


def test_interpolations_are_welcome() -> None:
    config = composed("seed=3", "policy.depth=${seed}", "name=run-${policy.depth}-${task.name}")
    assert (config.policy.depth, config.name) == (3, "run-3-reach_target")


# Random overrides: a valid configuration or an error of one line.

KEYS = sorted({*(key for schema in SCHEMAS.values() for key in known_keys(schema)), *groups("train")})
WORDS = sorted({option for _, _, option in OPTIONS} | {"abc", "front", "wrist", "trained", "off", "auto", "best"})
ODD = [
    "", "''", "' '", "null", "???", "nan", "inf", "-inf", "true", "False", "[]", "{}", "[1,[2]]", "{a: 1}", "{1: 2}",
    "[front,front]", "[front,{a: b}]", "a,b", "1,2", "choice(1,2)", "range(0,3)", "interval(0,1)", "glob(*)",
    "shuffle(1,2)", "sort(3,1)", "int(3.7)", "int(x)", "str(3)", "float(1)", "bool(1)", "tag(t, 1)", "extend_list(1)",
    "${seed}", "${name}", "${x.y}", "${}", "${", "${oc.env:HOME}", "${oc.env:NO_SUCH,3}", "${oc.env:NO_SUCH}",
    "${oc.env:NO_SUCH,null}", "${now:%Y}", "${hydra:job.name}", "${oc.decode:'['}", "${oc.dict.keys:policy}",
    "${policy}", "${.name}", "${..seed}", "${oc.create:[1]}", "${oc.select:x,3}", "'${seed}'", r"\${seed}", "$x",
    "a b", "a=b", "a:b", "\"a\nb\"", "'a\tb'", "a\nb", "\x00", "é", "日本", "🤖", "'\u200b'", "\\", "(", ")", "[", "]",
    "{", "}", "'", '"', ",", "=", "@", "~", "+", "../x", "/abs", ".", "..", "1e400", "1e-400", "-0.0", "1_000",
    "0x10", "9" * 30, "9" * 400, "9" * 5000, "-1", "0", "3.0", "x" * 3000, "hydra", "[null]", "[true,1]", "[1.5]",
]  # fmt: skip
PREFIXES = ["", "", "", "", "", "", "+", "++", "~", "/", "-", "@"]


def misspelled(key: str, at: int) -> str:
    at %= max(len(key), 1)
    return key[:at] + key[at + 1 :]


def plausible(key: str) -> st.SearchStrategy[str]:
    """A plausible value of a key."""
    if key in groups("train"):
        return st.sampled_from([*options(key), *options("policy")])
    fields = [leaves(schema)[key] for schema in SCHEMAS.values() if key in leaves(schema)]
    choices = fields[0].metadata.get("choices") if fields else None
    listed = fields and "list" in str(fields[0].type)
    if choices:
        return st.lists(st.sampled_from(choices), max_size=4).map(lambda some: f"[{','.join(some)}]") if listed else (
            st.sampled_from(choices))  # fmt: skip
    if listed:
        return st.lists(st.integers(-1, 30), max_size=3).map(str)
    return st.one_of(st.integers(-1, 128).map(str), st.floats(0, 2).map(str), st.sampled_from(WORDS))


STRANGE = [
    "hydra", "hydra.run.dir", "hydra.verbose", "hydra/launcher", "hydra.job.chdir", "hydra.mode", "hydra/x", "", " ",
    "a b", "é", "_target_", "defaults", "__class__", "sim.cameras[0]", "sim.cameras.0", "policy/vit_base", ".",
]  # fmt: skip
keys = st.one_of(
    st.sampled_from(KEYS),
    st.builds(misspelled, st.sampled_from(KEYS), st.integers(0, 30)),
    st.builds("{}.{}".format, st.sampled_from(KEYS), st.sampled_from([*KEYS, "0", "x"])),
    st.builds("{}@{}".format, st.sampled_from(KEYS), st.sampled_from([*KEYS, "_global_", "_here_", ""])),
    st.sampled_from(STRANGE),
    st.text(max_size=8),
)  # fmt: skip
values = st.one_of(
    st.sampled_from(ODD), st.sampled_from(WORDS), st.text(max_size=12), st.integers().map(str), st.floats().map(str)
)
likely = st.sampled_from(KEYS).flatmap(lambda key: plausible(key).map(lambda value: f"{key}={value}"))
unlikely = st.one_of(
    st.builds("{}{}={}".format, st.sampled_from(PREFIXES), st.sampled_from(KEYS), values),
    st.builds("{}{}={}".format, st.sampled_from(PREFIXES), keys, st.one_of(values, st.sampled_from(WORDS))),
    st.sampled_from(KEYS).map("~{}".format),
    keys,
    st.text(max_size=20),
)
near_valid = st.lists(likely, max_size=2)  # typical mistakes
anything = st.one_of(
    st.tuples(st.lists(likely, max_size=1), unlikely).map(lambda both: [*both[0], both[1]]),
    st.lists(unlikely, max_size=3),
)


@st.composite
def commands(draw: st.DrawFn) -> tuple[str, list[str]]:
    """A command and its overrides: half of them nearly valid, some with an odd value at a valid key."""
    name, kind = draw(st.sampled_from(["train", "train", "eval", "collect"])), draw(st.integers(0, 9))
    if kind in (5, 6, 7):
        return name, [f"{draw(st.sampled_from(known_keys(SCHEMAS[name])))}={draw(st.sampled_from(ODD))}"]
    return name, draw(near_valid if kind < 5 else anything)


OUTCOMES: dict[bool, int] = {True: 0, False: 0}


@settings(max_examples=520, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck))
@given(commands())
def test_any_override_gives_a_configuration_or_one_line(asked: tuple[str, list[str]]) -> None:
    name, words = asked
    try:
        config = compose(name, SCHEMAS[name], [*NEEDED[name], *words])
    except InputError as error:
        line = str(error)
        assert line.strip() and "\n" not in line and len(line) < 1000
        key = line.partition(":")[0].strip("'")
        named = any(
            key in word or line.startswith(format_value(word)) for word in words
        )  # the key, or an unreadable word
        assert named or key in KEYS, line
        OUTCOMES[False] += 1
    else:
        assert isinstance(config, SCHEMAS[name])
        OUTCOMES[True] += 1


def test_the_random_overrides_were_neither_all_right_nor_all_wrong() -> None:
    if sum(OUTCOMES.values()) >= 500:  # else the test above did not run, or failed
        assert min(OUTCOMES.values()) >= 60, OUTCOMES
