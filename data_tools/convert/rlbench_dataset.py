"""Reader of RLBench's stored demonstrations, in the original layout and in PerAct's.

    TASK/variation<V>/variation_descriptions.pkl, TASK/variation<V>/episodes/episode<N>/
    TASK/all_variations/episodes/episode<N>/, with variation_descriptions.pkl and variation_number.pkl in it

An episode's folder contains low_dim_obs.pkl and, per camera, NAME_rgb/<i>.png and NAME_depth/<i>.png. Nothing in the
pickles is imported or executed. The first frame and the keyframes are kept, as in a collection on RLBench; of other
frames no images are needed.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
from PIL import Image

from data_tools.convert.keyframe_rule import KeyframeRule
from data_tools.convert.rlbench_pickles import joint_velocities, observations, read_sentences, read_variation
from data_tools.convert.skip_report import Converted, SkippedError, SkipReason
from data_tools.convert.stored_images import StoredView, decode_depth, list_images, read_image, read_view
from instructrl.errors import InputError
from instructrl.plausibility import check_gripper_poses
from instructrl.sim.keyframes import kept_frames, keyframe_actions
from instructrl.sim.rlbench.stored_episodes import DEMONSTRATION, VARIATION_FOLDER, EpisodeFolder, find_episodes
from instructrl.sim.rlbench.views import MAX_STEPS, depths, matrices, observed, state
from instructrl.types import Demonstration
from instructrl.workspace import RLBENCH_WORKSPACE, Workspace

COLLISION_FIELD = "ignore_collisions"  # of an observation of PerAct's fork
ImagePaths = dict[str, dict[int, Path]]  # by camera and frame


@dataclass(frozen=True)
class ConversionOptions:
    """Settings of the conversion of an episode."""

    cameras: tuple[str, ...]
    image_size: int  # pixels; other images are resized, and their intrinsics rescaled
    variations: int | None  # number of variations; None: unknown
    rule: KeyframeRule = KeyframeRule()
    crop: bool = False  # cut the central square out of images that are not square
    depth: bool = False  # decode and check depth images (the format has no field for them)
    workspace: Workspace = RLBENCH_WORKSPACE
    collisions: bool = False  # actions have a ninth number, PerAct's collision flag
    intermediate_frames: int | None = None  # keep also every n-th frame between keyframes


def find_task_folders(src: Path) -> list[Path]:
    """Return [src] if it is the folder of a task, else the task folders in it, also those without episodes.

    Raises:
        InputError: there are no episodes.
    """
    if not src.is_dir():
        raise InputError(f"src: found {src}, which is not a folder; give the folder of a task, or its parent")
    for folders in ([src], sorted(path for path in src.iterdir() if path.is_dir())):
        if any(find_episodes(folder) for folder in folders):
            return [one for one in folders if any(VARIATION_FOLDER.fullmatch(path.name) for path in one.glob("*"))]
    raise InputError(
        f"src: found {src}, which has no variation<N>/episodes/episode<N> and no all_variations/episodes/episode<N>; "
        "give the folder of a task, or its parent"
    )


def first_image_size(found: Sequence[EpisodeFolder], cameras: Sequence[str]) -> int:
    """Return the shorter side in pixels of the first readable image.

    Raises:
        InputError: there is none.
    """
    for episode in found:
        for images_of in image_paths(episode.folder, cameras).values():
            try:
                with Image.open(images_of[0]) as image:
                    return min(image.size)
            except Exception:  # damaged files are counted when their episodes are read
                continue
    raise InputError(f"src: none of its episodes has an image {' or '.join(cameras)}_rgb/0.png; choose other cameras=")


def image_paths(folder: Path, cameras: Sequence[str]) -> ImagePaths:
    """Paths of the colour images of an episode."""
    return {name: list_images(folder / f"{name}_rgb") for name in cameras}


def demonstration(episode: EpisodeFolder, options: ConversionOptions, *, seed: int) -> Converted:
    """Convert one episode.

    Raises:
        SkippedError: a part of it cannot be used. InputError: its numbers are invalid.
    """
    frames = observations(episode.folder / DEMONSTRATION)
    variation, instructions = variation_of(episode, options.variations), instructions_of(episode)
    opened = np.array([float(observed(frame, "gripper_open")) for frame in frames])
    poses = np.array([np.asarray(observed(frame, "gripper_pose"), np.float64).reshape(7) for frame in frames])
    check_gripper_poses(poses, options.workspace)
    rule = options.rule
    chosen = rule.find(opened, joint_velocities(frames) if rule.needs_velocities else None)
    actions = keyframe_actions(poses, opened, chosen, ignore_collisions=collision_flags(frames, options))
    kept, keyframes, passed = kept_frames(chosen, every=options.intermediate_frames)
    paths = image_paths(episode.folder, options.cameras)
    check_images(paths, kept.tolist(), len(frames))
    images, intrinsics, extrinsics, notes = [], [], [], set[str]()
    for number in kept:
        views = [read_view(paths[name][number], crop=options.crop) for name in options.cameras]
        inner, outer = matrices(frames[number], options.cameras)
        fitted = [view.fit_matrix(one, options.image_size) for view, one in zip(views, inner, strict=True)]
        images.append(np.stack([view.resized(options.image_size) for view in views]))
        intrinsics.append(np.stack([matrix for matrix, _ in fitted]))
        extrinsics.append(outer)
        notes |= {note for _, note in fitted if note}
        if options.depth:
            check_depth(episode.folder, number, frames[number], options.cameras, views)
    made = Demonstration(
        images=np.stack(images),
        state=np.stack(
            [state(frames[one], min(-1 + 2 * t / MAX_STEPS, 1.0)) for t, one in zip(passed, kept, strict=True)]
        ),
        intrinsics=np.stack(intrinsics),
        extrinsics=np.stack(extrinsics),
        keyframes=keyframes,
        actions=actions,
        instructions=instructions,
        variation=variation,
        seed=seed,
    )
    return Converted(made, tuple(sorted(notes)))


def collision_flags(frames: Sequence[Any], options: ConversionOptions) -> np.ndarray | None:
    """Flags of the frames in which the expert ignores collisions [N]; None if the actions have no number for it.

    Raises:
        SkippedError: the demonstrations do not say so: they are not of PerAct's fork.
    """
    if not options.collisions:
        return None
    found = [getattr(frame, COLLISION_FIELD, None) for frame in frames]
    try:
        flags = np.array(found, np.float64).reshape(len(frames))
        valid = bool(((flags == 0) | (flags == 1)).all())
    except (TypeError, ValueError):
        valid = False
    if not valid:
        advice = "0 or 1 as PerAct's fork records it; leave actions=keyframe_collisions out"
        raise SkippedError(SkipReason.COLLISIONS, f"{COLLISION_FIELD} of a frame is not {advice}")
    return flags


def check_images(paths: ImagePaths, kept: Sequence[int], count: int) -> None:
    """Raise SkippedError unless each camera has an image of every frame that is kept, of `count` frames."""
    missing = {name: [number for number in kept if number not in found] for name, found in paths.items()}
    if not any(missing.values()):
        return
    present = {name: len([number for number in found if number < count]) for name, found in paths.items()}
    first = next(f"{name}_rgb/{numbers[0]}.png is missing" for name, numbers in missing.items() if numbers)
    counts = ", ".join(f"{number} of {name}" for name, number in present.items())
    if len(set(present.values())) > 1:
        raise SkippedError(SkipReason.CAMERAS, f"{first}; {counts}; {count} observations")
    advice = "" if 2 * max(present.values()) > count else "; of images of keyframes alone, keyframes= must be the rule"
    raise SkippedError(SkipReason.FRAMES, f"{first}; {counts}; {count} observations{advice}")


def variation_of(episode: EpisodeFolder, variations: int | None) -> int:
    """Variation of an episode, from its own file or its folder."""
    path = episode.folder / "variation_number.pkl"
    number = read_variation(path) if path.exists() or episode.variation < 0 else episode.variation
    if number is None or number < 0 or (variations is not None and number >= variations):
        limit = f"0..{variations - 1}" if variations is not None else "0 or more"
        raise SkippedError(SkipReason.VARIATION, f"found {'no number' if number is None else number}, expected {limit}")
    if episode.variation >= 0 and number != episode.variation:
        raise SkippedError(
            SkipReason.VARIATION, f"found {number} in {path.name}, {episode.variation} in the folder's name"
        )
    return number


def instructions_of(episode: EpisodeFolder) -> tuple[str, ...]:
    """Instructions of an episode."""
    own = episode.folder / "variation_descriptions.pkl"
    return read_sentences(own if own.exists() else episode.folder.parent.parent / own.name)


def check_depth(folder: Path, number: int, frame: Any, cameras: Sequence[str], views: Sequence[StoredView]) -> None:
    """Raise unless each camera's depth image has the size of its colour image and valid depths in metres."""
    for name, view in zip(cameras, views, strict=True):
        images_of = folder / f"{name}_depth"
        path = list_images(images_of, lossless=True).get(number, images_of / f"{number}.png")
        measured = read_image(path)
        if measured.mode not in ("RGB", "RGBA") or measured.size != view.recorded_size:
            raise SkippedError(SkipReason.IMAGES, f"{path}: size differs from that of the colour image, or not RGB")
        shown = SimpleNamespace(misc=frame.misc, **{f"{name}_depth": decode_depth(measured)})
        metres = depths(shown, [name])
        if not np.isfinite(metres).all() or metres.min() < 0 or metres.min() == metres.max():
            raise SkippedError(SkipReason.IMAGES, f"{path}: does not decode to depths in metres")
