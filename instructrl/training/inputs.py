"""What a run needs besides demonstrations; asked before any work is done. Needs no jax."""

from pathlib import Path

from instructrl.config import TrainConfig
from instructrl.data.tokenizer import make_tokenizer
from instructrl.models.weights import read_checksum


def check_inputs(config: TrainConfig) -> None:
    """Look for the encoder's weights and its tokenizer.

    Raises:
        InputError: one of them is missing or cannot be used; it says how to get it.
    """
    if config.encoder.weights is not None:
        read_checksum(Path(config.encoder.weights), kind=config.encoder.kind)
    make_tokenizer(config.encoder)
