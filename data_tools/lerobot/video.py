"""Frames of video files, decoded and encoded by PyAV, whose package brings FFmpeg's libraries with it."""

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple, cast

import av
import numpy as np

from instructrl.errors import InputError, short_message

DECODED = ("av1", "h264", "hevc", "vp9", "mpeg4")
PIXELS = "yuv420p"  # what every decoder and browser reads
GROUP = 2  # frames from one that stands for itself to the next, as in LeRobot: any frame is soon reached
SKIPPED = 60  # frames that are rather decoded than sought
BROKEN = (av.FFmpegError, OSError, ValueError)  # what a damaged file leads to


class Codec(NamedTuple):
    """An encoder, and its options."""

    encoder: str
    crf: int  # quality, unless another is set: less is better
    highest: int
    options: dict[str, str]


CODECS = {
    "av1": Codec("libsvtav1", 30, 63, {"preset": "8", "svtav1-params": "lp=2"}),
    "h264": Codec("libx264", 23, 51, {"preset": "medium", "bf": "0"}),
}


@contextmanager
def ordinary_scheduling() -> Iterator[None]:
    """Undo real-time priorities that libraries give to this process.

    As root, SVT-AV1 gives one to its threads and to the one that opens it: they, and all that this process starts
    later, would displace everything else on the machine.
    """
    linux = hasattr(os, "sched_setscheduler")
    chosen = linux and os.sched_getscheduler(0) != os.SCHED_OTHER  # by whoever started this process
    yield
    if chosen or not linux:
        return
    for thread in Path("/proc/self/task").iterdir():
        with suppress(ProcessLookupError):  # it has ended
            if os.sched_getscheduler(int(thread.name)) in (os.SCHED_FIFO, os.SCHED_RR):
                os.sched_setscheduler(int(thread.name), os.SCHED_OTHER, os.sched_param(0))


class VideoReader:
    """Reads the frames of a video file by their times; fastest if these increase."""

    def __init__(self, path: Path, shape: tuple[int, int], fps: float) -> None:
        """Open a file, of which frames of this height and width are expected.

        Raises:
            InputError: it is missing, damaged, of another size, or in a format that is not read.
        """
        self.path, self._step = path, 1 / fps
        self._frames: Iterator[Any] = iter(())
        try:
            self._container = av.open(str(path), format="mp4", options={"enable_drefs": "0"})
            self._stream: Any = self._container.streams.video[0]
            codec = self._stream.codec_context
            name, size = codec.name, (codec.height, codec.width)
        except FileNotFoundError:
            raise InputError(f"{path}: no such file, which the data set's metadata lists; copy it again") from None
        except (*BROKEN, IndexError) as error:
            raise InputError(f"{path}: cannot be read as a video ({short_message(error)}); copy it again") from None
        name = {"libdav1d": "av1", "libaom-av1": "av1"}.get(name, name)
        if name not in DECODED or size != shape:
            self.close()
            found, expected = f"{name}, {size[1]} x {size[0]}", f"{' or '.join(DECODED)}, {shape[1]} x {shape[0]}"
            raise InputError(f"{path}: found a video in {found}; expected {expected}")
        self._stream.thread_type = "SLICE"  # threads over frames delay the first one
        self._now = -1.0  # seconds of the frame that was decoded last
        self._last: Any = None

    @property
    def frames(self) -> int:
        """Number of frames according to the file's header; 0 if it has none."""
        return int(self._stream.frames)

    def frame(self, seconds: float) -> np.ndarray:
        """Pixels uint8 [H W 3] of the frame at a time.

        Raises:
            InputError: there is none within a quarter of the time between two frames, or the file is damaged.
        """
        tolerance = self._step / 4
        try:
            if seconds < self._now - tolerance or seconds > self._now + SKIPPED * self._step or self._last is None:
                self._seek(seconds)
            while self._last is None or self._now < seconds - tolerance:
                self._last = next(self._frames)
                self._now = float(self._last.time)
            if abs(self._now - seconds) > tolerance:
                raise InputError(f"{self.path}: has no frame at {seconds:.4f} s, the next is at {self._now:.4f} s")
            return self._last.to_ndarray(format="rgb24")
        except StopIteration:
            at = f"ends at {self._now:.4f} s, before the frame at {seconds:.4f} s"
            raise InputError(f"{self.path}: {at}; copy it again") from None
        except BROKEN as error:
            raise InputError(f"{self.path}: cannot be decoded ({short_message(error)}); copy it again") from None

    def _seek(self, seconds: float) -> None:
        """Go to the frame before a time from which decoding can begin."""
        before = max(seconds - self._step / 4, 0)
        self._container.seek(int(before / self._stream.time_base), stream=self._stream)
        self._frames, self._now, self._last = self._decoded(), -1.0, None

    def _decoded(self) -> Iterator[Any]:
        for frame in self._container.decode(self._stream):
            if frame.time is not None:
                yield frame

    def close(self) -> None:
        """Close the file."""
        self._container.close()


class VideoWriter:
    """Writes frames to a video file."""

    def __init__(self, path: Path, shape: tuple[int, int], *, fps: int, codec: str, crf: int | None) -> None:
        """Begin a file of frames of this height and width, encoded as in `CODECS`."""
        self.count, self.bytes = 0, 0  # frames, and bytes of their packets
        path.parent.mkdir(parents=True, exist_ok=True)
        os.environ.setdefault("SVT_LOG", "1")  # errors only; AV1's encoder otherwise prints what it is
        chosen = CODECS[codec]
        options = {**chosen.options, "g": str(GROUP), "crf": str(chosen.crf if crf is None else crf)}
        self._container = av.open(str(path), "w", format="mp4")
        self._stream = cast(av.VideoStream, self._container.add_stream(chosen.encoder, rate=fps, options=options))
        self._stream.height, self._stream.width = shape
        self._stream.pix_fmt, self._time_base = PIXELS, Fraction(1, fps)
        with ordinary_scheduling():
            self._stream.codec_context.open(strict=False)

    def add(self, pixels: np.ndarray) -> None:
        """Append a frame, uint8 [H W 3]."""
        frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), format="rgb24")
        frame.pts, frame.time_base = self.count, self._time_base
        self._write(self._stream.encode(frame))
        self.count += 1

    def _write(self, packets: list[av.Packet]) -> None:
        self._container.mux(packets)
        self.bytes += sum(packet.size for packet in packets)

    def close(self) -> None:
        """Complete the file."""
        try:
            self._write(self._stream.encode(None))
        finally:
            self._container.close()
