"""Inspection: summary, contact sheet and detection of damage."""

from pathlib import Path

import h5py
import numpy as np
import pytest
from PIL import Image

from data_tools.contact_sheet import TILE, contact_sheet
from data_tools.inspect import arguments, inspect, main
from data_tools.stats.measures import varied_episodes
from instructrl.data.demonstrations.reader import read
from instructrl.data.demonstrations.schema import checksum
from instructrl.errors import InputError
from tests.fixtures.commands import run_main
from tests.fixtures.demonstrations import HEADER, SENTENCES, demonstration, write


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return write(tmp_path / "file.hdf5", [demonstration(seed, steps=1 + seed % 2) for seed in range(8)])


def test_the_summary_says_what_is_in_it(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    inspect(arguments([str(path), "--verify"]))
    printed = capsys.readouterr().out
    for expected in (
        "reach_target, split train",
        "front, wrist at 16x16",
        "8 with 20 frames",
        "12; 1 to 2, on average 1.5 an episode",
        "3; 2 to 3, on average 2.7 episodes each",
        "renderer none",
        checksum(*read(path)),
        *(f"8  {sentence}" for sentence in SENTENCES),
        "all contents and pixels match their checksums",
        f"sheet       {path.with_suffix('.png')}",
    ):
        assert expected in printed, expected
    with Image.open(path.with_suffix(".png")) as sheet:
        assert sheet.height > 6 * TILE and sheet.width > 3 * 2 * TILE


def test_the_sheet_shows_the_frames_and_where_actions_go() -> None:
    made = demonstration(0, steps=1)
    images = np.zeros_like(made.images)
    images[0, 1] = (200, 0, 0)
    intrinsics = np.broadcast_to(np.array([[16, 0, 8], [0, 16, 8], [0, 0, 1]], np.float32), made.intrinsics.shape)
    extrinsics = np.broadcast_to(np.eye(4, dtype=np.float32), made.extrinsics.shape).copy()
    extrinsics[:, :, :3, 3] = made.actions[0, :3] - np.array([0, 0, 1], np.float32)  # straight ahead
    made = made._replace(images=images, intrinsics=intrinsics, extrinsics=extrinsics)
    pixels = np.asarray(contact_sheet([(0, made)], HEADER.cameras))
    red = (pixels == (200, 0, 0)).all(-1)
    rows, columns = np.flatnonzero(red.any(1)), np.flatnonzero(red.any(0))
    assert len(rows) == len(columns) == TILE
    ring = (pixels[rows[0] : rows[-1], columns[0] : columns[-1]] == 255).all(-1)
    assert np.allclose(np.argwhere(ring).mean(0), TILE / 2, atol=1)


def test_episodes_shown_differ_in_variation() -> None:
    variation = np.arange(100) % 20
    assert len({int(variation[number]) for number in varied_episodes(variation, 6)}) == 6
    assert varied_episodes(np.zeros(2, int)) == [0, 1]


def test_damaged_pixels_are_found(path: Path) -> None:
    with h5py.File(path, "r+") as file:
        file["frames/images"][-1, 0, 0, 0, 0] ^= 255
    with pytest.raises(InputError, match="episode 7: frames/images: damaged pixels"):
        inspect(arguments([str(path), "--verify", "--episode", "0"]))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ([], "the following arguments are required: file"),
        (["none.hdf5"], "none.hdf5: no such file"),
        (["FILE", "--episode", "8"], "--episode: found 8; allowed for"),
        (["FILE", "--out", "/proc/none/sheet.png"], "cannot be written"),
        (["FILE", "--frame"], "unrecognized arguments: --frame"),
    ],
)
def test_wrong_use_is_one_line(path: Path, given: list[str], message: str) -> None:
    asked = [str(path) if word == "FILE" else word for word in given]
    refused = run_main(main, *asked)
    assert refused.returncode == 2
    assert refused.stderr.count("\n") == 1 and message in refused.stderr
