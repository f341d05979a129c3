"""Videos of episodes by replay: sentence and outcome in the picture, H.264 that every browser plays."""

import os
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import imageio_ffmpeg
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from instructrl.errors import RunError
from instructrl.evaluation.results import asked_variation
from instructrl.evaluation.rollout import Episode
from instructrl.sim import Outcome
from instructrl.sim.workers import WorkerFailure, Workers

FRAMES_PER_SECOND = 10
_HOLD_FRAMES = 12  # how long the end stands still
_MARGIN = 12  # pixels around the caption
_BACKGROUND, _TEXT, _FAINT = (20, 22, 27), (245, 246, 248), (160, 166, 176)
_GOOD, _BAD = (74, 201, 126), (245, 120, 96)


Font = ImageFont.FreeTypeFont | ImageFont.ImageFont


@dataclass(frozen=True)
class Video:
    """One film and the number of the episode that it shows."""

    index: int
    episode: Episode
    path: Path

    def described(self, folder: Path) -> dict[str, Any]:
        """What results.json says of it; the file as seen from `folder`."""
        episode = self.episode
        return {
            "file": str(self.path.relative_to(folder)),
            "index": self.index,
            "instruction": episode.instruction,
            "outcome": str(episode.outcome),
            "variation": asked_variation(episode),
            "seed": episode.start.seed,
        }


def choose_episodes(episodes: Mapping[int, Episode], *, count: int) -> list[int]:
    """Up to `count` successes and as many failures, every variation once before any comes twice."""
    chosen = []
    for success in (True, False):
        met: dict[int, int] = {}
        ranked = []
        for index, episode in sorted(episodes.items()):
            if episode.success is success and episode.outcome is not Outcome.SIMULATOR_ERROR:
                variation = asked_variation(episode)
                ranked.append((met.setdefault(variation, 0), index))
                met[variation] += 1
        chosen += [index for _, index in sorted(ranked)[:count]]
    return chosen


def film_episodes(
    workers: Workers, episodes: Mapping[int, Episode], indices: list[int], *, folder: Path, size: int = 320
) -> list[Video]:
    """Replay and film these episodes; the folder then holds their videos and no older ones.

    An episode whose replay kills the simulator has no video.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.glob("*.mp4"):
        old.unlink()
    arguments = [(episodes[index].start, episodes[index].actions, size) for index in indices]
    videos = {}
    for place, frames in workers.map("film", arguments):
        if not isinstance(frames, WorkerFailure):
            index, episode = indices[place], episodes[indices[place]]
            path = folder / f"{index:04d}-{episode.outcome}.mp4"
            write_video(path, captioned(frames, episode))
            videos[index] = Video(index, episode, path)
    return [videos[index] for index in indices if index in videos]


def captioned(frames: np.ndarray, episode: Episode) -> np.ndarray:
    """Frames [F, S, S, 3] below a band, where a player's buttons do not hide the sentence and the outcome."""
    band = caption(episode, frames.shape[2])
    frames = np.concatenate([frames, np.repeat(frames[-1:], _HOLD_FRAMES, axis=0)])
    return np.concatenate([np.broadcast_to(band, (len(frames), *band.shape)), frames], axis=1)


def caption(episode: Episode, width: int) -> np.ndarray:
    """The band [H, width, 3]: H even, with room for two lines or for all that the wrapped sentence needs."""
    large_size, small_size = max(10, width // 18), max(9, width // 25)
    large, small = ImageFont.load_default(large_size), ImageFont.load_default(small_size)
    lines = wrapped(episode.instruction or "(no instruction)", large, width - 2 * _MARGIN)
    line_height, small_height = int(large_size * 1.3), int(small_size * 1.4)
    bottom = _MARGIN + max(len(lines), 2) * line_height
    height = bottom + small_height + _MARGIN
    image = Image.new("RGB", (width, height + height % 2), _BACKGROUND)
    draw = ImageDraw.Draw(image)
    for number, line in enumerate(lines):
        draw.text((_MARGIN, _MARGIN + number * line_height), line, _TEXT if episode.instruction else _FAINT, large)
    outcome = str(episode.outcome).replace("_", " ")
    draw.text((_MARGIN, bottom), outcome, _GOOD if episode.success else _BAD, small)
    place = f"variation {asked_variation(episode)}   seed {episode.start.seed}"
    draw.text((width - _MARGIN - draw.textlength(place, small), bottom), place, _FAINT, small)
    return np.asarray(image)


def wrapped(text: str, font: Font, width: int) -> list[str]:
    """The text in lines no wider than `width`; a word that is wider alone is broken."""
    lines = [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".strip()
        if font.getlength(longer) <= width:
            lines[-1] = longer
            continue
        if lines[-1]:
            lines.append("")
        for letter in word:
            if lines[-1] and font.getlength(lines[-1] + letter) > width:
                lines.append("")
            lines[-1] += letter
    return lines


def write_video(path: Path, frames: np.ndarray) -> None:
    """Encode frames [F, H, W, 3], H and W even, as H.264 with 4:2:0 colours; written whole or not at all.

    Raises:
        RunError: ffmpeg does not run here, or the file cannot be written.
    """
    _, height, width, _ = frames.shape
    partial = path.with_name(f".{path.stem}.{os.getpid()}.mp4")
    given = ["-f", "rawvideo", "-pix_fmt", "rgb24", "-s", f"{width}x{height}", "-r", str(FRAMES_PER_SECOND), "-i", "-"]
    wanted = ["-c:v", "libx264", "-pix_fmt", "yuv420p", "-crf", "23", "-preset", "slow", "-movflags", "+faststart"]
    try:
        # not imageio_ffmpeg's own writer: it forks with a hook, which may deadlock once jax has started its threads
        command = [imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", "-y", *given, *wanted, "-threads", "1", str(partial)]
        subprocess.run(command, input=frames.tobytes(), capture_output=True, check=True)
        partial.replace(path)
    except (OSError, RuntimeError, subprocess.CalledProcessError) as error:
        partial.unlink(missing_ok=True)
        said = error.stderr.decode(errors="replace") if isinstance(error, subprocess.CalledProcessError) else str(error)
        raise RunError(f"{path}: the video cannot be made ({said.strip()}); videos=0 judges without any") from None
