"""Episode videos rendered by replay, captioned with instruction and outcome, as H.264 that all browsers play."""

import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import imageio_ffmpeg
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from instructrl.errors import RunError
from instructrl.evaluation.results.summary import requested_variation
from instructrl.evaluation.rollout import Episode
from instructrl.sim import Outcome
from instructrl.sim.vector.pool import WorkerFailure, Workers
from instructrl.storage.atomic import atomic_path

FRAMES_PER_SECOND = 10
_HOLD_FRAMES = 12  # repetitions of the last frame
_MARGIN = 12  # pixels around the caption
_BACKGROUND, _TEXT, _FAINT = (20, 22, 27), (245, 246, 248), (160, 166, 176)
_GOOD, _BAD = (74, 201, 126), (245, 120, 96)


Font = ImageFont.FreeTypeFont | ImageFont.ImageFont


@dataclass(frozen=True)
class Video:
    """A video file and the episode that it shows."""

    index: int
    episode: Episode
    path: Path

    def metadata(self, folder: Path) -> dict[str, Any]:
        """The video's entry in results.json, with its path relative to `folder`."""
        episode = self.episode
        return {
            "file": str(self.path.relative_to(folder)),
            "index": self.index,
            "instruction": episode.instruction,
            "outcome": str(episode.outcome),
            "variation": requested_variation(episode),
            "seed": episode.start.seed,
        }


def choose_episodes(episodes: Mapping[int, Episode], *, count: int) -> list[int]:
    """Indices of up to `count` successes and as many failures, covering variations before repeating any."""
    chosen = []
    for success in (True, False):
        seen: dict[int, int] = {}
        ranked = []
        for index, episode in sorted(episodes.items()):
            if episode.success is success and episode.outcome is not Outcome.SIMULATOR_ERROR:
                variation = requested_variation(episode)
                ranked.append((seen.setdefault(variation, 0), index))
                seen[variation] += 1
        chosen += [index for _, index in sorted(ranked)[:count]]
    return chosen


def film_episodes(
    workers: Workers, episodes: Mapping[int, Episode], indices: list[int], *, folder: Path, size: int = 320
) -> list[Video]:
    """Replay these episodes and write their videos, replacing older ones in the folder.

    An episode whose replay crashes the simulator has no video.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.glob("*.mp4"):
        old.unlink()
    arguments = [(episodes[index].start, episodes[index].actions, size) for index in indices]
    videos = {}
    for position, frames in workers.map("film", arguments):
        if not isinstance(frames, WorkerFailure):
            index, episode = indices[position], episodes[indices[position]]
            path = folder / f"{index:04d}-{episode.outcome}.mp4"
            write_video(path, add_captions(frames, episode))
            videos[index] = Video(index, episode, path)
    return [videos[index] for index in indices if index in videos]


def add_captions(frames: np.ndarray, episode: Episode) -> np.ndarray:
    """Frames [F, S, S, 3] below a caption band, where player controls do not hide the instruction and the outcome."""
    band = caption(episode, frames.shape[2])
    frames = np.concatenate([frames, np.repeat(frames[-1:], _HOLD_FRAMES, axis=0)])
    return np.concatenate([np.broadcast_to(band, (len(frames), *band.shape)), frames], axis=1)


def caption(episode: Episode, width: int) -> np.ndarray:
    """The caption band [H, width, 3]: H even, with room for at least two lines of the wrapped instruction."""
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
    label = f"variation {requested_variation(episode)}   seed {episode.start.seed}"
    draw.text((width - _MARGIN - draw.textlength(label, small), bottom), label, _FAINT, small)
    return np.asarray(image)


def wrapped(text: str, font: Font, width: int) -> list[str]:
    """Wrap text into lines of at most `width` pixels, breaking words that are wider."""
    lines = [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".strip()
        if font.getlength(longer) <= width:
            lines[-1] = longer
            continue
        if lines[-1]:
            lines.append("")
        for character in word:
            if lines[-1] and font.getlength(lines[-1] + character) > width:
                lines.append("")
            lines[-1] += character
    return lines


def write_video(path: Path, frames: np.ndarray) -> None:
    """Encode frames [F, H, W, 3], H and W even, as H.264 with 4:2:0 chroma, atomically.

    Raises:
        RunError: ffmpeg does not run on this machine, or the file cannot be written.
    """
    _, height, width, _ = frames.shape
    input_options = [
        "-f",
        "rawvideo",
        "-pix_fmt",
        "rgb24",
        "-s",
        f"{width}x{height}",
        "-r",
        str(FRAMES_PER_SECOND),
        "-i",
        "-",
    ]
    output_options = [
        "-c:v",
        "libx264",
        "-pix_fmt",
        "yuv420p",
        "-crf",
        "23",
        "-preset",
        "slow",
        "-movflags",
        "+faststart",
        "-f",
        "mp4",
    ]
    try:
        # not imageio_ffmpeg's own writer: it forks with a hook, which may deadlock once jax has started its threads
        command = [
            imageio_ffmpeg.get_ffmpeg_exe(),
            "-v",
            "error",
            "-y",
            *input_options,
            *output_options,
            "-threads",
            "1",
        ]
        with atomic_path(path) as temporary:
            subprocess.run([*command, str(temporary)], input=frames.tobytes(), capture_output=True, check=True)
    except (OSError, RuntimeError, subprocess.CalledProcessError) as error:
        message = (
            error.stderr.decode(errors="replace") if isinstance(error, subprocess.CalledProcessError) else str(error)
        )
        raise RunError(
            f"{path}: the video cannot be written ({message.strip()}); videos=0 evaluates without videos"
        ) from None
