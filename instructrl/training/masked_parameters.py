"""Parameter initialization of masked pretraining: random, or from a weight file."""

from typing import Any

import jax
import numpy as np

from instructrl.config import TrainConfig
from instructrl.data.tokenizer import Tokenizer
from instructrl.models.encoder import encoder_shapes, flatten_params
from instructrl.models.masked import MaskedM3AE
from instructrl.models.weights import DECODER, check_tokenizer, match_params, read_weights, weights_path
from instructrl.training.encoder import WeightSource

DECODER_PARTS = {name.rstrip("/") for name in DECODER}


def split_encoder_decoder(params: Any) -> dict[str, Any]:
    """Split the model's parameters into `encoder`, named as in an agent, and `decoder`."""
    decoder = {name: part for name, part in params.items() if name in DECODER_PARTS}
    return {"encoder": {name: part for name, part in params.items() if name not in decoder}, "decoder": decoder}


def random_masked_params(model: MaskedM3AE, *, size: int, length: int, seed: int) -> dict[str, Any]:
    """Random parameters, determined by the seed; the other arguments only give shapes."""
    images, tokens = np.zeros((1, size, size, 3), np.uint8), np.zeros((1, length), np.int32)
    visible = np.zeros(1, np.int32)
    inputs = (images, tokens, np.zeros((1, length), np.float32), visible, visible)
    return split_encoder_decoder(model.init(jax.random.key(seed), *inputs, method="reconstruct")["params"])


def init_masked_params(config: TrainConfig, params: Any, tokenizer: Tokenizer) -> tuple[Any, dict[str, Any]]:
    """Replace parameters by those of `encoder.weights`, if set; returns them and the file's entry of data.json.

    A file without a decoder leaves the decoder random.

    Raises:
        InputError: the weights are missing, damaged, or have a different size or vocabulary.
    """
    path = weights_path(config.encoder)
    if path is None:
        return params, {}
    weights = read_weights(path, kind=config.encoder.kind)
    check_tokenizer(path, weights.tokenizer, tokenizer=tokenizer.checksum, name=config.encoder.tokenizer)
    shapes = encoder_shapes(config.encoder, vocabulary_size=tokenizer.vocabulary_size)
    if any(name.startswith(DECODER) for name in weights.arrays):
        shapes |= {name: leaf.shape for name, leaf in flatten_params(params["decoder"]).items()}
    loaded = split_encoder_decoder(match_params(weights, shapes))
    print(f"starts from {path}, {'with' if loaded['decoder'] else 'without'} its decoder")
    return {**params, **{name: part for name, part in loaded.items() if part}}, {
        "encoder": WeightSource(path, weights.checksum).record()
    }
