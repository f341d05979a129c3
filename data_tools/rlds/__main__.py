"""Export and import of demonstrations as RLDS (tensorflow-datasets directories), without TensorFlow.

python -m data_tools.rlds export src=data/tabletop out=rlds/tabletop
python -m data_tools.rlds import src=rlds/tabletop out=data
python -m data_tools.rlds import src=~/tensorflow_datasets/bridge/1.0.0 out=data mapping=bridge.yaml task=bridge

export writes a file of demonstrations, or all files in a folder, as array_record files that
tfds.builder_from_directory(OUT).as_data_source() reads. import of such a directory restores the same files, at the same
paths below data.dir. Any other directory of RLDS episodes (array_record or TFRecord) needs a mapping file that assigns
its features to those of a demonstration; data_tools/exchange/mapping.py shows one. Only the first step and the
keyframes are then imported. Without split=, the source's own train and val are used, or the last tenth of a single
split becomes val. Episodes that cannot be used are named, counted and skipped.
"""

import re
from dataclasses import dataclass
from functools import partial

from data_tools.exchange import settings
from data_tools.exchange.settings import OUT_HINT, ImportConfig, check_native, import_mapped, local_path, run_command
from instructrl.cli.help import tool_help
from instructrl.config.fields import format_value, setting
from instructrl.errors import InputError
from instructrl.storage.writable import check_writable

HELP = "see python -m data_tools.rlds --help"


@dataclass
class ExportConfig(settings.ExportConfig):
    """Settings of the command export."""

    name: str | None = setting(
        None, help="name of the data set; null: the task, or demonstrations if there are several"
    )


parse = partial(settings.parse, prog="python -m data_tools.rlds")


def run_export(config: ExportConfig) -> None:
    """Run the command export."""
    print(f"exporting {config.src} to {config.out}", flush=True)
    from data_tools.exchange.exported import NAME
    from data_tools.rlds.exporter import export

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
    from data_tools.rlds.importer import import_native
    from data_tools.rlds.schema import is_native
    from data_tools.rlds.source import Source

    source, out = Source(local_path("src", config.src)), local_path("out", config.out)
    check_writable(out.parent if out.suffix == ".hdf5" else out, hint=OUT_HINT)
    if config.mapping is not None:
        import_mapped(config, source, out)
        return
    check_native(config, source, native=is_native(source), help_hint=HELP)
    import_native(source, out, split=config.split, overwrite=config.overwrite, compression=config.compression)


def usage() -> str:
    """Help text of the command."""
    return tool_help(__doc__, {"export": ExportConfig, "import": ImportConfig})


def main() -> None:
    """Run the command."""
    commands = {
        "export": lambda words: run_export(parse(words, ExportConfig)),
        "import": lambda words: run_import(parse(words, ImportConfig)),
    }
    run_command(commands, usage=usage, help_hint=HELP)


if __name__ == "__main__":
    main()
