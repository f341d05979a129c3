"""The last lines of commands name the command that follows."""

from pathlib import Path

import pytest

from data_tools.exchange.exported import next_step
from instructrl.commands.collect import training_command
from instructrl.commands.train import next_steps
from instructrl.config.environment import TaskConfig
from tests.fixtures.settings import composed

PRETRAINING = ("experiment=pretrain_tiny", "pretraining.train=[a]", "pretraining.val=[b]")


@pytest.mark.parametrize(
    ("words", "location", "line"),
    [
        ((), "outputs/a b", "next: python eval.py 'run=outputs/a b'"),
        (PRETRAINING, "runs/x", "next: python train.py encoder=m3ae_tiny encoder.weights=runs/x/encoder.safetensors"),
    ],
)
def test_a_training_names_what_uses_its_result(
    words: tuple[str, ...], location: str, line: str, tmp_path: Path
) -> None:
    assert next_steps(composed(*words), Path(location), tmp_path) == [line]


def test_an_offline_log_is_to_be_uploaded(tmp_path: Path) -> None:
    for name in ("offline-run-2", "offline-run-1"):
        (tmp_path / "wandb" / name).mkdir(parents=True)
    [upload, _] = next_steps(composed("wandb.mode=offline"), Path("outputs/x"), tmp_path)
    assert upload == "upload: wandb sync outputs/x/wandb/offline-run-1 outputs/x/wandb/offline-run-2"
    assert len(next_steps(composed(), Path("outputs/x"), tmp_path)) == 1


def test_what_shows_the_curves_is_named() -> None:
    words = ("tensorboard.enabled=true", "trackio.enabled=true", "trackio.project=robots")
    tensorboard, trackio, _ = next_steps(composed(*words), Path("out puts/x"), Path("run"))
    assert tensorboard == "curves: tensorboard --logdir 'out puts/x/tensorboard'"
    assert trackio == "curves: trackio show --project robots"
    assert len(next_steps(composed("trackio.enabled=true", "trackio.space=me/robots"), Path("x"), Path("run"))) == 1


def test_a_collection_names_the_training_on_its_files() -> None:
    words = ["task=push_button", "episodes=30", "sim.image_size=64", "task.val_episodes=9"]
    command = training_command(words, TaskConfig("push_button", 30, 4))
    assert command == "python train.py task=push_button sim.image_size=64 task.episodes=30 task.val_episodes=4"


def test_an_export_names_the_import_of_its_folder() -> None:
    found = next_step("data_tools.lerobot", Path("my data/set"))
    assert found == "next: python -m data_tools.lerobot import 'src=my data/set' out=data"
