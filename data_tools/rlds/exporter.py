"""Export of demonstrations to a tensorflow-datasets directory, which is written atomically."""

import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from data_tools.rlds.schema import FORMAT, VERSION, features, to_rlds
from data_tools.rlds.source import Source
from instructrl.cli.progress import ProgressBar, stopwatch
from instructrl.collection.target_file import demonstration_paths
from instructrl.config.environment import DataConfig, SimConfig, TaskConfig
from instructrl.config.fields import format_value
from instructrl.data.demonstrations.dataset import DemonstrationDataset, check_alike
from instructrl.data.demonstrations.schema import UNKNOWN, Contents, Header, checksum
from instructrl.data.image_text.tfrecord import INFO
from instructrl.errors import InputError, short_message
from instructrl.storage.atomic import sync
from instructrl.storage.file_lock import exclusive_lock

SHARD_BYTES = 1 << 28  # approximate bytes of uncompressed pixels per record file
DATASET_VERSION = "1.0.0"
NAME = re.compile(r"[a-z][a-z0-9_]*")


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
    check_alike(list(files.values()))
    for one in files.values():
        wrong = [camera for camera in one.cameras if not re.fullmatch(r"[\w-]+", camera)]
        if wrong:
            raise InputError(
                f"{one.path}: camera {format_value(wrong[0])}: RLDS keys consist of letters, digits, _ and -"
            )
    dataset = name or dataset_name([one.task for one in files.values()])
    digests = {target: checksum(one.header, first_episodes(one.contents, episodes)) for target, one in files.items()}
    if already_exported(out, src, digests, overwrite=overwrite):
        print(f"{out}: exists already, with the same demonstrations; overwrite=true writes it again")
        return
    with temporary_folder(out) as folder:
        write_dataset(files, folder, name=dataset, limit=episodes, digests=digests)
        move_into_place(folder, out)
    for one in files.values():
        one.close()
    print(f"python -m data_tools.rlds import src={out} out=data")


def already_exported(out: Path, src: Path, digests: dict[str, str], *, overwrite: bool) -> bool:
    """Return True if the same demonstrations were exported before.

    Raises:
        InputError: other content is at `out`, or content that is never replaced.
    """
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return False
    if not (out / INFO).is_file():
        raise InputError(f"{out}: found something other than a tensorflow-datasets directory; choose another out=")
    if out.resolve() in (src.resolve(), *src.resolve().parents):
        raise InputError(f"{out}: contains src; choose another out=")
    if overwrite:
        return False
    if recorded_checksums(out) != digests:
        raise InputError(f"{out}: found other content; choose another out=, or add overwrite=true")
    return True


def first_episodes(contents: Contents, episodes: int | None) -> Contents:
    """Contents of a file truncated to its first `episodes` episodes; None: all."""
    count = slice(episodes)
    ends = {
        **dict.fromkeys(("state", "intrinsics", "extrinsics", "crc32"), contents.frames[count].sum()),
        **dict.fromkeys(("keyframe", "action"), contents.keyframes[count].sum()),
        "text": contents.sentences[count].sum(),
    }
    return Contents(**{name: getattr(contents, name)[: ends.get(name, episodes)] for name in Contents._fields})


def source_files(src: Path, split: str | None) -> dict[str, DemonstrationDataset]:
    """Find the files to export, keyed by the relative path at which an import writes each.

    Raises:
        InputError: there are none, one cannot be read, or two have the same relative path.
    """
    if not src.exists():
        raise InputError(f"src: found {src}, which does not exist; give a file or folder of demonstrations")
    paths = sorted(src.rglob("*.hdf5")) if src.is_dir() else [src]
    found: dict[str, DemonstrationDataset] = {}
    for path in paths:
        if path.parent.suffix == ".parts":  # of an unfinished collection
            continue
        one = DemonstrationDataset(path)
        if split not in (None, one.header.split):
            continue
        target = relative_path(path, src, one.header)
        if target in found:
            raise InputError(
                f"{path}: would be imported to the same {target} as {found[target].path}; export them separately"
            )
        found[target] = one
    if not found:
        of = f" of the split {split}" if split else ""
        raise InputError(f"src: found {src}, which contains no .hdf5 file{of}; give a file or folder of demonstrations")
    return found


def relative_path(path: Path, src: Path, header: Header) -> str:
    """Path of a file relative to data.dir if it has the standard layout; else its path relative to src."""
    task = TaskConfig(header.task, 1, 1)
    sim = SimConfig("", "", list(header.cameras), image_size=header.image_size)
    expected = demonstration_paths(task, sim, DataConfig(""))
    parts, folder = path.absolute().parts[-3:], expected["train"].parent.name
    end = folder.removeprefix(header.task)  # in between, variations may be listed
    if len(parts) == 3 and parts[1].startswith(header.task) and parts[1].endswith(end):
        return "/".join(parts)
    return path.relative_to(src).as_posix() if src.is_dir() else path.with_suffix(".hdf5").name


def dataset_name(tasks: list[str]) -> str:
    """Return the task's name if all files are of one task, else `demonstrations`.

    Raises:
        InputError: it is not a valid dataset name.
    """
    name = tasks[0] if len(set(tasks)) == 1 else "demonstrations"
    if not NAME.fullmatch(name):
        raise InputError(
            f"name: found {format_value(name)}, the task; a dataset name has a-z, 0-9 and _ only; set name=NAME"
        )
    return name


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


@contextmanager
def temporary_folder(out: Path) -> Iterator[Path]:
    """Context manager for an empty, locked folder next to `out`; removed at the end.

    Raises:
        InputError: another process writes there, or the folder cannot be written.
    """
    parent = out.absolute().with_name(out.absolute().name + ".tmp")
    remedy = "choose another out="
    try:
        with exclusive_lock(parent, activity="writes", busy_hint=remedy, write_hint=remedy):
            try:
                folder, old = parent / "data", parent / "old"
                if old.exists() and not out.exists():
                    old.replace(out)  # a process was killed right before the replacement
                shutil.rmtree(folder, ignore_errors=True)  # left over by a killed process
                folder.mkdir()
                yield folder
            finally:
                shutil.rmtree(parent, ignore_errors=True)
    except OSError as error:
        raise InputError(f"{out}: cannot be written ({error.strerror}); free space there or {remedy}") from None


def move_into_place(folder: Path, out: Path) -> None:
    """Move a written folder to `out` atomically, replacing earlier content."""
    for path in (*folder.rglob("*"), folder):
        sync(path)
    old = folder.with_name("old")  # removed with its parent folder
    if out.exists():
        out.replace(old)
    try:
        folder.replace(out)
    except BaseException:
        if old.exists():
            old.replace(out)
        raise
    sync(out.absolute().parent)
