"""The last lines of commands name the command that follows."""

from pathlib import Path

import pytest

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


def test_a_collection_names_the_training_on_its_files() -> None:
    words = ["task=push_button", "episodes=30", "sim.image_size=64", "task.val_episodes=9"]
    command = training_command(words, TaskConfig("push_button", 30, 4))
    assert command == "python train.py task=push_button sim.image_size=64 task.episodes=30 task.val_episodes=4"
