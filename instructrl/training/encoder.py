"""Where an encoder's parameters come from: a file of weights, or chance."""

from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from instructrl.config import TrainConfig
from instructrl.data.tokenizer import Tokenizer
from instructrl.errors import InputError
from instructrl.models.encoder import by_name, encoder_shapes
from instructrl.models.weights import DECODER, fit, read_checksum, read_weights, write_weights
from instructrl.training.run_directory import read_data

KEPT = "encoder.safetensors"  # in the run directory: the weights of a frozen encoder that came from no file


class Origin(NamedTuple):
    """A file of weights and its checksum, as data.json records them."""

    path: Path
    checksum: str

    def described(self) -> dict[str, str]:
        """The entry of data.json."""
        return {"path": str(self.path), "checksum": self.checksum}


def in_file(config: TrainConfig, run: Path) -> bool:
    """Whether there is a file of the parameters with which a run's encoder begins."""
    return config.encoder.weights is not None or (config.encoder.frozen and (run / KEPT).exists())


def begin(config: TrainConfig, params: Any, tokenizer: Tokenizer, *, run: Path) -> tuple[Any, Origin | None]:
    """The parameters with the encoder's from its file, and that file; random ones that are frozen are kept in the run.

    Where there is a file already, of the encoder's `params` only the shapes count.

    Raises:
        InputError: the weights are missing, damaged, or of another size or vocabulary.
    """
    if not in_file(config, run):
        if not config.encoder.frozen:
            return params, None
        arrays = {name: np.asarray(leaf) for name, leaf in by_name(params["encoder"]).items()}
        write_weights(run / KEPT, arrays, kind=config.encoder.kind, source=f"random, seed {config.seed}")
    origin = origin_of(config, run)
    loaded = read_encoder(config, origin.path, tokenizer, like=params["encoder"])
    return {**params, "encoder": loaded}, origin


def origin_of(config: TrainConfig, run: Path) -> Origin:
    """The file that a run's encoder comes from."""
    path = run / KEPT if config.encoder.weights is None else Path(config.encoder.weights)
    return Origin(path, read_checksum(path, kind=config.encoder.kind))


def read_encoder(config: TrainConfig, path: Path, tokenizer: Tokenizer, *, like: Any) -> Any:
    """The encoder's parameters from a file, those of the tree `like`: a file with text may serve one without.

    Raises:
        InputError: the weights are damaged, or of another size or vocabulary.
    """
    shapes = encoder_shapes(config.encoder, vocabulary_size=tokenizer.vocabulary_size)
    loaded = fit(read_weights(path, kind=config.encoder.kind), shapes, besides=DECODER)
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
