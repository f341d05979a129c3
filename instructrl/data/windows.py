"""Windows of frames as the method's first release stored them, taken apart into episodes.

That file holds, under one name for each field, N windows of the last few frames; a frame is in many windows, also as
what was ahead of earlier ones. `time` falls from 1 at an episode's first frame; `cont_action` is the next keyframe, so
that an episode's keyframes are where it changes. The very last frame is in no window.
"""

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from instructrl.data.reader import READ_ERRORS, reason
from instructrl.errors import InputError

STATE = ("gripper_pose", "gripper_open", "gripper_joint_positions")
NUMBERS = (*STATE, "cont_action", "time", "variation_id")
CLOSE = 1e-3  # metres between a keyframe and the frame that it leads to


@dataclass(frozen=True)
class Frame:
    """One distinct frame: where it is stored, and what is said of it where it is the present."""

    window: int
    entry: int
    time: float
    action: np.ndarray  # 8


@dataclass(frozen=True)
class WindowEpisode:
    """One episode: frames at which an action is taken, and the actions [T 8]."""

    variation: int
    frames: list[Frame]
    actions: np.ndarray
    fault: str  # why it cannot be used; empty if it can


class Windows:
    """A file of windows."""

    def __init__(self, path: Path, file: h5py.File, cameras: Sequence[str]) -> None:
        """Raises InputError unless it holds what is needed, in equal numbers."""
        self.path, self.file, self.cameras = path, file, tuple(cameras)
        names = [f"{name}_rgb" for name in self.cameras]
        for name in (*names, *NUMBERS):
            if not isinstance(file.get(name), h5py.Dataset):
                raise InputError(f"{path}: {name}: missing; this is no file of the release's windows")
        shapes = {name: file[name].shape[:2] for name in (*names, *NUMBERS)}
        if len(set(shapes.values())) != 1 or len(shapes["time"]) != 2:
            found = ", ".join(f"{name} {shape}" for name, shape in shapes.items())
            raise InputError(f"{path}: found unequal numbers of windows: {found}; get the file again")
        self.count, self.length = shapes["time"]
        sizes = {file[name].shape[2:] for name in names}
        height, width, *rest = next(iter(sizes))
        if len(sizes) != 1 or height != width or rest != [3] or any(file[name].dtype != np.uint8 for name in names):
            raise InputError(f"{path}: found pictures {sorted(sizes)}, expected one square uint8 size for all cameras")
        self.image_size = height

    def task(self) -> str:
        """The task that the file says it shows; empty if it does not say."""
        if "task_id" not in self.file or not self.count:
            return ""
        first = np.asarray(self.file["task_id"][0]).reshape(-1)
        return bytes(np.asarray(first[0], np.uint8)).decode(errors="replace") if len(first) else ""

    def episodes(self) -> tuple[list[WindowEpisode], int]:
        """The episodes, in the order of their first windows, and how many frames of windows they were made of."""
        own: dict[bytes, Frame] = {}
        leader: dict[bytes, bytes] = {}
        variations: dict[bytes, int] = {}

        def root(key: bytes) -> bytes:
            while leader[key] != key:
                leader[key] = key = leader[leader[key]]
            return key

        stored = 0
        for window in range(self.count):
            numbers = {
                name: np.asarray(self.file[name][window], np.float64).reshape(self.length, -1) for name in NUMBERS
            }
            pictures = [self.file[f"{name}_rgb"][window] for name in self.cameras]
            keys = []
            for entry in range(self.length):
                if not numbers["gripper_pose"][entry].any():
                    continue  # never filled
                stored += 1
                digest = hashlib.blake2b(digest_size=16)
                for part in (
                    *(numbers[name][entry] for name in (*STATE, "variation_id")),
                    *(p[entry] for p in pictures),
                ):
                    digest.update(np.ascontiguousarray(part).tobytes())
                key = digest.digest()
                keys.append(key)
                leader.setdefault(key, key)
                variations[key] = int(numbers["variation_id"][entry, 0])
                time = float(numbers["time"][entry, 0])
                if key not in own or time < own[key].time:  # earlier ones saw it ahead
                    own[key] = Frame(window, entry, time, numbers["cont_action"][entry])
            for key in keys[1:]:
                leader[root(key)] = root(keys[0])
        members: dict[bytes, list[bytes]] = {}
        for key in own:
            members.setdefault(root(key), []).append(key)
        return [self._episode([own[key] for key in keys], variations[keys[0]]) for keys in members.values()], stored

    def _episode(self, frames: list[Frame], variation: int) -> WindowEpisode:
        frames = sorted(frames, key=lambda frame: -frame.time)
        times = np.array([frame.time for frame in frames])
        begins = [n for n, frame in enumerate(frames) if n == 0 or (frame.action != frames[n - 1].action).any()]
        chosen = [frames[n] for n in begins]
        actions = np.stack([frame.action for frame in chosen])
        return WindowEpisode(variation, chosen, actions, self._fault(times, chosen, actions))

    def _fault(self, times: np.ndarray, chosen: list[Frame], actions: np.ndarray) -> str:
        steps = -np.diff(times)
        if abs(times[0] - 1) > 1e-4:
            return "its first frame is in none"
        if len(steps) and (steps.min() <= 1e-7 or steps.max() > 1.5 * steps.min()):
            return "a frame in its midst is in none"
        if len(steps) and abs(times[-1] + 1 - steps.min()) > 0.5 * steps.min():
            return "its end is in none"
        for before, frame in zip(actions[:-1], chosen[1:], strict=True):
            pose = np.asarray(self.file["gripper_pose"][frame.window, frame.entry], np.float64).reshape(-1)
            if np.abs(pose[:3] - before[:3]).max() > CLOSE:
                return "a keyframe is not where the action before it leads"
        return ""

    def pixels(self, frame: Frame) -> np.ndarray:
        """A frame's images, uint8 [K H W 3]."""
        return np.stack([self.file[f"{name}_rgb"][frame.window, frame.entry] for name in self.cameras])

    def gripper(self, frame: Frame) -> np.ndarray:
        """Gripper open, and the two fingers' positions [3]."""
        parts = [self.file[name][frame.window, frame.entry] for name in STATE[1:]]
        return np.concatenate([np.asarray(part, np.float64).reshape(-1) for part in parts])


@contextmanager
def open_windows(path: Path, cameras: Sequence[str]) -> Iterator[Windows]:
    """A file of the release's windows.

    Raises:
        InputError: it is missing, damaged, or something else.
    """
    if not path.is_file():
        raise InputError(f"src: found {path}, where there is no file; name one of the release's .hdf5 files")
    try:
        file: Any = h5py.File(path, "r", locking=False)
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: cannot be opened as HDF5 ({reason(error)}); get the file again") from None
    with file:
        try:
            yield Windows(path, file, cameras)
        except READ_ERRORS as error:
            raise InputError(f"{path}: damaged ({reason(error)}); get the file again") from None
