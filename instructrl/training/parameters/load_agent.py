"""Loading of trained agents, from a run directory or from a folder exported by `Agent.save`."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import jax
from omegaconf import OmegaConf

from instructrl.config.model import EncoderConfig
from instructrl.config.training import HardwareConfig, TrainConfig
from instructrl.data.text.tokenizer import Tokenizer, make_tokenizer
from instructrl.errors import InputError
from instructrl.models.parameter_files import flatten_params, open_arrays, read_parameters, write_parameters
from instructrl.storage.atomic import write_atomically
from instructrl.training.checkpointing.manager import open_checkpoints
from instructrl.training.model_factory import abstract_params, dummy_batch, make_agent
from instructrl.training.parameters.encoder_weights import read_frozen_encoder
from instructrl.training.parameters.training_words import parse_words, read_words
from instructrl.training.run_dir import check_agent, read_config, read_data
from instructrl.training.state import merge_params, split_params
from instructrl.training.types import Params

FROZEN_FILE = "frozen.safetensors"  # in a run: parameters frozen by training.freeze, which checkpoints omit
AGENT_FILE = "agent.safetensors"  # in an exported folder, next to config.yaml: all parameters of an agent
EXPORT_AGAIN = "export the agent again"


class LoadedAgent(NamedTuple):
    """A trained agent's settings, tokenizer and parameters."""

    config: TrainConfig
    tokenizer: Tokenizer
    params: Params  # of the entire agent, numpy arrays
    step: int  # at which they were saved
    words: frozenset[str] | None  # of the instructions of its training; None: not recorded


def load_agent(run: Path, *, checkpoint: str, hardware: HardwareConfig) -> LoadedAgent:
    """Load the agent of a run's `best` or `last` checkpoint, or of an exported folder, which has only one.

    `hardware` replaces the run's hardware settings.

    Raises:
        InputError: there is no run or no readable checkpoint, or its tokenizer or frozen weights are missing or have
            changed.
    """
    config = read_config(run)
    check_agent(config, run, key="run")
    config.hardware = hardware
    if (run / AGENT_FILE).exists():
        return _load_exported(run, config)
    tokenizer = _checked_tokenizer(config, run, read_data(run).get("tokenizer", {}).get("checksum"))
    abstract = abstract_params(
        make_agent(config, vocabulary_size=tokenizer.vocabulary_size), dummy_batch(config, tokenizer)
    )
    trained, frozen = split_params(abstract, config.training, config.encoder)
    if not (run / "checkpoints").is_dir():
        raise InputError(f"{run}: no checkpoint yet; train it first")
    with open_checkpoints(run, read_only=True) as checkpoints:
        step = checkpoints.step(checkpoint)
        if step is None:
            found = "no checkpoint" if checkpoints.step() is None else "only checkpoints before the first validation"
            raise InputError(f"{run}: {found} yet; run its training command again to resume")
        trained = checkpoints.params(trained, step=step, averaged=config.optimizer.ema is not None)
    if config.encoder.frozen:
        encoder = read_frozen_encoder(config.encoder, abstract, tokenizer, run=run, init_from=config.init_from)
        frozen = {**frozen, "encoder": encoder}
    stored = run_frozen_params(config.encoder, frozen)
    if stored:
        frozen = {**frozen, **read_frozen(run, like=stored)}
    return LoadedAgent(config, tokenizer, merge_params(trained, frozen), step, read_words(run))


def run_frozen_params(encoder: EncoderConfig, frozen: Params) -> Params:
    """The frozen parameters in the run's FROZEN_FILE: all except a frozen encoder's, which have a separate file."""
    return {name: part for name, part in frozen.items() if not (name == "encoder" and encoder.frozen)}


def read_frozen(run: Path, *, like: Params) -> Params:
    """Read a run's frozen parameters, with the shapes of `like`.

    Raises:
        InputError: the file is missing, damaged, or has changed since the run started.
    """
    hint = "restore it; without it this run is lost"
    params, metadata = read_parameters(run / FROZEN_FILE, hint=hint)
    found, expected = ({name: leaf.shape for name, leaf in flatten_params(tree).items()} for tree in (params, like))
    if metadata["checksum"] != read_data(run).get("frozen", {}).get("checksum") or found != expected:
        raise InputError(f"{run / FROZEN_FILE}: its content differs from what {run} was trained with; {hint}")
    return params


def export_agent(folder: Path, trained: LoadedAgent) -> None:
    """Export an agent for inference: its settings and one file of parameters.

    Raises:
        InputError: the folder contains a run, or cannot be written.
    """
    if (folder / "checkpoints").exists() or (folder / "data.json").exists():
        raise InputError(f"{folder}: contains a run; choose a separate folder")
    metadata = {"tokenizer": trained.tokenizer.checksum, "step": str(trained.step)}
    if trained.words is not None:
        metadata["words"] = json.dumps({"words": sorted(trained.words)})
    write_parameters(folder / AGENT_FILE, trained.params, metadata=metadata)
    settings = OmegaConf.to_yaml(OmegaConf.structured(trained.config))
    write_atomically(folder / "config.yaml", settings, hint="choose another folder")


def _load_exported(folder: Path, config: TrainConfig) -> LoadedAgent:
    params, metadata = read_parameters(folder / AGENT_FILE, hint=EXPORT_AGAIN)
    tokenizer = _checked_tokenizer(config, folder, metadata.get("tokenizer"))
    agent = make_agent(config, vocabulary_size=tokenizer.vocabulary_size)
    expected = flatten_params(abstract_params(agent, dummy_batch(config, tokenizer)))
    found = flatten_params(params)
    names = sorted(found.keys() | expected.keys())
    mismatched = [name for name in names if _shape(found, name) != _shape(expected, name)]
    if mismatched:
        name = mismatched[0]
        raise InputError(
            f"{folder / AGENT_FILE}: {name}: found {_shape(found, name)}, expected {_shape(expected, name)}, according "
            f"to config.yaml in the same folder; {EXPORT_AGAIN}"
        )
    return LoadedAgent(config, tokenizer, params, int(metadata.get("step", 0)), _exported_words(folder, metadata))


def agent_words(folder: Path) -> frozenset[str] | None:
    """The words of the instructions that the agent of a run or of an exported folder was trained with, if recorded.

    Raises:
        InputError: the record is damaged.
    """
    if not (folder / AGENT_FILE).exists():
        return read_words(folder)
    with open_arrays(folder / AGENT_FILE, EXPORT_AGAIN) as (_, metadata):
        return _exported_words(folder, metadata)


def _exported_words(folder: Path, metadata: Mapping[str, str]) -> frozenset[str] | None:
    try:
        return parse_words(metadata["words"]) if "words" in metadata else None
    except ValueError:
        raise InputError(f"{folder / AGENT_FILE}: its list of words is damaged; {EXPORT_AGAIN}") from None


def _shape(leaves: Mapping[str, jax.Array], name: str) -> str:
    return str(leaves[name].shape) if name in leaves else "none"


def _checked_tokenizer(config: TrainConfig, run: Path, recorded: str | None) -> Tokenizer:
    """The tokenizer of a run; raises InputError if it has changed since the training."""
    tokenizer = make_tokenizer(config.encoder)
    if recorded is not None and recorded != tokenizer.checksum:
        raise InputError(
            f"encoder.tokenizer={config.encoder.tokenizer}: its content differs from what {run} was trained with; "
            "restore the file"
        )
    return tokenizer
