"""Restoring InstructRL's own files from an export, whatever its format."""

from collections.abc import Callable, Iterable
from contextlib import ExitStack
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from instructrl.data.demonstrations.reader import read
from instructrl.data.demonstrations.schema import SPLITS, Contents, Header, checksum
from instructrl.data.demonstrations.writer import Writer, concatenate, to_contents
from instructrl.errors import InputError
from instructrl.storage.file_lock import exclusive_lock
from instructrl.storage.json_file import parse_json
from instructrl.types import GRIPPER_STATE, KEYFRAME, Demonstration
from instructrl.workspace import RLBENCH_WORKSPACE, Workspace

HINT = "export it again"


def header_record(header: Header) -> dict[str, Any]:
    """A header as values of JSON, without RLBench's workspace and state and keyframes: they came before others."""
    record = header.__dict__ | {"workspace": header.workspace.numbers}
    usual = {"workspace": RLBENCH_WORKSPACE.numbers, "state": GRIPPER_STATE, "actions": KEYFRAME}
    return {key: value for key, value in record.items() if key not in usual or value != usual[key]}


def recorded_header(text: str) -> Header:
    """Invert `header_record`; raises any error of a dict or a list for anything else."""
    record = parse_json(text)
    lists: dict[str, Any] = {key: tuple(record[key]) for key in ("cameras", "state") if key in record}
    if "workspace" in record:
        lists["workspace"] = Workspace.from_numbers(record["workspace"], key="workspace")
    return Header(**record | lists)


class NativeEpisode(NamedTuple):
    """An episode of an export of InstructRL's own files."""

    where: str  # its name in errors
    target: str  # relative path of the file to which it belongs
    header: Header
    demonstration: Demonstration


def check_origin(where: str, target: str, text: str) -> tuple[str, Header]:
    """Check the relative path of an episode's original file, and read its header from JSON.

    Raises:
        InputError: the path leaves its folder, or the header is damaged.
    """
    path = PurePosixPath(target)
    if path.is_absolute() or ".." in path.parts or path.suffix != ".hdf5":
        raise InputError(f"{where}: file: found {target!r}, expected a path in a folder; {HINT}")
    try:
        header = recorded_header(text)
        words = [
            header.task,
            header.split,
            *header.cameras,
            *header.state,
            *header.provenance,
            *header.provenance.values(),
        ]
        valid = all(isinstance(word, str) for word in words) and type(header.image_size) is int
    except (ValueError, TypeError, KeyError, AttributeError, InputError):
        valid = False
    if not valid or header.split not in SPLITS:
        raise InputError(f"{where}: header: cannot be read; {HINT}")
    return target, header


def restore(
    folder: Path,
    episodes: Iterable[NativeEpisode],
    out: Path,
    *,
    recorded: dict[str, Any],
    overwrite: bool,
    compression: str,
    digest: Callable[[Header, Contents], str] = checksum,
) -> None:
    """Write the files from which an export was made; a single one as `out`, if that ends in .hdf5.

    Args:
        folder: the export, for errors.
        episodes: all that are restored.
        out: a folder, or a file.
        recorded: what `digest` was for each file, by relative path.
        overwrite: replace other files at `out`.
        compression: of the pixels.
        digest: of a file's contents; it must be equal to what was recorded.

    Raises:
        InputError: an episode is damaged or missing, or other files are in the way.
    """
    one_file, remedy = out.suffix == ".hdf5", "choose another out="
    with (
        exclusive_lock(out.parent if one_file else out, activity="writes", busy_hint=remedy, write_hint=remedy),
        ExitStack() as stack,
    ):
        writers: dict[str, Writer] = {}
        contents: dict[str, list[Contents]] = {}
        for where, target, header, found in episodes:
            if target not in writers:
                path = out if one_file else out / target
                if one_file and writers:
                    raise InputError(
                        f"out: found one file for {', '.join([*writers, target])}; name a folder, or set split="
                    )
                check_free(path, recorded.get(target), digest, overwrite=overwrite)
                writers[target] = stack.enter_context(Writer(path, header, compression=compression))
                contents[target] = []
            if writers[target].header != header:
                raise InputError(f"{where}: its header differs from those before it in {target}; {HINT}")
            writers[target].add(found)
            contents[target].append(to_contents(found))
        for target, writer in writers.items():
            if digest(writer.header, concatenate(contents[target])) != recorded.get(target):
                raise InputError(f"{folder}: {target}: not the episodes that were exported; {HINT}")
    for target, writer in writers.items():
        print(f"{writer.header.split}: {writer.path}: {writer.count} episodes, restored from {target}")


def check_free(path: Path, recorded: object, digest: Callable[[Header, Contents], str], *, overwrite: bool) -> None:
    """Raise InputError if a file with other content is at a path and may not be replaced."""
    if path.exists() and not overwrite and digest(*read(path)) != recorded:
        raise InputError(f"{path}: found another file; choose another out=, or add overwrite=true")
