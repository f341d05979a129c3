"""What a run needs besides demonstrations; asked before any work is done. Needs no jax."""

import shlex
from pathlib import Path

from instructrl.config import EncoderConfig, TrainConfig
from instructrl.data.tokenizer import make_tokenizer
from instructrl.errors import InputError
from instructrl.models.sizes import check_sizes, sizes
from instructrl.models.weights import check_tokenizer, read_shapes, read_tokenizer, weights_path


def check_inputs(config: TrainConfig) -> None:
    """Look for the encoder's weights and its tokenizer.

    Raises:
        InputError: one of them is missing or cannot be used; it says how to get it.
    """
    weights = weights_path(config.encoder)
    if weights is not None and config.init_from is not None and not weights.exists():
        weights = None  # the encoder comes from there, or its absence is told when it begins anew
    if weights is not None:
        check_weights(weights, config.encoder)
    tokenizer = make_tokenizer(config.encoder)
    if weights is not None and config.encoder.text:
        check_vocabulary(weights, config.encoder, tokenizer.vocabulary_size)
        learnt = read_tokenizer(weights, kind=config.encoder.kind)
        check_tokenizer(weights, learnt, tokenizer=tokenizer.checksum, name=config.encoder.tokenizer)


def check_weights(path: Path, encoder: EncoderConfig) -> None:
    """Raise InputError if an encoder's weights are missing, or those of another kind or size."""
    if not path.exists():
        raise InputError(f"{path}: no encoder weights there; {remedy(path, encoder)}")
    check_sizes(path, read_shapes(path, kind=encoder.kind), encoder)


def check_vocabulary(path: Path, encoder: EncoderConfig, size: int) -> None:
    """Raise InputError if an encoder's weights were trained with a vocabulary of another size."""
    found = sizes(encoder.kind, read_shapes(path, kind=encoder.kind)).get("vocabulary", size)
    if found != size:
        raise InputError(
            f"{path}: found weights for a vocabulary of {found} entries, that of encoder.tokenizer={encoder.tokenizer} "
            f"has {size}; choose the tokenizer that they were trained with"
        )


def remedy(path: Path, encoder: EncoderConfig) -> str:
    """How to get an encoder's weights."""
    if encoder.weights == "shipped":
        there = ", ".join(sorted(file.stem for file in path.parent.glob("*.safetensors"))) or "none"
        return f"the suite ships those of {there}; name a file, or use encoder.weights=null for random ones"
    if encoder.tokenizer == "small":
        return "none are published for it: name a file of your own, or use encoder.weights=null for random ones"
    _, _, name = encoder.name.partition("_")
    place = "" if path == Path("weights") / f"{encoder.name}.safetensors" else f" out={shlex.quote(str(path))}"
    return f"get them with python -m data_tools.weights fetch kind={encoder.kind} name={name}{place}"
