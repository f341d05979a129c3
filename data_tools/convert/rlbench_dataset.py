"""Reader of RLBench's stored demonstrations, in the original layout and in PerAct's.

    TASK/variation<V>/variation_descriptions.pkl, TASK/variation<V>/episodes/episode<N>/
    TASK/all_variations/episodes/episode<N>/, with variation_descriptions.pkl and variation_number.pkl in it

An episode's folder contains low_dim_obs.pkl and, per camera, NAME_rgb/<i>.png and NAME_depth/<i>.png. Nothing in the
pickles is imported or executed. The first frame and the keyframes are kept, as in a collection on RLBench.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
from PIL import Image

from data_tools.convert.keyframe_rule import KeyframeRule
from data_tools.convert.skip_report import SkippedError, SkipReason
from data_tools.weights import safe_unpickler
from data_tools.weights.safe_pickle_types import InertObject
from instructrl.errors import InputError, format_value
from instructrl.sim.keyframes import keyframe_actions, velocities
from instructrl.sim.rlbench.env import MAX_STEPS
from instructrl.sim.rlbench.views import depths, matrices, observed, state
from instructrl.types import Demonstration

CLASSES = ("rlbench.demo.Demo", "rlbench.backend.observation.Observation")
MAX_JOINTS = 64  # numbers per frame: a pickle can use one large array in every frame
MAX_DEPTH = 2**24 - 1  # of a depth image: 24 bits, the highest in red


@dataclass(frozen=True)
class ConversionOptions:
    """Settings of the conversion of an episode."""

    cameras: tuple[str, ...]
    image_size: int  # pixels; other images are resized, and their intrinsics rescaled
    variations: int | None  # number of variations; None: unknown
    rule: KeyframeRule = KeyframeRule()
    depth: bool = False  # decode and check depth images (the format has no field for them)


@dataclass(frozen=True, order=True)
class EpisodeFolder:
    """Folder of an episode; sorted round-robin over variations."""

    number: int
    variation: int  # from its folder; -1: recorded in the episode
    folder: Path


def find_task_folders(src: Path) -> list[Path]:
    """Return [src] if it is the folder of a task, else the task folders in it.

    Raises:
        InputError: there are none.
    """
    if not src.is_dir():
        raise InputError(f"src: found {src}, which is not a folder; give the folder of a task, or its parent")
    for folders in ([src], sorted(path for path in src.iterdir() if path.is_dir())):
        found = [folder for folder in folders if find_episodes(folder)]
        if found:
            return found
    raise InputError(
        f"src: found {src}, which has no variation<N>/episodes/episode<N> and no all_variations/episodes/episode<N>; "
        "give the folder of a task, or its parent"
    )


def find_episodes(folder: Path) -> list[EpisodeFolder]:
    """Find all episodes of a task, round-robin over variations."""
    found = []
    for episode in folder.glob("*/episodes/episode*"):
        variation = re.fullmatch(r"variation(\d+)|all_variations", episode.parent.parent.name)
        number = re.fullmatch(r"episode(\d+)", episode.name)
        if variation and number and episode.is_dir():
            found.append(EpisodeFolder(int(number[1]), int(variation[1] or -1), episode))
    return sorted(found)


def first_image_size(found: Sequence[EpisodeFolder], cameras: Sequence[str]) -> int:
    """Return the height in pixels of the first readable image.

    Raises:
        InputError: there is none.
    """
    for episode in found:
        for name in cameras:
            try:
                with Image.open(episode.folder / f"{name}_rgb" / "0.png") as read_image:
                    return read_image.height
            except Exception:  # damaged files are counted when their episodes are read
                continue
    raise InputError(f"src: none of its episodes has an image {' or '.join(cameras)}_rgb/0.png; choose other cameras=")


def demonstration(episode: EpisodeFolder, options: ConversionOptions, *, seed: int) -> Demonstration:
    """Convert one episode.

    Raises:
        SkippedError: a part of it cannot be used. InputError: its numbers are invalid.
    """
    frames = observations(episode.folder / "low_dim_obs.pkl")
    check_frames(episode.folder, options.cameras, len(frames))
    variation = variation_of(episode, options.variations)
    instructions = instructions_of(episode)
    opened = np.array([float(observed(frame, "gripper_open")) for frame in frames])
    poses = np.array([np.asarray(observed(frame, "gripper_pose"), np.float64).reshape(7) for frame in frames])
    rule = options.rule
    chosen = rule.find(opened, joint_velocities(frames) if rule.needs_velocities else None)
    actions = keyframe_actions(poses, opened, chosen)
    kept = [0, *chosen.tolist()]
    images, intrinsics, extrinsics = [], [], []
    for number in kept:
        images_of = [read_image(episode.folder / f"{name}_rgb" / f"{number}.png") for name in options.cameras]
        inner, outer = matrices(frames[number], options.cameras)
        scale = np.array([options.image_size / one.height for one in images_of], np.float32)
        inner[:, :2] *= scale[:, None, None]
        images.append(np.stack([resize(one, options.image_size) for one in images_of]))
        intrinsics.append(inner)
        extrinsics.append(outer)
        if options.depth:
            check_depth(episode.folder, number, frames[number], options.cameras, images_of)
    return Demonstration(
        images=np.stack(images),
        state=np.stack([state(frames[one], min(-1 + 2 * t / MAX_STEPS, 1.0)) for t, one in enumerate(kept)]),
        intrinsics=np.stack(intrinsics),
        extrinsics=np.stack(extrinsics),
        keyframes=np.arange(1, len(kept), dtype=np.int64),
        actions=actions,
        instructions=instructions,
        variation=variation,
        seed=seed,
    )


def read_pickle(path: Path) -> Any:
    """Load a pickle.

    Raises:
        SkippedError: it cannot be read.
    """
    try:
        return safe_unpickler.load(path, unknown="refuse", allowed=CLASSES)
    except InputError as error:
        raise SkippedError(SkipReason.PICKLE, str(error)) from None


def observations(path: Path) -> list[Any]:
    """Read the observations of a pickled Demo, with their fields as attributes.

    Raises:
        SkippedError: the pickle is not a valid Demo.
    """
    demo = read_pickle(path)
    fields = demo.state if isinstance(demo, InertObject) else None
    frames = fields.get("_observations") if isinstance(fields, dict) else demo
    if not isinstance(frames, list) or not frames:
        raise SkippedError(SkipReason.PICKLE, f"{path}: not a Demo of RLBench with observations")
    for frame in frames:
        if not isinstance(frame, InertObject) or frame.name != CLASSES[1] or not isinstance(frame.state, dict):
            raise SkippedError(SkipReason.PICKLE, f"{path}: contains an object that is not an Observation")
        if not isinstance(frame.state.get("misc"), dict):
            raise SkippedError(SkipReason.NUMBERS, f"{path}: an observation without misc, so without camera matrices")
    # A pickle can use one object as many observations: its fields are copied once.
    distinct = {id(frame.state): frame.state for frame in frames}
    fields_by_id = {number: read_fields(path, state) for number, state in distinct.items()}
    return [fields_by_id[id(frame.state)] for frame in frames]


def read_fields(path: Path, state: dict[Any, Any]) -> SimpleNamespace:
    """Return the fields of an observation.

    Raises:
        SkippedError: one of them is a list of lists or arrays, which numpy would expand: if they are the same object,
            to any size.
    """
    found = {key: value for key, value in state.items() if type(key) is str}
    for key, value in (*found.items(), *found["misc"].items()):
        if isinstance(value, list | tuple) and any(isinstance(one, list | tuple | np.ndarray) for one in value):
            raise SkippedError(SkipReason.NUMBERS, f"{path}: {format_value(key)}: a list of lists, expected an array")
    return SimpleNamespace(**found)


def check_frames(folder: Path, cameras: Sequence[str], count: int) -> None:
    """Raise SkippedError unless each camera has an image of every frame."""
    names = {f"{number}.png" for number in range(count)}
    present_files = {}
    for name in cameras:
        images_of = folder / f"{name}_rgb"
        present_files[name] = {path.name for path in images_of.iterdir()} & names if images_of.is_dir() else set()
    counts = ", ".join(f"{len(found)} of {name}" for name, found in present_files.items())
    if len({len(found) for found in present_files.values()}) > 1:
        raise SkippedError(SkipReason.CAMERAS, f"{counts}; {count} observations")
    if any(found != names for found in present_files.values()):
        raise SkippedError(SkipReason.FRAMES, f"{counts}; {count} observations")


def variation_of(episode: EpisodeFolder, variations: int | None) -> int:
    """Variation of an episode, from its own file or its folder."""
    path = episode.folder / "variation_number.pkl"
    number = read_pickle(path) if path.exists() or episode.variation < 0 else episode.variation
    limit = f"0..{variations - 1}" if variations is not None else "0 or more"
    whole = isinstance(number, int | np.integer) and not isinstance(number, bool)
    if not whole or number < 0 or (variations is not None and number >= variations):
        raise SkippedError(SkipReason.VARIATION, f"found {number!r}, expected {limit}")
    if episode.variation >= 0 and number != episode.variation:
        raise SkippedError(
            SkipReason.VARIATION, f"found {number} in {path.name}, {episode.variation} in the folder's name"
        )
    return int(number)


def instructions_of(episode: EpisodeFolder) -> tuple[str, ...]:
    """Instructions of an episode."""
    images_of = episode.folder / "variation_descriptions.pkl"
    path = images_of if images_of.exists() else episode.folder.parent.parent / images_of.name
    found = read_pickle(path)
    if not isinstance(found, list | tuple) or not found or not all(type(one) is str and one.strip() for one in found):
        raise SkippedError(SkipReason.SENTENCES, f"{path}: found no list of sentences")
    return tuple(found)


def joint_velocities(frames: Sequence[Any]) -> np.ndarray:
    """Joint velocities [N J], computed from the positions if they are not stored."""
    if all(getattr(frame, "joint_velocities", None) is not None for frame in frames):
        return stack_rows([frame.joint_velocities for frame in frames])
    return velocities(stack_rows([observed(frame, "joint_positions") for frame in frames]))


def stack_rows(values: Sequence[Any]) -> np.ndarray:
    """Stack rows of numbers [N J].

    Raises:
        InputError: their lengths differ, or are too large.
    """
    for value in values:
        if np.size(value) > MAX_JOINTS:
            raise InputError(f"joints: found {np.size(value)} numbers in a frame, allowed: at most {MAX_JOINTS}")
    plain = [np.asarray(value, np.float64).reshape(-1) for value in values]
    if len({len(row) for row in plain}) != 1:
        raise InputError("joints: their number changes from frame to frame")
    return np.stack(plain)


def read_image(path: Path) -> Image.Image:
    """Read a square RGB image.

    Raises:
        SkippedError: it cannot be read, or has another format.
    """
    try:
        with Image.open(path) as file:
            file.load()
            found = file.copy()
    except Exception as error:  # a damaged file can raise any error
        raise SkippedError(SkipReason.IMAGES, f"{path}: cannot be read ({type(error).__name__})") from None
    if found.mode != "RGB" or found.width != found.height:
        size = f"{found.width} x {found.height}"
        raise SkippedError(SkipReason.IMAGES, f"{path}: found {found.mode} {size}, expected a square in RGB")
    return found


def resize(one: Image.Image, size: int) -> np.ndarray:
    """Resize an image to pixels uint8 [size size 3]."""
    return np.asarray(one if one.height == size else one.resize((size, size), Image.Resampling.BOX))


def decode_depth(one: Image.Image) -> np.ndarray:
    """Decode depths [H W] from 0 (near) to 1 (far) of a 24-bit depth image."""
    red, green, blue = np.moveaxis(np.asarray(one, np.int64), -1, 0)
    return (red * 65536 + green * 256 + blue) / MAX_DEPTH


def check_depth(
    folder: Path, number: int, frame: Any, cameras: Sequence[str], images_of: Sequence[Image.Image]
) -> None:
    """Raise unless each camera's depth image has the size of its colour image and valid depths in metres."""
    for name, colours in zip(cameras, images_of, strict=True):
        path = folder / f"{name}_depth" / f"{number}.png"
        measured = read_image(path)
        if measured.size != colours.size:
            raise SkippedError(SkipReason.IMAGES, f"{path}: size differs from that of the colour image")
        shown = SimpleNamespace(misc=frame.misc, **{f"{name}_depth": decode_depth(measured)})
        metres = depths(shown, [name])
        if not np.isfinite(metres).all() or metres.min() < 0 or metres.min() == metres.max():
            raise SkippedError(SkipReason.IMAGES, f"{path}: does not decode to depths in metres")
