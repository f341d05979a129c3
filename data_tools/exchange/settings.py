"""Settings of the commands export and import, and what they do in every format."""

import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

from data_tools.convert.settings import ConvertConfig
from data_tools.exchange.episodes import Source
from instructrl.cli.args import parse_settings
from instructrl.config.environment import SIMULATORS, SimConfig
from instructrl.config.fields import format_value, number, number_list, one_of, setting
from instructrl.config.resolve import check_name
from instructrl.data.demonstrations.schema import SPLITS
from instructrl.errors import InputError, report_user_errors
from instructrl.storage.object_store import SCHEMES
from instructrl.workspace import LARGEST

OUT_HINT = "choose another out="
PRESETS = {path.stem: path for path in sorted((Path(__file__).parent / "presets").glob("*.yaml"))}


@dataclass
class ExportConfig:
    """Settings of the command export."""

    src: str = setting(help="demonstrations to export: a file or a folder")
    out: str = setting(help="folder of the data set to write")
    split: str | None = setting(None, help="split to export, train or val; null: both")
    episodes: int | None = number(None, low=1, help="maximum number of episodes per file; null: all")
    overwrite: bool = setting(False, help="replace other content at out")


@dataclass
class ImportConfig:
    """Settings of the command import; those from `mapping` on are for third-party data."""

    src: str = setting(help="data set to import")
    out: str = setting(help="folder of the demonstrations to write")
    split: str | None = setting(None, help="split to write, train or val; null: both")
    overwrite: bool = setting(False, help="replace other files at out")
    mapping: str | None = setting(
        None, help=f"YAML file that maps third-party data, or {', '.join(PRESETS)}; null: exported by InstructRL"
    )
    source_split: str | None = setting(None, help="split to read; null: train and val, or the only one")
    task: str | None = setting(None, help="task; null: the name of the data set")
    val_episodes: int | None = number(None, low=1, help="validation episodes if a split is divided; null: a tenth")
    episodes: int | None = number(None, low=1, help="maximum number of episodes per split; null: all")
    image_size: int | None = number(
        None, low=16, high=1024, help="side in pixels to which images are resized; null: that of the first image"
    )
    workspace: list[float] | None = number_list(
        low=-LARGEST,
        high=LARGEST,
        help="bounds of positions in metres: x y z of the lowest corner, then of the highest; null: those of the data",
    )
    sim: str | None = setting(
        None, help="simulator of the robot, which plays evaluations; null: none, with RLBench's names of cameras"
    )
    renderer: str | None = setting(None, help="renderer for evaluations; null: the simulator's usual one")
    compression: str = one_of("none", "lz4", "zstd", default="lz4", help="compression of images in the files written")


T = TypeVar("T", bound=ExportConfig | ImportConfig)


def parse(argv: list[str], schema: type[T], *, prog: str) -> T:
    """Parse a command line.

    Raises:
        InputError: a setting is unknown or its value is not allowed.
    """
    config = parse_settings(argv, schema, prog=prog)
    if config.split not in (None, *SPLITS):
        raise InputError(f"split: found {format_value(config.split)}; allowed: {', '.join(SPLITS)}, or null")
    return config


def run_command(
    commands: Mapping[str, Callable[[list[str]], None]], *, usage: Callable[[], str], help_hint: str
) -> None:
    """Run the command that the first word of the command line names, with the other words; or print the help."""
    with report_user_errors():
        argv = sys.argv[1:]
        if "--help" in argv or "-h" in argv:
            print(usage())
        elif argv and argv[0] in commands:
            commands[argv[0]](argv[1:])
        else:
            found = format_value(argv[0]) if argv else "none"
            raise InputError(f"command: found {found}; allowed: {', '.join(commands)}; {help_hint}")


def local_path(setting: str, path: str) -> Path:
    """Return a local path: a data set has many files and is better copied as a whole.

    Raises:
        InputError: the path is in a bucket.
    """
    if path.startswith(SCHEMES):
        raise InputError(
            f"{setting}: found {path}, expected a local path; copy the folder with gcloud storage or aws s3"
        )
    return Path(path).expanduser()


def check_native(config: ImportConfig, source: Source, *, native: bool, help_hint: str) -> None:
    """Raise InputError if an import without a mapping is not of an export, or has settings of other data."""
    if not native:
        raise InputError(
            f"mapping: none given for {source.folder}, which was not exported by InstructRL; {help_hint}; "
            f"it has {source.describe_keys()}"
        )
    mapping_keys = ("source_split", "task", "val_episodes", "episodes", "image_size", "workspace", "sim", "renderer")
    given = [key for key in mapping_keys if getattr(config, key) is not None]
    if given:
        raise InputError(f"{given[0]}: allowed only with mapping=; an InstructRL export is restored unchanged")


def mapping_path(text: str) -> Path:
    """Path of a mapping file, or of a preset by its name.

    Raises:
        InputError: there is no preset of that name.
    """
    if text in PRESETS or "." in text or "/" in text:
        return PRESETS.get(text, Path(text).expanduser())
    raise InputError(f"mapping: found {format_value(text)}; allowed: a YAML file, or {', '.join(PRESETS)}")


def import_mapped(config: ImportConfig, source: Source, out: Path) -> None:
    """Import third-party episodes through the mapping file of the settings.

    Raises:
        InputError: the mapping or the source cannot be used, or other files are in the way.
    """
    from data_tools.exchange.importer import import_foreign
    from data_tools.exchange.mapping import read_mapping, selected_cameras

    sim = simulator(config)
    task = task_name(config, source, sim)
    mapping = read_mapping(mapping_path(config.mapping or ""), source, sim)
    convert_config = ConvertConfig(
        kind="rlbench",
        src=str(source.folder),
        out=str(out),
        task=task,
        split=config.split,
        val_episodes=config.val_episodes,
        episodes=config.episodes,
        cameras=list(selected_cameras(mapping)),
        image_size=config.image_size,
        workspace=config.workspace or (sim.workspace if config.sim is not None else None),
        renderer=sim.renderer,
        compression=config.compression,
        overwrite=config.overwrite,
    )
    import_foreign(source, mapping, convert_config, config.source_split, sim)


def task_name(config: ImportConfig, source: Source, sim: SimConfig) -> str:
    """The task of the episodes, which a training with this simulator accepts; without one, as one of any simulator.

    Raises:
        InputError: none accepts it.
    """
    task = source.name if config.task is None else config.task
    try:
        if config.sim is None:
            SimConfig.check_task(sim, "task", task)
        else:
            sim.check_task("task", task)
        check_name(task, key="task")
    except InputError as error:
        if config.task is not None:
            raise
        allowed = str(error).partition("; allowed: ")[2]
        found = f"{format_value(task)}, the name of the data set in {source.folder}"
        raise InputError(f"task: found {found}; allowed: {allowed}; set task=NAME") from None
    return task


def simulator(config: ImportConfig) -> SimConfig:
    """The usual settings of the simulator whose robot the episodes are of, or RLBench's; with the renderer.

    Raises:
        InputError: there is no such simulator or renderer.
    """
    if config.sim is not None and config.sim not in SIMULATORS:
        raise InputError(f"sim: found {format_value(config.sim)}; allowed: {', '.join(SIMULATORS)}, or null")
    kind = config.sim or "rlbench"
    sim = SIMULATORS[kind](name=kind, kind=kind)  # type: ignore[call-arg]  # the others have defaults
    renderers = [name for name in sim.choices("renderer") if name != "auto"]
    if config.renderer is not None and renderers and config.renderer not in renderers:
        found = format_value(config.renderer)
        raise InputError(f"renderer: found {found}; allowed with sim={kind}: {', '.join(renderers)}, or null")
    usual = sim.usual_renderer or (renderers or [sim.renderer])[0]
    return replace(sim, renderer=config.renderer or usual)
