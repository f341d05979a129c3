"""The policy server: actions as in this process, clients that come, die and send nonsense, and its end."""

import re
import shutil
import socket
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

from instructrl.errors import InputError, RunError
from instructrl.inference import client as client_command
from instructrl.inference import serve as serve_command
from instructrl.inference.agent import Agent
from instructrl.inference.serving.messages import pack, unpack
from instructrl.inference.serving.policy_client import ConnectionLostError, PolicyClient, by_camera
from instructrl.inference.trained import load_trained
from instructrl.training.parameters.load_agent import LoadedAgent
from instructrl.types import Observation
from tests.fixtures import tiny
from tests.fixtures.commands import run_main
from tests.fixtures.observations import observations
from tests.fixtures.policy_servers import Served, serving
from tests.fixtures.waiting import until
from tests.paths import ROOT

ASK, CLIENTS, STEPS = "reach the red ball", 16, 8
CAMERAS = ("front", "left_shoulder")
TOKEN = "a-token-of-19-signs"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with random parameters; by regression, as in test_entry.py."""
    return tiny.begun(tmp_path_factory.mktemp("run"), tiny.shared_demonstrations(), "head=regression")


@pytest.fixture(scope="module")
def trained(run: Path) -> LoadedAgent:
    return load_trained(run)


@pytest.fixture(scope="module")
def served(trained: LoadedAgent) -> Iterator[Served]:
    with serving(trained, clients=CLIENTS, max_keyframes=STEPS) as server:
        yield server


def play(client: Any, index: int) -> list[np.ndarray]:
    """The actions of an episode of three keyframes, which has an index."""
    client.reset()
    return [client.act(seen, f"{ASK} {index % 3}") for seen in observations(3, seed=index)]


def test_many_clients_at_once_get_the_actions_of_agents_in_this_process(trained: LoadedAgent, served: Served) -> None:
    together = threading.Barrier(CLIENTS)

    def episode(index: int) -> list[np.ndarray]:
        with PolicyClient(served.url) as client:
            together.wait(60)
            return play(client, index)

    with ThreadPoolExecutor(CLIENTS) as threads:
        found = list(threads.map(episode, range(CLIENTS)))
    agent = Agent(trained)
    with pytest.warns(UserWarning, match="no instruction of the training had"):
        expected = [play(agent, index) for index in range(CLIENTS)]
    np.testing.assert_allclose(found, expected, atol=1e-5)
    assert found[0][0].dtype == np.float32 and np.abs(np.diff(found, axis=1)).max() > 1e-3
    with PolicyClient(served.url) as alone:
        for index in (0, CLIENTS - 1):  # to the bit, whoever else asks
            np.testing.assert_array_equal(play(alone, index), found[index])
    until(lambda: len([line for line in served.said if "left after 3 actions" in line]) == CLIENTS)
    assert len(served.warned) == 3 and "no instruction of the training had" in served.warned[0]


def test_metadata_tell_what_the_agent_expects(trained: LoadedAgent, served: Served) -> None:
    with PolicyClient(served.url) as client:
        about = client.metadata
    assert (client.cameras, client.image_size) == (CAMERAS, 32)
    assert about["max_keyframes"] == STEPS and about["step"] == trained.step and about["camera_matrices"] is False
    assert len(about["action"]) == 8 and len(about["state"]) == 4 and len(about["workspace"]) == 6
    with urllib.request.urlopen(served.url.replace("ws:", "http:") + "/healthz") as answer:
        assert (answer.status, answer.read()) == (200, b"OK\n")


def test_a_client_that_dies_in_an_episode_frees_its_place(served: Served) -> None:
    clients = [PolicyClient(served.url) for _ in range(CLIENTS)]
    try:
        first = play(clients[0], 5)
        with pytest.raises(RunError, match=rf"all places are taken \({CLIENTS}\); try again later"):
            PolicyClient(served.url)
        clients[0]._connection.socket.shutdown(2)  # type: ignore[union-attr]
        with pytest.raises(ConnectionLostError, match=r"connection was lost .*; reset\(\) connects again"):
            clients[0].act(observations(1)[0], ASK)
        until(lambda: "left after" in served.said[-1])
        clients[0].reset()
        np.testing.assert_array_equal(play(clients[0], 5), first)  # the dead episode's history is forgotten
    finally:
        for client in clients:
            client.close()


def nonsense() -> dict[str, tuple[Any, str]]:
    """Messages that cannot be answered, and how the lines about them begin."""
    seen = by_camera(observations(1)[0], CAMERAS) | {"instruction": ASK}
    spoilt = seen["state"].copy()
    spoilt[1] = np.nan
    return {
        "a text": ("hello", "message: found a text"),
        "no message": (b"\xc1", "message: found 1 bytes that cannot be read"),
        "a number": (b"\x07", "message: found int; allowed: a map"),
        "an object": (pack(seen).replace(b"|u1", b"|O8"), "message: found"),
        "nothing": ({}, "instruction: found none; allowed: a text"),
        "no instruction": ({**seen, "instruction": 3}, "instruction: found int; allowed: a text"),
        "no camera": ({k: v for k, v in seen.items() if k != "front_rgb"}, "observation: found no front_rgb"),
        "shape": ({**seen, "front_rgb": seen["front_rgb"][:9]}, "observation: found front_rgb of shape (9, 32, 3)"),
        "lists": ({**seen, "state": [[1], [1, 2]]}, "observation: found state as lists of unequal lengths"),
        "not finite": ({**seen, "state": spoilt}, "observation.state: found ["),
        "reset": ({**seen, "reset": "yes"}, "reset: found yes; allowed: true, false"),
        "too long": ({**seen, "instruction": "red " * 40}, "instruction 'red"),
    }


def test_nonsense_is_one_line_and_the_episode_goes_on(served: Served) -> None:
    expected = None
    with PolicyClient(served.url) as client:
        expected = play(client, 7)
    with PolicyClient(served.url) as other, connect(served.url, compression=None, proxy=None) as connection:
        assert unpack(connection.recv())["server"].startswith("instructrl ")  # type: ignore[arg-type]
        for name, (message, line) in nonsense().items():
            connection.send(pack(message) if isinstance(message, dict) else message)
            answer = connection.recv(60)
            assert isinstance(answer, str) and answer.startswith(line) and "\n" not in answer, (name, answer)
        episode = observations(3, seed=7)
        for step, seen in enumerate(episode):
            connection.send(pack(by_camera(seen, CAMERAS) | {"instruction": f"{ASK} 1", "reset": step == 0}))
            np.testing.assert_array_equal(unpack(connection.recv(60))["actions"], [expected[step]])  # type: ignore[arg-type]
            connection.send(pack(by_camera(seen, CAMERAS) | {"instruction": "another"}))
            assert "send reset before another episode" in str(connection.recv(60))
        connection.send(bytes(2**22))
        with pytest.raises(ConnectionClosed, match=r"1009 .message too big"):
            connection.recv(60)
        np.testing.assert_array_equal(play(other, 7), expected)


def test_the_clients_own_mistakes_are_one_line(served: Served) -> None:
    with PolicyClient(served.url) as client:
        seen = observations(1)[0]
        for _ in range(STEPS):
            client.act(seen, ASK)
        with pytest.raises(InputError, match=f"episode: found keyframe {STEPS + 1}; allowed: at most {STEPS}"):
            client.act(seen, ASK)
        client.reset()
        assert client.act(seen, ASK).shape == (8,)
        large = Observation(np.zeros((2, 999, 999, 3), np.uint8), *seen[1:])
        with pytest.raises(InputError, match=r"found \d+ bytes; the server takes at most"):
            client.act(large, ASK)
    with pytest.raises(InputError, match=r"url: found http://x; allowed: ws://HOST:PORT"):
        PolicyClient("http://x")
    with pytest.raises(RunError, match=r"no policy server answers .*; start one with"):
        PolicyClient("ws://127.0.0.1:9")


def test_a_port_that_is_in_use_and_one_that_nobody_serves_are_one_line() -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        ran = run_main(serve_command.main, "run=x", f"port={port}")
    expected = f"error: port: found {port} at 127.0.0.1 (Address already in use); choose another port= or host=\n"
    assert (ran.returncode, ran.stderr) == (2, expected)
    ran = run_main(client_command.main, "task=reach_target", f"url=ws://127.0.0.1:{port}", "wait=0")
    assert ran.returncode == 1 and ran.stderr.startswith(f"error: ws://127.0.0.1:{port}: no policy server answers")


def test_a_server_with_a_token_admits_only_those_who_show_it(trained: LoadedAgent) -> None:
    with serving(trained, clients=1, max_keyframes=STEPS, token=TOKEN) as server:
        for wrong in (None, TOKEN[:-1], TOKEN + "x"):
            with pytest.raises(InputError, match=r"token: found .*the server refuses") as refused:
                PolicyClient(server.url, token=wrong)
            assert TOKEN not in str(refused.value)
        with PolicyClient(server.url, token=TOKEN) as client:
            assert client.act(observations(1)[0], ASK).shape == (8,)
        assert not any(TOKEN in line for line in server.said)


def test_the_command_replays_demonstrations_and_plays_episodes(served: Served) -> None:
    file = tiny.shared_demonstrations()["val"][0]
    ran = run_main(client_command.main, f"url={served.url}", f"file={file}", "episodes=2")
    assert ran.returncode == 0, ran.stderr
    [_, *episodes, total, latency] = ran.stdout.splitlines()
    assert len(episodes) == 2 and re.match(r"all: \d+ keyframes, [\d.]+ cm, \d+ degrees, gripper right in", total)
    assert re.match(r"\d+ answers: p50 [\d.]+ ms, p99 [\d.]+ ms", latency)
    words = (f"url={served.url}", "task=reach_target", "episodes=2", "renderer=raycast")
    ran = run_main(client_command.main, *words)
    assert ran.returncode == 0 and re.search(r"\nsuccess: \d of 2 episodes\n", ran.stdout), ran.stderr
    for words_, line in (
        (("task=reach_target", f"file={file}"), "error: task, file: found both; allowed: one of them"),
        (("task=no_such_task",), "error: task: found no_such_task; allowed: "),
        (("sim=nothing", "task=reach_target"), "error: sim.kind: found nothing"),
    ):
        ran = run_main(client_command.main, f"url={served.url}", *words_)
        assert ran.returncode == 2 and ran.stderr.startswith(line) and ran.stderr.count("\n") == 1, ran.stderr


class Robot:
    """A robot that is done after two motions."""

    def __init__(self) -> None:
        self.poses: list[np.ndarray] = []
        self.open: list[bool] = []

    def state(self) -> list[float]:
        return [1.0, 0.04, 0.04, -1.0]

    def image(self, camera: str) -> np.ndarray:
        return np.full((48, 64, 3), len(camera), np.uint8)

    def intrinsics(self, camera: str) -> np.ndarray:
        return np.array([[60.0, 0, 32], [0, 60, 24], [0, 0, 1]])

    def pose(self, camera: str) -> np.ndarray:
        return np.eye(4)

    def move_to(self, *, position: np.ndarray, quaternion: np.ndarray) -> None:
        self.poses.append(np.concatenate([position, quaternion]))

    def set_gripper(self, *, is_open: bool) -> None:
        self.open.append(bool(is_open))

    def is_done(self) -> bool:
        return len(self.poses) == 2


def test_the_documented_loop_moves_a_robot(
    served: Served, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    robot = Robot()
    monkeypatch.setitem(sys.modules, "my_robot", SimpleNamespace(robot=robot))
    [block] = re.findall(r"```python\n(.*?)```", (ROOT / "docs/serving.md").read_text(), flags=re.DOTALL)
    assert block.count("ws://127.0.0.1:8000") == 1 and len([line for line in block.splitlines() if line]) <= 30
    names: dict[str, Any] = {}
    exec(block.replace("ws://127.0.0.1:8000", served.url), names)
    names["client"].close()
    assert len(robot.poses) == len(robot.open) == 2 and capsys.readouterr().out.endswith("True\n")


def start(run: Path, port: int) -> tuple["subprocess.Popen[str]", str]:
    """Start the command; returns it with its address when it serves."""
    words = [f"run={run}", f"port={port}", "clients=1", f"max_keyframes={STEPS}"]
    command = [sys.executable, "-m", "instructrl.inference.serve", *words]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith("serving "):
            return process, line.split(" at ")[1].partition(",")[0]
    raise AssertionError("it ended")


def test_a_server_that_is_killed_and_started_again_is_found_again(run: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(run, tmp_path / "run")
    process, url = start(copy, 0)
    try:
        client = PolicyClient(url, wait=60)
        first = play(client, 3)
        process.kill()
        process.wait(60)
        with pytest.raises(ConnectionLostError, match=r"^ws://.*: the connection was lost .*") as lost:
            client.act(observations(1)[0], f"{ASK} 0")
        assert "\n" not in str(lost.value)
        process, again = start(copy, int(url.rpartition(":")[2]))
        assert again == url
        np.testing.assert_allclose(play(client, 3), first, atol=1e-6)
        process.terminate()
        assert process.wait(60) == 0 and process.stdout is not None and process.stdout.read().endswith("stopped\n")
        with pytest.raises(ConnectionLostError, match="the server was stopped"):
            client.act(observations(1)[0], ASK)
    finally:
        process.kill()
