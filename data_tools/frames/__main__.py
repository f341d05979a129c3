"""python -m data_tools.frames out=data/frames: renders captioned images of the embedded tasks to pretrain an encoder.

Writes out/train.hdf5 and out/val.hdf5 in M3AE's layout (jpg, caption). Every task has the same number of images, from
all four cameras, of the initial state and of states after keyframes of the expert. A caption is one of the training
instructions, or describes the image (data_tools/frames/captions.py). The files are a function of the settings alone,
whatever the number of processes; each is written atomically, so a killed command restarts with that file.
"""

import itertools
import json
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from data_tools.frames.renderer import FrameRenderer, FramesConfig
from instructrl import __version__
from instructrl.cli.args import parse_settings
from instructrl.cli.progress import ProgressBar
from instructrl.config.fields import format_value
from instructrl.data.image_text.hdf5_source import open_pair_file, write_pairs
from instructrl.errors import InputError, RunError, report_user_errors
from instructrl.sim.rendering import available_renderer
from instructrl.sim.tabletop.scene import CAMERAS as VIEWS
from instructrl.sim.vector.pool import WorkerFailure, Workers, worker_count
from instructrl.storage.object_store import SCHEMES
from instructrl.storage.writable import check_writable

PROG = "python -m data_tools.frames"
TIMEOUT = 120.0  # seconds for one episode


def start_workers(config: FramesConfig) -> Workers:
    """Start the processes that render."""
    return Workers(partial(FrameRenderer, config), worker_count(config.workers), timeout=TIMEOUT)


def make_frames(config: FramesConfig, *, start: Callable[[FramesConfig], Workers] = start_workers) -> dict[str, Path]:
    """Write the missing files and return the paths of both; `start` starts the workers that render them.

    Raises:
        InputError: a file has other settings, or cannot be written.
        RunError: the simulator keeps crashing; the same command restarts the unfinished file.
    """
    check_config(config)
    check_writable(Path(config.out).expanduser(), hint="choose another out=")
    config.renderer = available_renderer(config.renderer)
    wanted = {"train": config.frames, "val": config.val_frames}
    paths = {split: Path(config.out).expanduser() / f"{split}.hdf5" for split, count in wanted.items() if count}
    missing = [
        split
        for split, path in paths.items()
        if not is_up_to_date(path, file_attributes(config, split), config.overwrite)
    ]
    if missing:
        print(f"starting the simulators that render {' and '.join(missing)}", flush=True)
        with start(config) as workers:
            for split in missing:
                started = time.monotonic()
                images = rendered_images(workers, config, split, wanted[split])
                with ProgressBar(images, description=f"{split} frames", total=wanted[split], unit="frames") as bar:
                    write_pairs(paths[split], bar, file_attributes(config, split))
                seconds = time.monotonic() - started
                speed = f"{wanted[split] / seconds:.0f} a second, {config.renderer}, {len(workers)} processes"
                print(f"{paths[split]}: {wanted[split]} frames in {seconds:.1f} s ({speed})", flush=True)
    return paths


def check_config(config: FramesConfig) -> None:
    """Raise InputError if settings are inconsistent."""
    if config.out.startswith(SCHEMES):
        raise InputError(f"out: found {config.out}; allowed: a local folder; copy the files to the bucket afterwards")
    unknown = [name for name in config.cameras if name not in VIEWS]
    if unknown or not config.cameras or not config.tasks:
        raise InputError(
            f"cameras: found {format_value(config.cameras)}; allowed: some of {', '.join(VIEWS)}, and at least one task"
        )
    if config.views > len(config.cameras):
        raise InputError(f"views: found {config.views}; allowed: at most the number of cameras, {len(config.cameras)}")


def file_attributes(config: FramesConfig, split: str) -> dict[str, Any]:
    """Attributes of a file: everything that determines its content."""
    content = {key: value for key, value in asdict(config).items() if key not in ("out", "workers", "overwrite")}
    content["frames"] = content.pop("val_frames") if split == "val" else content.pop("frames")
    content.pop("val_frames", None)
    return {
        "made_by": PROG,
        "split": split,
        "settings": json.dumps(content, sort_keys=True),
        "suite": __version__,
        **FrameRenderer(config).provenance(),
    }


def is_up_to_date(path: Path, attributes: dict[str, Any], overwrite: bool) -> bool:
    """Return True if a file with these attributes exists.

    Raises:
        InputError: its attributes differ and `overwrite` is False.
    """
    if not path.exists():
        return False
    with open_pair_file(path) as file:
        found = file.attributes
    if found == attributes:
        print(f"{path}: exists already", flush=True)
        return True
    if overwrite:
        return False
    differing = [key for key in attributes if found.get(key) != attributes[key]]
    raise InputError(
        f"{path}: was made with other settings ({', '.join(differing)} differ); choose another out=, or "
        "add overwrite=true"
    )


def rendered_images(workers: Workers, config: FramesConfig, split: str, count: int) -> Iterator[tuple[bytes, str]]:
    """Yield `count` captioned images, round-robin over the tasks, in order of episodes."""
    number = len(config.tasks)
    remaining = {task: count // number + (index < count % number) for index, task in enumerate(config.tasks)}
    submitted, results = list[str](), dict[int, list[tuple[bytes, str]]]()

    def work() -> Iterator[tuple[str, str, int]]:
        for episode in itertools.count():
            wanting = [task for task in config.tasks if remaining[task]]
            if not wanting:
                return
            for task in wanting:
                submitted.append(task)
                yield task, split, episode

    next_index = 0
    for index, result in workers.map("episode", work()):
        if isinstance(result, WorkerFailure):
            raise RunError(f"{submitted[index]}: {result.reason}; the same command restarts this file")
        results[index] = result
        while next_index in results:
            images = results.pop(next_index)[: remaining[submitted[next_index]]]
            remaining[submitted[next_index]] -= len(images)
            yield from images
            next_index += 1


def main() -> None:
    """Run the command."""
    with report_user_errors():
        argv = sys.argv[1:]
        if {"-h", "--help"} & set(argv):
            print(usage())
            return
        for split, path in make_frames(parse_settings(argv, FramesConfig, prog=PROG)).items():
            print(f"{split}: {path}")


def usage() -> str:
    """Help text of the command."""
    from instructrl.cli.help import format_settings

    values = {key: format_value(value).replace(" ", "") for key, value in asdict(FramesConfig()).items()}
    rows = format_settings(FramesConfig, values)
    return "\n".join([(__doc__ or "").strip(), "", "Settings: key=default, meaning [allowed values]", *rows])


if __name__ == "__main__":
    main()
