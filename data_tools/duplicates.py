"""Episodes that are there twice: within a file, or for training and for validation."""

import hashlib
from collections.abc import Container, Sequence
from typing import NamedTuple

from instructrl.data.format import Contents, Header
from instructrl.data.reader import open_file, read, read_header
from instructrl.data.storage import Place, files_in
from instructrl.errors import InputError, RunError

SHOWN = 20


class Marked(NamedTuple):
    """A file, and for each episode a digest of its frames, keyframes and actions."""

    path: Place
    split: str
    digests: list[bytes]


class Duplicate(NamedTuple):
    """An episode that shows the same as an earlier one, or one of the other split."""

    path: Place
    episode: int
    other: Place
    same: int

    def __str__(self) -> str:
        return f"{self.path}: episode {self.episode} is the same as episode {self.same} of {self.other}"


def marked(path: Place, header: Header, contents: Contents) -> Marked:
    """What tells a file's episodes apart; seeds, variations and sentences do not count."""
    digests = []
    for frame, frames, keyframe, keyframes in zip(
        contents.first_frame, contents.frames, contents.first_keyframe, contents.keyframes, strict=True
    ):
        digest = hashlib.blake2b(contents.crc32[frame : frame + frames].tobytes(), digest_size=16)
        for column in (contents.keyframe, contents.action):
            digest.update(column[keyframe : keyframe + keyframes].tobytes())
        digests.append(digest.digest())
    return Marked(path, header.split, digests)


def duplicates(files: Sequence[Marked]) -> list[Duplicate]:
    """Episodes that are there again in their file, or that are to validate and also to train on.

    Equal episodes in two files of the same split are none: files may be parts or extensions of others.
    """
    found: list[Duplicate] = []
    trained: dict[bytes, tuple[Place, int]] = {}
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


def beside(path: Place, header: Header, known: Container[Place] = ()) -> tuple[list[Marked], list[str]]:
    """The files in a file's folder that hold the other split of its task, and lines on those that cannot be told.

    `known` are resolved paths that are left out.

    Raises:
        InputError: one that does is damaged.
    """
    found, unknown = [], []
    for other in files_in(path.parent, ".hdf5"):
        if other.resolve() == path.resolve() or other.resolve() in known:
            continue
        try:
            with open_file(other) as (file, _):
                about = read_header(other, file)
        except InputError as error:
            unknown.append(str(error))
            continue
        if about.task == header.task and about.split != header.split:
            found.append(marked(other, *read(other)))
    return found, unknown


def told(found: Sequence[Duplicate], compared: Sequence[Place]) -> list[str]:
    """Lines that say what is there twice in the files that were compared."""
    if not found:
        return [f"none in {', '.join(map(str, compared))}" if len(compared) < 3 else f"none in {len(compared)} files"]
    lines = [str(one) for one in found[:SHOWN]]
    return lines + ([f"... and {len(found) - SHOWN} more"] if len(found) > SHOWN else [])


def refuse(found: Sequence[Duplicate]) -> None:
    """Raise RunError if anything is there twice."""
    if found:
        raise RunError(
            f"{found[0]}" + (f", and {len(found) - 1} more" if len(found) > 1 else "") + "; what is trained on "
            "cannot validate, and what is there twice counts twice: collect or convert one of them again"
        )
