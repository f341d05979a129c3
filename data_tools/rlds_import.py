"""RLDS episodes as our demonstrations: those exported by this suite as they were, foreign ones through a mapping."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np

from data_tools import rlds_schema
from data_tools.conversion import Reason, SkippedError
from data_tools.convert import Candidate, ConvertConfig, write
from data_tools.rlds_foreign import demonstration
from data_tools.rlds_mapping import Mapping, chosen, keys, parsed
from data_tools.rlds_source import Episode, Parser, Source
from instructrl.data.format import Contents, Header, checksum
from instructrl.data.lock import only_process
from instructrl.data.reader import read
from instructrl.data.records import Records
from instructrl.data.writer import Writer, concatenate, contents_of
from instructrl.errors import InputError

OURS = {"train": ("train",), "val": ("val", "validation", "valid")}  # what the splits of others are called


def import_ours(source: Source, out: Path, *, split: str | None, overwrite: bool) -> None:
    """Write the files again from which a directory was exported, or the one there was as `out`.hdf5.

    Raises:
        InputError: something is damaged or missing, or other files are in the way.
    """
    recorded = source.metadata.get("files")
    recorded = recorded if isinstance(recorded, dict) else {}
    one_file, again = out.suffix == ".hdf5", "choose another out="
    splits = [name for name in source.splits if split in (None, name)]
    if not splits:
        raise InputError(f"split: found {split}; {source.folder} has {', '.join(source.splits)}")
    with (
        only_process(out.parent if one_file else out, does="writes", remedy=again, elsewhere=again),
        ExitStack() as stack,
    ):
        writers: dict[str, Writer] = {}
        contents: dict[str, list[Contents]] = {}
        for place, header, episode in episodes_of_ours(source, splits):
            if place not in writers:
                path = out if one_file else out / place
                if one_file and writers:
                    raise InputError(
                        f"out: found one file for {', '.join([*writers, place])}; name a folder, or split="
                    )
                check_free(path, recorded.get(place), overwrite=overwrite)
                writers[place], contents[place] = stack.enter_context(Writer(path, header)), []
            if writers[place].header != header:
                raise InputError(f"{episode.where}: of another header than those before it in {place}; export it again")
            found = rlds_schema.demonstration(episode, header)
            writers[place].add(found)
            contents[place].append(contents_of(found))
        for place, writer in writers.items():
            if checksum(writer.header, concatenate(contents[place])) != recorded.get(place):
                raise InputError(f"{source.folder}: {place}: not what was exported; export it again")
    for place, writer in writers.items():
        print(f"{writer.header.split}: {writer.path}: {writer.count} episodes, as they were in {place}")


def episodes_of_ours(source: Source, splits: list[str]) -> Iterator[tuple[str, Header, Episode]]:
    """Every episode, with the file that it came from and that file's header."""
    parser = source.episodes(rlds_schema.keys(source))
    for split in splits:
        records = source.records(split)
        for number in range(len(records)):
            episode = parser.episode(f"{source.folder}: {split}: episode {number}", records.read(number))
            place, header = rlds_schema.origin(episode)
            missing = [name for name in header.cameras if rlds_schema.image_key(name) not in source_cameras(source)]
            if missing:
                raise InputError(f"{episode.where}: no pictures of camera {missing[0]}; export it again")
            yield place, header, episode


def source_cameras(source: Source) -> set[str]:
    """What is in an observation."""
    return {key.rpartition("/")[2] for key in source.keys if key.startswith(rlds_schema.OBSERVATION)}


def check_free(path: Path, digest: object, *, overwrite: bool) -> None:
    """Raise InputError if something else than these demonstrations is at a place, unless it may be replaced."""
    if path.exists() and not overwrite and checksum(*read(path)) != digest:
        raise InputError(f"{path}: found another file there; choose another out=, or add overwrite=true")


def import_foreign(source: Source, mapping: Mapping, asked: ConvertConfig, source_split: str | None) -> None:
    """Write the files of one task from a foreign directory; `asked` is the rest of the command.

    Raises:
        InputError: no episode can be used, or other files are in the way.
    """
    task = asked.task or source.name
    if not task.isidentifier():
        raise InputError(f"task: found {task}, the name of {source.folder}; say task=NAME")
    pools = chosen_splits(source, asked.split, source_split)
    if Path(asked.out).suffix == ".hdf5" and len(pools) > 1:
        raise InputError(f"out: found one file for {' and '.join(pools.values())}; name a folder, or say split=")
    parser = source.episodes(key for _, key in keys(mapping))
    origin = {"simulator": "unknown", "expert": f"unknown, RLDS data set {source.name} {source.version}"}
    known = next(iter(chosen(mapping).values())).intrinsics is not None
    origin |= {} if known else {"cameras": "unknown"}
    for ours, theirs in pools.items():
        records = source.records(theirs)
        load = partial(loaded, parser, records, f"{source.folder}: {theirs}")
        size = asked.image_size or first_size(load, len(records), mapping)
        make = partial(demonstration, load, mapping, size)
        candidates: list[Candidate] = [
            (f"{theirs} episode {number}", partial(make, number)) for number in range(len(records))
        ]
        write(replace(asked, split=ours or None), task, size, candidates, origin)
    left = [name for name in source.splits if name not in pools.values()]
    if left:
        print(f"left out: {', '.join(left)}; source_split= takes one of them")
    if not known:
        print("the mapping names no camera matrices: train with head=regression or head=discrete")


def chosen_splits(source: Source, split: str | None, source_split: str | None) -> dict[str, str]:
    """The splits to be read, by the one of ours each becomes; "" for one that is to be divided.

    Raises:
        InputError: there is none.
    """
    there = ", ".join(source.splits)
    if source_split is not None:
        if source_split not in source.splits:
            raise InputError(f"source_split: found {source_split}; {source.folder} has {there}")
        return {split or "": source_split}
    if len(source.splits) == 1:
        return {split or "": next(iter(source.splits))}
    found = {
        ours: next(name for name in names if name in source.splits)
        for ours, names in OURS.items()
        if split in (None, ours) and not source.splits.keys().isdisjoint(names)
    }
    if not found:
        raise InputError(f"source_split: none given; {source.folder} has {there}; say source_split=NAME")
    return found if len(found) > 1 or split else {"": next(iter(found.values()))}


def loaded(parser: Parser, records: Records, where: str, number: int) -> Episode:
    """One episode of a split; a damaged one is left out."""
    try:
        return parser.episode(f"{where}: episode {number}", records.read(number))
    except InputError as error:
        raise SkippedError(Reason.RECORDS, str(error)) from None


def first_size(load: Callable[[int], Episode], count: int, mapping: Mapping) -> int:
    """The pixels along a side of the first picture that can be read.

    Raises:
        InputError: there is none.
    """
    key = parsed("image", next(iter(chosen(mapping).values())).image or "").name
    for number in range(count):
        try:
            return min(np.asarray(load(number).at(key, 0)).shape[:2])
        except (InputError, SkippedError, ValueError):
            continue  # it is counted when its episode is read
    raise InputError(f"src: none of its episodes has a picture {key} that can be read; choose another key")
