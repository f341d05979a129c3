"""Conversion of third-party demonstrations to files that train.py reads.

python -m data_tools.convert kind=rlbench src=/data/peract/train/close_jar out=data
python -m data_tools.convert kind=windows src=reach_target_train.hdf5 out=data 'cameras=[front,left_shoulder]'

kind=rlbench reads RLBench's stored demonstrations (a task's folder, or the one that holds tasks), in the original
layout and in PerAct's. kind=windows reads the HDF5 windows of the method's first release. out is a folder, in which
each file has the path that train.py expects with data.dir=OUT sim=rlbench, or the name of one .hdf5 file. Without
split=, the last tenth of the episodes becomes the split val. Episodes that cannot be used are named, counted and
skipped. The same command resumes with the tasks that are missing.
"""

import sys
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np

from data_tools.convert.keyframe_rule import THRESHOLDS, KeyframeRule, keyframe_rule
from data_tools.convert.rlbench_dataset import (
    ConversionOptions,
    demonstration,
    find_episodes,
    find_task_folders,
    first_image_size,
)
from data_tools.convert.skip_report import ConversionReport, Converted, SkippedError, SkipReason, add_all
from instructrl import __version__
from instructrl.actions import canonical_quaternion
from instructrl.cli.args import parse_settings
from instructrl.cli.entry import tool_help
from instructrl.collection.target_file import ATTEMPTS, FIRST_SEED, demonstration_paths
from instructrl.config.environment import CAMERAS, EMBEDDED_TASKS, RLBENCH_RENDERERS, DataConfig, SimConfig, TaskConfig
from instructrl.config.fields import choice_list, format_value, number, one_of, setting
from instructrl.data.demonstrations.legacy_windows import WindowEpisode, Windows, open_windows
from instructrl.data.demonstrations.reader import read
from instructrl.data.demonstrations.schema import SPLITS, Header
from instructrl.data.demonstrations.writer import Writer
from instructrl.errors import InputError, report_user_errors
from instructrl.plausibility import check_gripper_poses
from instructrl.sim.rlbench.env import MAX_STEPS
from instructrl.sim.tabletop.task import load_task
from instructrl.storage.file_lock import exclusive_lock
from instructrl.storage.paths import StoragePath, storage_path
from instructrl.types import Demonstration

Candidate = tuple[
    str, Callable[..., Demonstration | Converted]
]  # name, and a function that builds the demonstration for a seed


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
    cameras: list[str] = choice_list(
        "front", "left_shoulder", "right_shoulder", choices=CAMERAS, help="cameras to convert"
    )
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
    compression: str = one_of("none", "lz4", "zstd", default="none", help="compression of images in the files written")
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
    crop: bool = setting(False, help="cut the central square out of images that are not square; rlbench only")
    depth: bool = setting(False, help="decode and check depth images, which are not stored; rlbench only")
    overwrite: bool = setting(False, help="replace other files at out")


def parse(argv: list[str]) -> ConvertConfig:
    """Parse a command line.

    Raises:
        InputError: a setting is unknown or its value is not allowed.
    """
    config = parse_settings(argv, ConvertConfig, prog="python -m data_tools.convert")
    if config.split not in (None, *SPLITS):
        raise InputError(f"split: found {format_value(config.split)}; allowed: {', '.join(SPLITS)}, or null")
    rule = rule_of(config)
    changed = config.crop or config.depth or config.image_size is not None or rule != KeyframeRule()
    if config.kind == "windows" and changed:
        raise InputError("image_size, keyframes, stop_*, crop, depth: allowed only with kind=rlbench; leave them out")
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


def convert(config: ConvertConfig) -> None:
    """Convert all tasks of the source."""
    if config.kind == "windows":
        with open_windows(Path(config.src), config.cameras) as windows:
            convert_windows(config, windows)
        return
    folders = find_task_folders(Path(config.src))
    if config.out.endswith(".hdf5") and len(folders) > 1:
        names = ", ".join(folder.name for folder in folders)
        raise InputError(f"out: found one file for the tasks {names}; name a folder")
    for folder in folders:
        convert_rlbench(config, folder)


def convert_rlbench(config: ConvertConfig, folder: Path) -> None:
    """Convert RLBench's stored demonstrations of one task."""
    episodes = find_episodes(folder)
    task = config.task or folder.resolve().name
    size = config.image_size or first_image_size(episodes, config.cameras)
    rule = rule_of(config)
    limit = num_variations(config, task)
    options = ConversionOptions(tuple(config.cameras), size, limit, rule, crop=config.crop, depth=config.depth)
    candidates: list[Candidate] = [
        (str(episode.folder.relative_to(folder)), partial(demonstration, episode, options)) for episode in episodes
    ]
    origin = {"simulator": "rlbench", "expert": "waypoints, stored demonstrations", "keyframes": str(rule)}
    write(config, task, size, candidates, origin)
    if config.depth:
        print("depth: decoded and checked at all keyframes; not stored, as the format has no field for it")


def convert_windows(config: ConvertConfig, windows: Windows) -> None:
    """Convert one file of windows."""
    task = config.task or windows.task()
    if not task.isidentifier():
        raise InputError(f"task: found {format_value(task)} in {windows.path}; set task=NAME")
    episodes, stored = windows.episodes()
    print(f"{windows.path}: {windows.count} windows with {stored} frames, {len(episodes)} episodes in them", flush=True)
    limit = num_variations(config, task)
    candidates: list[Candidate] = [
        (f"episode {number}", partial(window_demonstration, windows, episode, task, limit))
        for number, episode in enumerate(episodes)
    ]
    origin = {"simulator": "rlbench", "expert": "waypoints, windows of the first release", "cameras": "unknown"}
    write(config, task, windows.image_size, candidates, origin)
    print("camera matrices are not in the windows: train with head=regression or head=discrete")


def window_demonstration(
    windows: Windows, episode: WindowEpisode, task: str, variations: int | None, *, seed: int
) -> Demonstration:
    """Convert one episode of windows; the final frame, which no window contains, is replaced by the one before it."""
    if episode.fault:
        raise SkippedError(SkipReason.GAPS, episode.fault)
    if variations is not None and episode.variation >= variations:
        raise SkippedError(SkipReason.VARIATION, f"found {episode.variation}, expected 0..{variations - 1}")
    if task not in EMBEDDED_TASKS:
        raise SkippedError(
            SkipReason.SENTENCES, f"windows contain none, and {task} is not an embedded task with its own"
        )
    frames = [*episode.frames, episode.frames[-1]]
    views, size, actions = len(windows.cameras), windows.image_size, episode.actions
    placeholder = np.array([[size, 0, size / 2], [0, size, size / 2], [0, 0, 1]], np.float32)
    times = [min(-1 + 2 * t / MAX_STEPS, 1.0) for t in range(len(frames))]
    check_gripper_poses(actions[:, :7])
    rotations = canonical_quaternion(actions[:, 3:7])
    return Demonstration(
        images=np.stack([windows.pixels(frame) for frame in frames]),
        state=np.array([[*windows.gripper(one), t] for one, t in zip(frames, times, strict=True)], np.float32),
        intrinsics=np.tile(placeholder, (len(frames), views, 1, 1)),
        extrinsics=np.tile(np.eye(4, dtype=np.float32), (len(frames), views, 1, 1)),
        keyframes=np.arange(1, len(frames), dtype=np.int64),
        actions=np.concatenate([actions[:, :3], rotations, actions[:, 7:] > 0.5], axis=1, dtype=np.float32),
        instructions=load_task(task).instructions(episode.variation),
        variation=episode.variation,
        seed=seed,
    )


def num_variations(config: ConvertConfig, task: str) -> int | None:
    """Number of variations of a task; None if unknown."""
    return config.variations or (load_task(task).variations if task in EMBEDDED_TASKS else None)


def write(config: ConvertConfig, task: str, size: int, candidates: list[Candidate], origin: dict[str, str]) -> None:
    """Write the files of one task, each atomically.

    Raises:
        InputError: another file is at its path, or no episode can be used.
    """
    out, sim = storage_path(config.out), SimConfig("rlbench", "rlbench", list(config.cameras), size)
    one_file = out.suffix == ".hdf5"
    splits = [config.split or "train"] if one_file or config.split else list(SPLITS)
    default_paths = demonstration_paths(TaskConfig(task, 1, 1), sim, DataConfig(config.out))
    files = {split: out if one_file else default_paths[split] for split in splits}
    source = {"source": str(Path(config.src).resolve()), "version": "unknown", "renderer": config.renderer}
    header = Header(task, "", tuple(config.cameras), size, {**origin, **source, "suite": __version__})
    headers = {split: replace(header, split=split) for split in splits}
    folder = next(iter(files.values())).parent
    with exclusive_lock(folder, activity="writes", busy_hint="choose another out=", write_hint="choose another out="):
        if not config.overwrite and already_converted(files, headers):
            return
        candidates = candidates[: config.episodes]
        report = ConversionReport()
        with ExitStack() as stack:
            options = {"compression": config.compression}
            writers = {split: stack.enter_context(Writer(files[split], headers[split], **options)) for split in splits}
            write_splits(writers, candidates, report, val_episodes=config.val_episodes)
            if not all(writer.count for writer in writers.values()):
                raise InputError(
                    f"{task}: {report}; too few for {' and '.join(splits)}: add others, or set split=train"
                )
    print(f"{task}: {report}; rendered by {config.renderer}, according to renderer=", flush=True)
    for note, count in sorted(report.notes.items()):
        print(f"{task}: in {count} episodes, {note}")
    counts = {split: writer.count for split, writer in writers.items()}
    for split, path in files.items():
        print(f"{split}: {path}: {counts[split]} episodes")
    if not one_file:
        print(f"python train.py {' '.join(train_overrides(config, task, size, counts))}")


def already_converted(files: dict[str, StoragePath], headers: dict[str, Header]) -> bool:
    """Return True if the same conversion was done before.

    Raises:
        InputError: another file is in the way.
    """
    present = {split: read(path) for split, path in files.items() if path.exists()}
    for split, (found, _) in present.items():
        if found != headers[split]:
            raise InputError(f"{files[split]}: found another file; choose another out=, or add overwrite=true")
    if len(present) < len(files):
        return False
    for split, (_, contents) in present.items():
        print(f"{files[split]}: exists already, {len(contents.seed)} episodes; overwrite=true converts it again")
    return True


def write_splits(
    writers: dict[str, Writer], candidates: list[Candidate], report: ConversionReport, *, val_episodes: int | None
) -> None:
    """Write the episodes of each split: the last usable ones to val, the others to train."""
    seeded = {
        split: [
            (name, partial(make, seed=FIRST_SEED[split] + index * ATTEMPTS))
            for index, (name, make) in enumerate(candidates)
        ]
        for split in writers
    }
    if len(writers) == 1:
        [(split, writer)] = writers.items()
        add_all(writer, seeded[split], report, limit=None)
        return
    num_val = val_episodes or max(1, len(candidates) // 10)
    add_all(writers["val"], reversed(seeded["val"]), report, limit=num_val)
    add_all(writers["train"], seeded["train"][: len(candidates) - report.found], report, limit=None)


def train_overrides(config: ConvertConfig, task: str, size: int, counts: dict[str, int]) -> list[str]:
    """Return the overrides with which train.py reads these files."""
    limits = {"train": "task.episodes", "val": "task.val_episodes"}
    return [
        *(f"task.name={task}", "sim=rlbench", f"data.dir={config.out}", f"sim.image_size={size}"),
        f"'sim.cameras=[{','.join(config.cameras)}]'",
        *(f"{limits[split]}={count}" for split, count in counts.items()),
    ]


def main() -> None:
    """Run the command."""
    with report_user_errors():
        argv = sys.argv[1:]
        if "--help" in argv or "-h" in argv:
            print(tool_help(__doc__, {"": ConvertConfig}))
            return
        convert(parse(argv))


if __name__ == "__main__":
    main()
