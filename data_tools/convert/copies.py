"""Copies of episodes: equal content under any name, in a split or in two of them, which must not be used twice.

Scripts of others leave copies: variation<N>/ beside all_variations/, or the episodes of a held-out folder in another.
"""

import hashlib
import os
from collections.abc import Iterable, Sequence
from pathlib import Path

from data_tools.convert.rlbench_dataset import EpisodeFolder, image_paths
from data_tools.convert.skip_report import Skipped, SkipReason
from data_tools.stats.duplicates import episode_digests, other_split_files
from instructrl.data.demonstrations.reader import read
from instructrl.data.demonstrations.schema import Contents, Header
from instructrl.errors import InputError
from instructrl.storage.paths import StoragePath, real_path

HELD_OUT = {  # names of folders beside a source's, whose episodes are not trained on or validated with
    "train": ("val", "valid", "validation", "test"),
    **dict.fromkeys(("val", "valid", "validation"), ("test",)),
}
PICKLE, BEGINNING = "low_dim_obs.pkl", 16_384  # bytes, in which other episodes differ
Known = dict[bytes, str]  # names of episodes by their content


def content_digest(path: StoragePath, header: Header, contents: Contents) -> bytes:
    """Digest of the images at keyframes and the actions of an episode; its name, variation and seed do not count."""
    return episode_digests(path, header, contents).digests[0]


def copy_of(name: str) -> Skipped:
    """The reason for skipping a copy of an episode."""
    return Skipped(SkipReason.COPIES, f"the same content as {name}")


def identical_files(episodes: Iterable[EpisodeFolder], cameras: Sequence[str]) -> dict[EpisodeFolder, EpisodeFolder]:
    """Return the episodes whose files are those of an earlier one, with that one; they need not be read.

    Compared are the pickles, the first and last images, and the names and sizes of all images.
    """
    alike: dict[tuple[int, bytes], list[EpisodeFolder]] = {}  # by size and beginning of the pickle
    digests: dict[EpisodeFolder, bytes] = {}
    found: dict[EpisodeFolder, EpisodeFolder] = {}
    for episode in episodes:
        try:
            with (episode.folder / PICKLE).open("rb") as file:
                others = alike.setdefault((os.fstat(file.fileno()).st_size, file.read(BEGINNING)), [])
            for one in [*others, episode] if others else []:
                if one not in digests:
                    digests[one] = files_digest(one.folder, cameras)
        except OSError:
            continue  # reported when the episode is read
        original = next((other for other in others if digests[other] == digests[episode]), None)
        if original is None:
            others.append(episode)
        else:
            found[episode] = original
    return found


def files_digest(folder: Path, cameras: Sequence[str]) -> bytes:
    """Digest of an episode's pickle, of its first and last images, and of the names and sizes of all images."""
    digest = hashlib.blake2b((folder / PICKLE).read_bytes())
    for name, paths in image_paths(folder, cameras).items():
        for number in sorted(paths):
            digest.update(f"{name} {number} {paths[number].stat().st_size}\n".encode())
        for number in sorted({min(paths), max(paths)}) if paths else ():
            digest.update(paths[number].read_bytes())
    return digest.digest()


def held_out_folders(folder: Path) -> list[Path]:
    """Folders of the same task beside its split's folder whose episodes must not be in this one."""
    folder = folder.absolute()
    found = [folder.parent.parent / name / folder.name for name in HELD_OUT.get(folder.parent.name, ())]
    return [path for path in found if path.is_dir()]


def other_split_contents(path: StoragePath, header: Header, written: Sequence[StoragePath]) -> Known:
    """Episodes of the other split's files in the folder of `path`, but for those that are `written` now.

    Raises:
        InputError: one is damaged, or has keyframes of another rule, with which this split would not belong together.
    """
    files, _ = other_split_files(path, header, [real_path(one) for one in written])
    known: Known = {}
    for file in files:
        rule, other = (about.provenance.get("keyframes") for about in (header, read(file.path)[0]))
        if rule is not None and other is not None and rule != other:
            raise InputError(
                f"keyframes: found {rule}, but {file.path} has {other}; use the same rule, or choose another out="
            )
        known |= {digest: f"episode {number} of {file.path}" for number, digest in enumerate(file.digests)}
    return known
