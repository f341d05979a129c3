"""Behaviour cloning from files of which some have no camera matrices."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from instructrl.config.model import HEADS
from instructrl.training.objectives.behavior_cloning import DemonstrationSplits, without_unknown_cameras


def splits(*provenances: dict[str, str]) -> DemonstrationSplits:
    """Training files of these provenances."""
    files: list[Any] = [SimpleNamespace(path=Path(f"{n}.hdf5"), provenance=one) for n, one in enumerate(provenances)]
    return DemonstrationSplits(files, files[:1])


def test_slots_are_not_supervised_without_camera_matrices(capsys: pytest.CaptureFixture[str]) -> None:
    head = HEADS["regression"]("regression", "regression", heatmap_weight=0.7)
    assert without_unknown_cameras(head, splits({}, {"cameras": "known"})) is head
    assert capsys.readouterr().out == ""
    changed = without_unknown_cameras(head, splits({}, {"cameras": "unknown"}))
    assert changed.heatmap_weight == 0 and changed.slots == head.slots and head.heatmap_weight == 0.7
    assert capsys.readouterr().out == "head.heatmap_weight: 0, not 0.7: 1.hdf5 has no camera matrices\n"


def test_other_heads_are_left_as_they_are() -> None:
    spatial = HEADS["spatial"]("spatial", "spatial")
    assert without_unknown_cameras(spatial, splits({"cameras": "unknown"})) is spatial
