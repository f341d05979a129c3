"""Export of demonstrations to a LeRobot data set (format v3), which is written atomically."""

import io
import json
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from data_tools.exchange.exported import (
    already_exported,
    check_camera_names,
    first_episodes,
    move_into_place,
    next_step,
    source_files,
    temporary_folder,
)
from data_tools.lerobot import schema
from data_tools.lerobot.metadata import DATA_PATH, EPISODES, IMAGES, INFO, TASKS, VIDEO_PATH, VIDEOS
from data_tools.lerobot.statistics import PixelStatistics, number_statistics
from data_tools.lerobot.video import BROKEN, PIXELS, VideoWriter
from instructrl.cli.progress import ProgressBar
from instructrl.data.demonstrations.dataset import DemonstrationDataset
from instructrl.data.demonstrations.schema import SPLITS, Header, checksum
from instructrl.errors import InputError, short_message
from instructrl.storage.json_file import read_json
from instructrl.types import Demonstration

STATISTICS = "meta/stats.json"
FILE_BYTES = {"data": 100 << 20, "videos": 200 << 20}  # after which another file begins, as in LeRobot
CODEBASE_VERSION, CHUNK = "v3.0", 1000  # files in a folder

TASKS_INDEX = {  # by which pandas makes the sentences its index, where LeRobot looks for them
    "index_columns": ["task"],
    "column_indexes": [{"name": None, "field_name": None, "pandas_type": "unicode", "numpy_type": "object",
                        "metadata": {"encoding": "UTF-8"}}],
    "columns": [
        {"name": "task_index", "field_name": "task_index", "pandas_type": "int64", "numpy_type": "int64",
         "metadata": None},
        {"name": "task", "field_name": "task", "pandas_type": "unicode", "numpy_type": "object", "metadata": None},
    ],
    "pandas_version": "2.0.0",
}  # fmt: skip


@dataclass(frozen=True)
class Encoding:
    """Settings of how images are written."""

    images: str  # av1, h264, or png: in the parquet files, without loss
    crf: int | None  # of videos; None: the codec's usual one
    fps: int  # frames per second

    @property
    def dtype(self) -> str:
        """Type of a camera's feature."""
        return IMAGES if self.images == "png" else VIDEOS


def export(
    src: Path, out: Path, encoding: Encoding, *, split: str | None, episodes: int | None, overwrite: bool
) -> None:
    """Write the demonstrations of a file, or of all files in a folder, as LeRobot episodes: those of train come first.

    Args:
        src: a file of demonstrations, or a folder of them.
        out: the folder to write.
        encoding: of the images.
        split: the only split to export; None: both.
        episodes: at most this many per file; None: all.
        overwrite: replace another export at `out`.

    Raises:
        InputError: a file cannot be used, the files are incompatible, or other content is at `out`.
    """
    files = source_files(src, split)
    check_camera_names(files.values(), what="names of features")
    headers = {target: one.header for target, one in files.items()}
    digest = checksum if encoding.images == "png" else schema.checksum_without_pixels
    digests = {target: digest(one.header, first_episodes(one.contents, episodes)) for target, one in files.items()}
    record = schema.export_record(headers, digests, lossless=encoding.images == "png")
    same = partial(is_recorded, out, record)
    if already_exported(out, src, kind="LeRobot data set", metadata=INFO, same=same, overwrite=overwrite):
        return
    with temporary_folder(out) as folder:
        try:
            with DatasetWriter(folder, headers[next(iter(files))], encoding) as writer:
                write_all(files, writer, record, limit=episodes)
        except (*BROKEN, pa.ArrowException) as error:
            text = f"{folder}: cannot be written ({short_message(error)}); free space there or choose another out="
            raise InputError(text) from None
        move_into_place(folder, out)
    for one in files.values():
        one.close()
    print(next_step("data_tools.lerobot", out))


def write_all(
    files: dict[str, DemonstrationDataset], writer: "DatasetWriter", record: dict[str, Any], *, limit: int | None
) -> None:
    """Write the episodes of all files, those of train first, and what `record` says of them."""
    episodes, splits = [], dict[str, str]()
    for split in SPLITS:
        begin = writer.count
        for target, one in files.items():
            if one.header.split != split:
                continue
            count = min(len(one), limit or len(one))
            for number in ProgressBar(range(count), description=f"{one.task} {split}", total=count, unit="episodes"):
                found = one.demonstration(number)
                writer.add(found)
                episodes.append(schema.episode_record(found, target))
            print(f"{split}: {one.path}: {count} episodes", flush=True)
        if writer.count > begin:
            splits[split] = f"{begin}:{writer.count}"
    writer.finish(splits, next(iter(files.values())).provenance.get("simulator", "unknown"))
    write_json(writer.folder / schema.OURS, record | {"episodes": episodes})


def is_recorded(out: Path, record: dict[str, Any]) -> bool:
    """Return True if an earlier export at this path has the same record of its demonstrations."""
    try:
        present = read_json(out / schema.OURS)
        return all(present[key] == value for key, value in record.items())
    except (OSError, ValueError, KeyError, TypeError):
        return False


def write_json(path: Path, value: Any) -> None:
    """Write a file of JSON, and its folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value, indent=1, ensure_ascii=False) + "\n")


@dataclass
class Files:
    """Numbers of the file of one kind that is written now."""

    number: int = 0
    bytes: int = 0  # of the file, approximately

    @property
    def indices(self) -> dict[str, int]:
        """Numbers of chunk and file."""
        return {"chunk_index": self.number // CHUNK, "file_index": self.number % CHUNK}

    def begin_next(self) -> None:
        """Go on to the next file."""
        self.number, self.bytes = self.number + 1, 0


class DatasetWriter:
    """Writes episodes to a folder; an error in the `with` block closes what is open and leaves it incomplete.

    Attributes:
        folder: where it writes.
        count: number of episodes so far.
    """

    def __init__(self, folder: Path, header: Header, encoding: Encoding) -> None:
        """`header` has the cameras, the image size and the state of all episodes."""
        self.folder, self.count, self._frames = folder, 0, 0
        self._header, self._encoding = header, encoding
        self._features = schema.features(header, images=encoding.dtype)
        self._files = {"data": Files(), "videos": Files()}
        self._tasks: dict[str, int] = {}
        self._rows: list[dict[str, Any]] = []
        self._numbers: dict[str, list[np.ndarray]] = {}
        self._pixels = {name: PixelStatistics() for name in header.cameras}
        self._table: pq.ParquetWriter | None = None
        self._videos: dict[str, VideoWriter] = {}

    def __enter__(self) -> "DatasetWriter":
        return self

    def __exit__(self, *_: object) -> None:
        with suppress(*BROKEN):  # after `finish` nothing is open: an error is on its way already
            self._close_files(("data", "videos"))

    def add(self, demonstration: Demonstration) -> None:
        """Append an episode."""
        length = len(demonstration.state)
        self._begin_files()
        row: dict[str, Any] = {
            "episode_index": self.count,
            "tasks": [demonstration.instructions[0]],
            "length": length,
            "dataset_from_index": self._frames,
            "dataset_to_index": self._frames + length,
            **{f"data/{name}": number for name, number in self._files["data"].indices.items()},
            **{f"meta/episodes/{name}": 0 for name in ("chunk_index", "file_index")},
        }
        for view, camera in enumerate(self._header.cameras):
            self._pixels[camera].add(demonstration.images[:, view])
            if self._encoding.dtype == VIDEOS:
                row |= self._add_video(camera, demonstration.images[:, view])
        self._add_rows(demonstration, self._tasks.setdefault(demonstration.instructions[0], len(self._tasks)))
        self._rows.append(row)
        self.count, self._frames = self.count + 1, self._frames + length

    def _begin_files(self) -> None:
        """Close files that are large enough, and begin the next."""
        for kind, files in self._files.items():
            if files.bytes >= FILE_BYTES[kind]:
                self._close_files((kind,))
                files.begin_next()

    def _add_video(self, camera: str, images: np.ndarray) -> dict[str, Any]:
        """Append a camera's images to its video, and return the columns of the episode that say where."""
        key, files, fps = schema.camera_key("images", camera), self._files["videos"], self._encoding.fps
        if key not in self._videos:
            path = self.folder / VIDEO_PATH.format(video_key=key, **files.indices)
            shape = (images.shape[1], images.shape[2])
            self._videos[key] = VideoWriter(path, shape, fps=fps, codec=self._encoding.images, crf=self._encoding.crf)
        writer = self._videos[key]
        begin = writer.count
        for image in images:
            writer.add(image)
        files.bytes = max(files.bytes, writer.bytes)
        times = {"from_timestamp": begin / fps, "to_timestamp": writer.count / fps}
        return {f"videos/{key}/{name}": value for name, value in {**files.indices, **times}.items()}

    def _add_rows(self, demonstration: Demonstration, task: int) -> None:
        """Append the rows of an episode to the parquet file, as a group of their own."""
        length = len(demonstration.state)
        numbers = schema.step_values(demonstration, self._header)
        steps = np.arange(length)
        own: dict[str, np.ndarray] = {
            "timestamp": (steps / self._encoding.fps).astype(np.float32),
            "frame_index": steps,
            "episode_index": np.full(length, self.count),
            "index": self._frames + steps,
            "task_index": np.full(length, task),
        }
        for key, values in (numbers | own).items():
            self._numbers.setdefault(key, []).append(values.reshape(length, -1))
        columns: dict[str, pa.Array] = {}
        if self._encoding.dtype == IMAGES:
            for view, camera in enumerate(self._header.cameras):
                columns[schema.camera_key("images", camera)] = image_column(demonstration.images[:, view])
        columns |= {key: pa.FixedSizeListArray.from_arrays(pa.array(value.reshape(-1)), value.shape[1])
                    for key, value in numbers.items()}  # fmt: skip
        columns |= {key: pa.array(value) for key, value in own.items()}
        table = pa.table(columns)
        if self._table is None:
            path = self.folder / DATA_PATH.format(**self._files["data"].indices)
            path.parent.mkdir(parents=True, exist_ok=True)
            self._table = pq.ParquetWriter(path, table.schema, compression="snappy")
        self._table.write_table(table)
        self._files["data"].bytes += table.nbytes

    def _close_files(self, kinds: tuple[str, ...]) -> None:
        if "data" in kinds and self._table is not None:
            self._table.close()
            self._table = None
        if "videos" in kinds:
            while self._videos:
                self._videos.popitem()[1].close()

    def finish(self, splits: dict[str, str], robot: str) -> None:
        """Complete the files and write the metadata; `splits` has the episodes of each split, as FIRST:END."""
        self._close_files(("data", "videos"))
        for feature in self._features.values():
            if feature["dtype"] == VIDEOS:
                feature["info"] = self._video_info()
        write_json(
            self.folder / INFO,
            {
                "codebase_version": CODEBASE_VERSION,
                "robot_type": robot,
                "total_episodes": self.count,
                "total_frames": self._frames,
                "total_tasks": len(self._tasks),
                "chunks_size": CHUNK,
                "data_files_size_in_mb": FILE_BYTES["data"] >> 20,
                "video_files_size_in_mb": FILE_BYTES["videos"] >> 20,
                "fps": self._encoding.fps,
                "splits": splits,
                "data_path": DATA_PATH,
                "video_path": VIDEO_PATH if self._encoding.dtype == VIDEOS else None,
                "features": self._features,
            },
        )
        pixels = {schema.camera_key("images", name): found.summary() for name, found in self._pixels.items()}
        numbers = {key: number_statistics(np.concatenate(values)) for key, values in self._numbers.items()}
        write_json(self.folder / STATISTICS, pixels | numbers)
        tasks = pa.table({"task_index": pa.array(range(len(self._tasks)), pa.int64()), "task": list(self._tasks)})
        pq.write_table(tasks.replace_schema_metadata({"pandas": json.dumps(TASKS_INDEX)}), self.folder / TASKS)
        path = self.folder / EPISODES / "chunk-000" / "file-000.parquet"
        path.parent.mkdir(parents=True)
        pq.write_table(pa.Table.from_pylist(self._rows), path)

    def _video_info(self) -> dict[str, Any]:
        """Description of a video for info.json."""
        size = self._header.image_size
        return {
            "video.height": size,
            "video.width": size,
            "video.codec": self._encoding.images,
            "video.pix_fmt": PIXELS,
            "video.is_depth_map": False,
            "video.fps": self._encoding.fps,
            "video.channels": 3,
            "has_audio": False,
        }


def image_column(images: np.ndarray) -> pa.Array:
    """A column of images, uint8 [N H W 3], as PNG."""
    kind = pa.struct({"bytes": pa.binary(), "path": pa.string()})
    return pa.array([{"bytes": content, "path": None} for content in encoded(images)], kind)


def encoded(images: np.ndarray) -> Iterator[bytes]:
    """Each of the images, uint8 [N H W 3], as PNG."""
    for pixels in images:
        buffer = io.BytesIO()
        Image.fromarray(pixels).save(buffer, format="PNG", compress_level=3)
        yield buffer.getvalue()
