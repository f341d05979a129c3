"""Features of scenes for data_tools.probe, computed as training computes those of a frozen encoder."""

from typing import Any

import jax
import numpy as np

from data_tools.probe.scenes import Scene
from instructrl.config.training import TrainConfig
from instructrl.training.distributed.platform import select_platform
from instructrl.training.feature_extraction import load_frozen_encoder, make_encode_fn
from instructrl.training.model_factory import dummy_batch, random_params

BATCH = 16  # scenes encoded at once


class Encoders:
    """An encoder with its pretrained weights and with random ones."""

    def __init__(self, config: TrainConfig) -> None:
        """Load the weights.

        Raises:
            InputError: they are missing, damaged, or of another size or vocabulary.
        """
        select_platform(config.hardware)
        self._tokenizer, self._agent, params, _ = load_frozen_encoder(config)
        self._dummy_batch, self._pretrained = dummy_batch(config, self._tokenizer), params["encoder"]

    def _random(self, seed: int) -> Any:
        return random_params(self._agent, self._dummy_batch, seed=seed)

    def features(self, scenes: list[Scene], *, seed: int | None, max_grid: int) -> dict[str, np.ndarray]:
        """Features [N F] for each probe, of the pretrained weights (seed=None) or of random ones."""
        params = self._pretrained if seed is None else self._random(seed)["encoder"]
        encode = make_encode_fn(self._agent, {"encoder": jax.device_put(params)})
        found: dict[str, list[np.ndarray]] = {}
        for begin in range(0, len(scenes), BATCH):
            batch = scenes[begin : begin + BATCH]
            padded = [*batch, *[batch[-1]] * (BATCH - len(batch))]  # one compiled batch size
            images = np.stack([scene.images for scene in padded])
            for probe, sentences in (
                ("colour", [scene.location for scene in padded]),
                ("position", [scene.instruction for scene in padded]),
            ):
                encoded = encode(images, *self._tokenizer(sentences))
                pooled = np.concatenate([flatten(encoded.pooled), flatten(encoded.text)], axis=1)[: len(batch)]
                patches = np.asarray(encoded.patches, np.float32)[: len(batch)]
                found.setdefault(f"{probe}, pooled", []).append(pooled)
                if probe == "colour":
                    found.setdefault("colour, its patch", []).append(object_patch(patches, batch))
                else:
                    found.setdefault("position, patches", []).append(pool_patches(patches, max_grid))
        return {name: np.concatenate(parts) for name, parts in found.items()}


def flatten(array: Any) -> np.ndarray:
    """Flatten to one float32 row per scene."""
    rows = np.asarray(array, np.float32)
    return rows.reshape(len(rows), -1)


def object_patch(patches: np.ndarray, scenes: list[Scene]) -> np.ndarray:
    """Select from patches [N K P D] the first camera's patch that contains each scene's object: [N D]."""
    side = round(patches.shape[2] ** 0.5)
    columns, rows = np.clip((np.stack([scene.pixel for scene in scenes]) * side).astype(int), 0, side - 1).T
    return patches[np.arange(len(scenes)), 0, rows * side + columns]


def pool_patches(patches: np.ndarray, max_grid: int) -> np.ndarray:
    """Average patches [N K P D] to a grid of at most `max_grid` per side, flattened to [N F]."""
    count, cameras, number, width = patches.shape
    side = round(number**0.5)
    grid = max(size for size in range(1, min(side, max_grid) + 1) if side % size == 0)
    step = side // grid
    return patches.reshape(count, cameras, grid, step, grid, step, width).mean(axis=(3, 5)).reshape(count, -1)
