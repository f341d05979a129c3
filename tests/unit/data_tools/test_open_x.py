"""Presets of the mapping for data sets of Open X-Embodiment."""

from pathlib import Path

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from data_tools.exchange.settings import PRESETS
from data_tools.rlds.__main__ import ImportConfig, parse, run_import
from instructrl.data.demonstrations.dataset import DemonstrationDataset
from instructrl.errors import InputError
from tests.fixtures import open_x


@pytest.mark.parametrize("layout", open_x.LAYOUTS)
def test_a_preset_takes_poses_images_and_sentence_from_its_layout(layout: str, tmp_path: Path) -> None:
    src = open_x.dataset(tmp_path / "src", layout)
    words = [f"src={src}", f"out={tmp_path / 'one.hdf5'}", f"mapping={layout}", "task=spoon", "split=train"]
    run_import(parse([*words, "image_size=32"], ImportConfig))
    with DemonstrationDataset(tmp_path / "one.hdf5") as found:
        one = found.demonstration(0)
        assert found.instructions(0) == (open_x.SENTENCE,)
        np.testing.assert_allclose(one.actions[:, :3], open_x.WAY[1:], atol=1e-6)
        assert one.actions[:, 7].tolist() == [0, 0]
        assert (one.images == np.array([0, 80, 160]).reshape(-1, 1, 1, 1, 1)).all()
        assert one.state.shape == (3, len(found.state))
        for quaternion in one.actions[:, 3:7]:
            assert (Rotation.from_quat(quaternion) * open_x.TURN.inv()).magnitude() < 1e-5


def test_every_preset_has_a_layout_that_tests_it_and_others_are_listed(tmp_path: Path) -> None:
    assert set(PRESETS) == set(open_x.LAYOUTS)
    src = open_x.dataset(tmp_path / "src", "bridge")
    for name, expected in (
        ("bridges", "mapping: found bridges; allowed: a YAML file, or bridge, droid, fractal, libero"),
        ("droid", r"exterior_image_1_left: .* has no such key"),
    ):
        with pytest.raises(InputError, match=expected):
            run_import(parse([f"src={src}", f"out={tmp_path / 'one.hdf5'}", f"mapping={name}"], ImportConfig))
