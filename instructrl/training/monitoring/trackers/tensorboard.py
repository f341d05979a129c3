"""TensorBoard."""

import io
import shutil
import time
from pathlib import Path
from typing import Any

from PIL import Image

from instructrl.config.training import TrainConfig
from instructrl.training.monitoring.trackers.base import Logged, Tracker

FOLDER = "tensorboard"  # in the run directory


class TensorBoardTracker(Tracker):
    """Event files for TensorBoard in the run directory, written anew by each training that continues the run."""

    incomplete = True

    def __init__(self, config: TrainConfig, run: Path) -> None:
        """Begin new event files; `config` is unused."""
        from tensorboard.summary.writer.event_file_writer import EventFileWriter

        folder = run / FOLDER
        shutil.rmtree(folder, ignore_errors=True)
        self._writer = EventFileWriter(str(folder))

    def log(self, logged: Logged) -> None:
        """Add an event with all metrics and images."""
        from tensorboard.compat.proto.event_pb2 import Event
        from tensorboard.compat.proto.summary_pb2 import Summary

        values = [Summary.Value(tag=name, simple_value=value) for name, value in logged.numbers.items()]
        values += [Summary.Value(tag=name, image=encoded(path)) for name, path in logged.images.items()]
        self._writer.add_event(Event(wall_time=time.time(), step=logged.step, summary=Summary(value=values)))

    def close(self, exit_code: int) -> None:
        """Write all events."""
        self._writer.close()


def encoded(path: Path) -> Any:
    """An image file as TensorBoard stores it: a PNG with its size in pixels."""
    from tensorboard.compat.proto.summary_pb2 import Summary

    with Image.open(path) as image:
        buffer = io.BytesIO()
        image.convert("RGB").save(buffer, format="PNG")
        return Summary.Image(
            width=image.width, height=image.height, colorspace=3, encoded_image_string=buffer.getvalue()
        )
