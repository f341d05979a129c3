"""Settings of the command that converts third-party demonstrations."""

from dataclasses import dataclass

from data_tools.convert.keyframe_rule import THRESHOLDS, KeyframeRule, keyframe_rule
from instructrl.cli.args import parse_settings
from instructrl.config.environment import EMBEDDED_TASKS
from instructrl.config.fields import choice_list, format_value, number, number_list, one_of, setting
from instructrl.config.resolve import check_name
from instructrl.config.simulators import RLBENCH_CAMERAS, RLBENCH_RENDERERS, RLBenchConfig
from instructrl.data.demonstrations.schema import SPLITS
from instructrl.errors import InputError
from instructrl.sim.tabletop.task import load_task
from instructrl.types import COLLISIONS, KEYFRAME
from instructrl.workspace import LARGEST, RLBENCH_WORKSPACE, Workspace


@dataclass
class ConvertConfig:
    """Settings of the command."""

    kind: str = one_of("rlbench", "windows", help="format of the source")
    src: str = setting(help="folder or file to convert")
    out: str = setting(help="folder of the demonstrations to write")
    task: str | None = setting(None, help="task; null: the name of the source")
    split: str | None = setting(None, help="split to write, train or val; null: both")
    val_episodes: int | None = number(None, low=1, help="validation episodes without split=; null: a tenth")
    episodes: int | None = number(None, low=1, help="maximum number of episodes per task; null: all")
    cameras: list[str] = choice_list(*RLBENCH_CAMERAS[:3], choices=RLBENCH_CAMERAS, help="cameras to convert")
    image_size: int | None = number(
        None, low=16, high=1024, help="side in pixels to which images are resized; rlbench only; null: unchanged"
    )
    variations: int | None = number(
        None, low=1, help="number of variations of the task; null: those of the embedded task, else any"
    )
    renderer: str = one_of(
        *RLBENCH_RENDERERS,
        default=RLBENCH_RENDERERS[1],
        help="renderer of the images, which the source does not record",
    )
    workspace: list[float] | None = number_list(
        low=-LARGEST,
        high=LARGEST,
        help="bounds of positions in metres: x y z of the lowest corner, then of the highest; null: RLBench's",
    )
    compression: str = one_of("none", "lz4", "zstd", default="lz4", help="compression of images in the files written")
    keyframes: str = one_of(
        *THRESHOLDS,
        default="default",
        help="rule for keyframes: InstructRL's own, PerAct's, or every frame; rlbench only",
    )
    stop_speed: float | None = number(
        None, above=0, high=10, help="rad/s of the fastest joint below which an arm may have stopped; null: 0.1"
    )
    stop_gap: int | None = number(
        None, low=0, high=1000, help="frames after a stop in which there is no other; null: 4, as in PerAct"
    )
    stop_restart: float | None = number(
        None, above=0, high=10, help="rad/s more with which a slow arm moves again; keyframes=default; null: 0.02"
    )
    stop_rest: float | None = number(
        None, low=0, high=1, help="fraction of a slow motion's top speed that is rest; keyframes=default; null: 0.1"
    )
    intermediate_frames: int | None = number(
        None, low=1, high=1000, help="keep also every n-th frame between keyframes; rlbench only; null: none"
    )
    actions: str = one_of(
        KEYFRAME,
        COLLISIONS,
        default=KEYFRAME,
        help=f"actions to write; {COLLISIONS}: with PerAct's collision flag; rlbench only",
    )
    crop: bool = setting(False, help="cut the central square out of images that are not square; rlbench only")
    depth: bool = setting(False, help="decode and check depth images, which are not stored; rlbench only")
    workers: int | None = number(
        None, low=1, high=1024, help="processes that read episodes; rlbench only; null: one per CPU core, one for a few"
    )
    overwrite: bool = setting(False, help="replace other files at out")


def parse(argv: list[str]) -> ConvertConfig:
    """Parse a command line.

    Raises:
        InputError: a setting is unknown or its value is not allowed.
    """
    config = parse_settings(argv, ConvertConfig, prog="python -m data_tools.convert")
    if config.split not in (None, *SPLITS):
        raise InputError(f"split: found {format_value(config.split)}; allowed: {', '.join(SPLITS)}, or null")
    workspace_of(config)
    if config.task is not None:  # a folder's name is kept: the printed command says that no training accepts it
        RLBenchConfig().check_task("task", config.task)
        check_name(config.task, key="task")
    rule = rule_of(config)
    changed = config.crop or config.depth or config.image_size is not None or rule != KeyframeRule()
    changed = changed or config.intermediate_frames is not None
    if config.intermediate_frames is not None and config.keyframes == "every":
        found = config.intermediate_frames
        raise InputError(f"intermediate_frames: found {found}; allowed: null with keyframes=every, which keeps all")
    if config.kind == "windows" and (changed or config.actions != KEYFRAME):
        keys = "image_size, keyframes, stop_*, intermediate_frames, actions, crop, depth"
        raise InputError(f"{keys}: allowed only with kind=rlbench; leave them out")
    return config


def rule_of(config: ConvertConfig) -> KeyframeRule:
    """The rule for keyframes that the settings describe.

    Raises:
        InputError: a threshold is given that the rule does not have.
    """
    return keyframe_rule(
        config.keyframes,
        speed=config.stop_speed,
        gap=config.stop_gap,
        restart=config.stop_restart,
        rest=config.stop_rest,
    )


def workspace_of(config: ConvertConfig) -> Workspace:
    """The box in which the keyframes of converted episodes lie.

    Raises:
        InputError: `workspace` is no box.
    """
    return Workspace.from_numbers(config.workspace or RLBENCH_WORKSPACE.numbers, key="workspace")


def num_variations(config: ConvertConfig, task: str) -> int | None:
    """Number of variations of a task; None if unknown."""
    return config.variations or (load_task(task).variations if task in EMBEDDED_TASKS else None)
