"""A frozen encoder's features, computed once for each file of demonstrations."""

import dataclasses
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from instructrl.batch import Features, FeatureSizes
from instructrl.config import TrainConfig
from instructrl.data.episodes import Episodes
from instructrl.data.features import FeatureCache, ensure_features
from instructrl.data.storage import place
from instructrl.data.tokenizer import Tokenizer, make_tokenizer
from instructrl.errors import InputError
from instructrl.models.agent import Agent
from instructrl.models.encoder import reads_jointly
from instructrl.models.heads import reads_patches
from instructrl.training.encoder import origin_of, read_encoder
from instructrl.training.state import abstract_params, make_agent, one_step

FRAMES = 8  # encoded at once
REVISION = "1"  # of the encoders' code; raised when the same weights give other numbers
LABELS = ("name", "weights", "frozen", "tokenizer")  # what decides no number, or is keyed by its content
Encode = Callable[[Any, Any, Any], Features]


def make_encode(agent: Agent, params: Any) -> Encode:
    """The compiled encoder: images [N,K,H,W,3], tokens [N,L], padding [N,L] -> Features without the axis of steps."""
    patches = reads_patches(agent.head_config)

    def encode(params: Any, images: Any, tokens: Any, padding: Any) -> Features:
        found: Any = agent.apply({"params": params}, images[:, None], tokens, padding, method=Agent.encode)
        return Features(found.pooled[:, 0], found.text, found.patches[:, 0] if patches else None)

    compiled = jax.jit(encode)
    return lambda images, tokens, padding: compiled(params, images, tokens, padding)


def feature_sizes(encode: Encode, images: Any, tokens: Any, padding: Any) -> FeatureSizes:
    """What `encode` answers, told without computing it."""
    found = jax.eval_shape(encode, images, tokens, padding)
    patches = None if found.patches is None else found.patches.shape[2:]
    return FeatureSizes(found.pooled.shape[-1], found.text.shape[-1], patches, str(found.pooled.dtype))


def compute_features(config: TrainConfig, files: Sequence[Episodes]) -> list[FeatureCache]:
    """The features of files of demonstrations, for an encoder whose weights are in a file.

    Raises:
        InputError: the weights cannot be used, or the features cannot be written.
    """
    if config.init_from is not None:
        raise InputError(
            f"init_from: found {config.init_from}; allowed: null, for train.py computes the features of an encoder "
            "that comes from another run"
        )
    tokenizer = make_tokenizer(config.encoder)
    agent = make_agent(config, vocabulary_size=tokenizer.vocabulary_size)
    like = abstract_params(agent, one_step(config, tokenizer))["encoder"]
    origin = origin_of(config, Path())
    params = {"encoder": jax.device_put(read_encoder(config, origin.path, tokenizer, like=like))}
    return open_features(config, files, tokenizer, agent=agent, params=params, checksum=origin.checksum)


def open_features(
    config: TrainConfig, files: Sequence[Episodes], tokenizer: Tokenizer, *, agent: Agent, params: Any, checksum: str
) -> list[FeatureCache]:
    """The features of files of demonstrations that are alike; what is missing of them is computed.

    Raises:
        InputError: they cannot be written.
    """
    encode, size = make_encode(agent, params), files[0].image_size
    images = np.zeros((FRAMES, len(files[0].cameras), size, size, 3), np.uint8)
    tokens, padding = tokenizer([""] * FRAMES)
    sizes = feature_sizes(encode, images, tokens, padding)
    encoder = {key: value for key, value in dataclasses.asdict(config.encoder).items() if key not in LABELS}
    identity = {
        "revision": REVISION,
        "weights": checksum,
        "encoder": json.dumps(encoder),
        "precision": config.hardware.precision,
    }
    return [
        ensure_features(
            episodes,
            tokenizer,
            encode=encode,
            sizes=sizes,
            identity=identity,
            joint=reads_jointly(config.encoder),
            sentences=config.training.sentences,
            folder=None if config.features_dir is None else place(config.features_dir, config.data),
            batch_size=FRAMES,
        )
        for episodes in files
    ]
