"""Export and import of demonstrations as RLDS (tensorflow-datasets directories), without TensorFlow.

python -m data_tools.rlds export src=data/tabletop out=rlds/tabletop
python -m data_tools.rlds import src=rlds/tabletop out=data
python -m data_tools.rlds import src=~/tensorflow_datasets/bridge/1.0.0 out=data mapping=bridge.yaml task=bridge

export writes a file of demonstrations, or all files in a folder, as array_record files that
tfds.builder_from_directory(OUT).as_data_source() reads. import of such a directory restores the same files, at the same
paths below data.dir. Any other directory of RLDS episodes (array_record or TFRecord) needs a mapping file that assigns
its features to those of a demonstration; data_tools/rlds/mapping.py shows one. Only the first step and the keyframes
are then imported. Without split=, the source's own train and val are used, or the last tenth of a single split becomes
val. Episodes that cannot be used are named, counted and skipped.
"""

import re
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from data_tools.convert.settings import ConvertConfig
from instructrl.cli.args import parse_settings
from instructrl.cli.entry import tool_help
from instructrl.config.fields import format_value, number, number_list, one_of, setting
from instructrl.config.simulators import RLBENCH_RENDERERS
from instructrl.data.demonstrations.schema import SPLITS
from instructrl.errors import InputError, report_user_errors
from instructrl.storage.object_store import SCHEMES
from instructrl.storage.writable import check_writable
from instructrl.workspace import LARGEST

T = TypeVar("T", "ExportConfig", "ImportConfig")
OUT_HINT = "choose another out="
HELP = "see python -m data_tools.rlds --help"


@dataclass
class ExportConfig:
    """Settings of the command export."""

    src: str = setting(help="demonstrations to export: a file or a folder")
    out: str = setting(help="folder of the data set to write")
    split: str | None = setting(None, help="split to export, train or val; null: both")
    name: str | None = setting(
        None, help="name of the data set; null: the task, or demonstrations if there are several"
    )
    episodes: int | None = number(None, low=1, help="maximum number of episodes per file; null: all")
    overwrite: bool = setting(False, help="replace other content at out")


@dataclass
class ImportConfig:
    """Settings of the command import; those from `mapping` on are for third-party data."""

    src: str = setting(help="data set to import")
    out: str = setting(help="folder of the demonstrations to write")
    split: str | None = setting(None, help="split to write, train or val; null: both")
    overwrite: bool = setting(False, help="replace other files at out")
    mapping: str | None = setting(None, help="YAML file that maps third-party data; null: exported by InstructRL")
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
    renderer: str = one_of(*RLBENCH_RENDERERS, default=RLBENCH_RENDERERS[1], help="renderer for evaluations")
    compression: str = one_of("none", "lz4", "zstd", default="lz4", help="compression of images in the files written")


def parse(argv: list[str], schema: type[T]) -> T:
    """Parse a command line.

    Raises:
        InputError: a setting is unknown or its value is not allowed.
    """
    config = parse_settings(argv, schema, prog="python -m data_tools.rlds")
    if config.split not in (None, *SPLITS):
        raise InputError(f"split: found {format_value(config.split)}; allowed: {', '.join(SPLITS)}, or null")
    return config


def local_path(setting: str, path: str) -> Path:
    """Return a local path: a tensorflow-datasets folder has many files and is better copied as a whole.

    Raises:
        InputError: the path is in a bucket.
    """
    if path.startswith(SCHEMES):
        raise InputError(
            f"{setting}: found {path}, expected a local path; copy the folder with gcloud storage or aws s3"
        )
    return Path(path).expanduser()


def run_export(config: ExportConfig) -> None:
    """Run the command export."""
    print(f"exporting {config.src} to {config.out}", flush=True)
    from data_tools.rlds.exporter import NAME, export

    if config.name is not None and not re.fullmatch(NAME, config.name):
        raise InputError(
            f"name: found {format_value(config.name)}; allowed: a-z, 0-9 and _, beginning with a letter, or null"
        )
    src, out = local_path("src", config.src), local_path("out", config.out)
    check_writable(out.absolute().parent, hint=OUT_HINT)  # in which it is renamed
    export(
        src,
        out,
        split=config.split,
        name=config.name,
        episodes=config.episodes,
        overwrite=config.overwrite,
    )


def run_import(config: ImportConfig) -> None:
    """Run the command import."""
    print(f"importing {config.src} to {config.out}", flush=True)
    from data_tools.rlds import schema as rlds_schema
    from data_tools.rlds.importer import import_foreign, import_native
    from data_tools.rlds.mapping import read_mapping, selected_cameras
    from data_tools.rlds.source import Source

    source, out = Source(local_path("src", config.src)), local_path("out", config.out)
    check_writable(out.parent if out.suffix == ".hdf5" else out, hint=OUT_HINT)
    if config.mapping is None:
        if not rlds_schema.is_native(source):
            raise InputError(
                f"mapping: none given for {source.folder}, which was not exported by InstructRL; {HELP}; "
                f"it has {source.describe_keys()}"
            )
        mapping_keys = ("source_split", "task", "val_episodes", "episodes", "image_size", "workspace")
        given = [key for key in mapping_keys if getattr(config, key) is not None]
        if given:
            raise InputError(f"{given[0]}: allowed only with mapping=; an InstructRL export is restored unchanged")
        import_native(source, out, split=config.split, overwrite=config.overwrite, compression=config.compression)
        return
    mapping = read_mapping(Path(config.mapping).expanduser(), source)
    convert_config = ConvertConfig(
        kind="rlbench",
        src=str(source.folder),
        out=str(out),
        task=config.task,
        split=config.split,
        val_episodes=config.val_episodes,
        episodes=config.episodes,
        cameras=list(selected_cameras(mapping)),
        image_size=config.image_size,
        workspace=config.workspace,
        renderer=config.renderer,
        compression=config.compression,
        overwrite=config.overwrite,
    )
    import_foreign(source, mapping, convert_config, config.source_split)


def usage() -> str:
    """Help text of the command."""
    return tool_help(__doc__, {"export": ExportConfig, "import": ImportConfig})


def main() -> None:
    """Run the command."""
    with report_user_errors():
        argv = sys.argv[1:]
        if "--help" in argv or "-h" in argv:
            print(usage())
        elif argv[:1] == ["export"]:
            run_export(parse(argv[1:], ExportConfig))
        elif argv[:1] == ["import"]:
            run_import(parse(argv[1:], ImportConfig))
        else:
            raise InputError(
                f"command: found {format_value(argv[0]) if argv else 'none'}; allowed: export, import; {HELP}"
            )


if __name__ == "__main__":
    main()
