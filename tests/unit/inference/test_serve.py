"""The commands of server and client: wrong settings are one line, before anything is loaded."""

from pathlib import Path

import pytest

from instructrl.inference import client, serve
from tests.fixtures.commands import run_main


@pytest.fixture(autouse=True)
def no_token(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("INSTRUCTRL_TOKEN", raising=False)


@pytest.mark.parametrize(
    ("words", "line"),
    [
        ((), "error: run: no value given; write run=..."),
        (("run=x", "port=70000"), "error: port: found 70000; allowed: an integer at least 0 and at most 65535"),
        (("run=x", "portt=8000"), "error: portt: no such setting; did you mean port?"),
        (("run=x", "clients=0"), "error: clients: found 0; allowed: an integer at least 1"),
        (("run=x", "checkpoint=newest"), "error: checkpoint: found newest; allowed: best, last"),
        (("run=x", "hardware.platform=abacus"), "error: hardware.platform: found abacus; allowed: auto, cpu, gpu, tpu"),
        (("run=x", "host=192.0.2.1"), "error: port: found 8000 at 192.0.2.1 ("),
        (("run=x", "host=..", "port=0"), "error: host: found .. ("),
        (("run=x", "port=0", "token_file=nowhere"), "error: token_file=nowhere: cannot be read"),
        (("run=nowhere", "port=0"), "error: run: found no directory nowhere; pass the directory that train.py printed"),
    ],
)
def test_a_wrong_setting_of_the_server_is_one_line(
    words: tuple[str, ...], line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    ran = run_main(serve.main, *words)
    assert ran.returncode == 2 and ran.stderr.startswith(line) and ran.stderr.count("\n") == 1, ran.stderr


def test_an_open_server_without_a_token_is_warned_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    line = "warning: host: found 0.0.0.0 without a token: whoever reaches this port can use the agent\n"
    assert run_main(serve.main, "run=nowhere", "host=0.0.0.0", "port=0").stderr.startswith(line)
    monkeypatch.setenv("INSTRUCTRL_TOKEN", "a-token-for-this")
    for words in (("host=0.0.0.0",), ("host=127.0.0.1",)):
        assert run_main(serve.main, "run=nowhere", "port=0", *words).stderr.startswith("error: run:")


@pytest.mark.parametrize(
    ("words", "line"),
    [
        ((), "error: task, file: found neither; allowed: one of them"),
        (("task=reach_target", "url=http://x", "wait=0"), "error: url: found http://x; allowed: ws://HOST:PORT"),
    ],
)
def test_a_wrong_setting_of_the_client_is_one_line(words: tuple[str, ...], line: str) -> None:
    ran = run_main(client.main, *words)
    assert ran.returncode == 2 and ran.stderr.startswith(line) and ran.stderr.count("\n") == 1, ran.stderr


def test_the_help_names_every_setting() -> None:
    for main, names in ((serve.main, ("max_keyframes", "token_file")), (client.main, ("episodes", "renderer"))):
        printed = run_main(main, "--help").stdout
        assert all(f"\n  {name} " in printed for name in names)
