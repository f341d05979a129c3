"""Metadata of a LeRobot data set (format v3): its features, its episodes, and the files in which their steps lie.

    meta/info.json                                what there is: features, counts, frames per second, names of files
    meta/tasks.parquet                            sentence of each task_index
    meta/episodes/chunk-000/file-000.parquet      a row per episode: length, and the files that hold it
    data/chunk-000/file-000.parquet               a row per step, of several episodes
    videos/KEY/chunk-000/file-000.mp4             the images of a camera, of several episodes

Nothing of it is believed before it is compared: names of files may not leave the folder, and counts are those of the
files themselves.
"""

import re
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from instructrl.errors import InputError, format_value, short_message
from instructrl.storage.json_file import read_json

INFO, TASKS, EPISODES = "meta/info.json", "meta/tasks.parquet", "meta/episodes"
DATA_PATH = "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet"
VIDEO_PATH = "videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4"
IMAGES, VIDEOS = "image", "video"  # types of a camera's feature
NUMBERS = ("bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64", "float32", "float64")
PLACE = re.compile(r"\{(\w+)(?::0?(\d)d)?\}")
LARGEST_SIDE, LARGEST_VALUE = 8192, 1 << 20  # pixels, and numbers in a value
LARGEST_TABLE = 1 << 30  # bytes of a table of metadata, uncompressed
CONVERT = "convert it with lerobot 0.4: python -m lerobot.datasets.v30.convert_dataset_v21_to_v30 --repo-id=NAME"


class Feature(NamedTuple):
    """Type and shape of a feature at one step; an image's shape is (H, W, 3)."""

    dtype: str
    shape: tuple[int, ...]

    @property
    def is_image(self) -> bool:
        """True for the images of a camera."""
        return self.dtype in (IMAGES, VIDEOS)

    def __str__(self) -> str:
        if self.dtype == "string":
            return "text"
        kind = "uint8" if self.is_image else self.dtype
        return f"{'x'.join(map(str, self.shape))} {kind}" + f", {self.dtype}" * self.is_image


class VideoPart(NamedTuple):
    """The part of a video file that shows an episode."""

    path: Path
    begin: float  # seconds


class EpisodePart(NamedTuple):
    """Place of an episode in the files."""

    number: int
    length: int  # steps
    path: Path  # parquet file
    first_row: int  # in that file
    tasks: tuple[str, ...]
    videos: dict[str, VideoPart]  # by feature


@dataclass(frozen=True)
class Metadata:
    """Checked content of the folder meta/."""

    folder: Path
    version: str
    robot: str
    fps: float
    features: dict[str, Feature]
    splits: dict[str, range]  # numbers of episodes
    tasks: dict[int, str]
    episodes: list[EpisodePart]
    rows: dict[Path, int]  # of each parquet file


def read_metadata(folder: Path) -> Metadata:
    """Read and check the metadata of a data set.

    Raises:
        InputError: it is not such a data set, of another version, or inconsistent.
    """
    where = folder / INFO
    if not folder.is_dir():
        raise InputError(f"src: found {folder}, which is not a folder; give that of a LeRobot data set")
    if not where.is_file():
        raise InputError(f"{folder}: has no {INFO}, as LeRobot data sets have; choose another src=")
    info = read_info(where)
    features = read_features(where, info.get("features"))
    fps = info.get("fps")
    if not isinstance(fps, int | float) or isinstance(fps, bool) or not 0 < fps <= 1000:
        raise InputError(f"{where}: fps: found {described(fps)}; allowed: a number above 0, at most 1000")
    tasks = read_tasks(folder / TASKS)
    episodes, rows = read_episodes(folder, info, features)
    return Metadata(
        folder=folder,
        version=info["codebase_version"],
        robot=str(info.get("robot_type") or "unknown"),
        fps=float(fps),
        features=features,
        splits=read_splits(where, info.get("splits"), len(episodes)),
        tasks=tasks,
        episodes=episodes,
        rows=rows,
    )


def described(value: Any) -> str:
    """A value where a number is expected: a text of digits is said to be one."""
    return f"the text {format_value(value)}" if isinstance(value, str) else format_value(value)


def read_info(where: Path) -> dict[str, Any]:
    """Read info.json, of version 3.

    Raises:
        InputError: it cannot be read, or is of another version.
    """
    try:
        info = read_json(where)
    except (ValueError, OSError) as error:
        raise InputError(f"{where}: cannot be read ({short_message(error)}); copy it again") from None
    version = info.get("codebase_version") if isinstance(info, dict) else None
    if not isinstance(version, str) or not re.fullmatch(r"v3\.\d+", version):
        hint = CONVERT if isinstance(version, str) and version.startswith(("v1", "v2")) else "choose another src="
        raise InputError(f"{where}: codebase_version: found {format_value(version)}, expected v3.0; {hint}")
    return info


def read_features(where: Path, given: Any) -> dict[str, Feature]:
    """Read the features of a step.

    Raises:
        InputError: one has a name that leaves its folder, or a type or shape that is not read.
    """
    if not isinstance(given, dict) or not given:
        raise InputError(f"{where}: features: found {format_value(given)}, expected a table; copy it again")
    found = {}
    for key, value in given.items():
        about = value if isinstance(value, dict) else {}
        dtype, shape = str(about.get("dtype")), about.get("shape")
        if not re.fullmatch(r"\w[\w. -]*", key) or ".." in key:
            raise InputError(f"{where}: features: found {key!r}; allowed: letters, digits, _, - and single dots")
        sizes = tuple(shape) if isinstance(shape, list) else (0,)
        valid = all(type(size) is int and size > 0 for size in sizes)
        if dtype in (IMAGES, VIDEOS):
            if valid and len(sizes) == 3 and sizes[0] in (1, 3) and sizes[2] not in (1, 3):
                sizes = (*sizes[1:], sizes[0])  # channels come first
            valid = valid and len(sizes) == 3 and max(sizes[:2]) <= LARGEST_SIDE
        elif dtype in NUMBERS:
            count = 1
            for size in sizes:
                count *= min(size, LARGEST_VALUE + 1) if valid else 1
            valid = valid and count <= LARGEST_VALUE
        elif dtype != "string":
            valid = False
        if not valid:
            text = f"{format_value(dtype)} of shape {format_value(shape)}"
            raise InputError(f"{where}: features.{key}: found {text}; allowed: numbers, images, videos and text")
        found[key] = Feature(dtype, sizes)
    return found


def read_splits(where: Path, given: Any, episodes: int) -> dict[str, range]:
    """Read the splits, such as {"train": "0:50"}; without any, all episodes are train.

    Raises:
        InputError: one is malformed, or has episodes that there are not.
    """
    if not given:
        return {"train": range(episodes)} if episodes else {}
    found = {}
    for name, text in given.items() if isinstance(given, dict) else [("splits", given)]:
        part = re.fullmatch(r"(\d{1,18}):(\d{1,18})", text) if isinstance(text, str) else None
        if part is None or not int(part[1]) <= int(part[2]) <= episodes:
            allowed = f"FIRST:END of the {episodes} episodes in {EPISODES}"
            raise InputError(f"{where}: splits.{name}: found {format_value(text)}; allowed: {allowed}")
        if part[1] != part[2]:
            found[name] = range(int(part[1]), int(part[2]))
    return found


def read_table(path: Path, *, skip: str = "\0") -> pa.Table:
    """Read a table of metadata, without the columns whose names begin with `skip`.

    Raises:
        InputError: it is missing, damaged or too large.
    """
    try:
        with pq.ParquetFile(path) as file:
            groups = [file.metadata.row_group(index) for index in range(file.metadata.num_row_groups)]
            size = sum(one.column(index).total_uncompressed_size for one in groups for index in range(one.num_columns))
            if size > LARGEST_TABLE or file.metadata.num_rows > LARGEST_TABLE >> 6:
                raise InputError(f"{path}: claims {file.metadata.num_rows} rows of {size} bytes; copy it again")
            names = [name for name in file.schema_arrow.names if not name.startswith(skip)]
            return file.read(columns=names, use_threads=False)
    except FileNotFoundError:
        raise InputError(f"{path}: no such file, which a LeRobot data set has; copy it again") from None
    except (pa.ArrowException, OSError, ValueError) as error:
        raise InputError(f"{path}: cannot be read as parquet ({short_message(error)}); copy it again") from None


def read_tasks(path: Path) -> dict[int, str]:
    """Read the sentence of each task_index.

    Raises:
        InputError: the table has no such columns.
    """
    table = read_table(path)
    texts = [name for name in table.column_names if name != "task_index" and is_text(table.schema.field(name).type)]
    if "task_index" not in table.column_names or not texts:
        raise InputError(f"{path}: found columns {', '.join(table.column_names)}; expected task_index and a sentence")
    sentences = table.column(texts[0]).to_pylist()
    return {
        number: text
        for number, text in zip(table.column("task_index").to_pylist(), sentences, strict=True)
        if isinstance(number, int) and isinstance(text, str)
    }


def is_text(kind: pa.DataType) -> bool:
    """Return True if a column holds text."""
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))


def read_episodes(
    folder: Path, info: dict[str, Any], features: dict[str, Feature]
) -> tuple[list[EpisodePart], dict[Path, int]]:
    """Read where each episode lies, and the number of rows that each parquet file should have.

    Raises:
        InputError: a file is missing, or numbers are inconsistent.
    """
    where = folder / INFO
    paths = sorted((folder / EPISODES).glob("*/*.parquet"))
    if not paths:
        raise InputError(f"{folder}: contains no {EPISODES}/chunk-000/file-000.parquet; copy it again")
    records = [record for path in paths for record in read_table(path, skip="stats/").to_pylist()]
    data_path = info.get("data_path") or DATA_PATH
    video_path = info.get("video_path") or VIDEO_PATH
    cameras = [key for key, feature in features.items() if feature.dtype == VIDEOS]
    episodes: list[EpisodePart] = []
    rows: dict[Path, int] = {}
    for number, record in enumerate(records):
        at = f"{folder / EPISODES}: episode {number}"
        if whole(at, record, "episode_index") != number:
            raise InputError(f"{at}: episode_index: found {record['episode_index']}; episodes follow one another")
        length = whole(at, record, "length")
        if length < 1:
            raise InputError(f"{at}: length: found {length}, expected at least 1")
        path = place(where, "data_path", folder, data_path, indices(at, record, "data"))
        videos = {}
        for key in cameras:
            file = place(where, "video_path", folder, video_path, indices(at, record, f"videos/{key}"), key)
            begin = record.get(f"videos/{key}/from_timestamp")
            if not isinstance(begin, int | float) or not 0 <= begin < 1e9:
                found = format_value(begin)
                raise InputError(f"{at}: videos/{key}/from_timestamp: found {found}, expected seconds")
            videos[key] = VideoPart(file, float(begin))
        tasks = tuple(text for text in record.get("tasks") or () if isinstance(text, str))
        episodes.append(EpisodePart(number, length, path, rows.get(path, 0), tasks, videos))
        rows[path] = rows.get(path, 0) + length
    total = info.get("total_episodes")
    if total != len(episodes):
        raise InputError(f"{where}: total_episodes: found {described(total)}, but {EPISODES} has {len(episodes)}")
    return episodes, rows


def whole(where: str, record: dict[str, Any], key: str) -> int:
    """A whole number of a row.

    Raises:
        InputError: it is missing, or something else.
    """
    found = record.get(key)
    if not isinstance(found, int) or not 0 <= found < 1 << 40:
        raise InputError(f"{where}: {key}: found {described(found)}, expected a whole number; copy it again")
    return found


def indices(where: str, record: dict[str, Any], of: str) -> dict[str, int]:
    """Numbers of chunk and file in a row, for the name of the file."""
    return {name: whole(where, record, f"{of}/{name}") for name in ("chunk_index", "file_index")}


def place(where: Path, key: str, folder: Path, pattern: Any, numbers: dict[str, int], video_key: str = "") -> Path:
    """Path of a file by its pattern of info.json.

    Raises:
        InputError: the pattern leaves the folder, or has places of other names.
    """
    names: dict[str, int | str] = {**numbers, "video_key": video_key}

    def filled(found: re.Match[str]) -> str:
        value = names.get(found[1], found[0])
        return f"{value:0{found[2] or 1}d}" if isinstance(value, int) else value

    text = PLACE.sub(filled, pattern) if isinstance(pattern, str) else "/"
    path = PurePosixPath(text)
    if path.is_absolute() or ".." in path.parts or re.search(r"[{}\\\0]", text):
        allowed = "a path in the folder with {chunk_index:03d}, {file_index:03d} and {video_key}"
        raise InputError(f"{where}: {key}: found {format_value(pattern)}; allowed: {allowed}")
    return folder / path
