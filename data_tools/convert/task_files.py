"""Files of one converted task: their episodes, each content once, and the command that trains on them."""

import re
import shlex
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import NamedTuple

from data_tools.convert.copies import Known, content_digest, copy_of, other_split_contents
from data_tools.convert.episode_builder import ERRORS, Make, skipped_for
from data_tools.convert.episode_workers import build_all
from data_tools.convert.existing_files import already_converted
from data_tools.convert.settings import ConvertConfig, workspace_of
from data_tools.convert.skip_report import ConversionReport, Converted, Skipped, SkipReason
from instructrl import __version__
from instructrl.cli.progress import ProgressBar
from instructrl.collection.target_file import ATTEMPTS, FIRST_SEED, demonstration_paths
from instructrl.config.environment import DataConfig, SimConfig, TaskConfig
from instructrl.config.simulators import RLBenchConfig
from instructrl.data.demonstrations.reader import read
from instructrl.data.demonstrations.schema import SPLITS, Header
from instructrl.data.demonstrations.world import state_override
from instructrl.data.demonstrations.writer import Writer, to_contents
from instructrl.errors import InputError
from instructrl.package_files import TRAIN
from instructrl.sim.vector.pool import Workers
from instructrl.storage.file_lock import exclusive_lock
from instructrl.storage.paths import StoragePath, storage_path
from instructrl.types import GRIPPER_STATE, Demonstration

Candidate = tuple[str, Callable[..., Demonstration | Converted]]  # name, and a function that builds it for a seed


@dataclass(frozen=True)
class TaskEpisodes:
    """Episodes of a task as they were found in a source."""

    candidates: list[Candidate]
    origin: dict[str, str]  # provenance
    copies: dict[str, str] = field(default_factory=dict)  # names of other episodes, which are copies, and of whose
    held_out: list[Candidate] = field(default_factory=list)  # episodes of other splits, whose copies are left out
    state: tuple[str, ...] = GRIPPER_STATE  # names of the state's numbers
    sim: SimConfig = field(default_factory=RLBenchConfig)  # whose robot they are of


class TaskWriter:
    """Writes episodes to the files of their splits, each content once, and counts them."""

    def __init__(
        self, writers: dict[str, Writer], known: dict[str, Known], workers: Workers | None, bar: ProgressBar
    ) -> None:
        """`known` are the contents that must not be in a split."""
        self._writers, self._known, self._workers, self._bar = writers, known, workers, bar
        self._written: Known = {}
        self.report = ConversionReport()

    def add(self, split: str, candidates: Sequence[tuple[str, Make]], *, limit: int | None = None) -> int:
        """Write the first `limit` usable episodes (None: all), and return how many were read for them."""
        added, read, limit = 0, 0, len(candidates) if limit is None else limit
        while added < limit and read < len(candidates):  # as many as are wanted, then more for those that are skipped
            for name, built in build_all(candidates[read : read + limit - added], self._workers):
                read += 1
                self._bar.update()
                done = built if isinstance(built, Skipped) else self._write(split, name, built)
                if isinstance(done, Skipped):
                    self.report.skip(name, done)
                else:
                    self.report.add(done)
                    added += 1
        return read

    def hold_out(self, candidates: Iterable[tuple[str, Make]]) -> int:
        """Leave the contents of these episodes out of all splits; return how many of them are readable."""
        number, writer = 0, next(iter(self._writers.values()))
        for name, built in build_all(candidates, self._workers):
            self._bar.update()
            if isinstance(built, Converted):
                digest = content_digest(writer.path, writer.header, to_contents(built.demonstration))
                self._written.setdefault(digest, name)
                number += 1
        return number

    def _write(self, split: str, name: str, built: Converted) -> Converted | Skipped:
        writer = self._writers[split]
        try:
            contents = writer.check(built.demonstration)
        except ERRORS as error:
            return skipped_for(error)
        positions, workspace = contents.action[:, :3], writer.header.workspace
        outside = ~workspace.contains(positions)
        if outside.any():
            found = ", ".join(f"{value:.4g}" for value in positions[outside.argmax()])
            allowed = f"{workspace}; workspace= sets another"
            return Skipped(SkipReason.WORKSPACE, f"{outside.sum()} of {len(outside)}, one at {found}, not in {allowed}")
        digest = content_digest(writer.path, writer.header, contents)
        other = self._known[split].get(digest) or self._written.get(digest)
        if other is not None:
            return copy_of(other)
        writer.append(built.demonstration, contents)
        self._written[digest] = name
        return built


class Written(NamedTuple):
    """Files of a task, written now or before: their simulator, and the header and the folder of one of them."""

    sim: SimConfig
    header: Header
    folder: StoragePath


def write(config: ConvertConfig, task: str, size: int, found: TaskEpisodes, workers: Workers | None = None) -> Written:
    """Write the files of one task, each atomically, unless they are there already.

    Raises:
        InputError: another file is at its path, or no episode can be used.
        RunError: a worker process ended twice.
    """
    files, headers = target_files(config, task, size, found)
    folder = next(iter(files.values())).parent
    done = Written(found.sim, headers[next(iter(files))], folder)
    with exclusive_lock(folder, activity="writes", busy_hint="choose another out=", write_hint="choose another out="):
        if not config.overwrite and already_converted(files, headers):
            return done
        known = {split: other_split_contents(path, headers[split], [*files.values()]) for split, path in files.items()}
        candidates = found.candidates[: config.episodes]
        with ExitStack() as stack:
            total = len(candidates) + len(found.held_out)
            bar = stack.enter_context(ProgressBar(description=task, total=total, unit="episodes"))
            writers = {
                split: stack.enter_context(Writer(path, headers[split], compression=config.compression))
                for split, path in files.items()
            }
            task_writer = TaskWriter(writers, known, workers, bar)
            report = task_writer.report
            for name, other in found.copies.items():
                report.skip(name, copy_of(other))
            compared = task_writer.hold_out(seeded(found.held_out, 0))
            write_splits(task_writer, list(files), candidates, val_episodes=config.val_episodes)
            if not all(writer.count for writer in writers.values()):
                given = config.val_episodes if len(writers) > 1 and writers["val"].count else None
                remedy = (
                    "add others" + ", or set split=train" * (len(writers) > 1)
                    if given is None
                    else f"set less than val_episodes={given}"
                )
                raise InputError(f"{task}: {report}; too few for {' and '.join(files)}: {remedy}")
    print(f"{task}: {report}; rendered by {config.renderer}, according to renderer=", flush=True)
    for note, count in sorted(report.notes.items()):
        print(f"{task}: in {count} episodes, {note}")
    if found.held_out:
        print(f"{task}: compared with {compared} of {len(found.held_out)} episodes of the splits beside the source")
    for split, path in files.items():
        print(f"{split}: {path}: {writers[split].count} episodes")
    return done


def target_files(
    config: ConvertConfig, task: str, size: int, found: TaskEpisodes
) -> tuple[dict[str, StoragePath], dict[str, Header]]:
    """Paths and headers of the files of a task, by split.

    Raises:
        InputError: validation episodes are asked for, but the episodes are not divided.
    """
    out = storage_path(config.out)
    sim = replace(found.sim, cameras=list(config.cameras), image_size=size, actions=config.actions)
    one_file = out.suffix == ".hdf5"
    splits = [config.split or "train"] if one_file or config.split else list(SPLITS)
    if config.val_episodes is not None and len(splits) == 1:
        raise InputError(
            f"val_episodes: found {config.val_episodes}, but all these episodes become {splits[0]}; leave it out, or "
            "leave split= out and name a folder, for one split that is divided"
        )
    default_paths = demonstration_paths(TaskConfig(task, 1, 1), sim, DataConfig(config.out))
    source = {"source": str(Path(config.src).resolve()), "version": "unknown", "renderer": config.renderer}
    provenance = {**found.origin, **source, "suite": __version__, **selection(config)}
    header = Header(
        task, "", tuple(config.cameras), size, provenance, workspace_of(config), found.state, config.actions
    )
    return (
        {split: out if one_file else default_paths[split] for split in splits},
        {split: replace(header, split=split) for split in splits},
    )


def selection(config: ConvertConfig) -> dict[str, str]:
    """Those settings that choose among the episodes of a source, as provenance: with others, other files are made."""
    limits = {"episodes": config.episodes, "val_episodes": config.val_episodes, "variations": config.variations}
    flags = {"crop": config.crop, "depth": config.depth}
    found = {name: str(value) for name, value in limits.items() if value is not None}
    return found | {name: "true" for name, given in flags.items() if given}


def seeded(candidates: Sequence[Candidate], first_seed: int) -> list[tuple[str, Make]]:
    """Give each episode its seed."""
    return [(name, partial(make, seed=first_seed + index * ATTEMPTS)) for index, (name, make) in enumerate(candidates)]


def write_splits(
    task_writer: TaskWriter, splits: Sequence[str], candidates: list[Candidate], *, val_episodes: int | None
) -> None:
    """Write the episodes of each split: the last usable ones to val, the others to train."""
    makes = {split: seeded(candidates, FIRST_SEED[split]) for split in splits}
    if len(splits) == 1:
        task_writer.add(splits[0], makes[splits[0]])
        return
    limit = val_episodes or max(1, len(candidates) // 10)
    read_for_val = task_writer.add("val", makes["val"][::-1], limit=limit)
    task_writer.add("train", makes["train"][: len(candidates) - read_for_val])


def print_training(out: str, written: Written) -> None:
    """Print the command, for a shell, that trains on the files of a task in a folder; none for a single file.

    The numbers of episodes are those of the files, whichever command wrote them: with others, the training would
    collect what is missing, of another robot. Without both files, it says what is missing.
    """
    usual, header, folder = written
    lacks_matrices = header.provenance.get("cameras") == "unknown"
    if lacks_matrices:
        print("without camera matrices, train with head=regression or head=discrete")
    if storage_path(out).suffix == ".hdf5":
        return
    counts: dict[str, int] = {}
    for split in SPLITS:
        path = folder / f"{split}.hdf5"
        if not path.exists():
            also = "with episodes that the other split does not have, or without split= for both"
            print(f"{path}: missing, and training needs it; run the command with split={split}, {also}")
            return
        found, contents = read(path)
        if replace(found, provenance={}) != replace(header, split=split, provenance={}):
            print(f"{path}: of another workspace, state or actions; write both splits with the same, to train on them")
            return
        counts[split] = len(contents.seed)
    limits = {"train": "task.episodes", "val": "task.val_episodes"}
    words = [
        *(f"task.name={hydra_value(header.task)}", f"sim={usual.name}", f"data.dir={hydra_value(out)}"),
        *(f"sim.image_size={header.image_size}", f"sim.cameras=[{','.join(header.cameras)}]"),
        *([f"sim.workspace={header.workspace}"] if header.workspace != usual.bounds else []),
        *([f"sim.state={state_override(header.state)}"] if header.state != tuple(usual.state) else []),
        *([f"sim.actions={header.actions}"] if header.actions != usual.actions else []),
        *(f"{limits[split]}={count}" for split, count in counts.items()),
        *(["head=regression"] if lacks_matrices else []),
    ]
    try:
        usual.check_task("task", header.task)
    except InputError as error:
        print(f"{error}; to train on these demonstrations, convert them with task=NAME")
    print(f"next: {shlex.join([*TRAIN, *words])}")


def hydra_value(text: str) -> str:
    """A text as Hydra's grammar reads it: quoted, unless it is plain."""
    if re.fullmatch(r"[\w./:+-]+( +[\w./:+-]+)*", text):
        return text
    # A backslash is one of its own unless a quote follows.
    escaped = re.sub(r'(\\*)"', lambda found: 2 * found[1] + r"\"", text)
    return '"' + re.sub(r"(\\+)$", lambda found: 2 * found[1], escaped) + '"'
