"""Agents whose actions have a ninth number, whether the path to a keyframe may collide: trained, loaded, refused."""

from pathlib import Path

import numpy as np
import pytest

from instructrl import Agent
from instructrl.data.demonstrations.dataset import DemonstrationDataset
from instructrl.data.demonstrations.writer import Writer
from instructrl.errors import InputError
from instructrl.training.monitoring.metric_writer import read_lines
from instructrl.types import COLLISIONS, Demonstration, Observation
from tests.fixtures import tiny

WORDS = ("sim=rlbench", "sim.renderer=auto", "task=pick_and_lift", "training.rollout_every=0",
         "training.epochs=12", "optimizer.learning_rate=3e-3")  # fmt: skip


def demonstrations(folder: Path) -> dict[str, list[Path]]:
    """Demonstrations in which the way to the first keyframe alone may collide."""
    files: dict[str, list[Path]] = {}
    for split, [path] in tiny.shared_demonstrations().items():
        with DemonstrationDataset(path) as episodes:
            header = episodes.header.__class__(**vars(episodes.header) | {"actions": COLLISIONS})
            with Writer(folder / path.name, header) as writer:
                for number in range(len(episodes)):
                    writer.add(with_flags(episodes.demonstration(number)))
        files[split] = [folder / path.name]
    return files


def with_flags(given: Demonstration) -> Demonstration:
    flags = np.zeros((len(given.actions), 1), np.float32)
    flags[0] = 1
    return given._replace(actions=np.append(given.actions, flags, axis=1))


@pytest.mark.parametrize("head", ["spatial", "regression"])
def test_an_agent_learns_when_a_path_may_collide(tmp_path: Path, head: str) -> None:
    data = demonstrations(tmp_path)
    run = tiny.trained(tmp_path, data, *WORDS, f"head={head}", "sim.actions=keyframe_collisions")
    accuracies = [line["collision_accuracy"] for line in read_lines(run / "metrics.jsonl") if line["split"] == "val"]
    assert accuracies[-1] == 1
    agent = Agent.load(run)
    with DemonstrationDataset(data["val"][0]) as episodes:
        one = episodes.demonstration(0)
    found = [
        agent.act(Observation(*(getattr(one, key)[frame] for key in Observation._fields[:-1]), ""), one.instructions[0])
        for frame in (0, *one.keyframes[:-1])
    ]
    assert [action.shape for action in found] == [(9,)] * len(one.actions)
    assert [action[8] for action in found] == [1, *[0] * (len(found) - 1)]


def test_other_actions_than_those_of_the_data_are_refused(tmp_path: Path) -> None:
    data = demonstrations(tmp_path)
    with pytest.raises(InputError, match=r"with the actions keyframe_collisions, but sim.actions=keyframe is set"):
        tiny.trained(tmp_path, data, *WORDS)
    with pytest.raises(InputError, match=r"with the actions keyframe, but sim.actions=keyframe_collisions is set"):
        tiny.trained(tmp_path, tiny.shared_demonstrations(), *WORDS, "name=other", "sim.actions=keyframe_collisions")
    for words, line in (
        (("sim.actions=keyframe_collisions",), "sim.actions: found keyframe_collisions; allowed: keyframe, dense"),
        ((*WORDS, "sim.actions=keyframe_collisions", "head=flow"), "head.kind: found flow, which predicts dense"),
    ):
        with pytest.raises(InputError, match=f"^{line}"):
            tiny.config(tmp_path, *words)
