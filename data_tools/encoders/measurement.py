"""Measurement of one frozen encoder: its features of the demonstrations, their speed and memory, and linear probes."""

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import jax
import numpy as np

from data_tools.encoders.record import MEASUREMENT, measured_settings
from data_tools.encoders.settings import MeasureConfig
from data_tools.probe.__main__ import MAX_GRID, ProbeConfig, baseline_scores, collect_scenes, scores
from data_tools.probe.features import Encoders
from data_tools.probe.scenes import TASKS
from instructrl.cli.entry import compose
from instructrl.cli.progress import stopwatch
from instructrl.collection.collect import ensure_demonstrations
from instructrl.config.environment import task_names
from instructrl.config.training import HardwareConfig, TrainConfig
from instructrl.data.demonstrations.dataset import DemonstrationDataset
from instructrl.data.feature_cache.cache import FeatureCache
from instructrl.data.feature_cache.compute import InputReader, Part
from instructrl.data.text.tokenizer import make_tokenizer
from instructrl.models.weight_files import ENCODER_FILE
from instructrl.storage.atomic import write_atomically
from instructrl.training.distributed.platform import select_platform
from instructrl.training.feature_extraction import (
    FrozenEncoder,
    encode_batch,
    load_frozen_encoder,
    make_encode_fn,
    open_features,
)
from instructrl.training.model_factory import dummy_batch, make_agent, random_params
from instructrl.training.monitoring.throughput import memory
from instructrl.training.objectives.behavior_cloning import open_demonstrations
from instructrl.training.parameters.encoder_weights import store_frozen_encoder
from instructrl.training.run_dir import feature_outputs

CALLS, SECONDS = 5, 3.0  # of the timing: at least so many batches, and for so long


def measure(settings: MeasureConfig, config: TrainConfig, words: Sequence[str]) -> None:
    """Cache the features of the demonstrations, measure the encoder, and write the numbers to a file in `out`.

    Args:
        settings: of the measurement.
        config: of the trainings, without a seed.
        words: those of `config`, from which that of the probe is composed.

    Raises:
        InputError: the encoder or the demonstrations cannot be used, or the folder cannot be written.
    """
    record: dict[str, Any] = {"settings": measured_settings(settings, config)}
    folder = Path(settings.out)
    select_platform(config.hardware, beside_renderers=True)
    data = ensure_demonstrations(config.task, config.sim, config.data, outputs=feature_outputs(config))
    config = with_weights(config, folder)
    with open_demonstrations(config, data) as splits:
        files, encoder = [*splits.train, *splits.val], load_frozen_encoder(config)
        caches = open_features(
            config, files, encoder.tokenizer, agent=encoder.agent, params=encoder.params, checksum=encoder.checksum
        )
        record["images_per_second"] = images_per_second(config.hardware, encoder, files[0], caches[0])
    record["features_bytes"] = sum(file.stat().st_size for cache in caches for file in cache.folder.glob("*.bin"))
    record["memory"] = memory(jax.local_devices())
    record["parameters"] = sum(leaf.size for leaf in jax.tree.leaves(encoder.params))
    record["probe"] = probe(settings, config, words)
    write_atomically(folder / MEASUREMENT, json.dumps(record, indent=1) + "\n", hint="choose another out=")


def with_weights(config: TrainConfig, folder: Path) -> TrainConfig:
    """The settings with random weights in a file in `folder`, unless they name one: all seeds share them.

    Raises:
        InputError: they cannot be written.
    """
    if config.encoder.weights is not None:
        return config
    tokenizer = make_tokenizer(config.encoder)
    agent = make_agent(config, vocabulary_size=tokenizer.vocabulary_size)
    params = random_params(agent, dummy_batch(config, tokenizer), seed=0)
    folder.mkdir(parents=True, exist_ok=True)
    size = config.sim.image_size
    store_frozen_encoder(
        config.encoder, params, tokenizer, run=folder, rendered_size=size, resuming=False, seed=0, init_from=None
    )
    return replace(config, encoder=replace(config.encoder, weights=str(folder / ENCODER_FILE)))


def images_per_second(
    config: HardwareConfig, encoder: FrozenEncoder, file: DemonstrationDataset, cache: FeatureCache
) -> dict[str, float]:
    """Images of the demonstrations that are encoded in a second, as when they are cached: median and quartiles."""
    size = encode_batch(config, cameras=cache.layout.cameras)
    batch = InputReader(file, cache.layout, batch_size=size)([Part(0, min(size, cache.layout.items))])
    encode = make_encode_fn(encoder.agent, encoder.params)
    seconds = batch_seconds(lambda: encode(*batch))
    low, median, high = np.quantile(size * cache.layout.cameras / np.array(seconds), (0.25, 0.5, 0.75))
    return {"median": float(median), "low": float(low), "high": float(high)}


def batch_seconds(call: Callable[[], Any]) -> list[float]:
    """Seconds of each call, after a first one that compiles."""
    jax.block_until_ready(call())
    begun, seconds = time.perf_counter(), list[float]()
    while len(seconds) < CALLS or time.perf_counter() - begun < SECONDS:
        before = time.perf_counter()
        jax.block_until_ready(call())
        seconds.append(time.perf_counter() - before)
    return seconds


def probe(settings: MeasureConfig, config: TrainConfig, words: Sequence[str]) -> Mapping[str, Any] | None:
    """Probe the encoder in the first task that has things to be named; None if there is none."""
    task = next((name for name in task_names(config.task) if name in TASKS), None)
    if task is None or not config.sim.locates_objects:
        return None
    heads = [word for word in words if word.partition("=")[0].partition(".")[0] != "head"]
    probed = replace(compose("train", TrainConfig, [*heads, "head=spatial"]), encoder=config.encoder)
    size = ProbeConfig(scenes=settings.scenes, test_scenes=settings.test_scenes)
    encoders, scenes = Encoders(probed), collect_scenes(size, probed, task)
    with stopwatch(f"features of {len(scenes)} scenes"):
        features = encoders.features(scenes, seed=None, max_grid=MAX_GRID)
    found: dict[str, list[float]] = {}
    for split in range(settings.splits):
        order = np.random.default_rng((size.scene_seed, split)).permutation(len(scenes))
        for name, value in scores(features, scenes, order[: size.scenes], order[size.scenes :]).items():
            found.setdefault(name, []).append(value)
    return {"task": task, "scenes": asdict(size), "scores": found, "nothing": baseline_scores(scenes)}
