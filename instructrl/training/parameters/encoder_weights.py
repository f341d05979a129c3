"""Encoder parameters: read from weight files, and stored in the run where no file holds them."""

import hashlib
import json
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np

from instructrl.config.model import EncoderConfig
from instructrl.data.text.tokenizer import Tokenizer
from instructrl.errors import InputError
from instructrl.models.encoders.architecture import check_architecture
from instructrl.models.encoders.registry import encoder_shapes
from instructrl.models.parameter_files import flatten_params
from instructrl.models.weight_files import (
    DECODER,
    ENCODER_FILE,
    TEXT,
    check_shapes,
    check_tokenizer,
    match_params,
    read_checksum,
    read_shapes,
    read_weights,
    weights_path,
    write_weights,
)
from instructrl.training.run_dir import DataEntry, read_data
from instructrl.training.types import Params


class WeightSource(NamedTuple):
    """A weight file and its checksum."""

    path: Path
    checksum: str

    def record(self) -> DataEntry:
        """The entry in data.json."""
        return DataEntry(path=str(self.path), checksum=self.checksum)


def load_encoder_weights(encoder: EncoderConfig, params: Params, tokenizer: Tokenizer) -> Params:
    """Replace the encoder's parameters by those of `encoder.weights`, if set.

    Raises:
        InputError: the weights are missing, damaged, or have a different size or vocabulary.
    """
    path = weights_path(encoder)
    if path is None:
        return params
    return {**params, "encoder": read_encoder(encoder, path, tokenizer, like=params["encoder"])}


def store_frozen_encoder(
    encoder: EncoderConfig,
    params: Params,
    tokenizer: Tokenizer,
    *,
    run: Path,
    rendered_size: int,
    resuming: bool,
    seed: int,
    init_from: str | None,
) -> tuple[Params, WeightSource]:
    """Replace a frozen encoder's parameters by those of its weight file; returns them and the file.

    If the run does not start from `encoder.weights` (unset, or overridden by `init_from`), the parameters are first
    written to a file in the run.

    Raises:
        InputError: the file is missing or damaged, or cannot be written.
    """
    named = encoder.weights is not None
    if not resuming and (not named or init_from is not None):
        like = params["encoder"]
        same = (
            named
            and init_from is not None
            and _equal_trees(load_encoder_weights(encoder, params, tokenizer)["encoder"], like)
        )
        if not same and (init_from is not None or not (run / ENCODER_FILE).exists()):
            arrays = {name: np.asarray(leaf) for name, leaf in flatten_params(like).items()}
            write_weights(
                run / ENCODER_FILE,
                arrays,
                kind=encoder.kind,
                source=init_from or f"random, seed {seed}",
                architecture=encoder.architecture(vocabulary=tokenizer.vocabulary_size, rendered_size=rendered_size),
            )
    origin = weight_source(encoder, run, init_from=init_from)
    return {**params, "encoder": read_encoder(encoder, origin.path, tokenizer, like=params["encoder"])}, origin


def _equal_trees(one: Params, other: Params) -> bool:
    return all(np.array_equal(*pair) for pair in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True))


def weight_source(encoder: EncoderConfig, run: Path, *, init_from: str | None = None) -> WeightSource:
    """The weight file of a run's encoder; `init_from`: the run that it started from, if any."""
    stored, named = run / ENCODER_FILE, weights_path(encoder)
    path = stored if named is None or (init_from is not None and stored.exists()) else named
    if encoder.parts and path == named:
        files = {name: read_checksum(named_weights(part), kind=part.kind) for name, part in encoder.parts.items()}
        return WeightSource(path, hashlib.sha256(json.dumps(files).encode()).hexdigest())
    return WeightSource(path, read_checksum(path, kind=encoder.kind))


def named_weights(encoder: EncoderConfig) -> Path:
    """The weight file of an encoder whose settings name one."""
    path = weights_path(encoder)
    assert path is not None
    return path


def check_encoder_files(encoder: EncoderConfig, tokenizer: Tokenizer) -> None:
    """Raise InputError if a weight file that the settings name does not have the encoder's parameters.

    Names and shapes are compared; the arrays are not read.
    """
    for part in encoder.parts.values() or (encoder,):
        path = weights_path(part)
        if path is not None:
            shapes = encoder_shapes(part, vocabulary_size=tokenizer.vocabulary_size)
            check_shapes(path, read_shapes(path, kind=part.kind), shapes, ignore=unused_params(part))


def unused_params(encoder: EncoderConfig) -> tuple[str, ...]:
    """Beginnings of the names of parameters that a weight file may have and the encoder does not use."""
    return DECODER if encoder.text else (*DECODER, *TEXT)


def read_encoder(encoder: EncoderConfig, path: Path, tokenizer: Tokenizer, *, like: Params) -> Params:
    """Read the encoder parameters in the tree `like` from a file, which may also hold unused text parameters.

    Raises:
        InputError: the weights are damaged, or have a different architecture, preprocessing or vocabulary.
    """
    if encoder.parts and path == weights_path(encoder):  # not a run's own file, which has the parameters of both
        return {
            name: read_encoder(part, named_weights(part), tokenizer, like=like[name])
            for name, part in encoder.parts.items()
        }
    shapes = encoder_shapes(encoder, vocabulary_size=tokenizer.vocabulary_size)
    weights = read_weights(path, kind=encoder.kind)
    check_architecture(path, weights.architecture, encoder)
    if encoder.text:
        check_tokenizer(path, weights.tokenizer, tokenizer=tokenizer.checksum, name=encoder.reader.tokenizer)
    loaded = match_params(weights, shapes, ignore=unused_params(encoder))
    return prune_like(loaded, like)


def prune_like(tree: Params, like: Params) -> Params:
    """Restrict a tree of dicts to the keys of another one."""
    return {key: prune_like(tree[key], part) for key, part in like.items()} if isinstance(like, dict) else tree


def read_frozen_encoder(
    encoder: EncoderConfig, params: Params, tokenizer: Tokenizer, *, run: Path, init_from: str | None
) -> Params:
    """Read the parameters of a trained run's frozen encoder, with the shapes of `params`.

    Raises:
        InputError: the weights are missing, damaged, or have changed since the run started.
    """
    origin, recorded = weight_source(encoder, run, init_from=init_from), read_data(run).get("encoder", {})
    if origin.checksum != recorded.get("checksum"):
        raise InputError(
            f"{origin.path}: its content differs from what {run} was trained with "
            f"(checksum {origin.checksum[:12]}, recorded {str(recorded.get('checksum'))[:12]}); restore the file"
        )
    return jax.tree.map(np.asarray, read_encoder(encoder, origin.path, tokenizer, like=params["encoder"]))
