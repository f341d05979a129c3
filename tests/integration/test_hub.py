"""Agents on a hub: what is published, and that the same agent comes back, also without a network."""

import json
import shutil
from pathlib import Path
from typing import Any

import huggingface_hub.constants
import numpy as np
import pytest

from instructrl.errors import InputError, RunError
from instructrl.inference import hub as hub_command
from instructrl.inference.agent import Agent
from tests.fakes.hub import Hub, hub
from tests.fixtures import tiny
from tests.fixtures.commands import run_main
from tests.fixtures.observations import observations

RATE = {"episodes": 200, "successes": 174, "success_rate": 0.87, "wilson_low": 0.8163, "wilson_high": 0.9098}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with random parameters and the results of an evaluation."""
    folder = tmp_path_factory.mktemp("run")
    begun = tiny.begun(folder, tiny.shared_demonstrations(), "head=regression")
    (begun / "eval").mkdir()
    results: dict[str, Any] = {"conditions": {"trained": RATE, "no_instruction": {**RATE, "success_rate": 0.255}}}
    (begun / "eval" / "results.json").write_text(json.dumps(results))
    return begun


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    for name in ("HF_TOKEN", "HF_HUB_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    with hub() as running:
        monkeypatch.setenv("HF_ENDPOINT", running.url)
        yield running


def act(agent: Agent) -> np.ndarray:
    with pytest.warns(UserWarning, match="no instruction of the training had"):
        return agent.act(observations(1)[0], "reach the red ball")


def test_a_published_agent_comes_back_with_a_card(run: Path, server: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    agent = Agent.load(run)
    assert agent.push_to_hub("ann/lifter", private=True, licence="mit") == f"{server.url}/ann/lifter"
    [created] = server.created
    assert (created["organization"], created["name"], created["visibility"]) == ("ann", "lifter", "private")
    assert sorted(server.names("ann/lifter")) == ["README.md", "agent.safetensors", "config.yaml"]
    card = next(content for path, content in server.files.items() if path.endswith("README.md")).decode()
    assert card.startswith("---\nlicense: mit\n") and 'Agent.load("hf://ann/lifter")' in card
    assert "| cameras | front, left_shoulder |" in card
    assert "| train | train.hdf5 | expert waypoints, renderer raycast, simulator tabletop, version " in card
    assert "| default | trained | 200 | 0.870 | 0.816 to 0.910 |" in card and "| no_instruction | 200 | 0.255 |" in card
    assert str(run.parent) not in card
    expected = act(agent)
    for address in ("hf://ann/lifter", "hf://ann/lifter@main"):
        back = Agent.load(address)
        np.testing.assert_array_equal(act(back), expected)
    assert back.step == agent.step
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    np.testing.assert_array_equal(act(Agent.load("hf://ann/lifter")), expected)  # from the cache


def test_the_command_publishes_a_run(run: Path, server: Hub) -> None:
    words = [f"run={run}", "repository=ann/other", "private=false", "licence=cc-by-4.0"]
    ran = run_main(hub_command.main, *words)
    assert (ran.returncode, ran.stdout.splitlines()[-1]) == (0, f"{server.url}/ann/other"), ran.stderr
    assert server.created[0]["visibility"] == "public"
    for changed, line in (
        ("private=maybe", "error: private: found maybe; allowed: true or false"),
        ("licence=My own", "error: licence: found My own; allowed: names of the hub"),
        ("repository=ann", "error: repository: found ann; allowed: USER/NAME"),
    ):
        ran = run_main(hub_command.main, *words, changed)
        assert ran.returncode == 2 and ran.stderr.startswith(line) and ran.stderr.count("\n") == 1, ran.stderr


def test_what_the_hub_lacks_or_refuses_is_one_line(
    run: Path, server: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for address in ("hf://", "hf://ann", "hf://ann/a/b", "hf://../x"):
        with pytest.raises(InputError, match=r"hf://.*: found .*; allowed: USER/NAME"):
            Agent.load(address)
    with pytest.raises(InputError, match="hf://ann/nothing: the hub answers 404; log in"):
        Agent.load("hf://ann/nothing")
    server.files[f"/ann/empty/resolve/{'0123456789abcdef' * 2}01234567/config.yaml"] = b"seed: 1\n"
    with pytest.raises(InputError, match=r"hf://ann/empty: found no agent.safetensors; name a repository"):
        Agent.load("hf://ann/empty")
    shutil.copytree(run, tmp_path / "run")
    agent = Agent.load(tmp_path / "run")
    server.status = 403
    with pytest.raises(InputError, match="ann/lifter: the hub answers 403; log in with hf auth login, or set HF_TOKEN"):
        agent.push_to_hub("ann/lifter", private=True, licence="mit")
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(RunError, match="ann/lifter: the hub does not answer"):
        agent.push_to_hub("ann/lifter", private=True, licence="mit")
    with pytest.raises(RunError, match="hf://ann/other: the hub does not answer"):
        Agent.load("hf://ann/other")
