"""Files that an export of any format reads, and the folder that it writes atomically."""

import re
import shlex
import shutil
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from instructrl.collection.target_file import demonstration_paths
from instructrl.config.environment import DataConfig, SimConfig, TaskConfig
from instructrl.config.fields import format_value
from instructrl.data.demonstrations.dataset import DemonstrationDataset, check_alike
from instructrl.data.demonstrations.schema import Contents, Header
from instructrl.errors import InputError
from instructrl.storage.atomic import sync
from instructrl.storage.file_lock import exclusive_lock

NAME = re.compile(r"[a-z][a-z0-9_]*")


def source_files(src: Path, split: str | None) -> dict[str, DemonstrationDataset]:
    """Find the files to export, keyed by the relative path at which an import writes each.

    Raises:
        InputError: there are none, one cannot be read, two have the same relative path, or they are incompatible.
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
    check_alike(list(found.values()))
    return found


def check_camera_names(files: Iterable[DemonstrationDataset], *, what: str) -> None:
    """Raise InputError for a camera whose name an export cannot use; `what`: of the format, such names are part of."""
    for one in files:
        wrong = [camera for camera in one.cameras if not re.fullmatch(r"[\w-]+", camera)]
        if wrong:
            text = f"camera {format_value(wrong[0])}: {what} consist of letters, digits, _ and -"
            raise InputError(f"{one.path}: {text}")


def first_episodes(contents: Contents, episodes: int | None) -> Contents:
    """Contents of a file truncated to its first `episodes` episodes; None: all."""
    count = slice(episodes)
    ends = {
        **dict.fromkeys(("state", "intrinsics", "extrinsics", "crc32"), contents.frames[count].sum()),
        **dict.fromkeys(("keyframe", "action"), contents.keyframes[count].sum()),
        "text": contents.sentences[count].sum(),
    }
    return Contents(**{name: getattr(contents, name)[: ends.get(name, episodes)] for name in Contents._fields})


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


def already_exported(
    out: Path, src: Path, *, kind: str, metadata: str | Path, same: Callable[[], bool], overwrite: bool
) -> bool:
    """Return True, and print it, if the same demonstrations were exported before.

    Args:
        out: the folder to write.
        src: the demonstrations to export.
        kind: of what an export is, in errors.
        metadata: a file that every folder of this kind has.
        same: whether the export that is there is of the same demonstrations.
        overwrite: replace other content.

    Raises:
        InputError: other content is at `out`, or content that is never replaced.
    """
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return False
    if not (out / metadata).is_file():
        raise InputError(f"{out}: found something other than a {kind}; choose another out=")
    if out.resolve() in (src.resolve(), *src.resolve().parents):
        raise InputError(f"{out}: contains src; choose another out=")
    if overwrite:
        return False
    if not same():
        raise InputError(f"{out}: found other content; choose another out=, or add overwrite=true")
    print(f"{out}: exists already, with the same demonstrations; overwrite=true writes it again")
    return True


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


def next_step(tool: str, out: Path) -> str:
    """The line with the command by which the same tool reads an exported folder."""
    return f"next: {shlex.join(['python', '-m', tool, 'import', f'src={out}', 'out=data'])}"
