"""Conversion of windows of frames, the format of the method's first release, to episodes.

Such a file has one array per field with N windows of consecutive frames; a frame is part of many windows, also as the
future of earlier ones. `time` decreases from 1 at an episode's first frame; `cont_action` is the next keyframe, so an
episode's keyframes are where it changes. The last frame of an episode is in no window.
"""

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from instructrl.data.hdf5 import READ_ERRORS, check_stored, open_hdf5
from instructrl.data.hdf5_chunks import ChunkCheck
from instructrl.data.hdf5_lengths import LengthCheck
from instructrl.errors import InputError, short_message

STATE = ("gripper_pose", "gripper_open", "gripper_joint_positions")
NUMBERS = (*STATE, "cont_action", "time", "variation_id")
CLOSE = 1e-3  # meters between a keyframe and the frame that it leads to


@dataclass(frozen=True)
class WindowFrame:
    """One distinct frame: its indices in the file, and its values in the window where it is the current frame."""

    window: int
    entry: int
    time: float
    action: np.ndarray  # 8


@dataclass(frozen=True)
class WindowEpisode:
    """One episode: frames at which actions are taken, and the actions [T 8]."""

    variation: int
    frames: list[WindowFrame]
    actions: np.ndarray
    fault: str  # reason why it cannot be used; empty if none


class Windows:
    """An open file of windows."""

    def __init__(self, path: Path, file: h5py.File, cameras: Sequence[str]) -> None:
        """Raise InputError unless the file has all required arrays, of equal length."""
        self.path, self.file, self.cameras = path, file, tuple(cameras)
        names = [f"{name}_rgb" for name in self.cameras]
        for name in (*names, *NUMBERS):
            if not isinstance(file.get(name), h5py.Dataset):
                raise InputError(f"{path}: {name}: missing; not a file of windows of the first release")
            check_stored(f"{path}: {name}", file[name])
            if file[name].dtype.kind not in "biuf":
                raise InputError(f"{path}: {name}: found {file[name].dtype}; allowed: numbers; download the file again")
        shapes = {name: file[name].shape[:2] for name in (*names, *NUMBERS)}
        if len(set(shapes.values())) != 1 or len(shapes["time"]) != 2:
            found = ", ".join(f"{name} {shape}" for name, shape in shapes.items())
            raise InputError(f"{path}: found unequal numbers of windows: {found}; download the file again")
        self.count, self.length = shapes["time"]
        sizes = {file[name].shape[2:] for name in names}
        height, width, *rest = next(iter(sizes))
        if len(sizes) != 1 or height != width or rest != [3] or any(file[name].dtype != np.uint8 for name in names):
            raise InputError(f"{path}: found images of {sorted(sizes)}, expected one square uint8 size for all cameras")
        self.image_size = height

    def task(self) -> str:
        """Return the name of the task recorded in the file; empty if there is none."""
        if "task_id" not in self.file or not self.count:
            return ""
        ChunkCheck(f"{self.path}: task_id", self.file["task_id"])(0, 1)
        LengthCheck(f"{self.path}: task_id", self.file["task_id"], self.path)(0)
        first = np.asarray(self.file["task_id"][0]).reshape(-1)
        return bytes(np.asarray(first[0], np.uint8)).decode(errors="replace") if len(first) else ""

    def episodes(self) -> tuple[list[WindowEpisode], int]:
        """Return the episodes, in the order of their first windows, and the number of frames in all windows."""
        frames: dict[bytes, WindowFrame] = {}
        parent: dict[bytes, bytes] = {}  # union-find over frames of one episode
        variations: dict[bytes, int] = {}

        def root(key: bytes) -> bytes:
            while parent[key] != key:
                parent[key] = key = parent[parent[key]]
            return key

        stored, names = 0, [f"{name}_rgb" for name in self.cameras]
        checks = [ChunkCheck(f"{self.path}: {name}", self.file[name]) for name in (*names, *NUMBERS)]
        for window in range(self.count):
            for check in checks:
                check(window, window + 1)
            numbers = {
                name: np.asarray(self.file[name][window], np.float64).reshape(self.length, -1) for name in NUMBERS
            }
            images = [self.file[f"{name}_rgb"][window] for name in self.cameras]
            keys = []
            for entry in range(self.length):
                if not numbers["gripper_pose"][entry].any():
                    continue  # padding
                stored += 1
                digest = hashlib.blake2b(digest_size=16)
                for part in (
                    *(numbers[name][entry] for name in (*STATE, "variation_id")),
                    *(image[entry] for image in images),
                ):
                    digest.update(np.ascontiguousarray(part).tobytes())
                key = digest.digest()
                keys.append(key)
                parent.setdefault(key, key)
                variations[key] = int(numbers["variation_id"][entry, 0])
                time = float(numbers["time"][entry, 0])
                if key not in frames or time < frames[key].time:  # earlier windows contain it as a future frame
                    frames[key] = WindowFrame(window, entry, time, numbers["cont_action"][entry])
            for key in keys[1:]:
                parent[root(key)] = root(keys[0])
        members: dict[bytes, list[bytes]] = {}
        for key in frames:
            members.setdefault(root(key), []).append(key)
        return [self._episode([frames[key] for key in keys], variations[keys[0]]) for keys in members.values()], stored

    def _episode(self, frames: list[WindowFrame], variation: int) -> WindowEpisode:
        frames = sorted(frames, key=lambda frame: -frame.time)
        times = np.array([frame.time for frame in frames])
        begins = [n for n, frame in enumerate(frames) if n == 0 or (frame.action != frames[n - 1].action).any()]
        chosen = [frames[n] for n in begins]
        actions = np.stack([frame.action for frame in chosen])
        return WindowEpisode(variation, chosen, actions, self._fault(times, chosen, actions))

    def _fault(self, times: np.ndarray, chosen: list[WindowFrame], actions: np.ndarray) -> str:
        steps = -np.diff(times)
        if abs(times[0] - 1) > 1e-4:
            return "its first frame is in no window"
        if len(steps) and (steps.min() <= 1e-7 or steps.max() > 1.5 * steps.min()):
            return "a frame in the middle is in no window"
        if len(steps) and abs(times[-1] + 1 - steps.min()) > 0.5 * steps.min():
            return "its last frames are in no window"
        for before, frame in zip(actions[:-1], chosen[1:], strict=True):
            pose = np.asarray(self.file["gripper_pose"][frame.window, frame.entry], np.float64).reshape(-1)
            if np.abs(pose[:3] - before[:3]).max() > CLOSE:
                return "a keyframe is not at the target of the action before it"
        return ""

    def pixels(self, frame: WindowFrame) -> np.ndarray:
        """Return a frame's images, uint8 [K H W 3]."""
        return np.stack([self.file[f"{name}_rgb"][frame.window, frame.entry] for name in self.cameras])

    def gripper(self, frame: WindowFrame) -> np.ndarray:
        """Return gripper open and the positions of both fingers, [3]."""
        parts = [self.file[name][frame.window, frame.entry] for name in STATE[1:]]
        return np.concatenate([np.asarray(part, np.float64).reshape(-1) for part in parts])


@contextmanager
def open_windows(path: Path, cameras: Sequence[str]) -> Iterator[Windows]:
    """Open a file of windows of the first release.

    Raises:
        InputError: it is missing, damaged, or of another format.
    """
    if not path.is_file():
        raise InputError(f"src: found {path}, which is not a file; name an .hdf5 file of the first release")
    try:
        file: Any = open_hdf5(path, path)
    except (OSError, ValueError) as error:
        raise InputError(
            f"{path}: cannot be opened as HDF5 ({short_message(error)}); download the file again"
        ) from None
    with file:
        try:
            yield Windows(path, file, cameras)
        except READ_ERRORS as error:
            raise InputError(f"{path}: damaged ({short_message(error)}); download the file again") from None
