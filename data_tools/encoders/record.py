"""Measurements and evaluated runs of each encoder, as files record them. No jax here."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from data_tools.encoders.settings import MeasureConfig, weight_files
from instructrl.config.training import TrainConfig
from instructrl.evaluation.compare.grouping import over_seeds
from instructrl.evaluation.compare.pairing import PairedDifference, paired_differences
from instructrl.evaluation.compare.sweep_runs import Run
from instructrl.evaluation.results.summary import HEADLINE
from instructrl.models.weight_files import read_checksum
from instructrl.storage.json_file import read_json

MEASUREMENT = "measurement.json"


@dataclass(frozen=True)
class Compared:
    """An encoder that was compared: what was measured of it, and its evaluated runs, one for each seed."""

    label: str
    config: TrainConfig
    measured: Mapping[str, Any]
    runs: Sequence[Run]

    @property
    def weights(self) -> str:
        """Pretrained or random."""
        return "pretrained" if weight_files(self.config.encoder) else "random"

    @property
    def read_size(self) -> int:
        """Side in pixels of the images that it reads."""
        return self.config.encoder.image_size or self.config.sim.image_size

    @property
    def success(self) -> Mapping[str, Any]:
        """The success rate over the seeds with its interval."""
        return over_seeds(self.runs)[HEADLINE]

    def minus(self, other: "Compared") -> PairedDifference:
        """The difference to another one in the same scenes, with the same seeds."""
        return paired_differences([(self.label, self.runs), (other.label, other.runs)])[0]


def measured_settings(settings: MeasureConfig, config: TrainConfig) -> dict[str, Any]:
    """All that a measurement depends on, as values of JSON."""
    part = {key: value for key, value in asdict(settings).items() if key in ("scenes", "test_scenes", "splits")}
    whole = asdict(config)
    part |= {key: whole[key] for key in ("encoder", "head", "task", "sim")}
    part |= {"data": config.data.dir, "hardware": [config.hardware.platform, config.hardware.precision]}
    part["weights"] = [read_checksum(path, kind=kind) for kind, path in weight_files(config.encoder)]
    return dict(json.loads(json.dumps(part)))


def read_measurement(folder: Path, settings: Mapping[str, Any]) -> dict[str, Any] | None:
    """The measurement in a folder; None if there is none of these settings, or it is damaged."""
    try:
        found = read_json(folder / MEASUREMENT)
        return dict(found) if found["settings"] == settings else None
    except (OSError, ValueError, TypeError, KeyError):
        return None
