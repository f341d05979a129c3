"""One of our demonstrations as an RLDS episode, and back, bit for bit.

    steps/observation/image_NAME                            H W 3  uint8, PNG, one for each camera
    steps/observation/state, intrinsics, extrinsics         float32, as in our files
    steps/action            8       float32: of the keyframe that the episode is on its way to
    steps/is_first, is_last, is_terminal, reward, discount  as RLDS has them; the reward is 1 at the end
    steps/language_instruction      the first of the sentences
    episode_metadata        keyframes, variation, seed, all sentences, and the header of the file that it came from

The action of step k - 1 leads to frame k. After the last keyframe its action is repeated: stay there.
"""

import io
import json
from pathlib import PurePosixPath
from typing import Any

import numpy as np
from PIL import Image

from data_tools.rlds_source import Episode, Source
from instructrl.batch import ACTION_SIZE, STATE_SIZE, Demonstration
from instructrl.data.format import SPLITS, Header
from instructrl.errors import InputError

FORMAT, VERSION = "instructrl demonstrations as RLDS", 1
OBSERVATION, META = "steps/observation/", "episode_metadata/"
REMEDY = "export it again"


def image_key(camera: str) -> str:
    """What a camera's pictures are called in an observation."""
    return f"image_{camera}"


def features(header: Header) -> Any:
    """The features of a tensorflow-datasets directory of such episodes."""
    import tensorflow_datasets as tfds

    has, views, size = tfds.features, len(header.cameras), header.image_size
    pictures = {image_key(name): has.Image(shape=(size, size, 3), encoding_format="png") for name in header.cameras}
    numbers = {"state": (STATE_SIZE,), "intrinsics": (views, 3, 3), "extrinsics": (views, 4, 4)}
    step = {
        "observation": pictures | {name: has.Tensor(shape=shape, dtype=np.float32) for name, shape in numbers.items()},
        "action": has.Tensor(shape=(ACTION_SIZE,), dtype=np.float32),
        **dict.fromkeys(("is_first", "is_last", "is_terminal"), np.bool_),
        **dict.fromkeys(("reward", "discount"), np.float32),
        "language_instruction": has.Text(),
    }
    about = {
        "keyframes": has.Sequence(np.int64),
        "variation": np.int64,
        "seed": np.int64,
        "sentences": has.Sequence(has.Text()),
        "task": has.Text(),
        "header": has.Text(),
        "file": has.Text(),
    }
    return has.FeaturesDict({"steps": has.Dataset(step), "episode_metadata": about})


def example(demonstration: Demonstration, header: Header, place: str) -> dict[str, Any]:
    """An episode as `features` takes it; `place` is its file's path in the folder to which it is imported again."""
    last = len(demonstration.state) - 1
    upcoming = np.searchsorted(demonstration.keyframes, np.arange(last + 1), side="right")
    actions = demonstration.actions[np.minimum(upcoming, len(demonstration.actions) - 1)]
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
    about = {
        "keyframes": demonstration.keyframes,
        "variation": demonstration.variation,
        "seed": demonstration.seed,
        "sentences": list(demonstration.instructions),
        "task": header.task,
        "header": json.dumps(header.__dict__, sort_keys=True),
        "file": place,
    }
    return {"steps": steps, "episode_metadata": about}


def png(pixels: np.ndarray) -> bytes:
    """Pixels [H W 3] as a PNG, which tensorflow-datasets would ask TensorFlow for."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="PNG", compress_level=3)
    return buffer.getvalue()


def is_ours(source: Source) -> bool:
    """Whether a directory was exported by this suite.

    Raises:
        InputError: it was, by another version.
    """
    if source.metadata.get("format") != FORMAT:
        return False
    found = source.metadata.get("version")
    if found != VERSION:
        raise InputError(f"{source.folder}: format version {found}, this suite reads version {VERSION}; {REMEDY}")
    return True


def keys(source: Source) -> list[str]:
    """What is read of our own export."""
    return [key for key in source.keys if not key.startswith("steps/") or key.startswith((OBSERVATION, "steps/act"))]


def origin(episode: Episode) -> tuple[str, Header]:
    """The file from which an episode was exported, and its header.

    Raises:
        InputError: they are no longer what was written.
    """
    place, text = (episode.text(META + name)[0] for name in ("file", "header"))
    path = PurePosixPath(place)
    if path.is_absolute() or ".." in path.parts or path.suffix != ".hdf5":
        raise InputError(f"{episode.where}: {META}file: found {place!r}, expected a path in a folder; {REMEDY}")
    try:
        said = json.loads(text)
        header = Header(**said | {"cameras": tuple(said["cameras"])})
        words = [header.task, header.split, *header.cameras, *header.provenance, *header.provenance.values()]
        right = all(isinstance(word, str) for word in words) and type(header.image_size) is int
    except (ValueError, TypeError, KeyError, AttributeError):
        right = False
    if not right or header.split not in SPLITS:
        raise InputError(f"{episode.where}: {META}header: cannot be read; {REMEDY}")
    return place, header


def demonstration(episode: Episode, header: Header) -> Demonstration:
    """The inverse of `example`.

    Raises:
        InputError: the episode is not as `example` made it.
    """
    numbers = {name: episode.column(OBSERVATION + name) for name in ("state", "intrinsics", "extrinsics")}
    actions, keyframes = episode.column("steps/action"), np.asarray(episode.once(META + "keyframes"), np.int64)
    if not len(keyframes) or keyframes.min() < 1 or keyframes.max() >= len(actions):
        raise InputError(f"{episode.where}: {META}keyframes: not among its {len(actions)} steps; {REMEDY}")
    pictures = [episode.column(OBSERVATION + image_key(name)) for name in header.cameras]
    if len({one.shape for one in pictures}) != 1:
        raise InputError(f"{episode.where}: pictures of unequal shapes; {REMEDY}")
    return Demonstration(
        images=np.stack(pictures, axis=1),
        **numbers,
        keyframes=keyframes,
        actions=actions[keyframes - 1],
        instructions=episode.text(META + "sentences"),
        variation=int(episode.once(META + "variation")),
        seed=int(episode.once(META + "seed")),
    )
