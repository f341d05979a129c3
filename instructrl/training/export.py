"""The weights of a pretrained encoder, taken out of its run in the layout that `encoder.weights` reads."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from instructrl.config import HardwareConfig, TrainConfig
from instructrl.data.tokenizer import Tokenizer, make_tokenizer
from instructrl.errors import InputError
from instructrl.models.encoder import by_name
from instructrl.models.weights import write_weights
from instructrl.training.checkpoint import open_checkpoints
from instructrl.training.encoder import KEPT
from instructrl.training.run_directory import read_config, read_data, settings


def export_encoder(
    run: Path,
    config: TrainConfig,
    tokenizer: Tokenizer,
    params: Any,
    *,
    step: int,
    data: Mapping[str, str],
    out: Path | None = None,
    decoder: bool = False,
) -> Path:
    """Write the encoder's parameters, and what made them; the place of the file.

    Args:
        run: its directory; the file is there if `out` names no other place.
        config: its settings.
        tokenizer: the one it learnt with.
        params: all parameters, encoder and decoder.
        step: after which they are these.
        data: the checksums of what it learnt from.
        out: another place.
        decoder: whether the decoder's are written too, to pretrain further with them.

    Raises:
        InputError: the file cannot be written.
    """
    path = run / KEPT if out is None else out
    parts = [params["encoder"], *([params["decoder"]] if decoder else [])]
    arrays = {name: np.asarray(leaf) for part in parts for name, leaf in by_name(jax.device_get(part)).items()}
    made = {key: settings(config)[key] for key in ("seed", "encoder", "sim", "optimizer", "training", "pretraining")}
    about = {"tokenizer": tokenizer.checksum, "step": str(step), "data": json.dumps(data), "settings": json.dumps(made)}
    write_weights(path, arrays, kind=config.encoder.kind, source=f"pretrained by {run.name}, step {step}", about=about)
    return path


def export_run(run: Path, *, checkpoint: str, out: Path, decoder: bool = False) -> int:
    """The same from a checkpoint of a run, `best` or `last`; its step.

    Raises:
        InputError: it is no pretraining, has no such checkpoint, or the file cannot be written.
    """
    from instructrl.training.masked_parameters import initial_masked
    from instructrl.training.pretraining import make_masked_model, pretraining_size

    config = read_config(run)
    if config.objective != "masked":
        raise InputError(f"run: found {run}, which trained an agent; allowed: a run with objective=masked")
    config.hardware = HardwareConfig(name="cpu")
    tokenizer, known = make_tokenizer(config.encoder), read_data(run)
    if known.get("tokenizer", {}).get("checksum") != tokenizer.checksum:
        raise InputError(
            f"encoder.tokenizer={config.encoder.tokenizer}: its content is not what {run} was trained with; restore it"
        )
    model = make_masked_model(config, vocabulary_size=tokenizer.vocabulary_size)
    sizes = {"size": pretraining_size(config), "length": tokenizer.length, "seed": 0}
    abstract = jax.eval_shape(lambda: initial_masked(model, **sizes))
    if not (run / "checkpoints").is_dir():
        raise InputError(f"{run}: no checkpoint yet; train it first")
    with open_checkpoints(run, read_only=True) as checkpoints:
        step = checkpoints.step(checkpoint)
        if step is None:
            raise InputError(f"{run}: no {checkpoint} checkpoint yet; start its training again to go on")
        params = checkpoints.params(abstract, step=step, averaged=config.optimizer.ema is not None)
    data = {name: entry["checksum"] for name, entry in known.items() if name.startswith(("train", "val"))}
    export_encoder(run, config, tokenizer, params, step=step, data=data, out=out, decoder=decoder)
    return step
