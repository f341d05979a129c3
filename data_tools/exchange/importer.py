"""Import of third-party episodes through a mapping, whatever their format."""

import hashlib
import json
from collections.abc import Callable
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path

import numpy as np
from tqdm import tqdm

from data_tools.convert.episode_builder import ERRORS, skipped_for
from data_tools.convert.settings import ConvertConfig, workspace_of
from data_tools.convert.skip_report import SkippedError
from data_tools.convert.task_files import Candidate, TaskEpisodes, print_training, write
from data_tools.exchange.episodes import Episode, Reader, Source
from data_tools.exchange.foreign import demonstration, keyframes, position
from data_tools.exchange.mapping import Mapping, parse_key, referenced_keys, selected_cameras
from instructrl.config.environment import SimConfig
from instructrl.errors import InputError, RunError
from instructrl.storage.paths import StoragePath
from instructrl.workspace import LARGEST, Workspace

MARGIN, LEAST_MARGIN = 0.05, 0.01  # of a workspace around positions: of their extent, and in metres
SPLIT_NAMES = {"train": ("train",), "val": ("val", "validation", "valid")}  # names of the splits in third-party data


def import_foreign(
    source: Source, mapping: Mapping, config: ConvertConfig, source_split: str | None, sim: SimConfig
) -> None:
    """Write the files of one task from a third-party directory.

    Args:
        source: the directory.
        mapping: assigns its features.
        config: all other settings of the command.
        source_split: the only split to read; None: those named train and val, or the only one.
        sim: the simulator whose robot the episodes are of.

    Raises:
        InputError: no episode can be used, or other files are in the way.
        RunError: so it is with the second split; the file of the first is kept, and not made again.
    """
    task = config.task or source.name
    splits = select_splits(source, config.split, source_split)
    if Path(config.out).suffix == ".hdf5" and len(splits) > 1:
        raise InputError(f"out: found one file for {' and '.join(splits.values())}; name a folder, or set split=")
    reader = source.reader(key for _, key in referenced_keys(mapping))
    also = ""  # what the same command needs to make the same files of data of which some was mended
    if config.workspace is None:
        config = replace(config, workspace=data_workspace(source, reader, mapping, limit=config.episodes).numbers)
        also = f" with workspace={workspace_of(config)}"
    workspace_of(config)
    provenance = {"simulator": "unknown", "expert": f"unknown, {source.format} data set {source.name} {source.version}"}
    has_matrices = next(iter(selected_cameras(mapping).values())).intrinsics is not None
    provenance |= {} if has_matrices else {"cameras": "unknown"}
    content = json.dumps(asdict(mapping), sort_keys=True)  # another mapping makes another file
    provenance["mapping"] = hashlib.sha256(content.encode()).hexdigest()[:16]
    first_split = next(iter(splits.values()))  # whose size is that of both, as training needs it
    size = config.image_size or first_image_size(partial(reader.load, first_split), source.splits[first_split], mapping)
    complete: list[StoragePath] = []
    for target_split, source_name in splits.items():
        load, count = partial(reader.load, source_name), source.splits[source_name]
        make = partial(demonstration, load, mapping, size)
        candidates: list[Candidate] = [
            (f"{source_name} episode {number}", partial(make, number)) for number in range(count)
        ]
        origin = {**provenance, "source_split": source_name}
        found = TaskEpisodes(candidates, origin, state=tuple(mapping.state.names), sim=sim)
        try:
            written = write(replace(config, split=target_split or None), task, size, found)
        except InputError as error:
            if not complete:
                raise
            raise RunError(
                f"{error}; {complete[0]} is complete: once {target_split} is mended, the same command{also} resumes"
            ) from None
        complete.append(written.folder / f"{target_split}.hdf5")
    skipped = [name for name in source.splits if name not in splits.values()]
    if skipped:
        print(f"skipped: {', '.join(skipped)}; source_split= selects one of them")
    print_training(config.out, written)


def data_workspace(source: Source, reader: Reader, mapping: Mapping, *, limit: int | None) -> Workspace:
    """The box around the keyframes of all splits, so that files of each are of the same one.

    Args:
        source: the directory.
        reader: of its episodes.
        mapping: assigns its features.
        limit: read at most this many episodes of each split; None: all.

    Raises:
        InputError: no episode has a usable position.
    """
    found, reason = [], "no finite numbers"
    chosen = [(name, number) for name, count in source.splits.items() for number in range(count)[:limit]]
    for name, number in tqdm(chosen, desc="workspace", unit=" episodes", delay=1, disable=None):
        try:
            episode = reader.load(name, number)
        except SkippedError as error:
            reason = error.text
            continue
        try:
            found += [position(episode, mapping, int(step)) for step in keyframes(episode, mapping)]
        except ERRORS as error:  # it is counted when it is converted
            reason = skipped_for(error).text
    positions = np.array(found, np.float64).reshape(-1, 3)
    positions = positions[(np.abs(positions) <= LARGEST).all(axis=1)]
    if not len(positions):
        raise InputError(f"action.position: found none that can be used in {source.folder}: {reason}")
    workspace = Workspace.around(positions, margin=MARGIN, least=LEAST_MARGIN)
    print(
        f"workspace: {workspace}, around {len(positions)} keyframes with {MARGIN:.0%} of their extent, at least "
        f"{100 * LEAST_MARGIN:g} cm, on each side; workspace= sets another"
    )
    return workspace


def select_splits(source: Source, split: str | None, source_split: str | None) -> dict[str, str]:
    """Select the source splits, keyed by the resulting split; "" for one that is divided into train and val.

    Raises:
        InputError: there is none.
    """
    available = ", ".join(source.splits)
    if source_split is not None:
        if source_split not in source.splits:
            raise InputError(f"source_split: found {source_split}; {source.folder} has {available}")
        return {split or "": source_split}
    if len(source.splits) == 1:
        return {split or "": next(iter(source.splits))}
    found = {
        target_split: next(name for name in names if name in source.splits)
        for target_split, names in SPLIT_NAMES.items()
        if split in (None, target_split) and not source.splits.keys().isdisjoint(names)
    }
    if not found:
        raise InputError(f"source_split: none given; {source.folder} has {available}; set source_split=NAME")
    return found if len(found) > 1 or split else {"": next(iter(found.values()))}


def first_image_size(load: Callable[[int], Episode], count: int, mapping: Mapping) -> int:
    """Return the shorter side in pixels of the first readable image.

    Raises:
        InputError: there is none.
    """
    key = parse_key("image", next(iter(selected_cameras(mapping).values())).image or "").name
    unread: Exception | None = None
    reason = ""
    for number in range(count):
        try:
            episode = load(number)
        except SkippedError as error:  # it is counted when its episode is read
            unread = error
            continue
        try:
            return min(np.asarray(episode.at(key, 0)).shape[:2])
        except (InputError, ValueError) as error:
            reason = skipped_for(error).text
    if not reason and unread is not None:  # a fault of its numbers, for instance, says nothing of its images
        raise InputError(f"src: none of its episodes can be read: {skipped_for(unread).text}")
    raise InputError(f"src: none of its episodes has a readable image {key}: {reason or 'it has no episodes'}")
