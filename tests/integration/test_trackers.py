"""Metrics in Weights & Biases, TensorBoard and Trackio: complete after an interruption, and nothing twice."""

import json
import struct
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from instructrl.config.training import TrainConfig
from instructrl.errors import InputError
from instructrl.training.monitoring.metric_files import read_lines
from instructrl.training.monitoring.metric_writer import Metrics, open_metrics
from instructrl.training.preflight import check_inputs
from tests.fakes import trackio
from tests.fixtures import tiny_objective
from tests.fixtures.settings import composed

Curve = list[tuple[int, float]]


@pytest.fixture(autouse=True)
def at_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No login, no files outside of the test's folder, and no service of W&B that later tests would inherit."""
    for name in ("WANDB_API_KEY", "WANDB_MODE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    yield
    import wandb

    wandb.teardown()


def write_epoch(metrics: Metrics, run: Path, epoch: int) -> None:
    """Write what the loop writes at the end of an epoch of three steps."""
    step = 3 * epoch
    metrics.write("train", {"loss": 1 / epoch}, step=step, epoch=epoch)
    image = run / f"{step}.png"
    Image.fromarray(np.full((4, 6, 3), epoch, np.uint8)).save(image)
    metrics.write_images({"reconstructions": image}, step=step)
    metrics.write_speed({"steps_per_second": 10.0 * epoch, "steps": 3}, step=step, epoch=epoch)


def interrupted(config: TrainConfig, run: Path) -> Path:
    """A run of five epochs that dies in the fourth, continues from the second, dies, and continues from the fourth."""
    run.mkdir(parents=True)
    for first, last in ((1, 3), (3, 4)):
        with pytest.raises(RuntimeError), open_metrics(config, run, from_step=3 * first - 3) as metrics:
            for epoch in range(first, last + 1):
                write_epoch(metrics, run, epoch)
            raise RuntimeError("killed")
    with open_metrics(config, run, from_step=12) as metrics:
        write_epoch(metrics, run, 5)
    return run


def close(found: Curve, expected: Curve) -> bool:
    """Steps are equal, and values to single precision."""
    steps, values = zip(*found, strict=True), zip(*expected, strict=True)
    return next(steps) == next(values) and next(steps) == pytest.approx(next(values))


EXPECTED = [(3 * epoch, 1 / epoch) for epoch in range(1, 6)]
SPEED = [(3 * epoch, 10.0 * epoch) for epoch in range(1, 6)]
IMAGE_STEPS = [3, 6, 9, 12, 15]


def test_tensorboard_has_every_step_once(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run = interrupted(composed("tensorboard.enabled=true"), tmp_path / "run")
    events = EventAccumulator(str(run / "tensorboard"), {"images": 0})  # all of them
    events.Reload()

    def curve(name: str) -> Curve:
        return [(event.step, event.value) for event in events.Scalars(name)]

    assert close(curve("train/loss"), EXPECTED) and curve("speed/steps_per_second") == SPEED
    images = events.Images("reconstructions")
    assert [image.step for image in images] == IMAGE_STEPS and (images[0].width, images[0].height) == (6, 4)
    assert len(list((run / "tensorboard").iterdir())) == 1


def test_a_log_for_wandb_sync_has_every_step_once_in_one_folder(tmp_path: Path) -> None:
    run = interrupted(composed("wandb.mode=offline"), tmp_path / "run")
    [folder] = run.glob("wandb/offline-run-*")
    lines = wandb_lines(folder)
    assert [(line["global_step"], line["train/loss"]) for line in lines if "train/loss" in line] == EXPECTED
    assert [line["global_step"] for line in lines if "reconstructions/path" in line] == IMAGE_STEPS
    assert len(list(folder.glob("files/media/images/*.png"))) == len(IMAGE_STEPS)


def wandb_lines(folder: Path) -> list[dict[str, Any]]:
    """The history in a folder that `wandb sync` uploads."""
    from wandb.proto.wandb_internal_pb2 import Record

    [path] = folder.glob("*.wandb")
    records = [Record.FromString(data) for data in log_records(path.read_bytes())]
    return [
        {item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in record.history.item}
        for record in records
        if record.WhichOneof("record_type") == "history"
    ]


def log_records(data: bytes) -> Iterator[bytes]:
    """The records of a log in LevelDB's format: pieces with a checksum, a length and a kind, in blocks of 32 KiB."""
    position, record = 7, b""  # after the header of W&B
    while position < len(data):
        left = 32_768 - position % 32_768
        if left < 7:
            position += left
            continue
        length, kind = struct.unpack_from("<HB", data, position + 4)
        record += data[position + 7 : position + 7 + length]
        position += 7 + length
        if kind in (1, 4):  # the whole of a record, or its last piece
            yield record
            record = b""


def test_trackio_has_every_step_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "trackio", trackio)
    monkeypatch.setattr(trackio, "PROJECTS", {})
    config = composed("trackio.enabled=true", "trackio.project=robots")
    interrupted(config, tmp_path / "run")
    interrupted(config, tmp_path / "other")  # of the same name, elsewhere
    assert len(trackio.PROJECTS["robots"]) == 2
    for lines in trackio.PROJECTS["robots"].values():
        assert [(line["step"], line["train/loss"]) for line in lines if "train/loss" in line] == EXPECTED
        assert [line["step"] for line in lines if "reconstructions" in line] == IMAGE_STEPS
    assert capsys.readouterr().out == ""


def test_a_run_in_a_space_is_continued(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It cannot be written again from its beginning: what was repeated is there twice."""
    monkeypatch.setitem(sys.modules, "trackio", trackio)
    monkeypatch.setattr(trackio, "PROJECTS", {})
    interrupted(composed("trackio.enabled=true", "trackio.space=lab/robots"), tmp_path / "run")
    [lines] = trackio.PROJECTS["instructrl"].values()
    assert [line["step"] for line in lines if "train/loss" in line] == [3, 6, 9, 9, 12, 15]


def test_a_tracker_that_is_chosen_later_shows_the_run_from_its_beginning(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    tiny_objective.trained(tmp_path, "training.epochs=2")
    run = tiny_objective.trained(tmp_path, "training.epochs=4", "tensorboard.enabled=true", "wandb.mode=offline")
    expected = [(line["step"], line["loss"]) for line in read_lines(run / "metrics.jsonl") if line["split"] == "train"]
    events = EventAccumulator(str(run / "tensorboard"))
    events.Reload()
    assert close([(event.step, event.value) for event in events.Scalars("train/loss")], expected)
    [folder] = run.glob("wandb/offline-run-*")
    lines = wandb_lines(folder)
    assert [(line["global_step"], line["train/loss"]) for line in lines if "train/loss" in line] == expected
    assert len(expected) == 4 and not (run / "images.jsonl").exists()


def test_an_image_that_was_removed_is_not_missed(tmp_path: Path) -> None:
    config = composed("tensorboard.enabled=true")
    run = interrupted(config, tmp_path / "run")
    (run / "9.png").unlink()
    with open_metrics(config, run, from_step=15):
        pass
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(run / "tensorboard"))
    events.Reload()
    assert [image.step for image in events.Images("reconstructions")] == [3, 6, 12, 15]


def test_wandb_online_without_a_key_is_one_line(tmp_path: Path) -> None:
    with (
        pytest.raises(InputError, match=r"wandb\.mode"),
        open_metrics(composed("wandb.mode=online"), tmp_path, from_step=0),
    ):
        pass


@pytest.mark.parametrize("name", ["tensorboard", "trackio"])
def test_a_tracker_that_is_not_installed_is_named_before_any_work(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(InputError, match=rf"{name}\.enabled: {name} is not installed; run pip install {name}"):
        check_inputs(composed(f"{name}.enabled=true"))
