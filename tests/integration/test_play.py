"""The agent that is shipped, the film of what it obeys, and its page: over the websocket, and in Chromium."""

import asyncio
import contextlib
import json
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
from PIL import Image
from websockets.exceptions import InvalidStatus
from websockets.sync.client import ClientConnection, connect

import instructrl.play.__main__ as play
from instructrl.cli.compose import compose
from instructrl.config.training import TrainConfig
from instructrl.inference.serve import bound_socket
from instructrl.inference.trained import load_trained
from instructrl.package_files import SHIPPED_AGENT
from instructrl.play.server import PlayServer
from instructrl.play.session import Session
from instructrl.training.parameters.load_agent import LoadedAgent
from tests.fixtures.browser import page
from tests.fixtures.commands import run_main


@pytest.fixture(scope="module")
def shipped() -> LoadedAgent:
    return load_trained(SHIPPED_AGENT)


@pytest.fixture(scope="module")
def session(shipped: LoadedAgent) -> Session:
    """A session for several servers; each uses it in a thread of its own, and closes the simulator at its end."""
    return Session(shipped)


@pytest.fixture
def address(session: Session) -> Iterator[str]:
    """The address, HOST:PORT, of a page."""
    listener, ready, stop = bound_socket("127.0.0.1", 0), threading.Event(), asyncio.Event()
    loop, ended = asyncio.new_event_loop(), []
    (first, *_) = session.sentences.first(session.sentences.goals_of("reach_target"))

    def run() -> None:
        server = PlayServer(session)
        try:
            loop.run_until_complete(server.run(listener, first=first, seed=0, obey=None, ready=ready.set, stop=stop))
            ended.append("well")
        finally:
            ready.set()

    thread = threading.Thread(target=run)
    host = "{}:{}".format(*listener.getsockname())
    thread.start()
    assert ready.wait(60)
    yield host
    with contextlib.suppress(RuntimeError):  # it has ended by itself
        loop.call_soon_threadsafe(stop.set)
    thread.join(60)
    loop.close()
    assert ended == ["well"]


def received(page: ClientConnection, kind: str) -> dict[str, Any]:
    """The next message of a kind; others before it are left out."""
    while True:
        message = json.loads(page.recv(timeout=120))
        if message["kind"] == kind:
            return message


def answer(page: ClientConnection, **message: object) -> dict[str, Any]:
    """The robot's answer to a message."""
    page.send(json.dumps(message))
    while (line := received(page, "line"))["who"] != "robot":
        pass
    return line


def rest(page: ClientConnection) -> None:
    while received(page, "busy")["busy"]:
        pass


def test_the_shipped_agent_is_small_and_that_of_its_command(shipped: LoadedAgent) -> None:
    assert sum(path.stat().st_size for path in SHIPPED_AGENT.iterdir()) < 2.5e6
    made = compose("train", TrainConfig, ["experiment=multi_10"])
    for part in ("name", "encoder", "policy", "head", "task", "optimizer", "training"):
        assert getattr(shipped.config, part) == getattr(made, part), part
    assert shipped.words is not None and {"teal", "umbrella"} <= shipped.words


def test_a_sentence_is_filmed_without_a_browser(
    session: Session, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(play, "prepare", lambda config: session)
    ran = run_main(play.main, "reach the teal ball", "out=ball.gif")
    session.close()  # here, in the thread that has drawn
    assert ran.returncode == 0 and ran.stdout.splitlines()[-2:] == ["reach the teal ball: success", "film: ball.gif"]
    with Image.open("ball.gif") as image:
        assert image.n_frames > 8 and image.width == 240
    refused = run_main(play.main, "reech the teal bal", "out=other.gif")
    line = "error: sentence: found reech the teal bal: no instruction of the training had 'reech', 'bal'; did you mean "
    assert (
        refused.returncode == 2
        and refused.stderr == f"{line}'reach the teal ball'\n"
        and not Path("other.gif").exists()
    )


def test_the_agent_is_named_before_it_is_loaded(tmp_path: Path) -> None:
    ran = run_main(play.main, f"run={tmp_path}")
    assert ran.returncode == 2 and ran.stdout == f"loading the agent {tmp_path}\n", ran.stderr
    assert ran.stderr.startswith("error: ") and ran.stderr.count("\n") == 1


def test_pages_show_one_scene_and_each_gets_its_answers(address: str) -> None:
    with connect(f"ws://{address}/socket", proxy=None) as one, connect(f"ws://{address}/socket", proxy=None) as other:
        scene = received(one, "scene")
        assert scene["sentences"][0]["text"] == "reach the red ball"
        assert received(one, "image")["image"].startswith("data:image/jpeg;base64,") and len(scene["tasks"]) == 10
        line = answer(one, do="obey", text="atteins la balle rouge")
        assert "English" in line["text"] and [entry["variation"] for entry in line["suggestions"]][:1] == [0]
        rest(one)
        line = answer(one, do="obey", text="Reach red ball")
        assert line["text"] == "I take it for “reach the red ball”."
        sights = received(one, "sight")
        assert len(sights["images"]) == len(sights["heatmaps"]) == 3
        assert answer(one, do="restart")["text"] == "The arm is moving; ask again when it rests."
        assert received(one, "line") | {"text": ""} == line | {"text": "", "tone": "good"}
        rest(one)
        while received(other, "line")["text"] != "Done.":
            pass
        one.send(json.dumps({"do": "scene", "task": "push_button", "seed": 19}))
        assert received(other, "scene") | {"tasks": [], "cameras": []} == {
            "kind": "scene", "tasks": [], "cameras": [], "task": "push_button", "seed": 19,
            "sentences": [{"text": "push the maroon button", "task": "push_button", "variation": 1}],
        }  # fmt: skip
        rest(one)
        one.send(json.dumps({"do": "view", "azimuth": 90, "elevation": 30, "distance": 1.5}))
        turned = received(one, "image")["image"]
        with connect(f"ws://{address}/socket", proxy=None) as late:
            assert received(late, "image")["image"] == turned and received(late, "line")["who"] == "you"


@pytest.mark.parametrize(
    ("message", "said"),
    [
        ("[]", "message: found no map in JSON"),
        ('{"do": "dance"}', "do: found dance; allowed: obey, scene, restart, view"),
        ('{"do": "obey"}', "text: found null; allowed: a text"),
        ('{"do": "scene", "task": "fly", "seed": 0}', "task: found fly, variation 0; allowed: those shown"),
        (
            '{"do": "scene", "task": "push_button", "seed": true}',
            "seed: found true; allowed: a number in 0..2.14748e+09",
        ),
        ('{"do": "view", "azimuth": 0, "elevation": NaN, "distance": 1}', "elevation: found nan; allowed: "),
        ('{"do": "obey", "text": "\\ud800"}', "instruction '\\ud800': not Unicode text; write it in UTF-8"),
    ],
)
def test_a_message_of_another_form_is_one_line(address: str, message: str, said: str) -> None:
    with connect(f"ws://{address}/socket", proxy=None) as one:
        one.send(message)
        while (line := received(one, "line"))["who"] != "robot":
            pass
        assert line["text"].startswith(said)


def test_only_pages_of_this_machine_are_served(address: str) -> None:
    found = requests.get(f"http://{address}/", timeout=10)
    assert found.status_code == 200 and "page.js" in found.text and "script-src 'self'" in found.headers[
        "Content-Security-Policy"
    ]  # fmt: skip
    assert requests.get(f"http://{address}/page.css", timeout=10).headers["Content-Type"].startswith("text/css")
    assert requests.get(f"http://{address}/../agent/config.yaml", timeout=10).status_code == 404
    assert requests.get(f"http://{address}/", headers={"Host": "example.com"}, timeout=10).status_code == 403
    with pytest.raises(InvalidStatus, match="403"):
        connect(f"ws://{address}/socket", origin="http://example.com", proxy=None)


def test_a_port_in_use_is_refused() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        ran = run_main(play.main, f"port={port}")
    expected = f"error: port: found {port} at 127.0.0.1 (Address already in use); choose another port=\n"
    assert ran.returncode == 2 and ran.stderr == expected


def test_a_browser_types_and_chooses(address: str, tmp_path: Path) -> None:
    with page(f"http://{address}/", tmp_path) as browser:
        browser.wait("document.querySelector('#sentences button') && document.getElementById('image').complete")
        browser.run("document.getElementById('text').value = 'reech the red bal'")
        browser.run("document.getElementById('say').requestSubmit()")
        browser.wait("document.querySelector('.robot .choices button')")
        assert browser.run("document.querySelector('.robot').innerText").splitlines()[0] == (
            "No instruction of the training had 'reech', 'bal'; did you mean:"
        )
        browser.wait("document.body.dataset.busy === 'false'")
        browser.run("document.querySelector('.robot .choices button').click()")
        browser.wait("document.querySelector('.robot.good')", seconds=120)
        assert browser.run("document.querySelectorAll('#sight .layer').length") == 3
        assert browser.run("document.documentElement.scrollWidth <= innerWidth")
        row = "[...document.querySelectorAll('#change select, #change input, #change button')]"
        assert browser.run(f"new Set({row}.map(one => one.getBoundingClientRect().height)).size") == 1
