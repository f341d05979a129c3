"""RLBench's stored demonstrations as ours, in the original layout and in PerAct's.

    TASK/variation<V>/variation_descriptions.pkl, TASK/variation<V>/episodes/episode<N>/
    TASK/all_variations/episodes/episode<N>/, with variation_descriptions.pkl and variation_number.pkl in it

An episode's folder holds low_dim_obs.pkl and, for each camera, NAME_rgb/<i>.png and NAME_depth/<i>.png. Of the pickles
nothing is imported or run. Kept are the first frame and the keyframes, as a collection on RLBench keeps them.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
from PIL import Image

from data_tools import unpickler
from data_tools.conversion import Reason, SkippedError
from data_tools.pickled import Foreign
from instructrl.batch import Demonstration
from instructrl.errors import InputError
from instructrl.sim.keyframes import find_keyframes, keyframe_actions, velocities
from instructrl.sim.rlbench.env import MAX_STEPS
from instructrl.sim.rlbench.views import depths, matrices, present, state

CLASSES = ("rlbench.demo.Demo", "rlbench.backend.observation.Observation")
DEEPEST_DEPTH = 2**24 - 1  # of a depth picture: 24 bits, the highest in red


@dataclass(frozen=True)
class Wanted:
    """What is made of an episode."""

    cameras: tuple[str, ...]
    image_size: int  # pixels; pictures of another size are resized, and the camera matrices with them
    variations: int | None  # how many there are; None: not known
    depth: bool = False  # whether depth pictures are decoded and checked (the format has no place for them)


@dataclass(frozen=True, order=True)
class Place:
    """An episode on the disk; in order, variations take turns."""

    number: int
    variation: int  # as its folder says; -1 where the episode does
    folder: Path


def task_folders(src: Path) -> list[Path]:
    """The folder of the task that `src` is, or those of the tasks in it.

    Raises:
        InputError: there is none.
    """
    if not src.is_dir():
        raise InputError(f"src: found {src}, where there is no folder; name a task's folder or the one that holds it")
    for folders in ([src], sorted(path for path in src.iterdir() if path.is_dir())):
        found = [folder for folder in folders if places(folder)]
        if found:
            return found
    raise InputError(
        f"src: found {src}, which has no variation<N>/episodes/episode<N> and no all_variations/episodes/episode<N>; "
        "name the folder of a task, or the one that holds it"
    )


def places(folder: Path) -> list[Place]:
    """All episodes of a task, variations in turn."""
    found = []
    for episode in folder.glob("*/episodes/episode*"):
        variation = re.fullmatch(r"variation(\d+)|all_variations", episode.parent.parent.name)
        number = re.fullmatch(r"episode(\d+)", episode.name)
        if variation and number and episode.is_dir():
            found.append(Place(int(number[1]), int(variation[1] or -1), episode))
    return sorted(found)


def picture_size(found: Sequence[Place], cameras: Sequence[str]) -> int:
    """The height in pixels of the first picture that can be read.

    Raises:
        InputError: there is none.
    """
    for place in found:
        for name in cameras:
            try:
                with Image.open(place.folder / f"{name}_rgb" / "0.png") as picture:
                    return picture.height
            except Exception:  # whatever a damaged file leads to: it is counted when its episode is read
                continue
    raise InputError(f"src: none of its episodes has a picture {' or '.join(cameras)}_rgb/0.png; choose other cameras=")


def demonstration(place: Place, wanted: Wanted, *, seed: int) -> Demonstration:
    """One episode.

    Raises:
        SkippedError: something in it cannot be used. InputError: its numbers cannot.
    """
    frames = observations(place.folder / "low_dim_obs.pkl")
    check_frames(place.folder, wanted.cameras, len(frames))
    variation = variation_of(place, wanted.variations)
    sentences = sentences_of(place)
    opened = np.array([float(present(frame, "gripper_open")) for frame in frames])
    poses = np.array([np.asarray(present(frame, "gripper_pose"), np.float64).reshape(7) for frame in frames])
    chosen = find_keyframes(opened, speeds(frames))
    actions = keyframe_actions(poses, opened, chosen)
    kept = [0, *chosen.tolist()]
    pictures, intrinsics, extrinsics = [], [], []
    for number in kept:
        own = [picture(place.folder / f"{name}_rgb" / f"{number}.png") for name in wanted.cameras]
        inner, outer = matrices(frames[number], wanted.cameras)
        scale = np.array([wanted.image_size / one.height for one in own], np.float32)
        inner[:, :2] *= scale[:, None, None]
        pictures.append(np.stack([resized(one, wanted.image_size) for one in own]))
        intrinsics.append(inner)
        extrinsics.append(outer)
        if wanted.depth:
            check_depth(place.folder, number, frames[number], wanted.cameras, own)
    return Demonstration(
        images=np.stack(pictures),
        state=np.stack([state(frames[one], min(-1 + 2 * t / MAX_STEPS, 1.0)) for t, one in enumerate(kept)]),
        intrinsics=np.stack(intrinsics),
        extrinsics=np.stack(extrinsics),
        keyframes=np.arange(1, len(kept), dtype=np.int64),
        actions=actions,
        instructions=sentences,
        variation=variation,
        seed=seed,
    )


def read_pickle(path: Path) -> Any:
    """What a pickle holds."""
    try:
        return unpickler.load(path, foreign="refuse", allowed=CLASSES)
    except InputError as error:
        raise SkippedError(Reason.PICKLE, str(error)) from None


def observations(path: Path) -> list[Any]:
    """The observations of a pickled Demo, their fields as attributes."""
    demo = read_pickle(path)
    fields = demo.state if isinstance(demo, Foreign) else None
    frames = fields.get("_observations") if isinstance(fields, dict) else demo
    if not isinstance(frames, list) or not frames:
        raise SkippedError(Reason.PICKLE, f"{path}: no Demo of RLBench with observations in it")
    for frame in frames:
        if not isinstance(frame, Foreign) or frame.name != CLASSES[1] or not isinstance(frame.state, dict):
            raise SkippedError(Reason.PICKLE, f"{path}: something that is no Observation is in it")
        if not isinstance(frame.state.get("misc"), dict):
            raise SkippedError(Reason.NUMBERS, f"{path}: an observation without misc, so without camera matrices")
    return [SimpleNamespace(**{key: value for key, value in one.state.items() if type(key) is str}) for one in frames]


def check_frames(folder: Path, cameras: Sequence[str], count: int) -> None:
    """Raise SkippedError unless each camera has a picture of every frame."""
    names = {f"{number}.png" for number in range(count)}
    there = {}
    for name in cameras:
        own = folder / f"{name}_rgb"
        there[name] = {path.name for path in own.iterdir()} & names if own.is_dir() else set()
    counts = ", ".join(f"{len(found)} of {name}" for name, found in there.items())
    if len({len(found) for found in there.values()}) > 1:
        raise SkippedError(Reason.CAMERAS, f"{counts}; {count} observations")
    if any(found != names for found in there.values()):
        raise SkippedError(Reason.FRAMES, f"{counts}; {count} observations")


def variation_of(place: Place, variations: int | None) -> int:
    """The variation that an episode shows, as its own file says or its folder."""
    path = place.folder / "variation_number.pkl"
    number = read_pickle(path) if path.exists() or place.variation < 0 else place.variation
    limit = f"0..{variations - 1}" if variations is not None else "0 or more"
    whole = isinstance(number, int | np.integer) and not isinstance(number, bool)
    if not whole or number < 0 or (variations is not None and number >= variations):
        raise SkippedError(Reason.VARIATION, f"found {number!r}, expected {limit}")
    if place.variation >= 0 and number != place.variation:
        raise SkippedError(Reason.VARIATION, f"found {number} in {path.name}, {place.variation} in the folder's name")
    return int(number)


def sentences_of(place: Place) -> tuple[str, ...]:
    """The ways to ask for what an episode shows."""
    own = place.folder / "variation_descriptions.pkl"
    path = own if own.exists() else place.folder.parent.parent / own.name
    found = read_pickle(path)
    if not isinstance(found, list | tuple) or not found or not all(type(one) is str and one.strip() for one in found):
        raise SkippedError(Reason.SENTENCES, f"{path}: found no list of sentences")
    return tuple(found)


def speeds(frames: Sequence[Any]) -> np.ndarray:
    """Joint velocities [N J], made from the positions where they were not stored."""
    if all(getattr(frame, "joint_velocities", None) is not None for frame in frames):
        return rows([frame.joint_velocities for frame in frames])
    return velocities(rows([present(frame, "joint_positions") for frame in frames]))


def rows(values: Sequence[Any]) -> np.ndarray:
    """Rows of numbers of one length [N J]."""
    plain = [np.asarray(value, np.float64).reshape(-1) for value in values]
    if len({len(row) for row in plain}) != 1:
        raise InputError("joints: their number changes from frame to frame")
    return np.stack(plain)


def picture(path: Path) -> Image.Image:
    """A square picture in colours."""
    try:
        with Image.open(path) as file:
            file.load()
            found = file.copy()
    except Exception as error:  # whatever a damaged file leads to
        raise SkippedError(Reason.PICTURES, f"{path}: cannot be read ({type(error).__name__})") from None
    if found.mode != "RGB" or found.width != found.height:
        size = f"{found.width} x {found.height}"
        raise SkippedError(Reason.PICTURES, f"{path}: found {found.mode} {size}, expected a square in RGB")
    return found


def resized(one: Image.Image, size: int) -> np.ndarray:
    """Pixels uint8 [size size 3]."""
    return np.asarray(one if one.height == size else one.resize((size, size), Image.Resampling.BOX))


def decoded_depth(one: Image.Image) -> np.ndarray:
    """Depths [H W] from 0 (near) to 1 (far) of a picture that codes them in 24 bits."""
    red, green, blue = np.moveaxis(np.asarray(one, np.int64), -1, 0)
    return (red * 65536 + green * 256 + blue) / DEEPEST_DEPTH


def check_depth(folder: Path, number: int, frame: Any, cameras: Sequence[str], own: Sequence[Image.Image]) -> None:
    """Raise unless each camera's depth picture is of its picture's size and lies between its near and far plane."""
    for name, colours in zip(cameras, own, strict=True):
        path = folder / f"{name}_depth" / f"{number}.png"
        measured = picture(path)
        if measured.size != colours.size:
            raise SkippedError(Reason.PICTURES, f"{path}: of another size than the colours")
        shown = SimpleNamespace(misc=frame.misc, **{f"{name}_depth": decoded_depth(measured)})
        metres = depths(shown, [name])
        if not np.isfinite(metres).all() or metres.min() < 0 or metres.min() == metres.max():
            raise SkippedError(Reason.PICTURES, f"{path}: no depths in metres come of it")
