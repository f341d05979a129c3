"""Construction of the models that are trained, their random parameters and parameter shapes."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import cast

import jax
import numpy as np
from jax.sharding import Mesh

from instructrl.config.encoders import M3AEConfig
from instructrl.config.heads import chunk_size
from instructrl.config.training import TrainConfig
from instructrl.data.text.tokenizer import Tokenizer, make_tokenizer
from instructrl.models.agent import Agent
from instructrl.models.encoders.m3ae_decoder import MaskedM3AE
from instructrl.models.initialization import draw_params, param_shapes
from instructrl.models.module_checks import check_applied
from instructrl.models.weight_files import DECODER
from instructrl.training.distributed.mesh import device_put_tree
from instructrl.training.distributed.platform import compute_dtype, execution_config
from instructrl.training.types import Params
from instructrl.types import COLLISIONS, Batch, BatchSizes, action_size, fake_batch

DECODER_PARTS = {name.rstrip("/") for name in DECODER}


def split_encoder_decoder(params: Params) -> Params:
    """Split the model's parameters into `encoder`, named as in an agent, and `decoder`."""
    decoder = {name: part for name, part in params.items() if name in DECODER_PARTS}
    return {"encoder": {name: part for name, part in params.items() if name not in decoder}, "decoder": decoder}


def random_masked_params(model: MaskedM3AE, *, size: int, length: int, seed: int, mesh: Mesh | None = None) -> Params:
    """Random parameters, determined by the seed, on the mesh if there is one; the other arguments only give shapes."""
    images, tokens = np.zeros((1, size, size, 3), np.uint8), np.zeros((1, length), np.int32)
    visible = np.zeros(1, np.int32)
    inputs = (images, tokens, np.zeros((1, length), np.float32), visible, visible)
    params = draw_params(model, jax.random.key(seed), *inputs, method="reconstruct", put=_placement(mesh))
    return split_encoder_decoder(params)


def _placement(mesh: Mesh | None) -> Callable[[jax.Array], jax.Array] | None:
    return None if mesh is None else partial(device_put_tree, mesh=mesh)


def make_masked_model(config: TrainConfig, *, vocabulary_size: int) -> MaskedM3AE:
    """Build the configured encoder and decoder."""
    options = config.pretraining
    return MaskedM3AE(
        cast(M3AEConfig, config.encoder),  # checked: it masks patches
        vocabulary_size,
        compute_dtype(config.hardware),
        execution_config(config.hardware),
        decoder_dim=options.decoder_dim,
        decoder_depth=options.decoder_depth,
        decoder_heads=options.decoder_heads,
    )


def make_agent(config: TrainConfig, *, vocabulary_size: int) -> Agent:
    """Build the configured agent."""
    return Agent(
        config.encoder,
        config.policy,
        config.head,
        vocabulary_size,
        config.sim.image_size,
        config.sim.bounds,
        collisions=config.sim.actions == COLLISIONS,
        dtype=compute_dtype(config.hardware),
        execution=execution_config(config.hardware),
    )


def check_modules(config: TrainConfig) -> None:
    """Check an encoder and a head of another package before anything is collected: see `check_applied`."""
    tokenizer = make_tokenizer(config.encoder)
    batch = dummy_batch(config, tokenizer, batch=2, steps=3)
    check_applied(make_agent(config, vocabulary_size=tokenizer.vocabulary_size), batch)


def dummy_batch(config: TrainConfig, tokenizer: Tokenizer, *, batch: int = 1, steps: int = 1) -> Batch:
    """A minimal dummy batch for shape inference."""
    sim = config.sim
    sizes = BatchSizes(batch, steps, len(sim.cameras), sim.image_size, tokenizer.length, state=len(sim.state))
    return fake_batch(replace(sizes, chunk=chunk_size(config.head), actions=action_size(sim.actions)))


def random_params(agent: Agent, batch: Batch, *, seed: int, mesh: Mesh | None = None) -> Params:
    """Random parameters, determined by the seed, on the mesh if there is one; `batch` only gives shapes."""
    return draw_params(agent, jax.random.key(seed), batch, method="step_losses", put=_placement(mesh))


def abstract_params(agent: Agent, batch: Batch) -> Params:
    """Shapes and types of the agent's parameters, by shape inference only."""
    return param_shapes(agent, batch, method="step_losses")
