"""The sheet of all tasks: every keyframe is drawn once, and an invalid command line draws nothing."""

import itertools
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from data_tools.tasks import COLUMNS, TILE, arguments, draw_tasks, episode_images, group_positions
from instructrl.errors import InputError


@pytest.fixture(autouse=True)
def no_opengl(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("INSTRUCTRL_GL", "none")


@given(st.lists(st.integers(1, 4 * COLUMNS), min_size=1, max_size=30))
def test_no_two_pictures_share_a_place(counts: list[int]) -> None:
    occupied = set[tuple[int, int]]()
    last = (-1, 0)
    for (row, column), count in zip(group_positions(counts), counts, strict=True):
        assert (row, column) > last, "not in reading order"
        last = row, column
        tiles = {(row + more // COLUMNS, column + more % COLUMNS) for more in range(count)}
        assert all(tile_column < COLUMNS for _, tile_column in tiles)
        assert not tiles & occupied
        occupied |= tiles


def test_an_episode_is_shown_from_its_start_to_its_end() -> None:
    instruction, images = episode_images("push_buttons", 223)
    assert instruction == "push the orange button and then the lime one"
    assert len(images) == 5
    assert all(image.size == (TILE, TILE) for image in images)
    assert all((np.asarray(one) != np.asarray(two)).any() for one, two in itertools.pairwise(images))


def test_the_sheet_is_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "folder" / "two.png"
    draw_tasks(arguments(["reach_target", "push_button", "--out", str(out)]))
    assert capsys.readouterr().out == f"{out}: 2 tasks\n"
    with Image.open(out) as image:
        assert image.width > COLUMNS * TILE
        assert TILE < image.height < 2 * TILE, "both fit in one row"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["reach_targte"], r"TASK: found reach_targte, expected some of meat_off_grill, "),
        (["--seed", "-1"], r"--seed: found -1, expected 0 or more"),
        (["--seed", "one"], r"invalid int value: 'one'; see python -m data_tools\.tasks --help"),
        (["--out", "sheet.gif"], r"--out: found sheet\.gif, expected a name that ends in \.jpg, \.png"),
        (
            ["reach_target", "--out", "/proc/none/sheet.png"],
            r"/proc/none/sheet\.png: cannot be written .*; make room or choose another --out",
        ),
    ],
)
def test_bad_input_is_one_line(options: list[str], message: str) -> None:
    with pytest.raises(InputError, match=message):
        draw_tasks(arguments(options))
