"""HDF5 format of demonstrations, version 1: its fields and their validation.

    frames/images       N K H W 3  uint8, one chunk per frame; includes the frame after the last step
    frames/state, frames/intrinsics, frames/extrinsics      N ...  float32
    frames/crc32        N          uint32, of the frame's image bytes
    keyframes/frame     M          int64, counted from the episode's first frame, increasing, >= 1
    keyframes/action    M A        float32, leads to that frame; 8 numbers, or 9 as the attribute `action` tells
    episodes/first_frame, frames, first_keyframe, keyframes, first_sentence, sentences, variation, seed   E  int64
    episodes/rejected_placements   E   int64, which with its seed restores an episode's scene on RLBench; -1 if unknown
    episodes/checks     E 15       uint32, of each episode's entries in every field above and its sentences
    sentences           P          UTF-8 of fixed length

Frames that are not keyframes are allowed; with dense actions, which the attribute `action` tells, every frame but an
episode's first is in `keyframes`. Attributes hold the metadata (`Header`); `checksum` covers everything but the
pixels, represented by their crc32: it is verified on opening, pixels on reading. `checks` locate damage; older files
have none. Rejected placements are stored where one is known; `checks` then have one more column.
"""

import hashlib
import json
import zlib
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from instructrl.errors import InputError
from instructrl.plausibility import LARGEST, RULES, implausible, implausible_actions
from instructrl.types import COLLISIONS, DENSE, GRIPPER_STATE, KEYFRAME, action_size
from instructrl.workspace import RLBENCH_WORKSPACE, Workspace

FORMAT, VERSION = "instructrl demonstrations", 1
ACTION_CONVENTION = "x y z (m, world), quaternion x y z w with w >= 0, gripper open 0 or 1"
ACTION_CONVENTIONS = {
    KEYFRAME: ACTION_CONVENTION,
    DENSE: f"{ACTION_CONVENTION}; dense: leads to the next frame",
    COLLISIONS: f"{ACTION_CONVENTION}, collisions ignored 0 or 1",
}
SPLITS = ("train", "val")
CHECKS = "episodes/checks"
PLACEMENTS = "rejected_placements"  # the field that is stored only where one is known
UNKNOWN = -1  # its value of an episode of which it is not known


@dataclass(frozen=True)
class Header:
    """Metadata of a file, shared by all of its episodes."""

    task: str
    split: str  # train or val
    cameras: tuple[str, ...]
    image_size: int  # pixels, square
    provenance: dict[str, str]  # simulator, its version, renderer, expert, version of InstructRL
    workspace: Workspace = RLBENCH_WORKSPACE
    state: tuple[str, ...] = GRIPPER_STATE  # names of the state's numbers, with units
    actions: str = KEYFRAME  # or DENSE, or COLLISIONS


class Contents(NamedTuple):
    """Everything in a file but pixels: N frames, M keyframes, E episodes, P instructions."""

    state: np.ndarray  # N S
    intrinsics: np.ndarray  # N K 3 3
    extrinsics: np.ndarray  # N K 4 4
    crc32: np.ndarray  # N
    keyframe: np.ndarray  # M
    action: np.ndarray  # M A
    first_frame: np.ndarray  # E, like all that follow
    frames: np.ndarray
    first_keyframe: np.ndarray
    keyframes: np.ndarray
    first_sentence: np.ndarray
    sentences: np.ndarray
    variation: np.ndarray
    seed: np.ndarray
    rejected_placements: np.ndarray
    text: list[str]  # P


class Field(NamedTuple):
    """HDF5 path of a field of Contents, and the shape and dtype of one entry."""

    path: str
    shape: tuple[int, ...]
    dtype: np.dtype


def fields(header: Header) -> dict[str, Field]:
    """Return every field of Contents that all files have, but the text."""
    views, float32, int64 = len(header.cameras), np.dtype(np.float32), np.dtype(np.int64)
    table = {
        "state": Field("frames/state", (len(header.state),), float32),
        "intrinsics": Field("frames/intrinsics", (views, 3, 3), float32),
        "extrinsics": Field("frames/extrinsics", (views, 4, 4), float32),
        "crc32": Field("frames/crc32", (), np.dtype(np.uint32)),
        "keyframe": Field("keyframes/frame", (), int64),
        "action": Field("keyframes/action", (action_size(header.actions),), float32),
    }
    return table | {name: Field(f"episodes/{name}", (), int64) for name in Contents._fields[6:-2]}


def placements_field() -> Field:
    """Return the field of the rejected placements, which no batch has and older files lack."""
    return Field(f"episodes/{PLACEMENTS}", (), np.dtype(np.int64))


def stored_fields(header: Header, contents: Contents) -> dict[str, Field]:
    """Return every field of Contents that a file with these contents has, but the text."""
    known = bool((contents.rejected_placements != UNKNOWN).any())
    return fields(header) | ({PLACEMENTS: placements_field()} if known else {})


def image_field(header: Header) -> Field:
    """Return the field of the pixels, which are never read all at once."""
    size = header.image_size
    return Field("frames/images", (len(header.cameras), size, size, 3), np.dtype(np.uint8))


def crc32(entries: np.ndarray) -> int:
    """Return the CRC-32 of the bytes of an array (contiguous), such as one frame's images."""
    return zlib.crc32(entries.reshape(-1).data)


def attributes(header: Header) -> dict[str, Any]:
    """Return the file's attributes, without the checksum. The usual state is not among them: it came before others."""
    return {
        "format": FORMAT,
        "version": VERSION,
        "task": header.task,
        "split": header.split,
        "cameras": list(header.cameras),
        "image_size": header.image_size,
        "provenance": json.dumps(header.provenance, sort_keys=True),
        "action": ACTION_CONVENTIONS[header.actions],
        "workspace_low": list(header.workspace.low),
        "workspace_high": list(header.workspace.high),
        **({"state": list(header.state)} if header.state != GRIPPER_STATE else {}),
    }


def checksum(header: Header, contents: Contents) -> str:
    """Return the SHA-256 of the header and all contents: equal if and only if the demonstrations are."""
    digest = hashlib.sha256(json.dumps(attributes(header), sort_keys=True).encode())
    for name, field in stored_fields(header, contents).items():
        array = np.ascontiguousarray(getattr(contents, name))
        digest.update(f"{field.path} {array.dtype.str} {array.shape}".encode())
        digest.update(array.data)
    digest.update(json.dumps(contents.text).encode())
    return digest.hexdigest()


def entry_counts(contents: Contents, field: Field) -> np.ndarray:
    """Return the number of a field's entries in each episode [E]."""
    group = field.path.partition("/")[0]
    return np.ones_like(contents.seed) if group == "episodes" else getattr(contents, group)


def episode_checksums(header: Header, contents: Contents) -> np.ndarray:
    """Return the CRC-32 of each episode's entries in every field and, last, of its instructions: uint32 [E, F]."""
    columns = []
    for name, field in stored_fields(header, contents).items():
        ends = np.cumsum(entry_counts(contents, field))
        parts = np.split(np.ascontiguousarray(getattr(contents, name)), ends[:-1])
        columns.append([crc32(part) for part in parts])
    bounds = zip(contents.first_sentence, contents.sentences, strict=True)
    joined = ["\0".join(contents.text[first : first + count]) for first, count in bounds]
    columns.append([zlib.crc32(text.encode()) for text in joined])
    return np.array(columns, np.uint32).T


def check_array(where: str, array: Any, field: Field) -> None:
    """Raise InputError unless the array holds entries of the field's shape and dtype."""
    if array.dtype != field.dtype or len(array.shape) != len(field.shape) + 1 or array.shape[1:] != field.shape:
        expected = ", ".join(["any", *map(str, field.shape)])
        raise InputError(f"{where}: found {array.dtype}{tuple(array.shape)}, expected {field.dtype}({expected})")


def check_contents(where: str, contents: Contents, header: Header) -> None:
    """Raise InputError naming the first episode and field that violates the format in this module's docstring."""
    for name, field in (*fields(header).items(), (PLACEMENTS, placements_field())):
        check_array(f"{where}: {field.path}", getattr(contents, name), field)
    episodes = len(contents.seed)
    if not episodes:
        raise InputError(f"{where}: contains no episodes")
    for first, count, total, least in (
        ("first_frame", "frames", len(contents.state), 2),
        ("first_keyframe", "keyframes", len(contents.keyframe), 1),
        ("first_sentence", "sentences", len(contents.text), 1),
    ):
        starts, counts = getattr(contents, first), getattr(contents, count)
        if len(starts) != episodes or len(counts) != episodes:
            raise InputError(f"{where}: episodes/{count}: found {len(counts)} entries for {episodes} episodes")
        raise_for_episode(where, f"episodes/{count} (at least {least} each)", counts < least)
        raise_for_episode(
            where, f"episodes/{first} (episodes follow one another)", starts != np.cumsum(counts) - counts
        )
        if counts.sum() != total:
            raise InputError(f"{where}: episodes/{count}: add up to {counts.sum()}, the file holds {total}")
    if len(contents.rejected_placements) != episodes:
        found = f"found {len(contents.rejected_placements)} entries for {episodes} episodes"
        raise InputError(f"{where}: {placements_field().path}: {found}")
    sentence_episode = np.repeat(np.arange(episodes), contents.sentences)
    raise_for_episode(
        where,
        "sentences (text without zeros)",
        np.array([not is_storable(one) for one in contents.text]),
        sentence_episode,
    )
    check_values(where, contents, convention=ACTION_CONVENTIONS[header.actions])
    if header.actions == DENSE:
        rule = "episodes/keyframes (dense actions: one for every frame but the first)"
        raise_for_episode(where, rule, contents.keyframes != contents.frames - 1)


def check_values(where: str, contents: Contents, *, convention: str) -> None:
    """Check the values of each frame and keyframe, as part of `check_contents`; `convention`: of the actions."""
    frame_of = np.repeat(np.arange(len(contents.seed)), contents.frames)
    keyframe_of = np.repeat(np.arange(len(contents.seed)), contents.keyframes)
    for name in ("state", "intrinsics", "extrinsics", "crc32"):
        values = getattr(contents, name)
        if len(values) != len(frame_of):
            raise InputError(f"{where}: frames/{name}: found {len(values)} entries for {len(frame_of)} frames")
        if name in RULES:
            raise_for_episode(where, f"frames/{name} ({RULES[name]})", implausible(name, values), frame_of)
    if len(contents.action) != len(keyframe_of):
        raise InputError(f"{where}: keyframes/action: found {len(contents.action)} for {len(keyframe_of)} keyframes")
    before = np.roll(contents.keyframe, 1)
    before[contents.first_keyframe] = 0
    outside = (contents.keyframe <= before) | (contents.keyframe >= contents.frames[keyframe_of])
    raise_for_episode(where, "keyframes/frame (increasing, from 1, within the episode)", outside, keyframe_of)
    rule = f"keyframes/action ({convention}, position at most {LARGEST:g})"
    raise_for_episode(where, rule, implausible_actions(contents.action), keyframe_of)
    raise_for_episode(where, "episodes/variation (>= 0)", contents.variation < 0)
    raise_for_episode(where, "episodes/seed (>= 0)", contents.seed < 0)
    rule = f"{placements_field().path} (>= 0, or {UNKNOWN})"
    raise_for_episode(where, rule, contents.rejected_placements < UNKNOWN)


def is_storable(sentence: str) -> bool:
    """Return True if an instruction can be stored: UTF-8 of fixed length ends at a zero."""
    return "\0" not in sentence and sentence == sentence.encode(errors="replace").decode()


def raise_for_episode(where: str, rule: str, wrong: np.ndarray, episode_of: np.ndarray | None = None) -> None:
    """Raise InputError for the first episode that has a wrong entry."""
    if wrong.any():
        first = int(np.argmax(wrong))
        episode = first if episode_of is None else int(episode_of[first])
        raise InputError(f"{where}: episode {episode}: wrong {rule}")
