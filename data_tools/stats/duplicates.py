"""Duplicate episodes: within a file, or in both training and validation data."""

import hashlib
from collections.abc import Container, Sequence
from typing import NamedTuple

import numpy as np

from instructrl.data.demonstrations.reader import open_file, read, read_header
from instructrl.data.demonstrations.schema import Contents, Header
from instructrl.errors import InputError, RunError
from instructrl.storage.paths import StoragePath, list_files, real_path

MAX_SHOWN = 20


class EpisodeDigests(NamedTuple):
    """A file, and a digest of the first frame, the keyframes and the actions of each episode."""

    path: StoragePath
    split: str
    digests: list[bytes]


class Duplicate(NamedTuple):
    """An episode that is identical to an earlier one, or to one of the other split."""

    path: StoragePath
    episode: int
    other: StoragePath
    same: int

    def __str__(self) -> str:
        return f"{self.path}: episode {self.episode} is the same as episode {self.same} of {self.other}"


def episode_digests(path: StoragePath, header: Header, contents: Contents) -> EpisodeDigests:
    """Digest each episode of a file; seeds, variations and instructions are ignored.

    So are frames between keyframes, which one file may have of an episode and another not.
    """
    digests = []
    for frame, keyframe, keyframes in zip(
        contents.first_frame, contents.first_keyframe, contents.keyframes, strict=True
    ):
        own = slice(keyframe, keyframe + keyframes)
        seen = frame + np.concatenate([[0], contents.keyframe[own]])
        digest = hashlib.blake2b(contents.crc32[seen].tobytes(), digest_size=16)
        digest.update(contents.action[own].tobytes())
        digests.append(digest.digest())
    return EpisodeDigests(path, header.split, digests)


def duplicates(files: Sequence[EpisodeDigests]) -> list[Duplicate]:
    """Find duplicate episodes within a file, and validation episodes that are also trained on.

    Identical episodes in two files of the same split are allowed: files may be parts or extensions of others.
    """
    found: list[Duplicate] = []
    trained: dict[bytes, tuple[StoragePath, int]] = {}
    for one in files:
        first: dict[bytes, int] = {}
        for episode, digest in enumerate(one.digests):
            if digest in first:
                found.append(Duplicate(one.path, episode, one.path, first[digest]))
            else:
                first[digest] = episode
                if one.split == "train":
                    trained.setdefault(digest, (one.path, episode))
    for one in files:
        if one.split != "train":
            shared = ((episode, trained.get(digest)) for episode, digest in enumerate(one.digests))
            found += [Duplicate(one.path, episode, *other) for episode, other in shared if other is not None]
    return found


def other_split_files(
    path: StoragePath, header: Header, known: Container[StoragePath] = ()
) -> tuple[list[EpisodeDigests], list[str]]:
    """Find the files of the same task's other split in a file's folder, and list errors of unreadable files.

    `known` are resolved paths that are skipped.

    Raises:
        InputError: a file of the other split is damaged.
    """
    found, unknown = [], []
    for other in list_files(path.parent, ".hdf5"):
        if real_path(other) == real_path(path) or real_path(other) in known:
            continue
        try:
            with open_file(other) as (file, _):
                about = read_header(other, file)
        except InputError as error:
            unknown.append(str(error))
            continue
        if about.task == header.task and about.split != header.split:
            found.append(episode_digests(other, *read(other)))
    return found, unknown


def duplicate_lines(found: Sequence[Duplicate], compared: Sequence[StoragePath]) -> list[str]:
    """Describe the duplicates in the compared files, one per line."""
    if not found:
        return [f"none in {', '.join(map(str, compared))}" if len(compared) < 3 else f"none in {len(compared)} files"]
    lines = [str(one) for one in found[:MAX_SHOWN]]
    return lines + ([f"... and {len(found) - MAX_SHOWN} more"] if len(found) > MAX_SHOWN else [])


def raise_if_duplicates(found: Sequence[Duplicate]) -> None:
    """Raise RunError if there are duplicates."""
    if found:
        raise RunError(
            f"{found[0]}" + (f", and {len(found) - 1} more" if len(found) > 1 else "") + "; training "
            "episodes cannot validate, and duplicates count twice: collect or convert one of the files again"
        )
