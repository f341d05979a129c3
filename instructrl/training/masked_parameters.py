"""Where the parameters of a pretraining come from before its first step: chance, or a file of weights."""

from typing import Any

import jax
import numpy as np

from instructrl.config import TrainConfig
from instructrl.data.tokenizer import Tokenizer
from instructrl.models.encoder import by_name, encoder_shapes
from instructrl.models.masked import MaskedM3AE
from instructrl.models.weights import DECODER, check_tokenizer, fit, read_weights, weights_path
from instructrl.training.encoder import Origin

DECODER_PARTS = {name.rstrip("/") for name in DECODER}


def parted(params: Any) -> dict[str, Any]:
    """The model's parameters as those of the encoder, by the names that it has in an agent, and the decoder's."""
    decoder = {name: part for name, part in params.items() if name in DECODER_PARTS}
    return {"encoder": {name: part for name, part in params.items() if name not in decoder}, "decoder": decoder}


def initial_masked(model: MaskedM3AE, *, size: int, length: int, seed: int) -> dict[str, Any]:
    """Random parameters, a function of the seed; the rest gives the shapes only."""
    images, tokens = np.zeros((1, size, size, 3), np.uint8), np.zeros((1, length), np.int32)
    kept = np.zeros(1, np.int32)
    given = (images, tokens, np.zeros((1, length), np.float32), kept, kept)
    return parted(model.init(jax.random.key(seed), *given, method="reconstruct")["params"])


def begin_masked(config: TrainConfig, params: Any, tokenizer: Tokenizer) -> tuple[Any, dict[str, Any]]:
    """The parameters with those of `encoder.weights`, if it is set, and what data.json says of it.

    A file without a decoder leaves the random one.

    Raises:
        InputError: the weights are missing, damaged, or of another size or vocabulary.
    """
    path = weights_path(config.encoder)
    if path is None:
        return params, {}
    weights = read_weights(path, kind=config.encoder.kind)
    check_tokenizer(path, weights.tokenizer, tokenizer=tokenizer.checksum, name=config.encoder.tokenizer)
    shapes = encoder_shapes(config.encoder, vocabulary_size=tokenizer.vocabulary_size)
    if any(name.startswith(DECODER) for name in weights.arrays):
        shapes |= {name: leaf.shape for name, leaf in by_name(params["decoder"]).items()}
    found = parted(fit(weights, shapes))
    print(f"begins from {path}, {'with' if found['decoder'] else 'without'} its decoder")
    return {**params, **{name: part for name, part in found.items() if part}}, {
        "encoder": Origin(path, weights.checksum).described()
    }
