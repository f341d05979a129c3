"""Dataset with random access to the episodes of one file."""

import hashlib
import json
import threading
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from types import TracebackType
from typing import Any, NamedTuple, Self

import h5py
import numpy as np

from instructrl.data.demonstrations.reader import READ_ERRORS, RECOLLECT_HINT, open_file, read
from instructrl.data.demonstrations.schema import UNKNOWN, crc32, entry_counts, fields, image_field
from instructrl.data.demonstrations.writer import Writer
from instructrl.data.hdf5_chunks import ChunkCheck
from instructrl.errors import InputError, short_message
from instructrl.storage.paths import Hdf5Source, StoragePath, read_error, storage_path
from instructrl.types import GRIPPER_STATE, KEYFRAME, Demonstration
from instructrl.workspace import RLBENCH_WORKSPACE, Workspace


class EpisodeSteps(NamedTuple):
    """T steps of one episode: the observation at which each action is taken, and the action."""

    images: np.ndarray  # T K H W 3, uint8; 0 K H W 3 if read without pixels
    state: np.ndarray  # T S, float32
    intrinsics: np.ndarray  # T K 3 3, float32
    extrinsics: np.ndarray  # T K 4 4, float32
    actions: np.ndarray  # T 8, float32
    instructions: tuple[str, ...]
    variation: int
    seed: int


class DemonstrationDataset:
    """Episodes of a file. Everything but pixels is in memory; the file is opened by the first read of pixels.

    Safe to share between threads and to pickle. Each frame's checksum is verified when it is first read.

    Attributes:
        header: task, split, cameras, image size and provenance.
        lengths: steps, one for each action, of each episode, int64.
        steps: those of the longest episode.
        view_counts: frames that may be observed, of each episode, int64.
    """

    def __init__(
        self, path: str | StoragePath, limit: int | None = None, *, task: str | None = None, intermediate: bool = False
    ) -> None:
        """Read everything but pixels.

        Args:
            path: the file.
            limit: selects the first episodes only.
            task: the expected task.
            intermediate: frames on the way to a keyframe may be observed too, not only those where actions are taken.

        Raises:
            InputError: the file is missing, damaged, too small, or of another format version or task.
        """
        self.path = storage_path(path)
        self.header, self.contents = read(self.path)
        present = len(self.contents.seed)
        if task is not None and task != self.header.task:
            raise InputError(f"{self.path}: holds {self.header.task}, expected {task}; choose that task's file")
        if limit is not None and not 1 <= limit <= present:
            raise InputError(f"{self.path}: holds {present} episodes, not {limit}; collect more or request fewer")
        self._length = present if limit is None else limit
        self.lengths = self.contents.keyframes[: self._length]
        self.steps = int(self.lengths.max())
        before = np.roll(self.contents.keyframe, 1)
        before[self.contents.first_keyframe] = 0
        self._decision_frames = before + np.repeat(self.contents.first_frame, self.contents.keyframes)
        self._between = self.contents.keyframe - before - 1
        self._intermediate = intermediate
        last_keyframes = self.contents.keyframe[self.contents.first_keyframe + self.contents.keyframes - 1]
        self.view_counts = last_keyframes[: self._length] if intermediate else self.lengths
        self._verified = np.zeros(len(self.contents.state), bool)
        self._lock, self._opened = threading.Lock(), ExitStack()
        self._file: h5py.File | None = None
        self._source: Hdf5Source | None = None

    def __len__(self) -> int:
        return self._length

    @property
    def task(self) -> str:
        """Name of the demonstrated task."""
        return self.header.task

    @property
    def cameras(self) -> tuple[str, ...]:
        """Camera names in the order of the images."""
        return self.header.cameras

    @property
    def image_size(self) -> int:
        """Width and height of an image in pixels."""
        return self.header.image_size

    @property
    def workspace(self) -> Workspace:
        """The box in which the actions lie."""
        return self.header.workspace

    @property
    def state(self) -> tuple[str, ...]:
        """Names of the state's numbers, with units."""
        return self.header.state

    @property
    def outside(self) -> np.ndarray:
        """True for each keyframe of the selected episodes whose position lies outside the workspace [M]."""
        return ~self.workspace.contains(self.contents.action[: int(self.lengths.sum()), :3])

    @property
    def provenance(self) -> dict[str, str]:
        """Simulator, its version, renderer, expert and version of InstructRL."""
        return self.header.provenance

    def instructions(self, episode: int) -> tuple[str, ...]:
        """Return all instructions that describe an episode."""
        first = self.contents.first_sentence[episode]
        return tuple(self.contents.text[first : first + self.contents.sentences[episode]])

    def digest(self) -> str:
        """Return a digest of all of the selected episodes: unchanged when more are appended to the file."""
        contents, count = self.contents, len(self)
        described: list[Any] = [self.cameras, self.image_size]
        if (self.workspace, self.state) != (RLBENCH_WORKSPACE, GRIPPER_STATE):  # digests are older than other worlds
            described += [self.workspace.numbers, self.state]
        if self.header.actions != KEYFRAME:
            described.append(self.header.actions)
        digest = hashlib.sha256(json.dumps(described).encode())
        for name, field in fields(self.header).items():
            used = int(entry_counts(contents, field)[:count].sum())
            digest.update(np.ascontiguousarray(getattr(contents, name)[:used]).data)
        digest.update(json.dumps([self.instructions(index) for index in range(count)]).encode())
        return digest.hexdigest()

    def actions(self, episode: int) -> np.ndarray:
        """Return all actions [T 8] of an episode in [0, len)."""
        if not 0 <= episode < self._length:
            raise IndexError(f"{self.path}: episode {episode} of {self._length}")
        first = self.contents.first_keyframe[episode]
        return self.contents.action[first : first + self.lengths[episode]]

    def frames(self, episode: int) -> np.ndarray:
        """Return the frame numbers [T], within the file, at which an episode's actions are taken."""
        first = self.contents.first_keyframe[episode]
        return self._decision_frames[first : first + self.lengths[episode]]

    def frames_between(self, episode: int) -> np.ndarray:
        """Return how many frames there are on the way of each of an episode's actions [T]."""
        first = self.contents.first_keyframe[episode]
        return self._between[first : first + self.lengths[episode]]

    def views(self, episode: int) -> np.ndarray:
        """Return the frame numbers, within the file, that may be observed in an episode, increasing."""
        if not self._intermediate:
            return self.frames(episode)
        first = self.contents.first_frame[episode]
        return np.arange(first, first + self.view_counts[episode])

    def view_images(self, episode: int) -> np.ndarray:
        """Return the pixels of an episode's views [V,K,H,W,3], uint8."""
        return self._images(self.views(episode), None)

    def episode(
        self,
        episode: int,
        *,
        steps: slice = slice(None),
        frames: np.ndarray | None = None,
        out: np.ndarray | None = None,
        pixels: bool = True,
    ) -> EpisodeSteps:
        """Return the steps of an episode in [0, len).

        Args:
            episode: its number.
            steps: which of its steps; all by default.
            frames: frame numbers [T] that are observed, increasing; by default those at which the actions are taken.
            out: gets the pixels, `out[:T]` [>=T,K,H,W,3].
            pixels: False: read no pixels.
        """
        contents, actions = self.contents, self.actions(episode)[steps]
        frames = self.frames(episode)[steps] if frames is None else frames
        return EpisodeSteps(
            images=self._images(frames, out) if pixels else np.empty((0, *image_field(self.header).shape), np.uint8),
            state=contents.state[frames],
            intrinsics=contents.intrinsics[frames],
            extrinsics=contents.extrinsics[frames],
            actions=actions,
            instructions=self.instructions(episode),
            variation=int(contents.variation[episode]),
            seed=int(contents.seed[episode]),
        )

    def demonstration(self, episode: int) -> Demonstration:
        """Return all frames of an episode in [0, len), as collected."""
        if not 0 <= episode < self._length:
            raise IndexError(f"{self.path}: episode {episode} of {self._length}")
        contents = self.contents
        first, keyframe = contents.first_frame[episode], contents.first_keyframe[episode]
        rejected = int(contents.rejected_placements[episode])
        frames = slice(first, first + contents.frames[episode])
        keyframes = slice(keyframe, keyframe + contents.keyframes[episode])
        return Demonstration(
            images=self._images(np.arange(frames.start, frames.stop), None),
            state=contents.state[frames],
            intrinsics=contents.intrinsics[frames],
            extrinsics=contents.extrinsics[frames],
            keyframes=contents.keyframe[keyframes],
            actions=contents.action[keyframes],
            instructions=self.instructions(episode),
            variation=int(contents.variation[episode]),
            seed=int(contents.seed[episode]),
            rejected_placements=None if rejected == UNKNOWN else rejected,
        )

    def images(self, begin: int, end: int) -> np.ndarray:
        """Return the pixels of the file's frames `begin` to `end` [N,K,H,W,3], uint8, regardless of episodes."""
        return self._images(np.arange(begin, end), None)

    def verify(self) -> None:
        """Read all pixels, also beyond `limit`, and verify their checksums.

        Raises:
            InputError: a frame is damaged.
        """
        self._verified[:] = False
        for frame in range(len(self.contents.state)):
            self._images(np.array([frame]), None)

    def _images(self, frames: np.ndarray, out: np.ndarray | None) -> np.ndarray:
        """Return the pixels of increasing frame numbers [T,K,H,W,3]; consecutive ones in one read."""
        size = self.header.image_size
        if out is None:
            out = np.empty((len(frames), len(self.header.cameras), size, size, 3), np.uint8)
        images, begin = out[: len(frames)], 0
        breaks = np.flatnonzero(np.diff(frames) != 1) + 1
        try:
            stored = self._open()["frames/images"]
            is_verified = self._verified[frames].all()
            check = None if is_verified else ChunkCheck(f"{self.path}: frames/images", stored)
            for begin, end in zip([0, *breaks], [*breaks, len(frames)], strict=True):
                if check is not None:
                    check(frames[begin], frames[end - 1] + 1)
                stored.read_direct(images, np.s_[frames[begin] : frames[end - 1] + 1], np.s_[begin:end])
        except READ_ERRORS as error:
            where = f"{self.path}: episode {self._episode_of(int(frames[begin]))}: frames/images"
            raise read_error(self._source) or InputError(
                f"{where}: cannot be read ({short_message(error)}); {RECOLLECT_HINT}"
            ) from None
        cause = read_error(self._source)
        if cause is not None:
            raise cause
        for row, frame in enumerate(frames):
            if not self._verified[frame]:
                self._check_pixels(int(frame), images[row])
        return images

    def _check_pixels(self, frame: int, image: np.ndarray) -> None:
        if crc32(image) != self.contents.crc32[frame]:
            where = f"{self.path}: episode {self._episode_of(frame)}: frames/images"
            raise InputError(f"{where}: damaged pixels; {RECOLLECT_HINT}")
        self._verified[frame] = True

    def _episode_of(self, frame: int) -> int:
        return int(np.searchsorted(self.contents.first_frame, frame, side="right")) - 1

    def _open(self) -> h5py.File:
        with self._lock:
            if self._file is None:
                self._file, self._source = self._opened.enter_context(open_file(self.path))
            return self._file

    def close(self) -> None:
        """Close the file; a later read reopens it."""
        with self._lock:
            self._file = self._source = None
            self._opened.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_lock": None, "_opened": None, "_file": None, "_source": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, _lock=threading.Lock(), _opened=ExitStack())


def check_alike(files: Sequence[DemonstrationDataset]) -> None:
    """Raise InputError if files differ in cameras, image size, workspace, state, kind of actions or renderer."""
    for other in files[1:]:
        for key, found, first in (
            ("cameras", other.cameras, files[0].cameras),
            ("image_size", other.image_size, files[0].image_size),
            ("workspace", other.workspace, files[0].workspace),
            ("state", other.state, files[0].state),
            ("actions", other.header.actions, files[0].header.actions),
            ("renderer", other.provenance.get("renderer"), files[0].provenance.get("renderer")),
        ):
            if found != first:
                raise InputError(
                    f"{other.path}: {key} {found}, but {files[0].path} has {first}; "
                    "collect them with the same settings, in another data.dir"
                )


def merge(
    target: StoragePath, sources: Iterable[StoragePath], *, limit: int | None = None, compression: str = "none"
) -> None:
    """Write the episodes of several files with equal headers, in order, to `target`, which may be one of them.

    Raises:
        InputError: a source cannot be read, or the headers differ.
    """
    opened = [DemonstrationDataset(source) for source in sources]
    for other in opened[1:]:
        if other.header != opened[0].header:
            raise InputError(
                f"{other.path}: its header is not that of {opened[0].path}; merge only files with equal headers"
            )
    with Writer(target, opened[0].header, compression=compression) as writer:
        entries = [(episodes, index) for episodes in opened for index in range(len(episodes))]
        for episodes, index in entries[:limit]:
            writer.add(episodes.demonstration(index))
    for episodes in opened:
        episodes.close()
