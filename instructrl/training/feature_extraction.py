"""Feature extraction with a frozen encoder, once per demonstration file."""

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple, cast

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Float32, Int32, UInt8

from instructrl.config.training import HardwareConfig, TrainConfig
from instructrl.data.demonstrations.dataset import DemonstrationDataset
from instructrl.data.feature_cache.cache import FeatureCache, ensure_features
from instructrl.data.feature_cache.compute import Encode, EncodePlan
from instructrl.data.text.tokenizer import Tokenizer, make_tokenizer
from instructrl.errors import InputError
from instructrl.models.agent import Agent
from instructrl.storage.paths import storage_path
from instructrl.training.distributed.mesh import DATA, REPLICATED, make_mesh
from instructrl.training.distributed.multihost import leader_first, process_shard
from instructrl.training.model_factory import abstract_params, dummy_batch, make_agent
from instructrl.training.parameters.encoder_weights import read_encoder, weight_source
from instructrl.training.types import Params
from instructrl.types import Features, FeatureSizes, FrameFeatures

ENCODE_IMAGES = {"cpu": 32}  # that a device encodes at a time, where hardware.encode_batch is null
ENCODE_IMAGES_ON_ACCELERATORS = 256
REVISION = "3"  # of the encoders' code; bump it when the same weights give different features
IGNORED_FIELDS = (
    "name",
    "weights",
    "frozen",
    "tokenizer",
    "text_weights",
    "text_tokenizer",
)  # settings that change no feature, or enter the key by content
Images = UInt8[Array | np.ndarray, "N K H W 3"]
Tokens = Int32[Array | np.ndarray, "N L"]
Padding = Float32[Array | np.ndarray, "N L"]


def make_encode_fn(agent: Agent, params: Params, devices: Sequence[jax.Device] | None = None) -> Encode:
    """The jitted encoder: images, tokens and padding of frames -> their features.

    `devices`: share the frames out evenly, each running the program that one would run on its share alone; None: jax's
    first device.
    """
    patches = agent.reads_patches

    def encode(params: Params, images: Images, tokens: Tokens, padding: Padding) -> FrameFeatures:
        inputs = (images[:, None], tokens, padding)
        features = cast(Features, agent.apply({"params": params}, *inputs, method=Agent.encode))
        kept = features.patches[:, 0] if patches and features.patches is not None else None
        return FrameFeatures(features.pooled[:, 0], features.text, kept)

    if devices is None or len(devices) == 1:
        compiled = jax.jit(encode)
        return lambda images, tokens, padding: compiled(params, images, tokens, padding)
    mesh, shares = Mesh(np.array(devices), (DATA,)), PartitionSpec(DATA)
    # Not left to the partitioner, which may choose other kernels than those of one device.
    of_shares = jax.shard_map(
        encode, mesh=mesh, in_specs=(REPLICATED, shares, shares, shares), out_specs=shares, check_vma=False
    )
    compiled, params = jax.jit(of_shares), jax.device_put(params, NamedSharding(mesh, REPLICATED))
    return lambda images, tokens, padding: compiled(params, images, tokens, padding)


def encode_batch(config: HardwareConfig, *, cameras: int) -> int:
    """The number of steps (of the images of all cameras) that a device encodes at a time."""
    images = config.encode_batch or ENCODE_IMAGES.get(jax.default_backend(), ENCODE_IMAGES_ON_ACCELERATORS)
    return max(1, images // cameras)


def feature_sizes(encode: Encode, images: Images, tokens: Tokens, padding: Padding) -> FeatureSizes:
    """Sizes of the features that `encode` returns, by shape inference only."""
    features = jax.eval_shape(encode, images, tokens, padding)
    patches = None if features.patches is None else features.patches.shape[2:]
    return FeatureSizes(features.pooled.shape[-1], features.text.shape[-1], patches, str(features.pooled.dtype))


class FrozenEncoder(NamedTuple):
    """A frozen encoder of a file of weights: what reads sentences, what encodes, its parameters, and their checksum."""

    tokenizer: Tokenizer
    agent: Agent
    params: Params
    checksum: str


def load_frozen_encoder(config: TrainConfig) -> FrozenEncoder:
    """Read an encoder whose weights are in a file.

    Raises:
        InputError: the weights cannot be used.
    """
    tokenizer = make_tokenizer(config.encoder)
    agent = make_agent(config, vocabulary_size=tokenizer.vocabulary_size)
    like = abstract_params(agent, dummy_batch(config, tokenizer))["encoder"]
    origin = weight_source(config.encoder, Path())
    params = {"encoder": jax.device_put(read_encoder(config.encoder, origin.path, tokenizer, like=like))}
    return FrozenEncoder(tokenizer, agent, params, origin.checksum)


def compute_features(config: TrainConfig, files: Sequence[DemonstrationDataset]) -> list[FeatureCache]:
    """Compute the features of demonstration files, for an encoder whose weights are in a file.

    Raises:
        InputError: the weights cannot be used, or the features cannot be written.
    """
    if config.init_from is not None:
        raise InputError(
            f"init_from: found {config.init_from}; allowed: null, because train.py itself computes the features of an "
            "encoder that comes from another run"
        )
    tokenizer, agent, params, checksum = load_frozen_encoder(config)
    return open_features(config, files, tokenizer, agent=agent, params=params, checksum=checksum)


def open_features(
    config: TrainConfig,
    files: Sequence[DemonstrationDataset],
    tokenizer: Tokenizer,
    *,
    agent: Agent,
    params: Params,
    checksum: str,
) -> list[FeatureCache]:
    """Open the features of demonstration files with equal specs; missing ones are computed.

    Collective: all processes of a group compute, each on its own devices.

    Raises:
        InputError: the features cannot be written.
    """
    devices = make_mesh(config.hardware).local_devices
    encode, size, cameras = make_encode_fn(agent, params, devices), files[0].image_size, len(files[0].cameras)
    plan = EncodePlan(encode_batch(config.hardware, cameras=cameras), len(devices), process_shard())
    count = plan.batch_size * plan.devices
    sizes = feature_sizes(encode, np.zeros((count, cameras, size, size, 3), np.uint8), *tokenizer([""] * count))
    encoder = {key: value for key, value in dataclasses.asdict(config.encoder).items() if key not in IGNORED_FIELDS}
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
            joint=config.encoder.reads_jointly,
            max_instructions=config.training.max_instructions,
            folder=None if config.features_dir is None else storage_path(config.features_dir, config.data),
            plan=plan,
            turn=leader_first,
        )
        for episodes in files
    ]
