"""The list of simulators, and an episode of one."""

import sys
from pathlib import Path

import pytest

from data_tools import simulators
from instructrl.config.environment import SIMULATORS
from tests.fixtures.commands import run_main
from tests.fixtures.interpreters import make_interpreter


def test_every_simulator_is_listed_with_its_interpreter_and_what_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("COPPELIASIM_ROOT", raising=False)
    bare = str(make_interpreter(tmp_path / "bare"))
    done = run_main(simulators.main, "--sim", "tabletop")
    first, second = done.stdout.splitlines()
    assert first.split() == ["tabletop", sys.executable] and second.split() in (
        ["renderer", "opengl"],
        ["renderer", "raycast"],
    )
    for name, advice in (("metaworld", "make metaworld"), ("rlbench", "No module named 'PIL'")):
        done = run_main(simulators.main, "--sim", name, "--python", bare)
        first, second = done.stdout.splitlines()
        assert (done.returncode, first.split()) == (0, ["!", name, bare])
        assert second.strip().startswith("-> ") and advice in second, second
    states = {name: (name == "tabletop", "state") for name in SIMULATORS}
    monkeypatch.setattr(simulators, "state", lambda sim: states[sim.kind])
    listed = run_main(simulators.main).stdout.splitlines()
    assert [line.split()[0] for line in listed[::2]] == ["tabletop", *["!"] * (len(SIMULATORS) - 1)]


def test_an_episode_is_played() -> None:
    done = run_main(simulators.main, "play", "--sim", "tabletop", "--task", "reach_target")
    assert done.returncode == 0 and ": success after 1 keyframe, " in done.stdout, done
    assert "simulator tabletop" in done.stdout


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["--sim", "nowhere", "--task", "x"], "error: sim.kind: found nowhere; allowed: tabletop, "),
        (["--sim", "tabletop"], "--sim and --task are missing"),
        (["--sim", "tabletop", "--task", "reach_targte"], "error: "),
    ],
)
def test_a_wrong_name_is_one_line(words: list[str], line: str) -> None:
    done = run_main(simulators.main, "play", *words)
    assert done.returncode == 2 and line in done.stderr and "Traceback" not in done.stderr, done.stderr
