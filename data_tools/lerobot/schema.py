"""Conversion between demonstrations and LeRobot episodes.

    observation.images.NAME             H W 3   video, or PNG in the parquet file; one per camera
    observation.state                   S       float32, as in demonstration files
    observation.intrinsics.NAME         9       float32, row by row: camera coordinates to pixels
    observation.extrinsics.NAME         16      float32, row by row: camera to world, metres
    action                              8       float32: of the next keyframe
    task                                        the first instruction
    meta/instructrl.json                        what LeRobot has no place for; LeRobot does not read it

The action of step k - 1 leads to frame k. After the last keyframe its action is repeated, which means to stay there.
"""

import json
from typing import Any

import numpy as np

from data_tools.exchange.native import HINT, check_origin, header_record
from data_tools.lerobot.source import Episode, Source
from instructrl.data.demonstrations.schema import UNKNOWN, Contents, Header, checksum
from instructrl.errors import InputError, short_message
from instructrl.storage.json_file import read_json
from instructrl.types import COLLISIONS, Demonstration, action_size

OURS = "meta/instructrl.json"
FORMAT, VERSION = "instructrl demonstrations as LeRobot", 1
ACTIONS = ["x (m)", "y (m)", "z (m)", "qx", "qy", "qz", "qw", "gripper open"]
CAMERA_KINDS = ("images", "intrinsics", "extrinsics")
OWN = ("timestamp", "frame_index", "episode_index", "index", "task_index")  # features of every LeRobot data set


def camera_key(kind: str, camera: str) -> str:
    """Name of a camera's feature; `kind` is images, intrinsics or extrinsics."""
    return f"observation.{kind}.{camera}"


def features(header: Header, *, images: str) -> dict[str, dict[str, Any]]:
    """Features of info.json; `images` is image or video."""
    size = header.image_size
    shape = {"shape": [size, size, 3], "names": ["height", "width", "channels"]}
    found: dict[str, dict[str, Any]] = {
        camera_key("images", name): {"dtype": images, **shape} for name in header.cameras
    }
    found["observation.state"] = vector(list(header.state))
    for name in header.cameras:
        found[camera_key("intrinsics", name)] = vector([f"K{row}{column}" for row in range(3) for column in range(3)])
        found[camera_key("extrinsics", name)] = vector([f"T{row}{column}" for row in range(4) for column in range(4)])
    found["action"] = vector([*ACTIONS, *["collisions ignored"] * (header.actions == COLLISIONS)])
    types = dict.fromkeys(OWN, "int64") | {"timestamp": "float32"}
    return found | {key: {"dtype": dtype, "shape": [1], "names": None} for key, dtype in types.items()}


def vector(names: list[str]) -> dict[str, Any]:
    """A feature of named numbers."""
    return {"dtype": "float32", "shape": [len(names)], "names": names}


def step_values(demonstration: Demonstration, header: Header) -> dict[str, np.ndarray]:
    """Numbers of all steps [N ...] of an episode, by feature."""
    count = len(demonstration.state)
    next_keyframe = np.searchsorted(demonstration.keyframes, np.arange(count), side="right")
    values = {"observation.state": demonstration.state}
    for view, name in enumerate(header.cameras):
        values[camera_key("intrinsics", name)] = demonstration.intrinsics[:, view].reshape(count, 9)
        values[camera_key("extrinsics", name)] = demonstration.extrinsics[:, view].reshape(count, 16)
    values["action"] = demonstration.actions[np.minimum(next_keyframe, len(demonstration.actions) - 1)]
    return values


def episode_record(demonstration: Demonstration, target: str) -> dict[str, Any]:
    """Record of an episode in meta/instructrl.json; `target` is the path of its restored file."""
    rejected = demonstration.rejected_placements
    return {
        "file": target,
        "keyframes": demonstration.keyframes.tolist(),
        "variation": demonstration.variation,
        "seed": demonstration.seed,
        "sentences": list(demonstration.instructions),
        "rejected_placements": UNKNOWN if rejected is None else rejected,
    }


def export_record(headers: dict[str, Header], digests: dict[str, str], *, lossless: bool) -> dict[str, Any]:
    """Record of the files, by path, in meta/instructrl.json, to which the episodes are added."""
    files = {
        target: {"header": json.dumps(header_record(header), sort_keys=True), "checksum": digests[target]}
        for target, header in headers.items()
    }
    return {"format": FORMAT, "version": VERSION, "lossless": lossless, "files": files}


def checksum_without_pixels(header: Header, contents: Contents) -> str:
    """Checksum of a file but its pixels, which a video changes."""
    return checksum(header, contents._replace(crc32=np.zeros_like(contents.crc32)))


def read_record(source: Source) -> dict[str, Any] | None:
    """Read meta/instructrl.json; None without one.

    Raises:
        InputError: it is damaged, or of another version.
    """
    path = source.folder / OURS
    if not path.is_file():
        return None
    try:
        record = read_json(path)
        if record["format"] != FORMAT or record["version"] != VERSION:
            text = f"found {record['format']}, version {record['version']}, this version of InstructRL reads {VERSION}"
            raise InputError(f"{path}: {text}; {HINT}")
        headers = {target: about["header"] for target, about in record["files"].items()}
        checksums = {target: about["checksum"] for target, about in record["files"].items()}
        episodes = list(record["episodes"])
        if len(episodes) != len(source.metadata.episodes):
            found = f"found {len(episodes)} episodes, but the data set has {len(source.metadata.episodes)}"
            raise InputError(f"{path}: {found}; import it with mapping=")
        return {"lossless": bool(record["lossless"]), "headers": headers, "checksums": checksums, "episodes": episodes}
    except (ValueError, TypeError, KeyError, AttributeError, OSError) as error:
        raise InputError(f"{path}: cannot be read ({short_message(error)}); {HINT}") from None


def origin(record: dict[str, Any], number: int, where: str) -> tuple[str, Header]:
    """Relative path and header of the file from which an episode was exported.

    Raises:
        InputError: the record is damaged.
    """
    try:
        target = record["episodes"][number]["file"]
        text = record["headers"][target]
    except (TypeError, KeyError):
        raise InputError(f"{where}: {OURS}: names no file; {HINT}") from None
    if not isinstance(target, str) or not isinstance(text, str):
        raise InputError(f"{where}: {OURS}: names no file; {HINT}")
    return check_origin(f"{where}: {OURS}", target, text)


def from_lerobot(episode: Episode, header: Header, about: dict[str, Any]) -> Demonstration:
    """Convert an episode back to a demonstration; pixels are those that were stored.

    Raises:
        InputError: the episode is not one that was exported.
    """
    actions = episode.column("action")
    try:
        keyframes = np.array(about["keyframes"], np.int64).reshape(-1)
        sentences = tuple(about["sentences"])
        numbers = [int(about[name]) for name in ("variation", "seed", "rejected_placements")]
        valid = len(keyframes) and keyframes.min() >= 1 and keyframes.max() < len(actions)
        valid = valid and all(isinstance(one, str) for one in sentences)
    except (ValueError, TypeError, KeyError, OverflowError):
        valid = False
    if not valid or actions.shape[1:] != (action_size(header.actions),):
        raise InputError(f"{episode.where}: {OURS}: not of its {len(actions)} steps; {HINT}")

    def views(kind: str, *shape: int) -> np.ndarray:
        columns = [episode.column(camera_key(kind, name)) for name in header.cameras]
        return np.stack(columns, axis=1).reshape(len(actions), len(columns), *shape)

    size = header.image_size
    return Demonstration(
        images=views("images", size, size, 3),
        state=episode.column("observation.state"),
        intrinsics=views("intrinsics", 3, 3),
        extrinsics=views("extrinsics", 4, 4),
        keyframes=keyframes,
        actions=actions[keyframes - 1],
        instructions=sentences,
        variation=numbers[0],
        seed=numbers[1],
        rejected_placements=None if numbers[2] == UNKNOWN else numbers[2],
    )
