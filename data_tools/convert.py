"""Demonstrations of others, as files that train.py reads.

python -m data_tools.convert kind=rlbench src=/data/peract/train/close_jar out=data
python -m data_tools.convert kind=windows src=reach_target_train.hdf5 out=data 'cameras=[front,left_shoulder]'

kind=rlbench reads RLBench's stored demonstrations (a task's folder, or the one that holds tasks), in the original
layout and in PerAct's. kind=windows reads the HDF5 windows of the method's first release. out is a folder, in which
each file lies where train.py with data.dir=OUT sim=rlbench looks, or the name of one .hdf5 file. Without split=, a
tenth of the episodes, the last ones, becomes the split val. Episodes that cannot be used are named, counted and left
out. The same command goes on with the tasks that are not there yet.
"""

import sys
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
from omegaconf import MISSING

from data_tools.conversion import Reason, SkippedError, Tally, add_all
from data_tools.parser import settings as parsed
from data_tools.split import ATTEMPTS, FIRST_SEED, demonstration_paths
from data_tools.stored import Wanted, demonstration, picture_size, places, task_folders
from instructrl import __version__
from instructrl.actions import canonical_quaternion
from instructrl.batch import Demonstration
from instructrl.command import table
from instructrl.config import CAMERAS, EMBEDDED_TASKS, RLBENCH_RENDERERS, DataConfig, SimConfig, TaskConfig
from instructrl.data.format import SPLITS, Header
from instructrl.data.lock import only_process
from instructrl.data.reader import read
from instructrl.data.storage import Place, place
from instructrl.data.windows import WindowEpisode, Windows, open_windows
from instructrl.data.writer import Writer
from instructrl.errors import InputError, one_line_errors
from instructrl.schema import allowed, leaves, number, one_of, shown, words
from instructrl.sim.rlbench.env import MAX_STEPS
from instructrl.sim.tabletop.task import load_task

Candidate = tuple[str, Callable[..., Demonstration]]  # its name, and what makes it of a seed


@dataclass
class ConvertConfig:
    """The command."""

    kind: str = one_of("rlbench", "windows")
    src: str = MISSING
    out: str = MISSING
    task: str | None = None  # null: as the source is called
    split: str | None = None  # train or val; null: both
    val_episodes: int | None = number(None, low=1)  # of those without split=; null: a tenth
    episodes: int | None = number(None, low=1)  # at most, of a task; null: all
    cameras: list[str] = words("front", "left_shoulder", "right_shoulder", choices=CAMERAS)
    image_size: int | None = number(None, low=16, high=1024)  # rlbench only; null: as they come
    variations: int | None = number(None, low=1)  # of the task; null: as the embedded task has, else any
    renderer: str = one_of(*RLBENCH_RENDERERS, default=RLBENCH_RENDERERS[1])  # that drew them: the source does not say
    compression: str = one_of("none", "lz4", "zstd", default="none")  # of pixels in the files written
    depth: bool = False  # rlbench only: whether depth pictures are decoded and checked; they are not kept
    overwrite: bool = False  # whether other files at `out` may be replaced


def parse(given: list[str]) -> ConvertConfig:
    """What a command line asks for.

    Raises:
        InputError: it asks for nothing that there is.
    """
    asked = parsed(given, ConvertConfig, prog="python -m data_tools.convert")
    if asked.split not in (None, *SPLITS):
        raise InputError(f"split: found {shown(asked.split)}; allowed: {', '.join(SPLITS)}, or null")
    if asked.kind == "windows" and (asked.depth or asked.image_size is not None):
        raise InputError("image_size, depth: allowed only with kind=rlbench; leave them out")
    return asked


def convert(asked: ConvertConfig) -> None:
    """Do what the command line asks."""
    if asked.kind == "windows":
        with open_windows(Path(asked.src), asked.cameras) as windows:
            convert_windows(asked, windows)
        return
    folders = task_folders(Path(asked.src))
    if asked.out.endswith(".hdf5") and len(folders) > 1:
        names = ", ".join(folder.name for folder in folders)
        raise InputError(f"out: found one file for the tasks {names}; name a folder")
    for folder in folders:
        convert_stored(asked, folder)


def convert_stored(asked: ConvertConfig, folder: Path) -> None:
    """One task's stored demonstrations."""
    found = places(folder)
    task = asked.task or folder.resolve().name
    size = asked.image_size or picture_size(found, asked.cameras)
    wanted = Wanted(tuple(asked.cameras), size, variations_of(asked, task), asked.depth)
    candidates: list[Candidate] = [
        (str(place.folder.relative_to(folder)), partial(demonstration, place, wanted)) for place in found
    ]
    write(asked, task, size, candidates, {"simulator": "rlbench", "expert": "waypoints, stored demonstrations"})
    if asked.depth:
        print("depth: decoded and checked at all keyframes; not kept, as the format has no place for it")


def convert_windows(asked: ConvertConfig, windows: Windows) -> None:
    """One file of windows."""
    task = asked.task or windows.task()
    if not task.isidentifier():
        raise InputError(f"task: found {shown(task)} in {windows.path}; say task=NAME")
    found, stored = windows.episodes()
    print(f"{windows.path}: {windows.count} windows with {stored} frames, {len(found)} episodes in them", flush=True)
    limit = variations_of(asked, task)
    candidates: list[Candidate] = [
        (f"episode {number}", partial(of_windows, windows, episode, task, limit))
        for number, episode in enumerate(found)
    ]
    origin = {"simulator": "rlbench", "expert": "waypoints, windows of the first release", "cameras": "unknown"}
    write(asked, task, windows.image_size, candidates, origin)
    print("camera matrices are not in the windows: train with head=regression or head=discrete")


def of_windows(
    windows: Windows, episode: WindowEpisode, task: str, variations: int | None, *, seed: int
) -> Demonstration:
    """One episode of windows; the last frame, which is in none, is stood in for by the last that is."""
    if episode.fault:
        raise SkippedError(Reason.GAPS, episode.fault)
    if variations is not None and episode.variation >= variations:
        raise SkippedError(Reason.VARIATION, f"found {episode.variation}, expected 0..{variations - 1}")
    if task not in EMBEDDED_TASKS:
        raise SkippedError(Reason.SENTENCES, f"windows hold none, and there are none of ours for {task}")
    frames = [*episode.frames, episode.frames[-1]]
    views, size, actions = len(windows.cameras), windows.image_size, episode.actions
    placeholder = np.array([[size, 0, size / 2], [0, size, size / 2], [0, 0, 1]], np.float32)
    times = [min(-1 + 2 * t / MAX_STEPS, 1.0) for t in range(len(frames))]
    rotations = canonical_quaternion(actions[:, 3:7])
    return Demonstration(
        images=np.stack([windows.pixels(frame) for frame in frames]),
        state=np.array([[*windows.gripper(one), t] for one, t in zip(frames, times, strict=True)], np.float32),
        intrinsics=np.tile(placeholder, (len(frames), views, 1, 1)),
        extrinsics=np.tile(np.eye(4, dtype=np.float32), (len(frames), views, 1, 1)),
        keyframes=np.arange(1, len(frames), dtype=np.int64),
        actions=np.concatenate([actions[:, :3], rotations, actions[:, 7:] > 0.5], axis=1, dtype=np.float32),
        instructions=load_task(task).sentences(episode.variation),
        variation=episode.variation,
        seed=seed,
    )


def variations_of(asked: ConvertConfig, task: str) -> int | None:
    """How many variations a task has, if that is known."""
    return asked.variations or (load_task(task).variations if task in EMBEDDED_TASKS else None)


def write(asked: ConvertConfig, task: str, size: int, candidates: list[Candidate], origin: dict[str, str]) -> None:
    """The files of one task, each whole or not at all.

    Raises:
        InputError: something else is at its place, or no episode can be used.
    """
    out, sim = place(asked.out), SimConfig("rlbench", "rlbench", list(asked.cameras), size)
    one_file = out.suffix == ".hdf5"
    splits = [asked.split or "train"] if one_file or asked.split else list(SPLITS)
    where = demonstration_paths(TaskConfig(task, 1, 1), sim, DataConfig(asked.out))
    files = {split: out if one_file else where[split] for split in splits}
    source = {"source": str(Path(asked.src).resolve()), "version": "unknown", "renderer": asked.renderer}
    header = Header(task, "", tuple(asked.cameras), size, {**origin, **source, "suite": __version__})
    headers = {split: replace(header, split=split) for split in splits}
    folder = next(iter(files.values())).parent
    with only_process(folder, does="writes", remedy="choose another out=", elsewhere="choose another out="):
        if not asked.overwrite and there_already(files, headers):
            return
        candidates = candidates[: asked.episodes]
        tally = Tally()
        with ExitStack() as stack:
            options = {"compression": asked.compression}
            writers = {split: stack.enter_context(Writer(files[split], headers[split], **options)) for split in splits}
            fill(writers, candidates, tally, val_episodes=asked.val_episodes)
            if not all(writer.count for writer in writers.values()):
                raise InputError(f"{task}: {tally}; too few for {' and '.join(splits)}: add others, or say split=train")
    print(f"{task}: {tally}; drawn by {asked.renderer}, as renderer= says", flush=True)
    counts = {split: writer.count for split, writer in writers.items()}
    for split, path in files.items():
        print(f"{split}: {path}: {counts[split]} episodes")
    if not one_file:
        print(f"python train.py {' '.join(settings(asked, task, size, counts))}")


def there_already(files: dict[str, Place], headers: dict[str, Header]) -> bool:
    """Whether the same conversion was done before.

    Raises:
        InputError: something else is there.
    """
    present = {split: read(path) for split, path in files.items() if path.exists()}
    for split, (found, _) in present.items():
        if found != headers[split]:
            raise InputError(f"{files[split]}: found another file there; choose another out=, or add overwrite=true")
    if len(present) < len(files):
        return False
    for split, (_, contents) in present.items():
        print(f"{files[split]}: is there already, {len(contents.seed)} episodes; overwrite=true converts it again")
    return True


def fill(writers: dict[str, Writer], candidates: list[Candidate], tally: Tally, *, val_episodes: int | None) -> None:
    """Give each split its episodes: val the last ones that can be used, train the others."""
    seeded = {
        split: [
            (name, partial(make, seed=FIRST_SEED[split] + place * ATTEMPTS))
            for place, (name, make) in enumerate(candidates)
        ]
        for split in writers
    }
    if len(writers) == 1:
        [(split, writer)] = writers.items()
        add_all(writer, seeded[split], tally, wanted=None)
        return
    wanted = val_episodes or max(1, len(candidates) // 10)
    add_all(writers["val"], reversed(seeded["val"]), tally, wanted=wanted)
    add_all(writers["train"], seeded["train"][: len(candidates) - tally.found], tally, wanted=None)


def settings(asked: ConvertConfig, task: str, size: int, counts: dict[str, int]) -> list[str]:
    """The settings with which train.py reads these files."""
    limits = {"train": "task.episodes", "val": "task.val_episodes"}
    return [
        *(f"task.name={task}", "sim=rlbench", f"data.dir={asked.out}", f"sim.image_size={size}"),
        f"'sim.cameras=[{','.join(asked.cameras)}]'",
        *(f"{limits[split]}={count}" for split, count in counts.items()),
    ]


def usage() -> str:
    """The help."""
    rows = table({key: allowed(entry) for key, entry in leaves(ConvertConfig).items()})
    return "\n".join([(__doc__ or "").strip(), "", "key=value (what is allowed)", *rows])


def main() -> None:
    """Run the command."""
    with one_line_errors():
        given = sys.argv[1:]
        if "--help" in given or "-h" in given:
            print(usage())
            return
        convert(parse(given))


if __name__ == "__main__":
    main()
