"""Where an encoder's parameters come from: a file of weights, or chance."""

from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from instructrl.config import TrainConfig
from instructrl.data.tokenizer import Tokenizer
from instructrl.errors import InputError
from instructrl.models.encoder import by_name, encoder_shapes
from instructrl.models.weights import (
    DECODER,
    TEXT,
    check_tokenizer,
    fit,
    read_checksum,
    read_weights,
    weights_path,
    write_weights,
)
from instructrl.training.run_directory import read_data

KEPT = (
    "encoder.safetensors"  # in the run directory: the weights of a frozen encoder that `encoder.weights` does not name
)


class Origin(NamedTuple):
    """A file of weights and its checksum, as data.json records them."""

    path: Path
    checksum: str

    def described(self) -> dict[str, str]:
        """The entry of data.json."""
        return {"path": str(self.path), "checksum": self.checksum}


def with_weights(config: TrainConfig, params: Any, tokenizer: Tokenizer) -> Any:
    """The parameters, the encoder's from `encoder.weights` if a file is named.

    Raises:
        InputError: the weights are missing, damaged, or of another size or vocabulary.
    """
    path = weights_path(config.encoder)
    if path is None:
        return params
    return {**params, "encoder": read_encoder(config, path, tokenizer, like=params["encoder"])}


def kept_encoder(
    config: TrainConfig, params: Any, tokenizer: Tokenizer, *, run: Path, resumes: bool
) -> tuple[Any, Origin]:
    """The parameters with a frozen encoder's from its file, and that file.

    Where `encoder.weights` is not what the run begins with, because there are none or because another run's parameters
    took their place, the file is one in the run.

    Raises:
        InputError: the file is missing or damaged, or cannot be written.
    """
    named = config.encoder.weights is not None
    if not resumes and (not named or config.init_from is not None):
        like = params["encoder"]
        same = (
            named and config.init_from is not None and _same(with_weights(config, params, tokenizer)["encoder"], like)
        )
        if not same and (config.init_from is not None or not (run / KEPT).exists()):
            arrays = {name: np.asarray(leaf) for name, leaf in by_name(like).items()}
            source = config.init_from or f"random, seed {config.seed}"
            write_weights(run / KEPT, arrays, kind=config.encoder.kind, source=source)
    origin = origin_of(config, run)
    return {**params, "encoder": read_encoder(config, origin.path, tokenizer, like=params["encoder"])}, origin


def _same(one: Any, other: Any) -> bool:
    return all(np.array_equal(*pair) for pair in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True))


def origin_of(config: TrainConfig, run: Path) -> Origin:
    """The file that a run's encoder comes from."""
    kept, named = run / KEPT, weights_path(config.encoder)
    path = kept if named is None or (config.init_from is not None and kept.exists()) else named
    return Origin(path, read_checksum(path, kind=config.encoder.kind))


def read_encoder(config: TrainConfig, path: Path, tokenizer: Tokenizer, *, like: Any) -> Any:
    """The encoder's parameters from a file, those of the tree `like`: a file with text may serve one without.

    Raises:
        InputError: the weights are damaged, or of another size or vocabulary.
    """
    shapes = encoder_shapes(config.encoder, vocabulary_size=tokenizer.vocabulary_size)
    besides = DECODER if config.encoder.text else (*DECODER, *TEXT)
    weights = read_weights(path, kind=config.encoder.kind)
    if config.encoder.text:
        check_tokenizer(path, weights.tokenizer, tokenizer=tokenizer.checksum, name=config.encoder.tokenizer)
    loaded = fit(weights, shapes, besides=besides)
    return pruned(loaded, like)


def pruned(tree: Any, like: Any) -> Any:
    """The part of a tree of dicts that another one has too."""
    return {key: pruned(tree[key], part) for key, part in like.items()} if isinstance(like, dict) else tree


def frozen_encoder(config: TrainConfig, params: Any, tokenizer: Tokenizer, *, run: Path) -> Any:
    """The parameters of a trained run's frozen encoder, in the shapes of `params`.

    Raises:
        InputError: the weights are missing, damaged, or not those that the run began with.
    """
    origin, recorded = origin_of(config, run), read_data(run).get("encoder", {})
    if origin.checksum != recorded.get("checksum"):
        raise InputError(
            f"{origin.path}: its content is not what {run} was trained with "
            f"(checksum {origin.checksum[:12]}, recorded {str(recorded.get('checksum'))[:12]}); restore the file"
        )
    return jax.tree.map(np.asarray, read_encoder(config, origin.path, tokenizer, like=params["encoder"]))
