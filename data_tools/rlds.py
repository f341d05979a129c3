"""Demonstrations to and from RLDS, as tensorflow-datasets directories. TensorFlow is not needed.

python -m data_tools.rlds export src=data/tabletop out=rlds/tabletop
python -m data_tools.rlds import src=rlds/tabletop out=data
python -m data_tools.rlds import src=~/tensorflow_datasets/bridge/1.0.0 out=data mapping=bridge.yaml task=bridge

export writes one of our files, or all that are in a folder, as array_record files that
tfds.builder_from_directory(OUT).as_data_source() reads. import of such a directory gives the same files again, each
where it lay below data.dir. Any other directory of RLDS episodes (array_record or TFRecord) needs a mapping file, which
says what in an episode is what; data_tools/rlds_mapping.py shows one. Kept are then the first step and the keyframes.
Without split=, the source's own train and val are taken, or of a single split the last tenth becomes val. Episodes that
cannot be used are named, counted and left out.
"""

import re
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from omegaconf import MISSING

from data_tools.convert import ConvertConfig
from data_tools.parser import settings
from instructrl.command import table
from instructrl.config import RLBENCH_RENDERERS
from instructrl.data.buckets import SCHEMES
from instructrl.data.format import SPLITS
from instructrl.errors import InputError, one_line_errors
from instructrl.schema import allowed, leaves, number, one_of, shown

T = TypeVar("T", "ExportConfig", "ImportConfig")
HELP = "see python -m data_tools.rlds --help"


@dataclass
class ExportConfig:
    """The command export."""

    src: str = MISSING
    out: str = MISSING
    split: str | None = None  # train or val; null: both
    name: str | None = None  # of the dataset; null: the task, or demonstrations where there are several
    episodes: int | None = number(None, low=1)  # at most, of a file; null: all
    overwrite: bool = False  # whether something else at `out` may be replaced


@dataclass
class ImportConfig:
    """The command import; those from `mapping` on are for foreign data."""

    src: str = MISSING
    out: str = MISSING
    split: str | None = None  # train or val; null: both
    overwrite: bool = False
    mapping: str | None = None  # null: the data is an export of ours
    source_split: str | None = None  # the one to be read; null: those called train and val, or the only one
    task: str | None = None  # null: as the dataset is called
    val_episodes: int | None = number(None, low=1)  # where a split is divided; null: a tenth
    episodes: int | None = number(None, low=1)  # at most, of a split; null: all
    image_size: int | None = number(None, low=16, high=1024)  # null: as the first picture comes
    renderer: str = one_of(*RLBENCH_RENDERERS, default=RLBENCH_RENDERERS[1])  # with which evaluation draws


def parse(given: list[str], schema: type[T]) -> T:
    """What a command line asks for.

    Raises:
        InputError: it asks for nothing that there is.
    """
    asked = settings(given, schema, prog="python -m data_tools.rlds")
    if asked.split not in (None, *SPLITS):
        raise InputError(f"split: found {shown(asked.split)}; allowed: {', '.join(SPLITS)}, or null")
    return asked


def local(setting: str, given: str) -> Path:
    """A path on the disk: tensorflow-datasets has a folder of many files, which are sent or fetched as one better.

    Raises:
        InputError: it is in a bucket.
    """
    if given.startswith(SCHEMES):
        raise InputError(
            f"{setting}: found {given}, expected a path on the disk; copy the folder with gcloud storage or aws s3"
        )
    return Path(given).expanduser()


def run_export(asked: ExportConfig) -> None:
    """Do what the command export asks."""
    from data_tools.rlds_export import NAME, export

    if asked.name is not None and not re.fullmatch(NAME, asked.name):
        raise InputError(f"name: found {shown(asked.name)}; allowed: a-z, 0-9 and _, beginning with a letter, or null")
    export(
        local("src", asked.src),
        local("out", asked.out),
        split=asked.split,
        name=asked.name,
        episodes=asked.episodes,
        overwrite=asked.overwrite,
    )


def run_import(asked: ImportConfig) -> None:
    """Do what the command import asks."""
    from data_tools import rlds_schema
    from data_tools.rlds_import import import_foreign, import_ours
    from data_tools.rlds_mapping import chosen, read_mapping
    from data_tools.rlds_source import Source

    source, out = Source(local("src", asked.src)), local("out", asked.out)
    if asked.mapping is None:
        if not rlds_schema.is_ours(source):
            raise InputError(f"mapping: none given for {source.folder}, which is no export of ours; {HELP}; it has "
                             f"{source.described()}")  # fmt: skip
        only = ("source_split", "task", "val_episodes", "episodes", "image_size")
        given = [key for key in only if getattr(asked, key) is not None]
        if given:
            raise InputError(f"{given[0]}: allowed only with mapping=; an export of ours comes back as it was")
        import_ours(source, out, split=asked.split, overwrite=asked.overwrite)
        return
    mapping = read_mapping(Path(asked.mapping).expanduser(), source)
    rest = ConvertConfig(
        kind="rlbench",
        src=str(source.folder),
        out=str(out),
        task=asked.task,
        split=asked.split,
        val_episodes=asked.val_episodes,
        episodes=asked.episodes,
        cameras=list(chosen(mapping)),
        image_size=asked.image_size,
        renderer=asked.renderer,
        overwrite=asked.overwrite,
    )
    import_foreign(source, mapping, rest, asked.source_split)


def usage() -> str:
    """The help."""
    lines = [(__doc__ or "").strip()]
    for name, schema in (("export", ExportConfig), ("import", ImportConfig)):
        rows = table({key: allowed(entry) for key, entry in leaves(schema).items()})
        lines += ["", f"{name} key=value (what is allowed)", *rows]
    return "\n".join(lines)


def main() -> None:
    """Run the command."""
    with one_line_errors():
        given = sys.argv[1:]
        if "--help" in given or "-h" in given:
            print(usage())
        elif given[:1] == ["export"]:
            run_export(parse(given[1:], ExportConfig))
        elif given[:1] == ["import"]:
            run_import(parse(given[1:], ImportConfig))
        else:
            raise InputError(f"command: found {shown(given[0]) if given else 'none'}; allowed: export, import; {HELP}")


if __name__ == "__main__":
    main()
