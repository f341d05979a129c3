"""The command's settings: wrong ones are one line, before an agent is loaded."""

from pathlib import Path

import pytest

import instructrl.play.__main__ as play
from tests.fixtures.commands import run_main

REACH = "reach the red ball"


@pytest.mark.parametrize(
    ("words", "line"),
    [
        ((REACH, "out=ball.mp4"), "error: out: found ball.mp4; allowed: NAME.gif"),
        (("out=ball.gif",), "error: out: found no sentence to film; write one"),
        ((REACH, "push the red button"), "error: found 2 sentences; write out=NAME.gif to film several"),
        ((REACH, "out=file/ball.gif"), "error: file/ball.gif: cannot be written"),
        (("run=nowhere",), "error: run: found no directory nowhere; pass the directory that train.py printed"),
        (("seeed=3",), "error: seeed: no such setting; did you mean seed?"),
        (("seed=-1",), "error: seed: found -1; allowed: an integer at least 0"),
    ],
)
def test_a_wrong_one_is_one_line(
    words: tuple[str, ...], line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("file").touch()
    ran = run_main(play.main, *words)
    assert ran.returncode == 2 and ran.stderr.startswith(line) and ran.stderr.count("\n") == 1, ran.stderr
    assert not ran.stdout and [path.name for path in tmp_path.iterdir()] == ["file"]


def test_the_help_names_every_setting() -> None:
    printed = run_main(play.main, "--help").stdout
    assert all(f"\n  {name} " in printed for name in ("out", "task", "seed", "port", "run"))
