"""`Agent.load(run).act(...)`: the same actions as in an evaluation, from a run or an exported folder."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import gymnasium
import jax
import numpy as np
import pytest

import instructrl.sim.gym
from instructrl.config.training import HardwareConfig
from instructrl.data.demonstrations.dataset import DemonstrationDataset
from instructrl.errors import InputError
from instructrl.evaluation.rollout import print_warning
from instructrl.inference.agent import Agent
from instructrl.inference.batched_agent import BatchedAgent, load_batched_agent
from instructrl.inference.instruction_check import UnknownWordsWarning
from instructrl.training.parameters.load_agent import load_agent
from instructrl.types import Observation
from tests.fixtures import tiny
from tests.fixtures.observations import observations
from tests.paths import ROOT

ASK = "reach the red ball"
UNKNOWN = "levitate zorblax"
IMPLAUSIBLE = [
    ("state", np.nan), ("state", 3e38), ("state", -np.inf), ("intrinsics", 0.0), ("intrinsics", np.nan),
    ("extrinsics", np.inf), ("extrinsics", 1e30),
]  # fmt: skip


BEST: dict[str, Any] = {"checkpoint": "best", "slots": 1, "steps": 16, "hardware": HardwareConfig("auto")}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with its random parameters: those of a trained one are read and used in the same way.

    By regression: a random heatmap has many peaks that are as good, of which rounding would choose another.
    """
    folder = tmp_path_factory.mktemp("run")
    return tiny.begun(folder, tiny.shared_demonstrations(), "head=regression", "training.freeze=[policy/block_0]")


def by_camera(seen: Observation) -> dict[str, Any]:
    parts = {"rgb": seen.images, "intrinsics": seen.intrinsics, "extrinsics": seen.extrinsics}
    views = enumerate(("front", "left_shoulder"))
    return {"state": seen.state} | {f"{name}_{key}": part[view] for view, name in views for key, part in parts.items()}


def refused(call: Any) -> str:
    with pytest.raises(InputError) as caught:
        call()
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_its_actions_are_those_that_an_evaluation_takes_however_long_the_episode(run: Path) -> None:
    seen = observations(10)  # more than the initial capacity
    actor, step = load_batched_agent(run, **BEST)
    actor.start_episode(0, ASK)
    expected = [actor.act({0: one._replace(instruction=ASK)})[0] for one in seen]
    agent = Agent.load(run)
    assert agent.step == step and agent.cameras == ("front", "left_shoulder") and agent.image_size == 32
    found = [agent.act(one, ASK) for one in seen]
    np.testing.assert_allclose(found, expected, atol=1e-3)
    assert found[0].shape == (8,) and found[0].dtype == np.float32
    agent.reset()
    np.testing.assert_allclose(agent.act(by_camera(seen[0]), ASK), found[0], atol=1e-4)
    assert np.abs(agent.act(seen[1], ASK) - agent_first(agent, seen[1])).max() > 1e-6  # the history counts


def agent_first(agent: Agent, seen: Observation) -> np.ndarray:
    agent.reset()
    return agent.act(seen, ASK)


def test_what_was_saved_acts_alike_without_the_run(run: Path, tmp_path: Path) -> None:
    copy = tmp_path / "run"
    shutil.copytree(run, copy)
    Agent.load(copy).save(tmp_path / "small")
    shutil.rmtree(copy)
    assert {path.name for path in (tmp_path / "small").iterdir()} == {"agent.safetensors", "config.yaml"}
    one, other = Agent.load(tmp_path / "small"), Agent.load(run)
    seen = observations(1)[0]
    expected = other.act(seen, ASK)
    np.testing.assert_array_equal(one.act(seen, ASK), expected)
    assert one.step == other.step
    use_former_names(tmp_path / "small" / "config.yaml")
    np.testing.assert_array_equal(Agent.load(tmp_path / "small").act(seen, ASK), expected)
    size = (tmp_path / "small" / "agent.safetensors").stat().st_size
    count = sum(leaf.size for leaf in jax.tree.leaves(load_batched_agent(run, **BEST)[0].params))
    assert 4 * count < size < 4 * count + 20_000  # parameters, no optimizer state


def test_many_episodes_at_once_act_as_each_alone(run: Path) -> None:
    agents, agent, seen = BatchedAgent.load(run, slots=3, steps=2), Agent.load(run), observations(4)
    with pytest.warns(UnknownWordsWarning) as reported:
        agents.start_episode(2, ASK)
    assert Path(reported[0].filename) == Path(__file__)
    first = agents.act({2: seen[0]})
    agents.start_episode(0, "")
    both = agents.act({0: by_camera(seen[2]), 2: seen[1]})
    np.testing.assert_allclose([agent.act(one, ASK) for one in seen[:2]], [first[2], both[2]], atol=1e-4)
    agent.reset()
    np.testing.assert_allclose(agent.act(seen[2], ""), both[0], atol=1e-4)
    for wrong, line in (
        ({0: seen[3], 2: seen[3]}, "episode: found keyframe 3; allowed: at most 2; begin another"),
        ({0: seen[3]._replace(state=np.full(4, np.nan, np.float32))}, "observation.state: found [nan"),
    ):
        assert refused(lambda wrong=wrong: agents.act(wrong)).startswith(line)
    np.testing.assert_allclose(agents.act({0: seen[3]})[0], agent.act(seen[3], ""), atol=1e-4)


def use_former_names(path: Path) -> None:
    """Rewrite a config.yaml as one that was recorded before settings were renamed."""
    text = path.read_text()
    for former, current in (("fresh", "reinit"), ("canvas", "load_size"), ("layer_decay", "layer_lr_decay")):
        assert f"  {current}: " in text
        text = text.replace(f"  {current}: ", f"  {former}: ")
    path.write_text(text.replace("objective: behavior_cloning", "objective: cloning"))


def test_unknown_words_are_told_once_and_the_known_ones_travel_with_the_agent(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with DemonstrationDataset(tiny.shared_demonstrations()["train"][0]) as data:
        sentences = [text for episode in range(len(data)) for text in data.instructions(episode)]
    known = {word for text in sentences for word in text.split()}
    assert set(json.loads((run / "words.json").read_text())["words"]) == known
    Agent.load(run).save(tmp_path / "small")
    for folder in (run, tmp_path / "small"):
        actor, _ = load_batched_agent(folder, **BEST, report=print_warning)
        for sentence in (*sentences, "", UNKNOWN, UNKNOWN, sentences[0].upper()):
            actor.start_episode(0, sentence)
        assert re.fullmatch(
            f"warning: instruction {UNKNOWN}: .* had 'levitate', 'zorblax'; .*\n", capsys.readouterr().err
        )
    shutil.copytree(run, tmp_path / "old")
    (tmp_path / "old" / "words.json").unlink()
    actor, _ = load_batched_agent(tmp_path / "old", **BEST, report=print_warning)
    for sentence in ("", sentences[0], UNKNOWN):
        actor.start_episode(0, sentence)
    assert capsys.readouterr().err.count("warning: agent: trained before the words of its instructions were") == 1


def test_a_strict_agent_refuses_unknown_words_and_another_warns(run: Path) -> None:
    agent, seen = Agent.load(run, strict=True), observations(1)[0]
    assert "had 'levitate', 'zorblax'" in refused(lambda: agent.act(seen, UNKNOWN))
    assert agent.act(seen, "").shape == (8,), "the refused instruction is not that of the episode"
    with pytest.warns(UnknownWordsWarning, match="had 'levitate', 'zorblax'") as found:
        Agent.load(run).act(seen, UNKNOWN)
    assert Path(found[0].filename) == Path(__file__)


def test_saved_agents_that_are_damaged_or_in_a_runs_place_are_one_line(run: Path, tmp_path: Path) -> None:
    agent = Agent.load(run)
    assert "contains a run" in refused(lambda: agent.save(run))
    agent.save(tmp_path)
    file = tmp_path / "agent.safetensors"
    whole = file.read_bytes()
    for content in (whole[:-5], b"", whole[:-1] + bytes([whole[-1] ^ 1])):
        file.write_bytes(content)
        assert refused(lambda: Agent.load(tmp_path)).startswith(f"{file}: damaged")
    file.write_bytes(whole)
    settings = (tmp_path / "config.yaml").read_text()
    (tmp_path / "config.yaml").write_text(re.sub(r"(policy:\n(?:  .*\n)*?  depth: )\d+", r"\g<1>3", settings))
    assert "according to config.yaml in the same folder" in refused(lambda: Agent.load(tmp_path))


def test_no_action_that_is_not_finite_leaves_a_policy_that_diverged(run: Path) -> None:
    trained = load_agent(run, checkpoint="best", hardware=HardwareConfig("auto"))
    spoilt = jax.tree.map(lambda leaf: np.full_like(leaf, np.nan), trained.params)
    agent = Agent(trained._replace(params=spoilt))
    assert "expected finite numbers; the policy diverged" in refused(lambda: agent.act(observations(1)[0], ASK))


def test_what_cannot_be_answered_is_one_line(run: Path, tmp_path: Path) -> None:
    seen = observations(1)[0]
    agent = Agent.load(run)
    assert (
        "expected uint8(2, 32, 32, 3): this agent uses the cameras front, left_shoulder with images of 32"
        in refused(lambda: agent.act(seen._replace(images=seen.images[:, :16, :16]), ASK))
    )
    assert "found float32(2, 32, 32, 3)" in refused(
        lambda: agent.act(seen._replace(images=np.float32(seen.images)), ASK)
    )
    assert "observation.state: found float32(3,)" in refused(
        lambda: agent.act(seen._replace(state=seen.state[:3]), ASK)
    )
    views = by_camera(seen)
    other = {key.replace("front", "wrist"): value for key, value in views.items()}
    assert refused(lambda: agent.act(other, ASK)).startswith("observation: found no front_rgb, only state, wrist_rgb")
    small = views | {"front_rgb": views["front_rgb"][:8, :8]}
    assert "found front_rgb of shape (8, 8, 3), expected (32, 32, 3)" in refused(lambda: agent.act(small, ASK))
    assert "tokens, at most 32 fit; shorten it" in refused(lambda: agent.act(seen, "red " * 40))
    for name, value in IMPLAUSIBLE:
        array = getattr(seen, name).copy()
        array.flat[0] = value
        line = refused(lambda array=array, name=name: agent.act(seen._replace(**{name: array}), ASK))
        assert line.startswith(f"observation.{name}: found [") and "expected finite, at most 1" in line
    whole = agent.act(seen, ASK)  # none of these changed the state
    np.testing.assert_array_equal(whole, agent_first(agent, seen))
    agent.act(seen, ASK)
    assert "call reset() before another episode" in refused(lambda: agent.act(seen, "reach the blue ball"))
    (tmp_path / "config.yaml").write_bytes((run / "config.yaml").read_bytes())
    (tmp_path / "data.json").write_bytes((run / "data.json").read_bytes())
    assert refused(lambda: Agent.load(tmp_path)).endswith("no checkpoint yet; train it first")
    assert "no config.yaml found" in refused(lambda: Agent.load(tmp_path / "none"))
    assert refused(lambda: Agent.load(run, checkpoint="newest")) == "checkpoint: found newest; allowed: best, last"


def test_it_needs_no_simulator_and_no_demonstrations(run: Path, tmp_path: Path) -> None:
    Agent.load(run).save(tmp_path)
    program = f"""
import sys
for name in ("mujoco", "gymnasium", "rlbench"):
    sys.modules[name] = None
from instructrl.inference.agent import Agent
Agent.load({str(tmp_path)!r})
assert not [name for name in sys.modules if name.startswith("instructrl.sim")]
"""
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_the_documented_lines_play(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = (ROOT / "docs/acting.md").read_text()
    block = text[text.index("## An agent in Python") :].split("```python\n")[1].split("```")[0]
    assert block.count("outputs/NAME") == 1 and len([line for line in block.splitlines() if "import" not in line]) <= 6
    names: dict[str, Any] = {}
    exec(block.replace("outputs/NAME", str(run)), names)
    assert names["action"].shape == (8,) and names["env"].unwrapped.cameras == ("front", "left_shoulder")
    assert gymnasium.registry and instructrl.sim.gym
