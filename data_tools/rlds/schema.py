"""Lossless conversion between demonstrations and RLDS episodes.

    steps/observation/image_NAME                            H W 3  uint8, PNG, one per camera
    steps/observation/state, intrinsics, extrinsics         float32, as in demonstration files
    steps/action            8       float32: of the next keyframe
    steps/is_first, is_last, is_terminal, reward, discount  as defined by RLDS; the reward is 1 at the last step
    steps/language_instruction      the first instruction
    episode_metadata        keyframes, variation, seed, all instructions, and path and header of the original file;
                            rejected_placements, -1 if unknown, where some file has them

The action of step k - 1 leads to frame k. After the last keyframe its action is repeated, which means to stay there.
"""

import io
import json
from typing import Any

import numpy as np
from PIL import Image

from data_tools.exchange.native import HINT, check_origin, header_record
from data_tools.rlds.source import Episode, Source
from instructrl.data.demonstrations.schema import PLACEMENTS, UNKNOWN, Header
from instructrl.errors import InputError
from instructrl.types import Demonstration, action_size

FORMAT, VERSION = "instructrl demonstrations as RLDS", 1
OBSERVATION, META = "steps/observation/", "episode_metadata/"


def image_key(camera: str) -> str:
    """Name of a camera's images in an observation."""
    return f"image_{camera}"


def features(header: Header, *, placements: bool = False) -> Any:
    """Features of a tensorflow-datasets directory of such episodes; with rejected placements only if asked for."""
    import tensorflow_datasets as tfds

    tfds_features, views, size = tfds.features, len(header.cameras), header.image_size
    images = {
        image_key(name): tfds_features.Image(shape=(size, size, 3), encoding_format="png") for name in header.cameras
    }
    numbers = {"state": (len(header.state),), "intrinsics": (views, 3, 3), "extrinsics": (views, 4, 4)}
    step = {
        "observation": images
        | {name: tfds_features.Tensor(shape=shape, dtype=np.float32) for name, shape in numbers.items()},
        "action": tfds_features.Tensor(shape=(action_size(header.actions),), dtype=np.float32),
        **dict.fromkeys(("is_first", "is_last", "is_terminal"), np.bool_),
        **dict.fromkeys(("reward", "discount"), np.float32),
        "language_instruction": tfds_features.Text(),
    }
    metadata = {
        "keyframes": tfds_features.Sequence(np.int64),
        "variation": np.int64,
        "seed": np.int64,
        "sentences": tfds_features.Sequence(tfds_features.Text()),
        "task": tfds_features.Text(),
        "header": tfds_features.Text(),
        "file": tfds_features.Text(),
        **({PLACEMENTS: np.int64} if placements else {}),
    }
    return tfds_features.FeaturesDict({"steps": tfds_features.Dataset(step), "episode_metadata": metadata})


def to_rlds(demonstration: Demonstration, header: Header, target: str, *, placements: bool = False) -> dict[str, Any]:
    """Convert a demonstration to an episode with these `features`; `target` is the path of its restored file."""
    rejected = demonstration.rejected_placements
    last = len(demonstration.state) - 1
    next_keyframe = np.searchsorted(demonstration.keyframes, np.arange(last + 1), side="right")
    actions = demonstration.actions[np.minimum(next_keyframe, len(demonstration.actions) - 1)]
    steps = [
        {
            "observation": {
                **{image_key(name): png(frame[view]) for view, name in enumerate(header.cameras)},
                "state": demonstration.state[number],
                "intrinsics": demonstration.intrinsics[number],
                "extrinsics": demonstration.extrinsics[number],
            },
            "action": actions[number],
            "is_first": number == 0,
            "is_last": number == last,
            "is_terminal": number == last,
            "reward": float(number == last),
            "discount": 1.0,
            "language_instruction": demonstration.instructions[0],
        }
        for number, frame in enumerate(demonstration.images)
    ]
    metadata = {
        "keyframes": demonstration.keyframes,
        "variation": demonstration.variation,
        "seed": demonstration.seed,
        "sentences": list(demonstration.instructions),
        "task": header.task,
        "header": json.dumps(header_record(header), sort_keys=True),
        "file": target,
        **({PLACEMENTS: UNKNOWN if rejected is None else rejected} if placements else {}),
    }
    return {"steps": steps, "episode_metadata": metadata}


def png(pixels: np.ndarray) -> bytes:
    """Encode pixels [H W 3] as PNG, for which tensorflow-datasets would need TensorFlow."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="PNG", compress_level=3)
    return buffer.getvalue()


def is_native(source: Source) -> bool:
    """Return True if a directory was exported by InstructRL.

    Raises:
        InputError: it was exported by another version.
    """
    if source.metadata.get("format") != FORMAT:
        return False
    found = source.metadata.get("version")
    if found != VERSION:
        raise InputError(f"{source.folder}: format version {found}, this version of InstructRL reads {VERSION}; {HINT}")
    return True


def keys(source: Source) -> list[str]:
    """Features that are read from an InstructRL export."""
    return [key for key in source.keys if not key.startswith("steps/") or key.startswith((OBSERVATION, "steps/act"))]


def origin(episode: Episode) -> tuple[str, Header]:
    """Relative path and header of the file from which an episode was exported.

    Raises:
        InputError: the metadata is damaged.
    """
    target, text = (episode.text(META + name)[0] for name in ("file", "header"))
    return check_origin(f"{episode.where}: episode_metadata", target, text)


def from_rlds(episode: Episode, header: Header) -> Demonstration:
    """Convert an episode back to a demonstration: the inverse of `to_rlds`.

    Raises:
        InputError: the episode is not one written by `to_rlds`.
    """
    numbers = {name: episode.column(OBSERVATION + name) for name in ("state", "intrinsics", "extrinsics")}
    actions, keyframes = episode.column("steps/action"), np.asarray(episode.episode_value(META + "keyframes"), np.int64)
    if not len(keyframes) or keyframes.min() < 1 or keyframes.max() >= len(actions):
        raise InputError(f"{episode.where}: {META}keyframes: not among its {len(actions)} steps; {HINT}")
    images = [episode.column(OBSERVATION + image_key(name)) for name in header.cameras]
    if len({one.shape for one in images}) != 1:
        raise InputError(f"{episode.where}: images of unequal shapes; {HINT}")
    rejected = int(episode.episode_value(META + PLACEMENTS)) if episode.has(META + PLACEMENTS) else UNKNOWN
    return Demonstration(
        images=np.stack(images, axis=1),
        **numbers,
        keyframes=keyframes,
        actions=actions[keyframes - 1],
        instructions=episode.text(META + "sentences"),
        variation=int(episode.episode_value(META + "variation")),
        seed=int(episode.episode_value(META + "seed")),
        rejected_placements=None if rejected == UNKNOWN else rejected,
    )
