"""Import of RLDS episodes: InstructRL's own exports unchanged, third-party ones through a mapping."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
from tqdm import tqdm

from data_tools.convert.episode_builder import ERRORS, skipped_for
from data_tools.convert.settings import ConvertConfig, workspace_of
from data_tools.convert.skip_report import SkippedError, SkipReason
from data_tools.convert.task_files import Candidate, TaskEpisodes, write
from data_tools.rlds import schema
from data_tools.rlds.foreign import demonstration, keyframes, position
from data_tools.rlds.mapping import Mapping, parse_key, referenced_keys, selected_cameras
from data_tools.rlds.source import Episode, EpisodeParser, Source
from instructrl.cli.progress import ProgressBar
from instructrl.data.demonstrations.reader import read
from instructrl.data.demonstrations.schema import Contents, Header, checksum
from instructrl.data.demonstrations.writer import Writer, concatenate, to_contents
from instructrl.data.image_text.tfrecord import Records
from instructrl.errors import InputError
from instructrl.storage.file_lock import exclusive_lock
from instructrl.workspace import LARGEST, Workspace

MARGIN, LEAST_MARGIN = 0.05, 0.01  # of a workspace around positions: of their extent, and in metres
SPLIT_NAMES = {"train": ("train",), "val": ("val", "validation", "valid")}  # names of the splits in third-party data


def import_native(source: Source, out: Path, *, split: str | None, overwrite: bool, compression: str) -> None:
    """Restore the files from which a directory was exported; a single one as `out`, if that ends in .hdf5.

    Raises:
        InputError: an episode is damaged or missing, or other files are in the way.
    """
    recorded = source.metadata.get("files")
    recorded = recorded if isinstance(recorded, dict) else {}
    one_file, remedy = out.suffix == ".hdf5", "choose another out="
    splits = [name for name in source.splits if split in (None, name)]
    if not splits:
        raise InputError(f"split: found {split}; {source.folder} has {', '.join(source.splits)}")
    with (
        exclusive_lock(out.parent if one_file else out, activity="writes", busy_hint=remedy, write_hint=remedy),
        ExitStack() as stack,
    ):
        writers: dict[str, Writer] = {}
        contents: dict[str, list[Contents]] = {}
        for target, header, episode in native_episodes(source, splits):
            if target not in writers:
                path = out if one_file else out / target
                if one_file and writers:
                    raise InputError(
                        f"out: found one file for {', '.join([*writers, target])}; name a folder, or set split="
                    )
                check_free(path, recorded.get(target), overwrite=overwrite)
                writers[target], contents[target] = (
                    stack.enter_context(Writer(path, header, compression=compression)),
                    [],
                )
            if writers[target].header != header:
                raise InputError(
                    f"{episode.where}: its header differs from those before it in {target}; export it again"
                )
            found = schema.from_rlds(episode, header)
            writers[target].add(found)
            contents[target].append(to_contents(found))
        for target, writer in writers.items():
            if checksum(writer.header, concatenate(contents[target])) != recorded.get(target):
                raise InputError(f"{source.folder}: {target}: not the episodes that were exported; export it again")
    for target, writer in writers.items():
        print(f"{writer.header.split}: {writer.path}: {writer.count} episodes, restored from {target}")


def native_episodes(source: Source, splits: list[str]) -> Iterator[tuple[str, Header, Episode]]:
    """Yield every episode with the relative path and the header of its original file."""
    parser = source.episodes(schema.keys(source))
    for split in splits:
        records = source.records(split)
        for number in ProgressBar(range(len(records)), description=split, total=len(records), unit="episodes"):
            episode = parser.episode(f"{source.folder}: {split}: episode {number}", records.read(number))
            target, header = schema.origin(episode)
            missing = [name for name in header.cameras if schema.image_key(name) not in observation_features(source)]
            if missing:
                raise InputError(f"{episode.where}: no images of camera {missing[0]}; export it again")
            yield target, header, episode


def observation_features(source: Source) -> set[str]:
    """Names of the features of an observation."""
    return {key.rpartition("/")[2] for key in source.keys if key.startswith(schema.OBSERVATION)}


def check_free(path: Path, digest: object, *, overwrite: bool) -> None:
    """Raise InputError if a file with other content is at a path and may not be replaced."""
    if path.exists() and not overwrite and checksum(*read(path)) != digest:
        raise InputError(f"{path}: found another file; choose another out=, or add overwrite=true")


def import_foreign(source: Source, mapping: Mapping, config: ConvertConfig, source_split: str | None) -> None:
    """Write the files of one task from a third-party directory.

    Args:
        source: the directory.
        mapping: assigns its features.
        config: all other settings of the command.
        source_split: the only split to read; None: those named train and val, or the only one.

    Raises:
        InputError: no episode can be used, or other files are in the way.
    """
    task = config.task or source.name
    if not task.isidentifier():
        raise InputError(f"task: found {task}, the name of {source.folder}; set task=NAME")
    splits = select_splits(source, config.split, source_split)
    if Path(config.out).suffix == ".hdf5" and len(splits) > 1:
        raise InputError(f"out: found one file for {' and '.join(splits.values())}; name a folder, or set split=")
    parser = source.episodes(key for _, key in referenced_keys(mapping))
    if config.workspace is None:
        config = replace(config, workspace=data_workspace(source, parser, mapping, limit=config.episodes).numbers)
    workspace_of(config)
    provenance = {"simulator": "unknown", "expert": f"unknown, RLDS data set {source.name} {source.version}"}
    has_matrices = next(iter(selected_cameras(mapping).values())).intrinsics is not None
    provenance |= {} if has_matrices else {"cameras": "unknown"}
    for target_split, source_name in splits.items():
        records = source.records(source_name)
        load = partial(load_episode, parser, records, f"{source.folder}: {source_name}")
        size = config.image_size or first_image_size(load, len(records), mapping)
        make = partial(demonstration, load, mapping, size)
        candidates: list[Candidate] = [
            (f"{source_name} episode {number}", partial(make, number)) for number in range(len(records))
        ]
        found = TaskEpisodes(candidates, provenance, state=tuple(mapping.state.names))
        write(replace(config, split=target_split or None), task, size, found)
    skipped = [name for name in source.splits if name not in splits.values()]
    if skipped:
        print(f"skipped: {', '.join(skipped)}; source_split= selects one of them")
    if not has_matrices:
        print("the mapping names no camera matrices: train with head=regression or head=discrete")


def data_workspace(source: Source, parser: EpisodeParser, mapping: Mapping, *, limit: int | None) -> Workspace:
    """The box around the keyframes of all splits, so that files of each are of the same one.

    Args:
        source: the directory.
        parser: of its records.
        mapping: assigns its features.
        limit: read at most this many episodes of each split; None: all.

    Raises:
        InputError: no episode has a usable position.
    """
    found, reason = [], "no finite numbers"
    records = {name: source.records(name) for name in source.splits}
    chosen = [(name, number) for name, of in records.items() for number in range(len(of))[:limit]]
    for name, number in tqdm(chosen, desc="workspace", unit=" episodes", delay=1, disable=None):
        try:
            episode = load_episode(parser, records[name], f"{source.folder}: {name}", number)
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


def load_episode(parser: EpisodeParser, records: Records, label: str, number: int) -> Episode:
    """Load one episode of a split.

    Raises:
        SkippedError: its record is damaged.
    """
    try:
        return parser.episode(f"{label}: episode {number}", records.read(number))
    except InputError as error:
        raise SkippedError(SkipReason.RECORDS, str(error)) from None


def first_image_size(load: Callable[[int], Episode], count: int, mapping: Mapping) -> int:
    """Return the shorter side in pixels of the first readable image.

    Raises:
        InputError: there is none.
    """
    key = parse_key("image", next(iter(selected_cameras(mapping).values())).image or "").name
    for number in range(count):
        try:
            return min(np.asarray(load(number).at(key, 0)).shape[:2])
        except (InputError, SkippedError, ValueError):
            continue  # it is counted when its episode is read
    raise InputError(f"src: none of its episodes has a readable image {key}; choose another key")
