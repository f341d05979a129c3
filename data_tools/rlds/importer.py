"""Import of InstructRL's own exports as RLDS, unchanged."""

from collections.abc import Iterator
from pathlib import Path

from data_tools.exchange.native import HINT, NativeEpisode, restore
from data_tools.rlds import schema
from data_tools.rlds.source import Source
from instructrl.cli.progress import ProgressBar
from instructrl.errors import InputError


def import_native(source: Source, out: Path, *, split: str | None, overwrite: bool, compression: str) -> None:
    """Restore the files from which a directory was exported; a single one as `out`, if that ends in .hdf5.

    Raises:
        InputError: an episode is damaged or missing, or other files are in the way.
    """
    recorded = source.metadata.get("files")
    splits = [name for name in source.splits if split in (None, name)]
    if not splits:
        raise InputError(f"split: found {split}; {source.folder} has {', '.join(source.splits)}")
    restore(
        source.folder,
        native_episodes(source, splits),
        out,
        recorded=recorded if isinstance(recorded, dict) else {},
        overwrite=overwrite,
        compression=compression,
    )


def native_episodes(source: Source, splits: list[str]) -> Iterator[NativeEpisode]:
    """Yield every episode with the relative path and the header of its original file."""
    parser = source.episodes(schema.keys(source))
    for split in splits:
        records = source.records(split)
        for number in ProgressBar(range(len(records)), description=split, total=len(records), unit="episodes"):
            episode = parser.episode(f"{source.folder}: {split}: episode {number}", records.read(number))
            target, header = schema.origin(episode)
            missing = [name for name in header.cameras if schema.image_key(name) not in observation_features(source)]
            if missing:
                raise InputError(f"{episode.where}: no images of camera {missing[0]}; {HINT}")
            yield NativeEpisode(episode.where, target, header, schema.from_rlds(episode, header))


def observation_features(source: Source) -> set[str]:
    """Names of the features of an observation."""
    return {key.rpartition("/")[2] for key in source.keys if key.startswith(schema.OBSERVATION)}
