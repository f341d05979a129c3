"""Videos of replayed episodes: what is filmed and encoded, and that a browser can show it."""

import re
import subprocess
from pathlib import Path
from typing import Any

import imageio_ffmpeg
import numpy as np
import pytest

from instructrl.errors import RunError
from instructrl.evaluation.report.page import page
from instructrl.evaluation.report.video import film_episodes, write_video
from instructrl.sim import Outcome
from instructrl.sim.vector.pool import WorkerFailure
from tests.fakes.sim import InlineWorkers
from tests.unit.evaluation.report.test_report import HOSTILE, episode, results


def filmed(folder: Path) -> dict[str, Any]:
    episodes = {0: episode(Outcome.SUCCESS, instruction=HOSTILE), 3: episode(Outcome.TIME_LIMIT, variation=1)}
    videos = film_episodes(InlineWorkers(), episodes, [0, 3], folder=folder / "videos", size=96)
    return results(videos=[video.metadata(folder) for video in videos])


def test_films_are_embedded(tmp_path: Path) -> None:
    text = page(filmed(tmp_path), metrics=[], settings="", folder=tmp_path)
    assert text.count("<video controls") == 2
    assert text.count("data:video/mp4;base64,AAAA") == 2
    labels = re.findall(r'aria-label="([^"]*)"', text)
    assert [label.rpartition(" (")[2] for label in labels] == ["success)", "time limit)"]


def test_films_replace_older_ones(tmp_path: Path) -> None:
    (tmp_path / "videos").mkdir()
    (tmp_path / "videos" / "0009-failure.mp4").write_bytes(b"old")
    filmed(tmp_path)
    assert sorted(path.name for path in (tmp_path / "videos").iterdir()) == ["0000-success.mp4", "0003-time_limit.mp4"]


def test_a_replay_that_kills_the_simulator_has_no_video(tmp_path: Path) -> None:
    class Dying(InlineWorkers):
        def _one(self, slot: int, request: Any) -> Any:
            return WorkerFailure("died twice") if request[1][0].variation == 1 else super()._one(slot, request)

    episodes = {0: episode(Outcome.SUCCESS), 3: episode(Outcome.FAILURE, variation=1)}
    videos = film_episodes(Dying(), episodes, [3, 0], folder=tmp_path, size=64)
    assert [video.index for video in videos] == [0]


def test_a_video_plays_in_browsers_and_shows_its_frames(tmp_path: Path) -> None:
    frames = np.zeros((8, 130, 94, 3), np.uint8)
    frames[:4] = (230, 30, 30)
    frames[4:] = (20, 40, 210)
    write_video(tmp_path / "a.mp4", frames)
    command = [
        imageio_ffmpeg.get_ffmpeg_exe(),
        "-i",
        str(tmp_path / "a.mp4"),
        "-f",
        "rawvideo",
        "-pix_fmt",
        "rgb24",
        "-",
    ]
    done = subprocess.run(command, capture_output=True, check=True)
    described = next(line for line in done.stderr.decode().splitlines() if "Video:" in line)
    for expected in ("h264", "yuv420p", "94x130", "10 fps"):
        assert expected in described
    decoded = np.frombuffer(done.stdout, np.uint8).reshape(-1, 130, 94, 3)
    assert len(decoded) == 8
    assert np.abs(decoded.astype(int).mean(axis=(1, 2)) - frames.mean(axis=(1, 2))).max() < 12
    assert [path.name for path in tmp_path.iterdir()] == ["a.mp4"]


def test_a_video_that_cannot_be_written_is_one_clear_error(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="videos=0"):
        write_video(tmp_path / "missing" / "a.mp4", np.zeros((2, 16, 16, 3), np.uint8))
