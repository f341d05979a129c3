"""The agent of a finished or running training, read from its directory or from what `Agent.save` made of it."""

from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from omegaconf import OmegaConf

from instructrl.config import HardwareConfig, TrainConfig
from instructrl.data.tokenizer import Tokenizer, make_tokenizer
from instructrl.errors import InputError
from instructrl.models.encoder import by_name
from instructrl.training.checkpoint import open_checkpoints
from instructrl.training.encoder import frozen_encoder
from instructrl.training.parameters import read_parameters, tree, write_parameters
from instructrl.training.run_directory import check_agent, read_config, read_data, write_atomically
from instructrl.training.state import abstract_params, make_agent, merged, one_step, split

FROZEN = "frozen.safetensors"  # in a run: the parameters that training.freeze keeps out of its checkpoints
EXPORTED = "agent.safetensors"  # in a folder of its own beside config.yaml: all parameters of an agent


class Trained(NamedTuple):
    """What training made."""

    config: TrainConfig
    tokenizer: Tokenizer
    params: Any  # all of the agent's, numpy arrays
    step: int  # after which they were saved


def read_trained(run: Path, *, checkpoint: str, hardware: HardwareConfig) -> Trained:
    """The agent of a run's `best` or `last` checkpoint, or of an exported folder, which has only one.

    Its settings get this `hardware` in place of what it was trained on.

    Raises:
        InputError: there is no run, no readable checkpoint, or its tokenizer or frozen weights are gone or others.
    """
    config = read_config(run)
    check_agent(config, run, key="run")
    config.hardware = hardware
    if (run / EXPORTED).exists():
        return _exported(run, config)
    tokenizer = _same_tokenizer(config, run, read_data(run).get("tokenizer", {}).get("checksum"))
    abstract = abstract_params(
        make_agent(config, vocabulary_size=tokenizer.vocabulary_size), one_step(config, tokenizer)
    )
    trained, frozen = split(abstract, config)
    if not (run / "checkpoints").is_dir():
        raise InputError(f"{run}: no checkpoint yet; train it first")
    with open_checkpoints(run, read_only=True) as checkpoints:
        step = checkpoints.step(checkpoint)
        if step is None:
            known = "no checkpoint" if checkpoints.step() is None else "only checkpoints before the first validation"
            raise InputError(f"{run}: {known} yet; start its training again to go on")
        trained = checkpoints.params(trained, step=step, averaged=config.optimizer.ema is not None)
    if config.encoder.frozen:
        encoder = frozen_encoder(config, abstract, tokenizer, run=run)
        frozen = {**frozen, "encoder": encoder}
    if kept_parts(config, frozen):
        frozen = {**frozen, **read_frozen(run, like=kept_parts(config, frozen))}
    return Trained(config, tokenizer, merged(trained, frozen), step)


def kept_parts(config: TrainConfig, frozen: Any) -> Any:
    """Of the frozen parameters, those that are kept in the run: all but a frozen encoder's, which has its own file."""
    return {name: part for name, part in frozen.items() if not (name == "encoder" and config.encoder.frozen)}


def read_frozen(run: Path, *, like: Any) -> Any:
    """The parameters that a run has frozen, in the shapes of `like`.

    Raises:
        InputError: their file is missing, damaged, or not the one that the run began with.
    """
    remedy = "restore it; without it this run is lost"
    params, said = read_parameters(run / FROZEN, remedy=remedy)
    found, expected = ({name: leaf.shape for name, leaf in by_name(one).items()} for one in (params, like))
    if said["checksum"] != read_data(run).get("frozen", {}).get("checksum") or found != expected:
        raise InputError(f"{run / FROZEN}: its content is not what {run} was trained with; {remedy}")
    return params


def export(folder: Path, trained: Trained) -> None:
    """Write an agent without what only training needs: its settings and one file of parameters.

    Raises:
        InputError: the folder holds a run, or cannot be written.
    """
    if (folder / "checkpoints").exists() or (folder / "data.json").exists():
        raise InputError(f"{folder}: found a run there; choose a folder of its own")
    about = {"tokenizer": trained.tokenizer.checksum, "step": str(trained.step)}
    write_parameters(folder / EXPORTED, trained.params, about=about)
    settings = OmegaConf.to_yaml(OmegaConf.structured(trained.config))
    write_atomically(folder / "config.yaml", settings, elsewhere="choose another folder")


def _exported(folder: Path, config: TrainConfig) -> Trained:
    params, said = read_parameters(folder / EXPORTED, remedy="export the agent again")
    tokenizer = _same_tokenizer(config, folder, said.get("tokenizer"))
    agent = make_agent(config, vocabulary_size=tokenizer.vocabulary_size)
    expected = by_name(abstract_params(agent, one_step(config, tokenizer)))
    found = by_name(params)
    wrong = [name for name in sorted(found.keys() | expected.keys()) if _shape(found, name) != _shape(expected, name)]
    if wrong:
        raise InputError(
            f"{folder / EXPORTED}: {wrong[0]}: found {_shape(found, wrong[0])}, expected {_shape(expected, wrong[0])}, "
            f"and config.yaml beside it tells otherwise; export the agent again"
        )
    return Trained(config, tokenizer, params, int(said.get("step", 0)))


def _shape(leaves: dict[str, Any], name: str) -> Any:
    return leaves[name].shape if name in leaves else "none"


def _same_tokenizer(config: TrainConfig, run: Path, recorded: str | None) -> Tokenizer:
    """The tokenizer of a run, if it still gives the same tokens."""
    tokenizer = make_tokenizer(config.encoder)
    if recorded is not None and recorded != tokenizer.checksum:
        raise InputError(
            f"encoder.tokenizer={config.encoder.tokenizer}: its content is not what {run} was trained with; "
            "restore the file"
        )
    return tokenizer


def arrays(params: Any) -> Any:
    """Parameters as numpy arrays on the host."""
    return tree({name: np.asarray(leaf) for name, leaf in by_name(jax.device_get(params)).items()})
