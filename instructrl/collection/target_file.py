"""Target file of a collection: its path and expected content, and checks of an existing file."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from instructrl.collection.shards import EPISODES, Parts
from instructrl.config.environment import DataConfig, SimConfig, TaskConfig
from instructrl.config.fields import number_ranges
from instructrl.config.share import Share
from instructrl.data.demonstrations.reader import read
from instructrl.data.demonstrations.schema import Header
from instructrl.data.demonstrations.world import check_world
from instructrl.errors import InputError
from instructrl.sim import EpisodeStart, working_renderer
from instructrl.storage.paths import StoragePath, storage_path

FIRST_SEED = {"train": 0, "val": 1_000_000_000}  # those of evaluation start at 2_000_000_000
ATTEMPTS = 100  # number of seeds reserved for each episode


@dataclass(frozen=True)
class Split:
    """One file and its expected content."""

    path: StoragePath
    header: Header  # with empty provenance
    episodes: int
    fragile: bool = False  # the simulator may crash: save each episode at once, and replace lost ones
    compression: str = "none"  # of the file
    clip: bool = False  # keep episodes with keyframes outside the workspace
    own: range | None = None  # the share of a job: the episodes that it collects in parts, which others merge

    def is_missing(self) -> bool:
        """Return True if episodes must be collected, or their parts."""
        return num_present(self) < self.episodes if self.own is None else len(self.own) > 0

    def parts_from(self, present: int) -> Parts:
        """Parts in which the missing episodes are collected."""
        size = 1 if self.fragile else EPISODES
        return Parts(self.path, present=present, wanted=self.episodes, size=size, compression=self.compression)

    @property
    def first_seed(self) -> int:
        """Seed of the first attempt at the first episode."""
        return FIRST_SEED[self.header.split]

    def start(self, episode: int, attempt: int, variations: list[int]) -> EpisodeStart:
        """Variation and seed of an attempt at an episode."""
        return EpisodeStart(variations[episode % len(variations)], self.first_seed + episode * ATTEMPTS + attempt)


def demonstration_paths(task: TaskConfig, sim: SimConfig, data: DataConfig) -> dict[str, StoragePath]:
    """Paths of the splits train and val of one task: a pure function of the settings."""
    suffix = "" if task.variations is None else "-variations" + "+".join(format_ranges(sorted(task.variations)))
    suffix += sim.recording
    folder = storage_path(data.dir, data) / sim.kind / f"{task.name}{suffix}-{sim.image_size}px-{'+'.join(sim.cameras)}"
    return {split: folder / f"{split}.hdf5" for split in FIRST_SEED}


def other_image_sizes(task: TaskConfig, sim: SimConfig, data: DataConfig) -> list[int]:
    """Image sizes of the local demonstrations of a task that otherwise have these settings."""
    folder = demonstration_paths(task, sim, data)["train"].parent
    if not isinstance(folder, Path):  # object stores are not searched
        return []
    begin, end = folder.name.split(f"-{sim.image_size}px-")
    names = (path.parent.name for path in folder.parent.glob(f"{begin}-*px-{end}/train.hdf5"))
    sizes = (re.fullmatch("([0-9]+)px", name.removeprefix(f"{begin}-").removesuffix(f"-{end}")) for name in names)
    return sorted({int(size[1]) for size in sizes if size} - {sim.image_size})


def required_splits(task: TaskConfig, sim: SimConfig, data: DataConfig) -> list[Split]:
    """Return the splits train and val of one task."""
    counts, fragile = {"train": task.episodes, "val": task.val_episodes}, sim.fragile
    return [
        Split(
            path,
            Header(task.name, name, tuple(sim.cameras), sim.image_size, {}, sim.bounds, tuple(sim.state), sim.actions),
            counts[name],
            fragile=fragile,
            clip=data.outside_workspace == "clip",
            compression=data.compression,
        )
        for name, path in demonstration_paths(task, sim, data).items()
    ]


def with_shares(splits: Sequence[Split], share: Share) -> list[Split]:
    """Return the splits with a job's share of the episodes that their files do not have."""
    present = [min(num_present(split), split.episodes) for split in splits]
    ranges = share.ranges([split.episodes - count for split, count in zip(splits, present, strict=True)])
    return [
        replace(split, own=range(count + own.start, count + own.stop))
        for split, count, own in zip(splits, present, ranges, strict=True)
    ]


def format_ranges(numbers: list[int]) -> list[str]:
    """Abbreviate increasing numbers as ranges: [0, 1, 2, 5] becomes ["0..2", "5"]."""
    return [f"{first}..{last}" if first < last else str(first) for first, last in number_ranges(numbers)]


def num_present(split: Split) -> int:
    """Number of episodes in the split's file; 0 without a file.

    Raises:
        InputError: the file is damaged, of another world than the settings, or has another header.
    """
    if not split.path.exists():
        return 0
    found, contents = read(split.path)
    wanted = split.header
    check_world(split.path, found, workspace=wanted.workspace, state=wanted.state, actions=wanted.actions)
    if replace(found, provenance={}) != split.header:
        raise InputError(f"{split.path}: found {found}, expected {split.header}; move the file away")
    return len(contents.seed)


def recorded_header(split: Split) -> Header | None:
    """Header of the split's file; None if there is no file."""
    return read(split.path)[0] if split.path.exists() else None


def check_renderer(sim: SimConfig, split: Split) -> None:
    """Raise InputError if the settings name a renderer and the file was rendered by another one."""
    header = recorded_header(split)
    if header is not None and sim.renderer not in ("auto", header.provenance["renderer"]):
        raise InputError(
            f"{split.path}: rendered by {header.provenance['renderer']}, but sim.renderer={sim.renderer} is set; "
            "choose sim.renderer=auto or another data.dir"
        )


def check_same_renderer(splits: list[Split]) -> None:
    """Raise InputError if existing files of the splits were rendered by different renderers."""
    rendered = [(split.path, header.provenance["renderer"]) for split in splits if (header := recorded_header(split))]
    for path, renderer in rendered[1:]:
        if renderer != rendered[0][1]:
            raise InputError(
                f"{path}: rendered by {renderer}, but {rendered[0][0]} by {rendered[0][1]}; files that are trained "
                "on together need the same renderer: choose another data.dir, or move one of them away"
            )


def with_available_renderer(sim: SimConfig, splits: list[Split]) -> SimConfig:
    """Return the settings with the renderer of existing files, else of their parts, else an available one.

    Raises:
        InputError: the files were rendered by different renderers, or by one that does not work here or is not the
            one in the settings.
    """
    check_same_renderer(splits)
    for split in splits:
        check_renderer(sim, split)
        header = recorded_header(split)
        if header is not None:
            try:
                return replace(sim, renderer=working_renderer(sim, header.provenance["renderer"]))
            except InputError as error:
                raise InputError(f"{split.path}: cannot be extended here: {error}") from None
    for split in splits:
        header = split.parts_from(0).header()
        if header is not None and sim.renderer == "auto":
            try:
                return replace(sim, renderer=working_renderer(sim, header.provenance["renderer"]))
            except InputError:
                break  # such parts are collected again
    return replace(sim, renderer=working_renderer(sim, sim.renderer))


def select_variations(task: TaskConfig, available: int) -> list[int]:
    """Selected variations, in increasing order.

    Raises:
        InputError: the task has no such variation.
    """
    selected = sorted(task.variations) if task.variations is not None else list(range(available))
    if selected[-1] >= available:
        raise InputError(f"task.variations: found {selected[-1]}; allowed for {task.name}: 0 to {available - 1}")
    return selected


def check_provenance(split: Split, header: Header, splits: Sequence[Split]) -> None:
    """Raise InputError if the provenance of the split's file differs from that of new episodes.

    Args:
        split: whose file is checked.
        header: of new episodes.
        splits: those of the task, of which some lack episodes: they would be of another origin than this file.
    """
    found = recorded_header(split)
    if found is None or found == header:
        return
    differ = [
        f"{key} {found.provenance.get(key, 'unknown')!r} (here {header.provenance.get(key, 'unknown')!r})"
        for key in sorted({*found.provenance, *header.provenance})
        if found.provenance.get(key) != header.provenance.get(key)
    ]
    short = next((one for one in (split, *splits) if one.is_missing()), split)
    present, name = num_present(short), short.header.split
    lack = f"{short.path}: " * (short is not split) + f"found {present} {name} episodes, requested {short.episodes}"
    key = {"train": "task.episodes", "val": "task.val_episodes"}[name]
    remedy = (
        f"request at most {present} ({key}={present})"
        if present
        else f"make its {name} episodes with the tool that made this file"
    )
    raise InputError(
        f"{split.path}: was made with {', '.join(differ)}, so no episodes can be added here; {lack}; {remedy}, or "
        "choose another data.dir"
    )
