"""Import of InstructRL's own exports as LeRobot data sets."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from data_tools.convert.skip_report import SkippedError
from data_tools.exchange.native import NativeEpisode, restore
from data_tools.lerobot import schema
from data_tools.lerobot.source import EpisodeReader, Source
from instructrl.cli.progress import ProgressBar
from instructrl.data.demonstrations.schema import checksum
from instructrl.errors import InputError


def import_native(
    source: Source, record: dict[str, Any], out: Path, *, split: str | None, overwrite: bool, compression: str
) -> None:
    """Restore the files from which a data set was exported; of a video, pixels are those that it kept.

    Raises:
        InputError: an episode is damaged or missing, or other files are in the way.
    """
    splits = [name for name in source.splits if split in (None, name)]
    if not splits:
        raise InputError(f"split: found {split}; {source.folder} has {', '.join(source.splits)}")
    reader = source.reader(source.metadata.features)
    restore(
        source.folder,
        native_episodes(source, reader, record, splits),
        out,
        recorded=record["checksums"],
        overwrite=overwrite,
        compression=compression,
        digest=checksum if record["lossless"] else schema.checksum_without_pixels,
    )


def native_episodes(
    source: Source, reader: EpisodeReader, record: dict[str, Any], splits: list[str]
) -> Iterator[NativeEpisode]:
    """Yield every episode with the relative path and the header of its original file."""
    for split in splits:
        count = source.splits[split]
        for number in ProgressBar(range(count), description=split, total=count, unit="episodes"):
            try:
                episode = reader.load(split, number)
            except SkippedError as error:
                raise InputError(error.text) from None
            overall = source.metadata.splits[split][number]
            target, header = schema.origin(record, overall, episode.where)
            keys = [schema.camera_key(kind, name) for kind in schema.CAMERA_KINDS for name in header.cameras]
            missing = [key for key in (*keys, "observation.state", "action") if key not in source.metadata.features]
            if missing:
                raise InputError(f"{episode.where}: {missing[0]}: no such feature; {schema.HINT}")
            found = schema.from_lerobot(episode, header, record["episodes"][overall])
            yield NativeEpisode(episode.where, target, header, found)
