"""Files of demonstrations as a tensorflow-datasets directory, which is there whole or not at all."""

import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from data_tools.rlds_schema import FORMAT, VERSION, example, features
from data_tools.rlds_source import Source
from data_tools.split import demonstration_paths
from instructrl.config import DataConfig, SimConfig, TaskConfig
from instructrl.data.episodes import Episodes, check_alike
from instructrl.data.format import Contents, Header, checksum
from instructrl.data.lock import only_process
from instructrl.data.records import INFO, said
from instructrl.data.writer import sync_folder
from instructrl.errors import InputError
from instructrl.schema import shown

SHARD = 1 << 28  # bytes of pixels in one record file, about; as PNG they are fewer
DATASET_VERSION = "1.0.0"
NAME = re.compile(r"[a-z][a-z0-9_]*")


def export(src: Path, out: Path, *, split: str | None, name: str | None, episodes: int | None, overwrite: bool) -> None:
    """Write the demonstrations of a file, or of all files in a folder, as RLDS episodes; files of one split follow.

    `episodes` is how many at most are taken of each file, `name` what the dataset is called.

    Raises:
        InputError: a file cannot be used, the files do not fit together, or something else is at `out`.
    """
    files = source_files(src, split)
    check_alike(list(files.values()))
    for one in files.values():
        wrong = [camera for camera in one.cameras if not re.fullmatch(r"[\w-]+", camera)]
        if wrong:
            raise InputError(f"{one.path}: camera {shown(wrong[0])}: a key of RLDS has letters, digits, _ and - only")
    called = name or dataset_name([one.task for one in files.values()])
    digests = {place: checksum(one.header, beginning(one.contents, episodes)) for place, one in files.items()}
    if there_already(out, src, digests, overwrite=overwrite):
        print(f"{out}: is there already, with the same demonstrations; overwrite=true writes it again")
        return
    with new_folder(out) as folder:
        write(files, folder, name=called, limit=episodes, digests=digests)
        put(folder, out)
    for one in files.values():
        one.close()
    print(f"python -m data_tools.rlds import src={out} out=data")


def there_already(out: Path, src: Path, digests: dict[str, str], *, overwrite: bool) -> bool:
    """Whether the same was exported before.

    Raises:
        InputError: something else is there, or something that is never replaced.
    """
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return False
    if not (out / INFO).is_file():
        raise InputError(f"{out}: found something else than a tensorflow-datasets directory; choose another out=")
    if out.resolve() in (src.resolve(), *src.resolve().parents):
        raise InputError(f"{out}: has src in it; choose another out=")
    if overwrite:
        return False
    if recorded(out) != digests:
        raise InputError(f"{out}: found something else there; choose another out=, or add overwrite=true")
    return True


def beginning(contents: Contents, episodes: int | None) -> Contents:
    """What a file with the first so many episodes has; None: all."""
    count = slice(episodes)
    ends = {
        **dict.fromkeys(("state", "intrinsics", "extrinsics", "crc32"), contents.frames[count].sum()),
        **dict.fromkeys(("keyframe", "action"), contents.keyframes[count].sum()),
        "text": contents.sentences[count].sum(),
    }
    return Contents(**{name: getattr(contents, name)[: ends.get(name, episodes)] for name in Contents._fields})


def source_files(src: Path, split: str | None) -> dict[str, Episodes]:
    """The files to be exported, by the place in a data.dir at which an import puts each.

    Raises:
        InputError: there is none, one cannot be read, or two would have one place.
    """
    if not src.exists():
        raise InputError(f"src: found {src}, where there is no file or folder; name one with demonstrations")
    paths = sorted(src.rglob("*.hdf5")) if src.is_dir() else [src]
    found: dict[str, Episodes] = {}
    for path in paths:
        if path.parent.suffix == ".parts":  # of a collection that goes on
            continue
        one = Episodes(path)
        if split not in (None, one.header.split):
            continue
        place = place_of(path, src, one.header)
        if place in found:
            raise InputError(f"{path}: would be imported to the same {place} as {found[place].path}; export them apart")
        found[place] = one
    if not found:
        of = f" of the split {split}" if split else ""
        raise InputError(f"src: found {src}, with no .hdf5 file{of} in it; name a file of demonstrations, or a folder")
    return found


def place_of(path: Path, src: Path, header: Header) -> str:
    """A file's place in a data.dir, if it lies as one expects it there; else its path in src."""
    task = TaskConfig(header.task, 1, 1)
    expected = demonstration_paths(task, SimConfig("", "", list(header.cameras), header.image_size), DataConfig(""))
    parts, folder = path.absolute().parts[-3:], expected["train"].parent.name
    end = folder.removeprefix(header.task)  # between the two there may be variations
    if len(parts) == 3 and parts[1].startswith(header.task) and parts[1].endswith(end):
        return "/".join(parts)
    return path.relative_to(src).as_posix() if src.is_dir() else path.with_suffix(".hdf5").name


def dataset_name(tasks: list[str]) -> str:
    """The task's name, if all files are of one; else demonstrations.

    Raises:
        InputError: it is no name for a dataset.
    """
    name = tasks[0] if len(set(tasks)) == 1 else "demonstrations"
    if not NAME.fullmatch(name):
        raise InputError(f"name: found {shown(name)}, of the task; a dataset's has a-z, 0-9 and _ only; say name=NAME")
    return name


def write(files: dict[str, Episodes], folder: Path, *, name: str, limit: int | None, digests: dict[str, str]) -> None:
    """Write the whole directory.

    Raises:
        InputError: a file is damaged, or the disk is full.
    """
    import tensorflow_datasets as tfds
    from tensorflow_datasets.core.dataset_info import DatasetIdentity, DatasetInfo

    header = next(iter(files.values())).header
    about = tfds.core.MetadataDict({"format": FORMAT, "version": VERSION, "files": digests})
    identity = DatasetIdentity(name, tfds.core.Version(DATASET_VERSION), str(folder), module_name="")
    words = f"Demonstrations of {', '.join(sorted({one.task for one in files.values()}))}, exported by InstructRL."
    try:
        info = DatasetInfo(builder=identity, description=words, features=features(header), metadata=about)
        writer = tfds.core.SequentialWriter(info, shard_episodes(files), file_format="array_record")
        writer.initialize_splits(sorted({one.header.split for one in files.values()}))
        for place, one in files.items():
            count = min(len(one), limit or len(one))
            for number in range(count):
                episode = example(one.demonstration(number), one.header, place)
                writer.add_examples({one.header.split: [episode]})
            print(f"{one.header.split}: {one.path}: {count} episodes", flush=True)
        writer.close_all()
    except (OSError, RuntimeError, ValueError) as error:
        text = f"{folder}: cannot be written ({said(error)}); free space there or choose another out="
        raise InputError(text) from None
    written = Source(folder)
    for split in written.splits:
        written.records(split)  # counts them: record files do not say when the disk is full


def shard_episodes(files: dict[str, Episodes]) -> int:
    """How many episodes go into a record file."""
    each = [one.contents.frames.mean() * len(one.cameras) * one.image_size**2 * 3 for one in files.values()]
    return max(1, int(SHARD // max(each)))


def recorded(folder: Path) -> object:
    """The checksums that an export at this place recorded; None if there is none."""
    try:
        return Source(folder).metadata.get("files")
    except InputError:
        return None


@contextmanager
def new_folder(out: Path) -> Iterator[Path]:
    """An empty folder beside `out` to write into, for this process alone; gone at the end.

    Raises:
        InputError: another process writes there, or nobody can.
    """
    beside = out.absolute().with_name(out.absolute().name + ".tmp")
    again = "choose another out="
    try:
        with only_process(beside, does="writes", remedy=again, elsewhere=again):
            try:
                folder, old = beside / "data", beside / "old"
                if old.exists() and not out.exists():
                    old.replace(out)  # a process was killed right before it put the new one there
                shutil.rmtree(folder, ignore_errors=True)  # of a process that was killed
                folder.mkdir()
                yield folder
            finally:
                shutil.rmtree(beside, ignore_errors=True)
    except OSError as error:
        raise InputError(f"{out}: cannot be written ({error.strerror}); free space there or {again}") from None


def put(folder: Path, out: Path) -> None:
    """Let a written folder take its place, and what was there before go."""
    for path in folder.rglob("*"):
        with path.open("rb") as file:
            os.fsync(file.fileno())
    sync_folder(folder)
    old = folder.with_name("old")  # removed with the folder that holds it
    if out.exists():
        out.replace(old)
    try:
        folder.replace(out)
    except BaseException:
        if old.exists():
            old.replace(out)
        raise
    sync_folder(out.absolute().parent)
