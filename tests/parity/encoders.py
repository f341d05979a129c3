"""Difference of an encoder's hidden states from those of the transformers library, for random weights.

    PYTHONPATH=. python tests/golden/make_encoders.py dinov2_b14 FOLDER    # in an environment with transformers
    PYTHONPATH=. python tests/parity/encoders.py dinov2_b14 FOLDER

The model in FOLDER is converted as published weights are. A difference is relative: the largest of a state, divided by
the state's largest value.
"""

import sys
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from data_tools.weights.published import read_published
from instructrl.cli.entry import compose
from instructrl.config.training import TrainConfig
from instructrl.models.encoders.architecture import check_architecture, check_sizes
from instructrl.models.encoders.registry import make_encoder
from instructrl.models.layers.vit import TowerOutputs
from instructrl.models.parameter_files import unflatten_params
from tests.fixtures.published_encoders import random_images, random_tokens


def difference(found: np.ndarray, expected: np.ndarray) -> float:
    """The largest difference, relative to the largest value."""
    return float(abs(found - expected).max() / abs(expected).max())


def read(model: Any, tokens: jax.Array, padding: jax.Array) -> TowerOutputs:
    """Outputs of the text tower."""
    found: TowerOutputs = model.text_model(tokens, padding)
    return found


def main(option: str, folder: Path) -> None:
    """Print a row of the table in docs/encoders.md."""
    encoder = compose("train", TrainConfig, [f"encoder={option}"]).encoder
    published = read_published(folder, encoder.kind)
    check_sizes(folder, {name: value.shape for name, value in published.arrays.items()}, encoder)
    check_architecture(folder, published.architecture, encoder)
    model = make_encoder(encoder, vocabulary_size=published.vocabulary)
    params = unflatten_params(published.arrays)
    inputs = [random_images(2, 224), random_tokens(2, encoder.text_length, published.vocabulary or 3)]

    def run(params: Any, images: jax.Array, tokens: jax.Array) -> dict[str, Any]:
        found = {}
        if encoder.reads_images:
            found[""] = model.apply({"params": params}, images, method="encode_images")
        if encoder.reads_text:
            # SigLIP 2 reads padding like any other token.
            padding = jnp.zeros(tokens.shape) if encoder.reads_images else (tokens == 0).astype(jnp.float32)
            found["text_"] = model.apply({"params": params}, tokens, padding, method=read)
        return found

    with np.load(folder / "reference.npz") as file, jax.default_matmul_precision("highest"):
        worst, count = 0.0, 0
        for prefix, tower in jax.jit(run)(params, *inputs).items():
            states = {f"hidden_{index}": value for index, value in enumerate(tower.hidden)}
            states |= {"final": tower.final, "pooled": tower.pooled}
            # Of T5 the library gives the last block's output only normalised.
            compared = [name for name in states if prefix + name in file]
            worst = max(worst, *(difference(states[name], file[prefix + name]) for name in compared))
            count += len(compared)
    size = sum(value.size for value in published.arrays.values())
    print(f"| `{option}` | {size:,} | {count} | {worst:.1e} |")


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
