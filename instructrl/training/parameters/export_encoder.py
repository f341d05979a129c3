"""Export of a pretrained encoder's weights from its run, in the format that `encoder.weights` reads."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from instructrl.config.training import HardwareConfig, TrainConfig
from instructrl.data.text.tokenizer import Tokenizer, make_tokenizer
from instructrl.errors import InputError
from instructrl.models.encoders.registry import flatten_params
from instructrl.models.weight_files import ENCODER_FILE, write_weights
from instructrl.training.checkpointing.manager import open_checkpoints
from instructrl.training.run_dir import read_config, read_data, settings


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
    """Write the encoder's parameters with their provenance; returns the file's path.

    Args:
        run: the run directory.
        config: its settings.
        tokenizer: the tokenizer it was trained with.
        params: parameters of encoder and decoder.
        step: number of training steps.
        data: checksums of the training data.
        out: the file; None: `encoder.safetensors` in the run.
        decoder: also write the decoder, so that pretraining can continue from the file.

    Raises:
        InputError: the file cannot be written.
    """
    path = run / ENCODER_FILE if out is None else out
    parts = [params["encoder"], *([params["decoder"]] if decoder else [])]
    arrays = {name: np.asarray(leaf) for part in parts for name, leaf in flatten_params(jax.device_get(part)).items()}
    groups = ("seed", "encoder", "sim", "optimizer", "training", "pretraining")
    recorded = {key: settings(config)[key] for key in groups}
    metadata = {
        "tokenizer": tokenizer.checksum,
        "step": str(step),
        "data": json.dumps(data),
        "settings": json.dumps(recorded),
    }
    write_weights(
        path, arrays, kind=config.encoder.kind, source=f"pretrained by {run.name}, step {step}", metadata=metadata
    )
    return path


def export_run(run: Path, *, checkpoint: str, out: Path, decoder: bool = False) -> int:
    """Export the encoder from a run's `best` or `last` checkpoint; returns the checkpoint's step.

    Raises:
        InputError: the run is not a pretraining, has no such checkpoint, or the file cannot be written.
    """
    from instructrl.training.model_factory import make_masked_model, random_masked_params
    from instructrl.training.objectives.masked_pretraining import pretraining_image_size

    config = read_config(run)
    if config.objective != "masked_pretraining":
        raise InputError(f"run: found {run}, which trained an agent; allowed: a run with objective=masked_pretraining")
    config.hardware = HardwareConfig(name="cpu")
    tokenizer, known = make_tokenizer(config.encoder), read_data(run)
    if known.get("tokenizer", {}).get("checksum") != tokenizer.checksum:
        raise InputError(
            f"encoder.tokenizer={config.encoder.tokenizer}: its content differs from what {run} was trained with; "
            "restore it"
        )
    model = make_masked_model(config, vocabulary_size=tokenizer.vocabulary_size)
    sizes = {"size": pretraining_image_size(config), "length": tokenizer.length, "seed": 0}
    abstract = jax.eval_shape(lambda: random_masked_params(model, **sizes))
    if not (run / "checkpoints").is_dir():
        raise InputError(f"{run}: no checkpoint yet; train it first")
    with open_checkpoints(run, read_only=True) as checkpoints:
        step = checkpoints.step(checkpoint)
        if step is None:
            raise InputError(f"{run}: no {checkpoint} checkpoint yet; run its command again to resume")
        params = checkpoints.params(abstract, step=step, averaged=config.optimizer.ema is not None)
    data = {name: entry["checksum"] for name, entry in known.items() if name.startswith(("train", "val"))}
    export_encoder(run, config, tokenizer, params, step=step, data=data, out=out, decoder=decoder)
    return step
