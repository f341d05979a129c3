"""Export and import of demonstrations as LeRobot data sets (format v3), without the package lerobot and PyTorch.

python -m data_tools.lerobot export src=data/tabletop out=lerobot/tabletop
python -m data_tools.lerobot import src=lerobot/tabletop out=data
python -m data_tools.lerobot import src=~/lerobot/mug out=data mapping=mug.yaml task=mug

export writes a file of demonstrations, or all files in a folder, as a data set that LeRobotDataset(NAME, root=OUT)
opens, with videos or, without loss, images=png. import of such a folder restores the same files, at the same paths
below data.dir; after videos, with the pixels that these kept. Any other data set needs a mapping file that assigns its
features to those of a demonstration; data_tools/exchange/mapping.py shows one. Only the first step and the keyframes
are then imported. Without split=, the source's own train and val are used, or the last tenth of a single split becomes
val. Episodes that cannot be used are named, counted and skipped.

Needs the packages av and pyarrow, see requirements-lerobot.txt.
"""

from dataclasses import dataclass
from functools import partial

from data_tools.exchange import settings
from data_tools.exchange.settings import OUT_HINT, ImportConfig, check_native, import_mapped, local_path, run_command
from instructrl.cli.help import tool_help
from instructrl.config.fields import number, one_of
from instructrl.errors import InputError
from instructrl.storage.writable import check_writable

HELP = "see python -m data_tools.lerobot --help"


@dataclass
class ExportConfig(settings.ExportConfig):
    """Settings of the command export."""

    images: str = one_of("av1", "h264", "png", default="av1", help="videos in a codec, or png: images without loss")
    crf: int | None = number(None, low=0, high=63, help="quality of videos, less is better; null: 30 av1, 23 h264")
    fps: int = number(10, low=1, high=1000, help="frames per second that the data set claims")


parse = partial(settings.parse, prog="python -m data_tools.lerobot")


def check_packages() -> None:
    """Raise InputError if a package that only this tool needs is missing."""
    try:
        import av  # noqa: F401
        import pyarrow  # noqa: F401
    except ImportError as error:
        text = f"{error.name}: not installed, but LeRobot data sets need it; python -m pip install av pyarrow"
        raise InputError(text) from None


def run_export(config: ExportConfig) -> None:
    """Run the command export."""
    print(f"exporting {config.src} to {config.out}", flush=True)
    check_packages()
    from data_tools.lerobot.exporter import Encoding, export
    from data_tools.lerobot.video import CODECS

    if config.crf is not None and (config.images not in CODECS or config.crf > CODECS[config.images].highest):
        allowed = ", ".join(f"0 to {codec.highest} with images={name}" for name, codec in CODECS.items())
        raise InputError(f"crf: found {config.crf} with images={config.images}; allowed: {allowed}")
    src, out = local_path("src", config.src), local_path("out", config.out)
    check_writable(out.absolute().parent, hint=OUT_HINT)  # in which it is renamed
    encoding = Encoding(config.images, config.crf, config.fps)
    export(src, out, encoding, split=config.split, episodes=config.episodes, overwrite=config.overwrite)


def run_import(config: ImportConfig) -> None:
    """Run the command import."""
    print(f"importing {config.src} to {config.out}", flush=True)
    check_packages()
    from data_tools.lerobot.importer import import_native
    from data_tools.lerobot.schema import read_record
    from data_tools.lerobot.source import Source

    source, out = Source(local_path("src", config.src)), local_path("out", config.out)
    check_writable(out.parent if out.suffix == ".hdf5" else out, hint=OUT_HINT)
    if config.mapping is not None:
        import_mapped(config, source, out)
        return
    record = read_record(source)
    check_native(config, source, native=record is not None, help_hint=HELP)
    if record is not None:
        import_native(
            source, record, out, split=config.split, overwrite=config.overwrite, compression=config.compression
        )


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
