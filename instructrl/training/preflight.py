"""Preflight checks of a run's inputs other than demonstrations. Needs no jax."""

import shlex
from pathlib import Path

from instructrl.cli.overrides import options
from instructrl.config.model import EncoderConfig
from instructrl.config.training import TrainConfig
from instructrl.data.text.tokenizer import make_tokenizer
from instructrl.errors import InputError, warn
from instructrl.models.encoders.architecture import check_architecture, check_sizes, unrecorded
from instructrl.models.weight_files import (
    check_tokenizer,
    read_architecture,
    read_shapes,
    read_tokenizer,
    weights_path,
)
from instructrl.training.memory_limit import check_memory_limit
from instructrl.training.monitoring.trackers import check_trackers

M3AE_PAGE = "https://github.com/young-geng/m3ae_public"  # it links a folder; the files have no fixed address
M3AE_SIZES = {"s": "small", "b": "base", "l": "large", "h": "huge"}  # of our names, and of its files


def check_inputs(config: TrainConfig) -> None:
    """Check the encoder's weights and its tokenizer, that jax can start, and that trackers are installed.

    Raises:
        InputError: one of them is missing or unusable; the message says how to get it. Or memory is limited too much,
            or the encoder reads no images.
    """
    check_memory_limit()
    check_trackers(config)
    if not config.encoder.reads_images:
        name = config.encoder.name
        raise InputError(
            f"encoder: found {name}, which reads no images; allowed: an encoder of images, which it reads the "
            f"instruction beside with encoder.text={name}"
        )
    reader = config.encoder.reader
    parts = config.encoder.parts or {"image": config.encoder}
    for name, encoder in parts.items():
        weights = usable_weights(encoder, config)
        if weights is not None:
            check_weights(weights, encoder)
            rendered = config.sim.image_size if name == "image" else None
            for note in notes_on_weights(weights, encoder, rendered_size=rendered):
                warn(note)
    tokenizer, weights = make_tokenizer(config.encoder), usable_weights(reader, config)
    if weights is not None and reader.text:
        check_vocabulary(weights, reader, tokenizer.vocabulary_size)
        pretrained_with = read_tokenizer(weights, kind=reader.kind)
        check_tokenizer(weights, pretrained_with, tokenizer=tokenizer.checksum, name=reader.tokenizer)


def usable_weights(encoder: EncoderConfig, config: TrainConfig) -> Path | None:
    """The weights to check: none for random ones, or where `init_from` provides the encoder and they are missing.

    If it is re-initialized all the same, reading the weights fails then.
    """
    weights = weights_path(encoder)
    return None if weights is None or (config.init_from is not None and not weights.exists()) else weights


def check_weights(path: Path, encoder: EncoderConfig) -> None:
    """Raise InputError if an encoder's weights are missing, or of a different kind, size or architecture."""
    if not path.exists():
        raise InputError(f"{path}: no encoder weights found; {weights_hint(path, encoder)}")
    check_sizes(path, read_shapes(path, kind=encoder.kind), encoder)
    check_architecture(path, read_architecture(path, kind=encoder.kind), encoder)


def notes_on_weights(path: Path, encoder: EncoderConfig, *, rendered_size: int | None) -> list[str]:
    """Lines on weights that can be used, but perhaps not as they are meant to be.

    Args:
        path: the weight file.
        encoder: the encoder's settings.
        rendered_size: `sim.image_size`; None: it is given no images.
    """
    recorded, notes = read_architecture(path, kind=encoder.kind), []
    missing = unrecorded(recorded, encoder)
    if missing:
        again = "" if encoder.weights == "shipped" else "; fetch or convert it again with python -m data_tools.weights"
        notes.append(f"{path}: does not record {', '.join(missing)}: the settings are taken without comparison{again}")
    if rendered_size is None:
        return notes
    trained, read = recorded.get("image_size"), encoder.image_size or rendered_size
    key = "encoder.image_size" if encoder.image_size else "sim.image_size"
    if trained is not None and trained != read:
        notes.append(
            f"{key}: found {read}, but {path} was trained with images of {trained} pixels, so positions do not mean "
            f"what they did; encoder.image_size={trained} resizes to that"
        )
    elif encoder.image_size and rendered_size < encoder.image_size:
        notes.append(
            f"sim.image_size: found {rendered_size}; images are enlarged to encoder.image_size={read}, at which "
            f"sim.image_size={read} renders them"
        )
    return notes


def check_vocabulary(path: Path, encoder: EncoderConfig, size: int) -> None:
    """Raise InputError if an encoder's weights were trained with a vocabulary of a different size."""
    found = encoder.infer_sizes(read_shapes(path, kind=encoder.kind)).get("vocabulary", size)
    if found != encoder.table_rows(size):
        raise InputError(
            f"{path}: found weights for a vocabulary of {found} entries, but encoder.tokenizer={encoder.tokenizer} "
            f"has {size}; choose the tokenizer that they were trained with"
        )


def weights_hint(path: Path, encoder: EncoderConfig) -> str:
    """Next action for missing encoder weights, for an error message."""
    if encoder.weights == "shipped":
        shipped = ", ".join(sorted(file.stem for file in path.parent.glob("*.safetensors"))) or "none"
        return f"InstructRL ships those of {shipped}; name a file, or use encoder.weights=null for random ones"
    if encoder.tokenizer == "small" and encoder.repository is None:
        return "none are published for it: name a file of your own, or use encoder.weights=null for random ones"
    if encoder.name not in options("encoder"):
        return f"convert published ones with {convert_command(path, encoder)}"
    if encoder.kind == "m3ae":
        return m3ae_steps(path, encoder)
    _, _, name = encoder.name.partition("_")
    out = "" if path == Path("weights") / f"{encoder.name}.safetensors" else f" out={shlex.quote(str(path))}"
    return f"get them with python -m data_tools.weights fetch kind={encoder.kind} name={name}{out}"


def m3ae_steps(path: Path, encoder: EncoderConfig) -> str:
    """Next action for missing weights of M3AE, which no command can download by itself."""
    size = M3AE_SIZES.get(encoder.name.removeprefix("m3ae_")[:1], f"{encoder.dim} wide")
    where = f"the folder that {M3AE_PAGE} links under Pre-trained Model Weights"
    return f"download the pickle of M3AE {size} (not of MAE) from {where}, and run {convert_command(path, encoder)}"


def convert_command(path: Path, encoder: EncoderConfig) -> str:
    """The command that converts a published file of an encoder, FILE."""
    return f"python -m data_tools.weights convert kind={encoder.kind} src=FILE out={shlex.quote(str(path))}"
