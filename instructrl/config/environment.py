"""Settings of tasks, simulators, data and collection, and their checks. No jax here."""

import re
from dataclasses import dataclass, field
from fractions import Fraction

from instructrl.config.fields import (
    MAX_EPISODES,
    choice_list,
    format_value,
    number,
    number_list,
    one_of,
    setting,
)
from instructrl.errors import InputError

EMBEDDED_TASKS = (
    "meat_off_grill",
    "open_drawer",
    "phone_on_base",
    "pick_and_lift",
    "pick_up_cup",
    "push_button",
    "push_buttons",
    "put_knife_on_chopping_board",
    "put_money_in_safe",
    "put_rubbish_in_bin",
    "reach_target",
    "slide_block_to_target",
    "stack_blocks",
    "stack_wine",
    "take_lid_off_saucepan",
    "take_money_out_safe",
    "take_umbrella_out_of_umbrella_stand",
    "turn_tap",
)

CAMERAS = ("front", "left_shoulder", "right_shoulder", "wrist", "overhead")  # the last one on RLBench only

RENDERERS = ("auto", "opengl", "raycast")

RLBENCH_RENDERERS = ("rlbench_opengl", "rlbench_opengl3")  # CoppeliaSim's; auto: the latter, RLBench's own choice


@dataclass
class TaskConfig:
    """Task or set of tasks to demonstrate, learn and evaluate."""

    name: str = setting(help="embedded task, any RLBench task with sim=rlbench, or the label of a set in task.tasks")
    episodes: int = number(low=1, high=MAX_EPISODES, help="training demonstrations of each task")
    val_episodes: int = number(low=1, high=MAX_EPISODES, help="validation demonstrations of each task")
    variations: list[int] | None = setting(None, help="variations of a single task to demonstrate; null: all")
    tasks: list[str] | None = setting(None, help="tasks of a set; null: only task.name")
    weights: list[float] | None = number_list(
        above=0, high=1e6, help="relative share of each task in an epoch; null: every episode once per epoch"
    )


def task_names(task: TaskConfig) -> tuple[str, ...]:
    """Names of the tasks to demonstrate, learn and evaluate: those of a set, or the single one."""
    return (task.name,) if task.tasks is None else tuple(task.tasks)


@dataclass
class SimConfig:
    """Simulator and its cameras."""

    name: str = setting("tabletop", help="label of the simulator")
    kind: str = one_of(
        "tabletop", "rlbench", default="tabletop", help="embedded tabletop simulator, or RLBench on CoppeliaSim"
    )
    cameras: list[str] = choice_list(
        "front", "left_shoulder", "right_shoulder", choices=CAMERAS, help="cameras; overhead only with rlbench"
    )
    image_size: int = number(128, low=16, high=1024, help="side of the square camera images in pixels")
    renderer: str = one_of(
        *RENDERERS, *RLBENCH_RENDERERS, default="auto", help="renderer; auto: the best one available"
    )
    workers: int | None = number(None, low=1, high=1024, help="simulator processes; null: one per CPU core")
    timeout: float = number(60.0, above=0, high=86_400, help="seconds after which a simulator call counts as hung")
    planner_attempts: int = number(10, low=1, high=1000, help="path planning attempts for each keyframe; rlbench only")


@dataclass
class DataConfig:
    """Storage of demonstrations: a local folder, or one in a bucket (gs://BUCKET/FOLDER, s3://BUCKET/FOLDER)."""

    dir: str = setting("data", help="folder of demonstrations, local or gs://... or s3://...")
    compression: str = one_of(
        "none", "lz4", "zstd", default="none", help="compression of images in demonstrations that are written"
    )
    cache_dir: str | None = setting(
        "~/.cache/instructrl", help="local cache of files in buckets; null: read them in range requests"
    )
    cache_gb: float = number(100.0, above=0, high=1e6, help="maximum size of that cache in GB")


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


def check_task(task: TaskConfig, sim: SimConfig) -> None:
    """Raise InputError if the simulator has no such task, or the settings of a set of tasks do not fit together."""
    names, variations = task_names(task), task.variations
    key, alternative = ("task.tasks", "") if task.tasks else ("task.name", ", or any name with a set in task.tasks")
    for name in names:
        if sim.kind == "tabletop" and name not in EMBEDDED_TASKS:
            allowed = f"{', '.join(EMBEDDED_TASKS)}{alternative}, or a task of RLBench with sim=rlbench"
            raise InputError(f"{key}: found {format_value(name)}; allowed: {allowed}")
        if not re.fullmatch("[a-z][a-z0-9_]*", name):
            raise InputError(
                f"{key}: found {format_value(name)}; allowed: the name of a task of RLBench, like close_jar"
            )
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


def check_cameras(sim: SimConfig) -> None:
    """Raise InputError if the simulator has no such camera or renderer."""
    embedded = sim.kind == "tabletop"
    if embedded and "overhead" in sim.cameras:
        raise InputError(f"sim.cameras: found {format_value(sim.cameras)}; allowed: overhead only with sim=rlbench")
    renderers = RENDERERS if embedded else ("auto", *RLBENCH_RENDERERS)
    if sim.renderer not in renderers:
        raise InputError(f"sim.renderer: found {sim.renderer}; allowed with sim={sim.kind}: {', '.join(renderers)}")
