"""One file of demonstrations to be collected: where it lies, what it should hold, and whether what is there fits."""

from dataclasses import dataclass, replace

from data_tools.parts import EPISODES, Parts
from instructrl.config import DataConfig, SimConfig, TaskConfig
from instructrl.data.format import Header
from instructrl.data.reader import read
from instructrl.data.storage import Place, place
from instructrl.errors import InputError
from instructrl.schema import runs
from instructrl.sim import Start, available_renderer
from instructrl.sim.graphics import rlbench_renderer

FIRST_SEED = {"train": 0, "val": 1_000_000_000}  # evaluation's begin at 2_000_000_000
ATTEMPTS = 100  # seeds that each episode has for itself


@dataclass(frozen=True)
class Split:
    """One file and what it should hold."""

    path: Place
    header: Header  # with the provenance still empty
    episodes: int
    fragile: bool = False  # the simulator may die of itself: each episode is kept at once, and a lost one replaced
    compression: str = "none"  # of what is written

    def parts_from(self, present: int) -> Parts:
        """The pieces in which the rest is made."""
        size = 1 if self.fragile else EPISODES
        return Parts(self.path, present=present, wanted=self.episodes, size=size, compression=self.compression)

    @property
    def first_seed(self) -> int:
        """The seed of the first attempt at the first episode."""
        return FIRST_SEED[self.header.split]

    def start(self, episode: int, attempt: int, variations: list[int]) -> Start:
        """How an attempt at an episode begins."""
        return Start(variations[episode % len(variations)], self.first_seed + episode * ATTEMPTS + attempt)


def demonstration_paths(task: TaskConfig, sim: SimConfig, data: DataConfig) -> dict[str, Place]:
    """The files of the splits train and val of one task: a pure function of the settings."""
    some = "" if task.variations is None else "-variations" + "+".join(spans(sorted(task.variations)))
    folder = place(data.dir, data) / sim.kind / f"{task.name}{some}-{sim.image_size}px-{'+'.join(sim.cameras)}"
    return {split: folder / f"{split}.hdf5" for split in FIRST_SEED}


def wanted_splits(task: TaskConfig, sim: SimConfig, data: DataConfig) -> list[Split]:
    """The splits train and val of one task."""
    wanted, fragile = {"train": task.episodes, "val": task.val_episodes}, sim.kind == "rlbench"
    return [
        Split(
            path,
            Header(task.name, name, tuple(sim.cameras), sim.image_size, {}),
            wanted[name],
            fragile=fragile,
            compression=data.compression,
        )
        for name, path in demonstration_paths(task, sim, data).items()
    ]


def spans(numbers: list[int]) -> list[str]:
    """Increasing numbers in short: [0, 1, 2, 5] becomes ["0..2", "5"]."""
    return [f"{first}..{last}" if first < last else str(first) for first, last in runs(numbers)]


def present(split: Split) -> int:
    """How many episodes the split's file holds; 0 without a file.

    Raises:
        InputError: the file is damaged or is about something else.
    """
    if not split.path.exists():
        return 0
    found, contents = read(split.path)
    if replace(found, provenance={}) != split.header:
        raise InputError(f"{split.path}: found {found}, expected {split.header}; move the file away")
    return len(contents.seed)


def recorded(split: Split) -> Header | None:
    """How the split's file was made, if there is one."""
    return read(split.path)[0] if split.path.exists() else None


def check_renderer(sim: SimConfig, split: Split) -> None:
    """Raise InputError if a renderer is asked for by name and the file has pictures by another one."""
    header = recorded(split)
    if header is not None and sim.renderer not in ("auto", header.provenance["renderer"]):
        raise InputError(
            f"{split.path}: drawn by {header.provenance['renderer']}, sim.renderer={sim.renderer} was asked for; "
            "choose sim.renderer=auto or another data.dir"
        )


def check_same_renderer(splits: list[Split]) -> None:
    """Raise InputError if the splits' files, as far as they are there, have pictures by different renderers."""
    drawn = [(split.path, header.provenance["renderer"]) for split in splits if (header := recorded(split))]
    for path, renderer in drawn[1:]:
        if renderer != drawn[0][1]:
            raise InputError(
                f"{path}: drawn by {renderer}, but {drawn[0][0]} by {drawn[0][1]}; what is learnt together "
                "must be drawn by one: choose another data.dir, or move one of them away"
            )


def agreed(sim: SimConfig, splits: list[Split]) -> SimConfig:
    """The settings with the renderer to collect with: the one of the files that are there, else of their parts.

    Raises:
        InputError: the files were drawn by different renderers, or by one that does not work here or was not
            asked for.
    """
    check_same_renderer(splits)
    for split in splits:
        check_renderer(sim, split)
        header = recorded(split)
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
                break  # such parts are made again
    return replace(sim, renderer=working_renderer(sim, sim.renderer))


def working_renderer(sim: SimConfig, wanted: str) -> str:
    """The renderer of this simulator to use here."""
    return rlbench_renderer(wanted) if sim.kind == "rlbench" else available_renderer(wanted)


def chosen_variations(task: TaskConfig, available: int) -> list[int]:
    """The variations to show, in increasing order.

    Raises:
        InputError: the task has no such variation.
    """
    chosen = sorted(task.variations) if task.variations is not None else list(range(available))
    if chosen[-1] >= available:
        raise InputError(f"task.variations: found {chosen[-1]}; allowed for {task.name}: 0 to {available - 1}")
    return chosen


def check_provenance(split: Split, header: Header) -> None:
    """Raise InputError if the split's file was not made as we would extend it here."""
    found = recorded(split)
    if found is not None and found != header:
        differ = [
            f"{key} {found.provenance.get(key, 'unknown')!r} (here {header.provenance.get(key, 'unknown')!r})"
            for key in sorted({*found.provenance, *header.provenance})
            if found.provenance.get(key) != header.provenance.get(key)
        ]
        raise InputError(
            f"{split.path}: was made with {', '.join(differ)}, so no episodes can be added here; "
            "ask for at most those it holds, or choose another data.dir"
        )
