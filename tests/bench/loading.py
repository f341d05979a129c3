"""Data loading against the method's first release: same demonstrations and targets, one process.

The release stores for every keyframe step a window of the last four frames, each camera in chunks of 16 windows, and
reads single windows in random order with torch's DataLoader. Ours stores every frame once and reads whole episodes,
every step of which is a target. Printed, relative to the release: bytes on disk, bytes requested from the operating
system per target of an epoch, and targets per second of wall time (warm).

torch is not among InstructRL's requirements: `pip install --group bench` (or a build for the CPU of that version).
"""

import sys
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

import h5py
import numpy as np

sys.path.insert(0, str(Path(__file__).parents[2]))

from instructrl.cli.entry import compose
from instructrl.config.training import TrainConfig
from instructrl.data.demonstrations.dataset import DemonstrationDataset
from instructrl.data.demonstrations.schema import Header
from instructrl.data.demonstrations.writer import Writer
from instructrl.data.loading.loader import Loader
from instructrl.data.text.tokenizer import make_tokenizer
from instructrl.sim import EpisodeStart, make_env
from tests.fixtures.rounds import alternate, ratio, wall

TASKS = ("pick_and_lift", "stack_blocks")
CAMERAS = ("front", "left_shoulder", "right_shoulder", "wrist")
SIZE, EPISODES, BATCH = 256, 40, 8
WINDOW, CHUNK = 4, 16
GOALS = {"disk": 1 / 4, "read": 1 / 3, "speed": 4.0}


def collect(task: str, folder: Path) -> dict[str, Path]:
    """Write files of the same demonstrations, one for each compression."""
    words = [f"task={task}", f"sim.image_size={SIZE}", f"sim.cameras=[{','.join(CAMERAS)}]"]
    config = compose("train", TrainConfig, ["experiment=quickstart", *words])
    env = make_env(config.sim, task)
    header = Header(task, "train", CAMERAS, SIZE, env.provenance())
    shown = [env.demonstrate(EpisodeStart(seed % env.variations, seed))[0] for seed in range(EPISODES)]
    env.close()
    files = {}
    for compression in ("none", "lz4", "zstd"):
        files[compression] = folder / f"{compression}.hdf5"
        with Writer(files[compression], header, compression=compression) as writer:
            for demonstration in shown:
                writer.add(demonstration)
    return files


def write_windows(episodes: DemonstrationDataset, path: Path) -> int:
    """Write the release's layout; return the number of windows."""
    count = int(episodes.lengths.sum())
    with h5py.File(path, "w") as file:
        pixels = [
            file.create_dataset(
                f"{name}_rgb", (count, WINDOW, SIZE, SIZE, 3), np.uint8, chunks=(CHUNK, WINDOW, SIZE, SIZE, 3)
            )
            for name in CAMERAS
        ]
        state = file.create_dataset("state", (count, WINDOW, 4), np.float32, chunks=(CHUNK, WINDOW, 4))
        action = file.create_dataset("cont_action", (count, WINDOW, 8), np.float32, chunks=(CHUNK, WINDOW, 8))
        row, waiting = 0, []
        for episode in range(len(episodes)):
            steps = episodes.episode(episode)
            for last in range(len(steps.actions)):
                index = np.maximum(np.arange(last - WINDOW + 1, last + 1), 0)
                waiting.append((steps.images[index], steps.state[index], steps.actions[index]))
            while len(waiting) >= CHUNK or (waiting and episode == len(episodes) - 1):
                images, states, actions = map(np.stack, zip(*waiting[:CHUNK], strict=True))
                end = row + len(images)
                for place, stored in enumerate(pixels):
                    stored[row:end] = images[:, :, place]
                state[row:end], action[row:end] = states, actions
                row, waiting = end, waiting[CHUNK:]
    return count


def windows_epoch(path: Path, batch: int, seed: int) -> Iterator[Any]:
    """Yield an epoch of the release's windows, in batches of tensors."""
    import torch
    from torch.utils.data import DataLoader, Dataset

    class Windows(Dataset):
        def __init__(self) -> None:
            self.file = h5py.File(path)
            self.names = list(self.file)

        def __len__(self) -> int:
            return len(self.file["state"])

        def __getitem__(self, index: int) -> dict[str, Any]:
            return {name: torch.from_numpy(self.file[name][index]) for name in self.names}

    order = torch.Generator().manual_seed(seed)
    yield from DataLoader(Windows(), batch_size=batch, shuffle=True, num_workers=0, generator=order)


def bytes_read() -> int:
    """Return the bytes that this process has read from the operating system."""
    return int(next(line for line in Path("/proc/self/io").read_text().splitlines() if "rchar" in line).split()[1])


def reading(epoch: Callable[[int], Iterator[Any]]) -> Callable[[], None]:
    """A function that reads the next epoch."""
    numbers = count()

    def work() -> None:
        for _ in epoch(next(numbers)):
            pass

    return work


def bytes_of(work: Callable[[], None]) -> int:
    """The bytes that a call reads."""
    before = bytes_read()
    work()
    return bytes_read() - before


def ours(path: Path) -> Callable[[int], Iterator[Any]]:
    """Return epochs of InstructRL's loader."""
    tokenizer = make_tokenizer(compose("train", TrainConfig, ["experiment=quickstart"]).encoder)
    loader = Loader([DemonstrationDataset(path)], tokenizer, batch_size=BATCH, seed=0)

    def epoch(number: int) -> Iterator[Any]:
        begin = number * loader.steps_per_epoch
        return (loader.batch(step) for step in range(begin, begin + loader.steps_per_epoch))

    return epoch


def main() -> None:
    try:
        import torch  # noqa: F401
    except ImportError:
        print("skipped: torch is not installed; pip install --group bench")
        return
    print(f"{'task':<15}{'layout':<9}{'targets':>8}{'MB':>8}{'disk':>7}{'MB/target':>11}{'read':>7}"
          f"{'targets/s':>11}{'speed':>27}")  # fmt: skip
    for task in TASKS:
        with tempfile.TemporaryDirectory() as name:
            files = collect(task, Path(name))
            windows = Path(name) / "windows.hdf5"
            with DemonstrationDataset(files["none"]) as episodes:
                targets = write_windows(episodes, windows)
                batch = round(BATCH * targets / EPISODES)
            works = {"release": reading(partial(windows_epoch, windows, batch))}
            works |= {compression: reading(ours(path)) for compression, path in files.items()}
            sizes = {layout: path.stat().st_size for layout, path in {"release": windows, **files}.items()}
            read = {layout: bytes_of(work) for layout, work in works.items()}
            took = {layout: wall(found) for layout, found in alternate(works).items()}
        for layout, seconds in took.items():
            disk, share = (all_of[layout] / all_of["release"] for all_of in (sizes, read))
            print(f"{task:<15}{layout:<9}{targets:>8}{sizes[layout] / 1e6:>8.0f}{disk:>7.3f}"
                  f"{read[layout] / targets / 1e6:>11.2f}{share:>7.3f}{targets / np.median(seconds):>11.0f}"
                  f"{ratio(took['release'], seconds):>27}", flush=True)  # fmt: skip
    print("goals: disk <= {disk:.3f}, read <= {read:.3f}, speed >= {speed:.1f}".format(**GOALS))


if __name__ == "__main__":
    main()
