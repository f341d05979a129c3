"""Features of scenes for data_tools.probe, through the door by which training gets those of a frozen encoder."""

from typing import Any

import jax
import numpy as np

from data_tools.probe_scenes import Scene
from instructrl.config import TrainConfig
from instructrl.data.tokenizer import make_tokenizer
from instructrl.training.encoder import with_weights
from instructrl.training.features import make_encode
from instructrl.training.hardware import select_platform
from instructrl.training.state import initial_params, make_agent, one_step

BATCH = 16  # scenes encoded at once


class Encoders:
    """An encoder with its weights, and with random ones."""

    def __init__(self, config: TrainConfig) -> None:
        """Read the weights.

        Raises:
            InputError: they are missing, damaged, or of another size or vocabulary.
        """
        select_platform(config.hardware)
        self._tokenizer = make_tokenizer(config.encoder)
        self._agent = make_agent(config, vocabulary_size=self._tokenizer.vocabulary_size)
        self._smallest = one_step(config, self._tokenizer)
        self._pretrained = with_weights(config, self._random(0), self._tokenizer)["encoder"]

    def _random(self, seed: int) -> Any:
        return initial_params(self._agent, self._smallest, seed=seed)

    def features(self, scenes: list[Scene], *, seed: int | None, finest: int) -> dict[str, np.ndarray]:
        """Features [N F] for each probe: of the weights, or of random ones from a seed."""
        params = self._pretrained if seed is None else self._random(seed)["encoder"]
        encode = make_encode(self._agent, {"encoder": jax.device_put(params)})
        found: dict[str, list[np.ndarray]] = {}
        for begin in range(0, len(scenes), BATCH):
            some = scenes[begin : begin + BATCH]
            padded = [*some, *[some[-1]] * (BATCH - len(some))]  # one compiled size
            images = np.stack([scene.images for scene in padded])
            for what, sentences in (
                ("colour", [scene.place for scene in padded]),
                ("position", [scene.instruction for scene in padded]),
            ):
                answer = encode(images, *self._tokenizer(sentences))
                pooled = np.concatenate([flat(answer.pooled), flat(answer.text)], axis=1)[: len(some)]
                patches = np.asarray(answer.patches, np.float32)[: len(some)]
                found.setdefault(f"{what}, pooled", []).append(pooled)
                if what == "colour":
                    found.setdefault("colour, its patch", []).append(at_thing(patches, some))
                else:
                    found.setdefault("position, patches", []).append(coarse(patches, finest))
        return {name: np.concatenate(parts) for name, parts in found.items()}


def flat(array: Any) -> np.ndarray:
    """All of one scene in one row, float32."""
    rows = np.asarray(array, np.float32)
    return rows.reshape(len(rows), -1)


def at_thing(patches: np.ndarray, scenes: list[Scene]) -> np.ndarray:
    """Of patches [N K P D] the first camera's in which each scene's thing is [N D]."""
    side = round(patches.shape[2] ** 0.5)
    columns, rows = np.clip((np.stack([scene.pixel for scene in scenes]) * side).astype(int), 0, side - 1).T
    return patches[np.arange(len(scenes)), 0, rows * side + columns]


def coarse(patches: np.ndarray, finest: int) -> np.ndarray:
    """Patches [N K P D], averaged to a grid of at most `finest` a side, in rows [N F]."""
    count, cameras, number, width = patches.shape
    side = round(number**0.5)
    grid = max(size for size in range(1, min(side, finest) + 1) if side % size == 0)
    step = side // grid
    return patches.reshape(count, cameras, grid, step, grid, step, width).mean(axis=(3, 5)).reshape(count, -1)
