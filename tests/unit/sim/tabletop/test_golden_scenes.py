"""The scenes of all tasks are those of earlier versions, so that results of the same seeds stay comparable.

python -m tests.unit.sim.tabletop.test_golden_scenes     writes tests/golden/scenes.json
"""

import json
from typing import Any

import pytest

from instructrl.sim import EpisodeStart
from instructrl.sim.tabletop.env import Tabletop
from instructrl.tasks import TASKS
from tests.paths import GOLDEN

RECORDED = GOLDEN / "scenes.json"
SEEDS = (3, 11)


def scenes(task: str) -> list[dict[str, list[Any]]]:
    """Position in metres and colour of each object, and what the expert does first, in the scenes of two seeds."""
    env = Tabletop(task, cameras=("front",), image_size=8, renderer="raycast")
    found = []
    for seed in SEEDS:
        env.reset(EpisodeStart(seed % env.variations, seed))
        objects = {thing.body: [*thing.position.tolist(), thing.color] for thing in env.scene_objects("front")}
        found.append({**objects, "expert": env.expert_actions()[0][0].tolist()})
    return found


@pytest.mark.parametrize("task", sorted(TASKS))
def test_scenes_are_those_of_earlier_versions(task: str) -> None:
    for found, recorded in zip(scenes(task), json.loads(RECORDED.read_text())[task], strict=True):
        assert found == {name: pytest.approx(values, abs=1e-6) for name, values in recorded.items()}, (
            "results would no longer be comparable: keep the draws and what is accepted as they were"
        )


if __name__ == "__main__":
    RECORDED.write_text(json.dumps({task: scenes(task) for task in sorted(TASKS)}, indent=1) + "\n")
