"""Third-party tensorflow-datasets directories: dense steps, other keys, array_record or TFRecord files."""

import io
import json
import struct
from pathlib import Path
from typing import Any

import numpy as np
from google_crc32c import value as crc32c
from PIL import Image

STEPS, SIZE = 9, 20
OPENED = [1, 1, 1, 0, 0, 0, 1, 1, 1]  # the gripper, so keyframes are 3, 6 and the last step


def features(size: int | None = SIZE, wide: int | None = None) -> Any:
    import tensorflow_datasets as tfds

    has = tfds.features
    step = {
        "observation": {
            "image": has.Image(shape=(size, wide or size, 3)),
            "wrist_image": has.Image(shape=(size, wide or size, 3)),
            "depth": has.Tensor(shape=(4, 4), dtype=np.float32),
            "pose": has.Tensor(shape=(8,), dtype=np.float32),
            "joints": has.Tensor(shape=(7,), dtype=np.float32),
            "K": has.Tensor(shape=(3, 3), dtype=np.float32),
        },
        "action": has.Tensor(shape=(8,), dtype=np.float32),
        **dict.fromkeys(("is_first", "is_last", "is_terminal", "key"), np.bool_),
        **dict.fromkeys(("reward", "discount"), np.float32),
        "language_instruction": has.Text(),
    }
    about = {"world": has.Tensor(shape=(4, 4), dtype=np.float32), "kind": np.int64, "file_path": has.Text()}
    return has.FeaturesDict({"steps": has.Dataset(step), "episode_metadata": about})


def pixels(episode: int, step: int, camera: int, shape: tuple[int, int] = (SIZE, SIZE)) -> np.ndarray:
    return np.random.default_rng([episode, step, camera]).integers(0, 256, (*shape, 3), dtype=np.uint8)


def pose(episode: int, step: int) -> np.ndarray:
    """Position, quaternion w x y z of either sign, gripper width in metres."""
    rng = np.random.default_rng([episode, step, 99])
    turn = rng.normal(size=4)
    return np.array([*rng.uniform(0, 1, 3), *turn / np.linalg.norm(turn), 0.04 * OPENED[step]], np.float32)


def png(pixels: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="PNG")
    return buffer.getvalue()


def episode(number: int, *, steps: int = STEPS, shape: tuple[int, int] = (SIZE, SIZE), **other: Any) -> dict[str, Any]:
    """An episode whose joints always move at 1 rad/s, so that keyframes follow only from the gripper and the end."""
    rows = [
        {
            "observation": {
                "image": png(pixels(number, step, 0, shape)),
                "wrist_image": png(pixels(number, step, 1, shape)),
                "depth": np.zeros((4, 4), np.float32),
                "pose": pose(number, step),
                "joints": np.full(7, 0.1 * step, np.float32),
                "K": np.array([[30, 0, 9], [0, 31, 11], [0, 0, 1]], np.float32),
            },
            "action": pose(number, min(step + 1, steps - 1)),
            "is_first": step == 0,
            "is_last": step == steps - 1,
            "is_terminal": step == steps - 1,
            "key": step in (2, 5),
            "reward": 0.0,
            "discount": 1.0,
            "language_instruction": f"do thing {number}",
        }
        | other
        for step in range(steps)
    ]
    about = {"world": np.diag([1, -1, -1, 1]).astype(np.float32), "kind": number % 3, "file_path": "x"}
    return {"steps": rows, "episode_metadata": about}


def frame(record: bytes) -> bytes:
    """Frame a record of a TFRecord file."""

    def check(content: bytes) -> bytes:
        crc = crc32c(content)
        return struct.pack("<I", (((crc >> 15) | (crc << 17)) + 0xA282EAD8) & 0xFFFFFFFF)

    head = struct.pack("<Q", len(record))
    return head + check(head) + record + check(record)


def dataset(folder: Path, splits: dict[str, list[dict[str, Any]]], *, kind: str, has: Any = None) -> Path:
    """Write a directory with these episodes, three per file."""
    import tensorflow_datasets as tfds
    from array_record.python.array_record_module import ArrayRecordWriter
    from tensorflow_datasets.core import dataset_info
    from tensorflow_datasets.core.example_serializer import ExampleSerializer

    has = has or features()
    serializer = ExampleSerializer(has.get_serialized_info())
    folder.mkdir(parents=True)
    identity = dataset_info.DatasetIdentity("others", tfds.core.Version("2.1.0"), str(folder), module_name="")
    dataset_info.DatasetInfo(builder=identity, description="", features=has).write_to_directory(folder)
    lengths = {}
    for split, episodes in splits.items():
        records = [serializer.serialize_example(has.encode_example(one)) for one in episodes]
        shards = [records[first : first + 3] for first in range(0, len(records), 3)]
        lengths[split] = [len(shard) for shard in shards]
        for number, shard in enumerate(shards):
            path = folder / f"others-{split}.{kind}-{number:05d}-of-{len(shards):05d}"
            if kind == "tfrecord":
                path.write_bytes(b"".join(map(frame, shard)))
                continue
            writer = ArrayRecordWriter(str(path), "group_size:1")
            for record in shard:
                writer.write(record)
            writer.close()
    info = json.loads((folder / "dataset_info.json").read_text()) | {"fileFormat": kind}
    info["splits"] = [
        {"name": split, "shardLengths": [str(one) for one in found], "numBytes": "1",
         "filepathTemplate": "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}"}
        for split, found in lengths.items()
    ]  # fmt: skip
    (folder / "dataset_info.json").write_text(json.dumps(info))
    return folder
