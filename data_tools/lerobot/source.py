"""A LeRobot data set as a source of episodes, of which any mapping selects what it needs."""

import difflib
from collections import Counter
from collections.abc import Iterable
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from data_tools.convert.skip_report import SkippedError, SkipReason
from data_tools.lerobot.metadata import VIDEOS, EpisodePart, Feature, Metadata, read_metadata
from data_tools.lerobot.tables import ImageReader, open_table, read_columns
from data_tools.lerobot.video import VideoReader
from instructrl.errors import InputError

SENTENCE, SENTENCES = "task", "tasks"  # keys beside the features: the text of a step's task, and all of an episode
TEXT = Feature("string", ())
INDEX = {key: Feature("int64", (1,)) for key in ("episode_index", "frame_index", "task_index")}
TIME = {"timestamp": Feature("float32", (1,))}


class Source:
    """A folder with meta/info.json, parquet files of steps, and videos.

    Attributes:
        folder: where it lies.
        metadata: what it says of itself, checked.
        features: type and shape of each key.
    """

    format = "LeRobot"

    def __init__(self, folder: Path) -> None:
        """Read the metadata.

        Raises:
            InputError: it is no such folder, or something in it is inconsistent.
        """
        self.folder = folder
        self.metadata: Metadata = read_metadata(folder)
        self.features = {**self.metadata.features, SENTENCE: TEXT, SENTENCES: TEXT}
        self.splits = {name: len(numbers) for name, numbers in self.metadata.splits.items()}
        if not self.splits:
            raise InputError(f"{folder}: contains no episodes; choose another src=")

    @property
    def name(self) -> str:
        """Name of the folder."""
        return self.folder.resolve().name

    @property
    def version(self) -> str:
        """Version of the format."""
        return self.metadata.version

    def shape(self, key: str) -> tuple[int | None, ...]:
        """Shape of a key's value.

        Raises:
            InputError: there is no such key.
        """
        if key not in self.features:
            similar = difflib.get_close_matches(key, self.features, n=2, cutoff=0.6)
            hint = f"did you mean {' or '.join(similar)}?" if similar else f"it has {', '.join(self.features)}"
            raise InputError(f"{key}: {self.folder} has no such key; {hint}")
        return self.features[key].shape

    def is_per_step(self, key: str) -> bool:
        """Return True if a key has a value at each step, False if it has one per episode."""
        return key != SENTENCES

    def describe_keys(self) -> str:
        """Return the keys with their types, on one line."""
        return ", ".join(f"{key} ({feature})" for key, feature in self.features.items())

    def reader(self, keys: Iterable[str]) -> "EpisodeReader":
        """Return a reader that decodes only these keys.

        Raises:
            InputError: a file is missing, has other counts than the metadata, or another format.
        """
        return EpisodeReader(self, list(dict.fromkeys(keys)))


class EpisodeReader:
    """Reads episodes; the file of each camera that was used last stays open, and the columns of the last file."""

    def __init__(self, source: Source, keys: list[str]) -> None:
        """Check the files in which these keys lie.

        Raises:
            InputError: see `Source.reader`.
        """
        self.metadata, self._source = source.metadata, source
        given = {key: source.features[key] for key in keys if key in source.metadata.features}
        self.cameras = {key: feature for key, feature in given.items() if feature.is_image}
        self._columns = {key: feature for key, feature in given.items() if not feature.is_image} | INDEX | TIME
        self._file: tuple[Path, dict[str, Any]] | None = None
        self._videos: dict[str, VideoReader] = {}
        self._images: dict[str, ImageReader] = {}
        for path, rows in self.metadata.rows.items():
            open_table(path, rows).close()
        for key in self.cameras:
            if self.cameras[key].dtype == VIDEOS:
                self._check_videos(key)

    def _check_videos(self, key: str) -> None:
        """Raise InputError if a video of a camera is missing or has fewer frames than its episodes have steps."""
        counts: Counter[Path] = Counter()
        for part in self.metadata.episodes:
            counts[part.videos[key].path] += part.length
        for path, expected in counts.items():
            found = self.video(key, path).frames
            if found and found < expected:
                text = f"found {found} frames, but the lengths of its episodes add up to {expected}"
                raise InputError(f"{path}: {text}; copy it again")

    def load(self, split: str, number: int) -> "Episode":
        """Load an episode of a split.

        Raises:
            SkippedError: its rows are damaged.
        """
        where = f"{self._source.folder}: {split}: episode {number}"
        try:
            return Episode(where, self, self.metadata.episodes[self.metadata.splits[split][number]])
        except InputError as error:
            raise SkippedError(SkipReason.RECORDS, str(error)) from None

    def columns(self, path: Path) -> dict[str, Any]:
        """Columns of a file, but images.

        Raises:
            InputError: see `read_columns`.
        """
        if self._file is None or self._file[0] != path:
            self._file = path, read_columns(path, self.metadata.rows[path], self._columns)
        return self._file[1]

    def video(self, key: str, path: Path) -> VideoReader:
        """Open a video of a camera.

        Raises:
            InputError: see `VideoReader`.
        """
        if key not in self._videos or self._videos[key].path != path:
            if key in self._videos:
                self._videos.pop(key).close()
            height, width, _ = self.cameras[key].shape
            self._videos[key] = VideoReader(path, (height, width), self.metadata.fps)
        return self._videos[key]

    def images(self, key: str, path: Path) -> ImageReader:
        """Open a column of images.

        Raises:
            InputError: see `ImageReader`.
        """
        if key not in self._images or self._images[key].path != path:
            if key in self._images:
                self._images.pop(key).close()
            self._images[key] = ImageReader(path, self.metadata.rows[path], key, self.cameras[key])
        return self._images[key]


class Episode:
    """An episode, whose images are decoded when they are asked for.

    Attributes:
        where: its name in errors.
    """

    def __init__(self, where: str, reader: EpisodeReader, part: EpisodePart) -> None:
        """Take the rows of an episode.

        Raises:
            InputError: they are of another one, or their times are not those of the video's frames.
        """
        self.where, self._reader, self._part = where, reader, part
        rows = slice(part.first_row, part.first_row + part.length)
        self._columns = {key: values[rows] for key, values in reader.columns(part.path).items()}
        if (self._columns["episode_index"] != part.number).any():
            raise InputError(f"{where}: {part.path}: found rows of another episode_index than {part.number}")
        if (self._columns["frame_index"].reshape(-1) != np.arange(part.length)).any():
            raise InputError(f"{where}: {part.path}: frame_index: expected 0, 1, 2 ...")
        self._times = np.asarray(self._columns["timestamp"], np.float64).reshape(-1)
        step = 1 / reader.metadata.fps
        late = ~(np.abs(self._times - np.arange(part.length) * step) <= step / 4)
        if late.any():
            first = int(late.argmax())
            found = f"found {self._times[first]:.4f} s at frame {first}, expected {first * step:.4f} s"
            raise InputError(f"{where}: {part.path}: timestamp: {found}")

    @property
    def steps(self) -> int:
        """Number of steps."""
        return self._part.length

    def is_per_step(self, key: str) -> bool:
        """Return True if a key has a value at each step, False if it has one per episode."""
        return key != SENTENCES

    def at(self, key: str, step: int) -> Any:
        """Value of a key at one step."""
        reader, part = self._reader, self._part
        if key == SENTENCE:
            return self._sentence(int(self._columns["task_index"].reshape(-1)[step]))
        if key not in reader.cameras:
            return self._columns[key][step]
        if key in part.videos:
            path, begin = part.videos[key]
            return reader.video(key, path).frame(begin + self._times[step])
        return reader.images(key, part.path).image(part.first_row + step)

    def column(self, key: str) -> np.ndarray:
        """Values of a key at all steps [N ...]."""
        return np.stack([np.asarray(self.at(key, step)) for step in range(self.steps)])

    def episode_value(self, key: str) -> Any:
        """Sentences of the episode, the only key of its kind."""
        return self._sentences

    def text(self, key: str) -> tuple[str, ...]:
        """Texts of a key; of a per-step key, that at the first step."""
        if key == SENTENCES:
            return self._sentences
        found = self.at(key, 0)
        if not isinstance(found, str):
            raise InputError(f"{self.where}: {key}: found no text")
        return (found,)

    @cached_property
    def _sentences(self) -> tuple[str, ...]:
        used = dict.fromkeys(int(number) for number in self._columns["task_index"].reshape(-1))
        return self._part.tasks or tuple(self._sentence(number) for number in used)

    def _sentence(self, number: int) -> str:
        tasks = self._reader.metadata.tasks
        if number not in tasks:
            raise InputError(f"{self.where}: task_index: found {number}, which meta/tasks.parquet does not list")
        return tasks[number]
