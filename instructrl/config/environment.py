"""Settings of tasks, simulators, data and collection, and their checks. No jax here."""

import os
import re
from dataclasses import MISSING, dataclass, field, fields
from fractions import Fraction
from keyword import iskeyword
from typing import Any, ClassVar

from instructrl.config.declarations import check_settings
from instructrl.config.fields import (
    MAX_EPISODES,
    format_value,
    leaves,
    number,
    number_list,
    one_of,
    setting,
    word_list,
)
from instructrl.config.kinds import kind_of
from instructrl.config.share import MAX_JOBS
from instructrl.errors import InputError
from instructrl.interface import class_name
from instructrl.package_files import IMPORT_ROOT
from instructrl.registry import Registry
from instructrl.tasks import TASKS
from instructrl.types import ACTION_SPACES, COLLISIONS, DENSE, KEYFRAME
from instructrl.workspace import LARGEST, Workspace


def check_simulator(schema: type, base: type) -> None:
    """Raise InputError unless the settings of a simulator can be used.

    Its actions are those of demonstrations, and the names of its cameras can stand in paths, as keys and as fields.
    """
    check_settings(schema, base)
    name = class_name(schema)
    cameras, actions = (leaves(schema)[key].metadata.get("choices", ()) for key in ("cameras", "actions"))
    if not cameras or not all(map(is_variable, cameras)):
        raise InputError(
            f"{name}.cameras: found {', '.join(cameras) or 'no choices'}; allowed: choice_list(..., choices=(...)) "
            "with names as of variables in Python: letters, digits and underscores"
        )
    if not actions or actions[0] != KEYFRAME or not set(actions) <= set(ACTION_SPACES):
        raise InputError(
            f"{name}.actions: found {', '.join(actions) or 'no choices'}; allowed: "
            f"actions_field({KEYFRAME!r}, ...) with {', '.join(ACTION_SPACES[1:])} or none"
        )


def is_variable(name: str) -> bool:
    """True if a variable in Python can have this name, of ASCII letters, digits and underscores."""
    return name.isascii() and name.isidentifier() and not iskeyword(name)


SIMULATORS: "Registry[type[SimConfig]]" = Registry(
    "sim.kind",
    {
        "tabletop": "instructrl.config.simulators:TabletopConfig",
        "rlbench": "instructrl.config.simulators:RLBenchConfig",
        "metaworld": "instructrl.config.simulators:MetaWorldConfig",
    },
    group="instructrl.simulators",
    base="instructrl.config.environment:SimConfig",
    check=check_simulator,
)
SIMULATOR_HELP = "embedded tabletop simulator, RLBench, Meta-World, or another package's"
EMBEDDED_TASKS = tuple(TASKS.own)
WORLD = ("workspace", "state")  # settings that declare what differs between worlds, beside the cameras
STATE_NAME = r"[A-Za-z][\w .-]*( \([\w/^ ]+\))?"


def workspace_field(workspace: Workspace) -> Any:
    """A field of a simulator's settings that declares the bounds of its actions."""
    about = "bounds of positions in metres: x y z of the lowest corner, then of the highest"
    return number_list(*workspace.numbers, low=-LARGEST, high=LARGEST, help=about)


def state_field(*names: str) -> Any:
    """A field of a simulator's settings that declares the numbers of its state, with units, like "finger (m)"."""
    about = "numbers of the state"
    return word_list(*names, pattern=STATE_NAME, allowed='names with units, like "finger (m)"', help=about)


def actions_field(*spaces: str) -> Any:
    """A field of a simulator's settings that declares which actions it executes and records, `KEYFRAME` first."""
    meanings = {DENSE: "evenly in time, for heads that predict chunks", COLLISIONS: "with the planner's collision flag"}
    others = "".join(f"; {space}: {meanings[space]}" for space in spaces[1:])
    return one_of(*spaces, default=KEYFRAME, help=f"actions: {KEYFRAME}s{others}")


@dataclass
class TaskConfig:
    """Task or set of tasks to demonstrate, learn and evaluate."""

    name: str = setting(help="embedded task, any RLBench task with sim=rlbench, or the label of a set in task.tasks")
    episodes: int = number(low=1, high=MAX_EPISODES, help="training demonstrations of each task")
    val_episodes: int = number(low=1, high=MAX_EPISODES, help="validation demonstrations of each task")
    variations: list[int] | None = setting(None, help="variations of a single task to demonstrate; null: all")
    tasks: list[str] | None = setting(
        None, help="tasks of a set (multi_18: embedded ones, peract_18: PerAct's); null: only name"
    )
    weights: list[float] | None = number_list(
        above=0, high=1e6, help="relative share of each task in an epoch; null: every episode once per epoch"
    )


def task_names(task: TaskConfig) -> tuple[str, ...]:
    """Names of the tasks to demonstrate, learn and evaluate: those of a set, or the single one."""
    return (task.name,) if task.tasks is None else tuple(task.tasks)


@dataclass
class SimConfig:
    """Simulator and its cameras: the settings of all kinds, of which each is a subclass with its own.

    A simulator of another package is a subclass, named by an entry point in the group `instructrl.simulators`, a class
    as described by `instructrl.sim.env.Simulator`, and a file sim/NAME.yaml (see cli/folders.py):

        @dataclass
        class PlaneConfig(SimConfig):
            implementation: ClassVar[str] = "acme_robots.plane:Plane"

            cameras: list[str] = choice_list("top", choices=("top",), help="cameras")
            workspace: list[float] = workspace_field(Workspace((0, -0.5, 0), (1, 0.5, 0.8)))
            state: list[str] = state_field("gripper open", "time")
            renderer: str = one_of("auto", "numpy", default="auto", help="renderer")
            gravity: float = number(9.81, low=0, high=100, help="m/s^2")

    What it declares so is recorded with its demonstrations and with the runs that train on them.
    """

    implementation: ClassVar[str] = ""  # "module:class" of the environment
    fragile: ClassVar[bool] = False  # may crash on its own, so each episode is saved at once
    environment: ClassVar[str] = ""  # virtual environment beside the code that has the simulator, made by a make target
    locates_objects: ClassVar[bool] = False  # gives the positions of objects in its images
    records_intermediate_frames: ClassVar[bool] = False  # follows the setting `intermediate_frames`
    known_state: ClassVar[tuple[str, ...]] = ()  # the numbers of which `state` may name any; (): only its default
    usual_renderer: ClassVar[str] = ""  # of data that do not say who drew them; empty: the first of `renderer`'s words

    name: str = setting(help="label of the simulator")
    kind: str = kind_of(SIMULATORS, help=SIMULATOR_HELP)
    cameras: list[str] = setting(help="cameras")
    workspace: list[float] = setting(help="bounds of positions in metres")
    state: list[str] = setting(help="numbers of the state")
    actions: str = actions_field(KEYFRAME)
    intermediate_frames: int | None = number(
        None, low=1, high=1000, help="tenths of a second between frames recorded on the way to keyframes; null: none"
    )
    image_size: int = number(128, low=16, high=1024, help="side of the square camera images in pixels")
    renderer: str = setting("auto", help="renderer; auto: the best one available")
    workers: int | None = number(None, low=1, high=1024, help="simulator processes; null: one per CPU core")
    timeout: float = number(60.0, above=0, high=86_400, help="seconds after which a simulator call counts as hung")
    python: str | None = setting(
        None,
        help="Python interpreter with the simulator's packages; null: its own environment if any, or this",
    )

    def __post_init__(self) -> None:
        if isinstance(self.cameras, str):
            self.cameras = [self.cameras]

    @property
    def interpreter(self) -> str | None:
        """The Python interpreter of the simulator's processes: as set, or that of `environment`; None: this one."""
        own = IMPORT_ROOT / self.environment / "bin" / "python"
        if self.python is None and self.environment and own.exists():
            return str(own)
        return self.python and os.path.expanduser(self.python)  # noqa: PTH111  (a word on PATH stays one)

    @property
    def bounds(self) -> Workspace:
        """The workspace.

        Raises:
            InputError: `workspace` is no box.
        """
        return Workspace.from_numbers(self.workspace, key="sim.workspace")

    @property
    def recording(self) -> str:
        """The end of a task's name in paths of demonstrations: the kind of actions, and frames beside keyframes."""
        actions = "" if self.actions == KEYFRAME else f"-{self.actions}"
        return actions if self.intermediate_frames is None else f"{actions}-every{self.intermediate_frames}"

    def choices(self, key: str) -> tuple[str, ...]:
        """The words that `cameras` or `renderer` may have; empty if it says of none."""
        found: tuple[str, ...] = leaves(type(self))[key].metadata.get("choices", ())
        return found

    def check_playable(self) -> None:
        """Raise InputError if the settings describe data of another world, in which no episode can be played."""
        declared = {entry.name: entry.default_factory for entry in fields(self) if entry.name in WORLD}
        for key, make in declared.items():
            found = getattr(self, key)
            known = self.known_state if key == "state" else ()
            if make is MISSING or found == make() or set(found) <= set(known):
                continue
            own = f"any of {', '.join(known)}" if known else format_value(make())
            raise InputError(
                f"sim.{key}: found {format_value(found)}, of other demonstrations; allowed where sim={self.kind} "
                f"plays episodes: its own, {own}; to run an agent on the robot that the data are of, serve it: "
                "python -m instructrl.inference.serve run=RUN"
            )

    def check_task(self, key: str, name: str) -> None:
        """Raise InputError if the simulator has no task of this name, which is a value of the setting `key`."""
        if not re.fullmatch("[a-z][a-z0-9_]*", name):
            allowed = "lower-case letters, digits and underscores, with a letter in front"
            raise InputError(f"{key}: found {format_value(name)}; allowed: {allowed}")


@dataclass
class DataConfig:
    """Storage of demonstrations: a local folder, or one in a bucket (gs://BUCKET/FOLDER, s3://BUCKET/FOLDER)."""

    dir: str = setting("data", help="folder of demonstrations, local or gs://... or s3://...")
    compression: str = one_of(
        "none", "lz4", "zstd", default="lz4", help="compression of images in demonstrations that are written"
    )
    cache_dir: str | None = setting(
        "~/.cache/instructrl", help="local cache of files in buckets; null: read them in range requests"
    )
    cache_gb: float = number(100.0, above=0, high=1e6, help="maximum size of that cache in GB")
    outside_workspace: str = one_of(
        "refuse",
        "clip",
        default="refuse",
        help="demonstrations with keyframes outside the workspace; clip: predictions are clipped to it",
    )


@dataclass
class CollectConfig:
    """Settings of `python -m data_tools.collect`."""

    task: TaskConfig = field(default_factory=TaskConfig)
    sim: SimConfig = field(default_factory=SimConfig)
    data: DataConfig = field(default_factory=DataConfig)
    episodes: int | None = number(
        None, low=1, high=MAX_EPISODES, help="training demonstrations of each task; null: task.episodes"
    )
    val_episodes: int | None = number(
        None, low=1, high=MAX_EPISODES, help="validation demonstrations of each task; null: task.val_episodes"
    )
    jobs: int = number(1, low=1, high=MAX_JOBS, help="jobs of the launcher among which the episodes are divided")
    job: int | None = number(
        None, low=1, high=MAX_JOBS, help="collect the episodes of this one of jobs only, without merging; null: all"
    )

    @property
    def counts(self) -> dict[str, int]:
        """Number of episodes of each split of a task."""
        return {
            "train": self.episodes or self.task.episodes,
            "val": self.val_episodes or self.task.val_episodes,
        }


def check_recording(sim: SimConfig) -> None:
    """Raise InputError if the simulator does not record the frames between keyframes that it should."""
    if sim.intermediate_frames is None or (sim.records_intermediate_frames and sim.actions != DENSE):
        return
    reason = "sim.actions=dense, which records all" if sim.records_intermediate_frames else f"sim={sim.kind}"
    raise InputError(f"sim.intermediate_frames: found {sim.intermediate_frames}; allowed: null with {reason}")


def check_task(task: TaskConfig, sim: SimConfig) -> None:
    """Raise InputError if the simulator has no such task, or the settings of a set of tasks do not fit together."""
    names, variations = task_names(task), task.variations
    for name in names:
        sim.check_task("task.tasks" if task.tasks else "task.name", name)
    if variations is not None and min(variations) < 0:
        raise InputError(f"task.variations: found {format_value(variations)}; allowed: null or a list of numbers >= 0")
    if variations is not None and len(names) > 1:
        found = f"{format_value(variations)} for {len(names)} tasks"
        raise InputError(f"task.variations: found {found}; allowed: null, or choose one task")
    check_weights(task)


def check_weights(task: TaskConfig) -> None:
    """Raise InputError unless each task of a set has a weight, and an epoch at least one episode of each."""
    if task.weights is None:
        return
    found = f"task.weights: found {format_value(task.weights)}"
    if task.tasks is None:
        raise InputError(f"{found}; allowed: null without a set in task.tasks")
    if len(task.weights) != len(task.tasks):
        raise InputError(f"{found}; allowed: null, or a number for each of task.tasks={format_value(task.tasks)}")
    epoch, total = len(task.tasks) * task.episodes, sum(map(Fraction, task.weights))
    for name, weight in zip(task.tasks, task.weights, strict=True):
        if Fraction(weight) * epoch < total:
            least = f"at least {float(total / epoch):.6g} for {name}, one of an epoch's {epoch} sequences"
            raise InputError(f"{found}; allowed: {least}, or more task.episodes")
