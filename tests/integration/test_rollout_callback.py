import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import train as train_entry
from instructrl.cli.entry import compose
from instructrl.config.training import TrainConfig
from instructrl.data.text.tokenizer import make_tokenizer
from instructrl.errors import InputError
from instructrl.evaluation import rollout_callback as hooks
from instructrl.evaluation.evaluator import TRAINING_ROLLOUT_SEEDS
from instructrl.evaluation.rollout import EpisodeSpec, run_rollouts
from instructrl.evaluation.rollout_callback import rollout_callback
from instructrl.evaluation.workers import start_eval_workers
from instructrl.inference.batched_agent import BatchedAgent
from instructrl.sim import EpisodeStart
from instructrl.training.distributed import platform
from instructrl.training.model_factory import dummy_batch, make_agent, random_params
from tests.fixtures import tiny
from tests.fixtures.commands import run_main

OVERRIDES = ["experiment=quickstart", "task=reach_target", "sim.cameras=[front]", "sim.workers=2"]


@pytest.fixture(scope="module")
def config() -> TrainConfig:
    return compose("train", TrainConfig, [*OVERRIDES, "training.rollout_episodes=3", "sim.image_size=24"])


@pytest.fixture(scope="module")
def params(config: TrainConfig) -> Any:
    tokenizer = make_tokenizer(config.encoder)
    agent = make_agent(config, vocabulary_size=tokenizer.vocabulary_size)
    return random_params(agent, dummy_batch(config, tokenizer), seed=0)


def actor(config: TrainConfig, params: Any) -> BatchedAgent:
    tokenizer = make_tokenizer(config.encoder)
    agent = make_agent(config, vocabulary_size=tokenizer.vocabulary_size)
    return BatchedAgent(agent, params, tokenizer, slots=2, steps=3)


def test_an_action_depends_on_nothing_in_other_slots(config: TrainConfig, params: Any) -> None:
    specs = {index: EpisodeSpec(EpisodeStart(index, 50 + index)) for index in range(3)}
    with start_eval_workers(config.sim, "reach_target", renderer="raycast", count=2) as workers:
        agent = actor(config, params)
        together = run_rollouts(workers, agent, specs=specs)
        alone = {i: run_rollouts(workers, agent, specs={i: specs[i]})[i] for i in specs}
    compiled = agent._act._cache_size()  # type: ignore[attr-defined]
    assert compiled == 1, "other shapes give other last bits, and compiling takes seconds"
    assert max(episode.steps for episode in together.values()) > 1
    for index in specs:
        assert np.array_equal(together[index].actions, alone[index].actions)
        assert together[index].outcome == alone[index].outcome


def test_the_hook_plays_the_same_episodes_each_time(
    config: TrainConfig, params: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "data.json").write_text(json.dumps({"train": {"provenance": {"renderer": "raycast"}}}))
    opened, played = [], []

    def watched_workers(*arguments: Any, **settings: Any) -> Any:
        opened.append(settings["renderer"])
        return start_eval_workers(*arguments, **settings)

    def watched_rollouts(*arguments: Any, **settings: Any) -> Any:
        played.append(run_rollouts(*arguments, **settings))
        return played[-1]

    monkeypatch.setattr(hooks, "start_eval_workers", watched_workers)
    monkeypatch.setattr(hooks, "run_rollouts", watched_rollouts)
    with rollout_callback(config, tmp_path) as hook:
        assert opened == [], "simulators are opened when they are needed"
        first, second = hook(params, 1), hook(params, 2)
        workers = hook._workers
        assert workers is not None
    assert opened == ["raycast"]
    assert len(workers) == 0, "processes are ended"
    assert first == second
    assert set(first) == {"success_rate", "mean_steps"}
    assert [episode.start.seed for episode in played[0].values()] == [TRAINING_ROLLOUT_SEEDS + i for i in range(3)]
    for one, two in zip(played[0].values(), played[1].values(), strict=True):
        assert np.array_equal(one.actions, two.actions)


def test_the_hook_plays_every_task_of_a_set_with_one_set_of_processes_at_a_time(
    params: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tasks = ("push_button", "reach_target")
    more = [f"task.tasks=[{','.join(tasks)}]", "training.rollout_episodes=3", "sim.image_size=24", "sim.workers=1"]
    config = compose("train", TrainConfig, [*OVERRIDES, *more])
    entry = {"provenance": {"renderer": "raycast"}}
    (tmp_path / "data.json").write_text(json.dumps({f"train/{task}": entry for task in tasks}))
    opened, played = [], []

    def watched_workers(sim: Any, task: str, **settings: Any) -> Any:
        assert not any(len(workers) for _, workers in opened), "the last task's processes are ended"
        opened.append((task, start_eval_workers(sim, task, **settings)))
        return opened[-1][1]

    def watched_rollouts(*arguments: Any, **settings: Any) -> Any:
        played.append(run_rollouts(*arguments, **settings))
        return played[-1]

    monkeypatch.setattr(hooks, "start_eval_workers", watched_workers)
    monkeypatch.setattr(hooks, "run_rollouts", watched_rollouts)
    with rollout_callback(config, tmp_path) as hook:
        first, second = hook(params, 1), hook(params, 2)
        assert hook._agent is not None
        compiled = hook._agent._act._cache_size()  # type: ignore[attr-defined]
    assert compiled == 1, "tasks whose episodes are about as long share a program"
    assert [task for task, _ in opened] == [*tasks, *tasks]
    assert not any(len(workers) for _, workers in opened)
    assert first == second
    each = {task: [episode.success for episode in some.values()] for task, some in zip(tasks, played, strict=False)}
    assert {len(some) for some in each.values()} == {3}
    rates = {f"success_rate/{task}": sum(some) / 3 for task, some in each.items()}
    steps = [episode.steps for some in played[:2] for episode in some.values()]
    mean = pytest.approx(sum(rates.values()) / 2)
    assert first == {"success_rate": mean, "mean_steps": sum(steps) / 6, **rates}


@pytest.mark.parametrize(
    ("words", "reserved"),
    [
        (("training.rollout_every=1", "sim.renderer=auto"), True),
        (("training.rollout_every=1", "sim.renderer=raycast"), False),
        (("training.rollout_every=0", "sim.renderer=opengl"), False),
    ],
)
def test_a_training_leaves_memory_to_the_rollouts_that_render_beside_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...], reserved: bool
) -> None:
    given: list[bool] = []

    def select(_: Any, *, beside_renderers: bool) -> None:
        given.append(beside_renderers)
        raise InputError("nothing to train")

    monkeypatch.setattr(platform, "select_platform", select)
    done = run_main(train_entry.main, *tiny.overrides(tmp_path, *words))
    assert (done.returncode, given) == (2, [reserved]), done.stderr
