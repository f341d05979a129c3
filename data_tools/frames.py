"""python -m data_tools.frames out=data/frames: pictures of the embedded tasks with sentences, to pretrain an encoder.

Writes out/train.hdf5 and out/val.hdf5 in M3AE's layout (jpg, caption). Every task has the same number of pictures, from
all four cameras, of the start and of moments after keyframes of the expert. A caption is one of the instruction's
sentences for training, or says what the camera sees (data_tools/captions.py). The files follow from the settings alone,
whatever the number of processes; each appears when it is whole, so a killed command begins that file again.
"""

import itertools
import json
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from tqdm import tqdm

from data_tools.parser import settings
from data_tools.photographer import FramesConfig, Photographer
from instructrl import __version__
from instructrl.data.buckets import SCHEMES
from instructrl.data.pairs_file import opened_pairs, write_pairs
from instructrl.errors import InputError, RunError, one_line_errors
from instructrl.schema import shown
from instructrl.sim.graphics import available_renderer
from instructrl.sim.tabletop.scene import CAMERAS as VIEWS
from instructrl.sim.workers import WorkerFailure, Workers, worker_count

PROG = "python -m data_tools.frames"
TIMEOUT = 120.0  # seconds for one episode


def make_frames(asked: FramesConfig) -> dict[str, Path]:
    """Write what is missing of both files; returns where they are.

    Raises:
        InputError: a file of other settings is there, or one cannot be written.
        RunError: the simulator keeps dying; the same command begins the unfinished file again.
    """
    check(asked)
    asked.renderer = available_renderer(asked.renderer)
    wanted = {"train": asked.frames, "val": asked.val_frames}
    paths = {split: Path(asked.out).expanduser() / f"{split}.hdf5" for split, count in wanted.items() if count}
    missing = [split for split, path in paths.items() if not present(path, described(asked, split), asked.overwrite)]
    if missing:
        count = worker_count(asked.workers)
        with Workers(partial(Photographer, asked), count, timeout=TIMEOUT) as workers:
            for split in missing:
                began = time.monotonic()
                pictures = taken(workers, asked, split, wanted[split])
                with tqdm(pictures, f"{split} frames", total=wanted[split], unit=" frames", disable=None) as bar:
                    write_pairs(paths[split], bar, described(asked, split))
                seconds = time.monotonic() - began
                speed = f"{wanted[split] / seconds:.0f} a second, {asked.renderer}, {count} processes"
                print(f"{paths[split]}: {wanted[split]} frames in {seconds:.1f} s ({speed})", flush=True)
    return paths


def check(asked: FramesConfig) -> None:
    """Raise InputError where settings do not go together."""
    if asked.out.startswith(SCHEMES):
        raise InputError(f"out: found {asked.out}; allowed: a folder on the disk; copy the files to the bucket then")
    unknown = [name for name in asked.cameras if name not in VIEWS]
    if unknown or not asked.cameras or not asked.tasks:
        raise InputError(f"cameras: found {shown(asked.cameras)}; allowed: some of {', '.join(VIEWS)}, and some tasks")
    if asked.views > len(asked.cameras):
        raise InputError(f"views: found {asked.views}; allowed: at most the number of cameras, {len(asked.cameras)}")


def described(asked: FramesConfig, split: str) -> dict[str, Any]:
    """What a file records: all that decides its content."""
    content = {key: value for key, value in asdict(asked).items() if key not in ("out", "workers", "overwrite")}
    content["frames"] = content.pop("val_frames") if split == "val" else content.pop("frames")
    content.pop("val_frames", None)
    return {
        "made_by": PROG,
        "split": split,
        "settings": json.dumps(content, sort_keys=True),
        "suite": __version__,
        **Photographer(asked).provenance(),
    }


def present(path: Path, attributes: dict[str, Any], overwrite: bool) -> bool:
    """Whether a file is there that was made in this way.

    Raises:
        InputError: one is there that was made otherwise, and is not to be replaced.
    """
    if not path.exists():
        return False
    with opened_pairs(path) as file:
        found = file.attributes
    if found == attributes:
        print(f"{path}: is there", flush=True)
        return True
    if overwrite:
        return False
    differing = [key for key in attributes if found.get(key) != attributes[key]]
    raise InputError(
        f"{path}: was made otherwise ({', '.join(differing)} differ); choose another out, or overwrite=true"
    )


def taken(workers: Workers, asked: FramesConfig, split: str, count: int) -> Iterator[tuple[bytes, str]]:
    """So many pictures, in the order of episodes: the tasks in turn, each its first episode, then each its second."""
    number = len(asked.tasks)
    left = {task: count // number + (place < count % number) for place, task in enumerate(asked.tasks)}
    given, results = list[str](), dict[int, list[tuple[bytes, str]]]()

    def work() -> Iterator[tuple[str, str, int]]:
        for episode in itertools.count():
            wanting = [task for task in asked.tasks if left[task]]
            if not wanting:
                return
            for task in wanting:
                given.append(task)
                yield task, split, episode

    turn = 0
    for index, result in workers.map("episode", work()):
        if isinstance(result, WorkerFailure):
            raise RunError(f"{given[index]}: {result.reason}; the same command begins again")
        results[index] = result
        while turn in results:
            pictures = results.pop(turn)[: left[given[turn]]]
            left[given[turn]] -= len(pictures)
            yield from pictures
            turn += 1


def main() -> None:
    """Run the command."""
    with one_line_errors():
        given = sys.argv[1:]
        if {"-h", "--help"} & set(given):
            print(usage())
            return
        for split, path in make_frames(settings(given, FramesConfig, prog=PROG)).items():
            print(f"{split}: {path}")


def usage() -> str:
    """The help of the command."""
    from instructrl.command import table
    from instructrl.schema import allowed, leaves

    fields = leaves(FramesConfig)
    values = asdict(FramesConfig())
    rows = {key: f"{shorter(values[key]):<14}  {shorter(allowed(fields[key]))}" for key in fields}
    return "\n".join([(__doc__ or "").strip(), "", "Settings: key=value (value; what is allowed)", *table(rows)])


def shorter(value: Any) -> str:
    """A value as one would write it, if it is short."""
    text = str(shown(value))
    return text if len(text) < 80 else f"{text[:60]}..."


if __name__ == "__main__":
    main()
