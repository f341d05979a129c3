"""Export of a pretrained encoder's weights from its run, in the format that `encoder.weights` reads."""

import json
from collections.abc import Mapping
from pathlib import Path

import jax
import numpy as np

from instructrl.config.training import TrainConfig
from instructrl.data.text.tokenizer import Tokenizer
from instructrl.models.parameter_files import flatten_params
from instructrl.models.weight_files import ENCODER_FILE, write_weights
from instructrl.training.run_dir import settings
from instructrl.training.types import Params


def export_encoder(
    run: Path,
    config: TrainConfig,
    tokenizer: Tokenizer,
    params: Params,
    *,
    step: int,
    data: Mapping[str, str],
) -> Path:
    """Write the encoder's parameters with their provenance to `encoder.safetensors` in the run; returns the path.

    Args:
        run: the run directory.
        config: its settings.
        tokenizer: the tokenizer it was trained with.
        params: parameters of encoder and decoder, of which only the encoder's are written.
        step: number of training steps.
        data: checksums of the training data.

    Raises:
        InputError: the file cannot be written.
    """
    path = run / ENCODER_FILE
    arrays = {name: np.asarray(leaf) for name, leaf in flatten_params(jax.device_get(params["encoder"])).items()}
    groups = ("seed", "encoder", "sim", "optimizer", "training", "pretraining")
    recorded = {key: settings(config)[key] for key in groups}
    metadata = {
        "tokenizer": tokenizer.checksum,
        "step": str(step),
        "data": json.dumps(data),
        "settings": json.dumps(recorded),
    }
    write_weights(
        path,
        arrays,
        kind=config.encoder.kind,
        source=f"pretrained by {run.name}, step {step}",
        architecture=config.encoder.architecture(
            vocabulary=tokenizer.vocabulary_size, rendered_size=config.sim.image_size
        ),
        metadata=metadata,
    )
    return path
