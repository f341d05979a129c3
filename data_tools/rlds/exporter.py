"""Export of demonstrations to a tensorflow-datasets directory, which is written atomically."""

from pathlib import Path

from data_tools.exchange.exported import (
    already_exported,
    check_camera_names,
    dataset_name,
    first_episodes,
    move_into_place,
    next_step,
    source_files,
    temporary_folder,
)
from data_tools.rlds.schema import FORMAT, VERSION, features, to_rlds
from data_tools.rlds.source import Source
from instructrl.cli.progress import ProgressBar, stopwatch
from instructrl.data.demonstrations.dataset import DemonstrationDataset
from instructrl.data.demonstrations.schema import UNKNOWN, checksum
from instructrl.data.image_text.tfrecord import INFO
from instructrl.errors import InputError, short_message

SHARD_BYTES = 1 << 28  # approximate bytes of uncompressed pixels per record file
DATASET_VERSION = "1.0.0"


def export(src: Path, out: Path, *, split: str | None, name: str | None, episodes: int | None, overwrite: bool) -> None:
    """Write the demonstrations of a file, or of all files in a folder, as RLDS episodes, grouped by split.

    Args:
        src: a file of demonstrations, or a folder of them.
        out: the directory to write.
        split: the only split to export; None: both.
        name: of the dataset; None: the task, or `demonstrations`.
        episodes: at most this many per file; None: all.
        overwrite: replace other content at `out`.

    Raises:
        InputError: a file cannot be used, the files are incompatible, or other content is at `out`.
    """
    files = source_files(src, split)
    check_camera_names(files.values(), what="RLDS keys")
    dataset = name or dataset_name([one.task for one in files.values()])
    digests = {target: checksum(one.header, first_episodes(one.contents, episodes)) for target, one in files.items()}
    kind, same = "tensorflow-datasets directory", lambda: recorded_checksums(out) == digests
    if already_exported(out, src, kind=kind, metadata=INFO, same=same, overwrite=overwrite):
        return
    with temporary_folder(out) as folder:
        write_dataset(files, folder, name=dataset, limit=episodes, digests=digests)
        move_into_place(folder, out)
    for one in files.values():
        one.close()
    print(next_step("data_tools.rlds", out))


def write_dataset(
    files: dict[str, DemonstrationDataset], folder: Path, *, name: str, limit: int | None, digests: dict[str, str]
) -> None:
    """Write the complete directory.

    Raises:
        InputError: a file is damaged, or the disk is full.
    """
    import tensorflow_datasets as tfds
    from tensorflow_datasets.core.dataset_info import DatasetIdentity, DatasetInfo

    header = next(iter(files.values())).header
    metadata = tfds.core.MetadataDict({"format": FORMAT, "version": VERSION, "files": digests})
    placements = any((one.contents.rejected_placements != UNKNOWN).any() for one in files.values())
    identity = DatasetIdentity(name, tfds.core.Version(DATASET_VERSION), str(folder), module_name="")
    description = (
        f"Demonstrations of {', '.join(sorted({one.task for one in files.values()}))}, exported by InstructRL."
    )
    try:
        info = DatasetInfo(
            builder=identity,
            description=description,
            features=features(header, placements=placements),
            metadata=metadata,
        )
        writer = tfds.core.SequentialWriter(info, episodes_per_shard(files), file_format="array_record")
        writer.initialize_splits(sorted({one.header.split for one in files.values()}))
        for target, one in files.items():
            count, name = min(len(one), limit or len(one)), f"{one.task} {one.header.split}"
            for number in ProgressBar(range(count), description=name, total=count, unit="episodes"):
                episode = to_rlds(one.demonstration(number), one.header, target, placements=placements)
                writer.add_examples({one.header.split: [episode]})
            print(f"{one.header.split}: {one.path}: {count} episodes", flush=True)
        with stopwatch("completing the files"):
            writer.close_all()
    except (OSError, RuntimeError, ValueError) as error:
        text = f"{folder}: cannot be written ({short_message(error)}); free space there or choose another out="
        raise InputError(text) from None
    written = Source(folder)
    for split in written.splits:
        written.records(split)  # counts them: the writer does not report a full disk


def episodes_per_shard(files: dict[str, DemonstrationDataset]) -> int:
    """Number of episodes per record file."""
    each = [one.contents.frames.mean() * len(one.cameras) * one.image_size**2 * 3 for one in files.values()]
    return max(1, int(SHARD_BYTES // max(each)))


def recorded_checksums(folder: Path) -> object:
    """Checksums recorded by an earlier export at this path; None if there is none."""
    try:
        return Source(folder).metadata.get("files")
    except InputError:
        return None
