"""A run that is killed at random moments ends bit-identical to an undisturbed one."""

import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from instructrl.inference.batched_agent import load_batched_agent
from tests.fakes.sim import without_clock
from tests.fixtures import tiny, tiny_objective
from tests.fixtures.team import ended, team_of
from tests.fixtures.waiting import bearers, wait_for
from tests.paths import ROOT

TASKS = ("reach_target", "push_button")
WORDS = (
    f"task.tasks=[{','.join(TASKS)}]",
    "task.name=pair",
    "task.episodes=20",
    "encoder.frozen=true",  # with cached features
    "training.token_dropout=0",
    "training.epochs=10",
    "training.save_every=4",
    "name=run",
)
STEPS = 10 * 8
PHASES = ["collecting", "features", "training", "saving"]
TINY = ("-m", "tests.fixtures.tiny_objective")
BEGUN = ("training begins", "training resumed")


class Session:
    """A folder in which commands are started, killed and restarted."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.log, self.run = folder, folder / "log", folder / "outputs/run"
        folder.mkdir()

    def start(self, *words: str) -> subprocess.Popen:
        self.log.write_text("")
        with self.log.open("a") as log:
            environment = os.environ | {"PYTHONPATH": str(ROOT)}
            return subprocess.Popen([sys.executable, *words], cwd=self.folder, stdout=log, stderr=log, env=environment)

    def train(self) -> subprocess.Popen:
        return self.start(str(ROOT / "train.py"), *tiny.overrides(self.folder, *WORDS))

    def evaluate(self) -> subprocess.Popen:
        return self.start(str(ROOT / "eval.py"), f"run={self.run}", "episodes=5", "videos=1", "workers=1")

    def finish(self, process: subprocess.Popen) -> None:
        assert process.wait(600) == 0, self.log.read_text()

    def said(self, *words: str) -> bool:
        return any(word in self.log.read_text() for word in words)

    def episodes(self) -> int:
        return sum(path.read_text().count("\n") for path in self.run.glob("eval/**/episodes.jsonl"))

    def sign(self, phase: str) -> Callable[[], bool]:
        """Return a condition that is true once the command has reached a phase."""
        played = self.episodes()
        signs: dict[str, Callable[[], bool]] = {
            "collecting": lambda: self.said("collecting ", *BEGUN),
            "features": lambda: self.said("features: computing", *BEGUN),
            "training": lambda: self.said(*BEGUN),
            "saving": lambda: any(self.run.glob("checkpoints/*.orbax-checkpoint-tmp")),
            "evaluating": lambda: self.episodes() > played,
        }
        return signs[phase]

    def kill(self, process: subprocess.Popen, phase: str, delay: float) -> str:
        """SIGKILL some time after the start of a phase, or of training at the latest; returns the phase."""
        reached, end = self.sign(phase), time.monotonic() + 300
        while not reached():
            assert process.poll() is None and time.monotonic() < end, f"{phase}: {self.log.read_text()}"
            time.sleep(0.001)
        time.sleep(delay)
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL, f"{phase}: the command ended first"
        return "training" if phase in ("collecting", "features") and self.said(*BEGUN) else phase


def same_end(found: Session, expected: Session) -> None:
    hardware = tiny.config(found.folder).hardware
    actors = [
        load_batched_agent(one.run, checkpoint="last", slots=1, steps=6, hardware=hardware) for one in (found, expected)
    ]
    assert actors[0][1] == actors[1][1] == STEPS
    jax.tree.map(np.testing.assert_array_equal, actors[0][0].params, actors[1][0].params)
    assert (found.run / "metrics.jsonl").read_bytes() == (expected.run / "metrics.jsonl").read_bytes()


def results(session: Session) -> Any:
    content = without_clock(json.loads((session.run / "eval/results.json").read_text()))
    return {key: value for key, value in content.items() if key not in ("run", "command", "date")}


def test_killed_in_every_phase_the_same_commands_end_bit_equal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An agent with cached features for a set of tasks, by the command lines; nothing is left behind."""
    mark = f"killed_{os.getpid()}"
    monkeypatch.setenv("MARK", mark)
    undisturbed, killed = Session(tmp_path / "undisturbed"), Session(tmp_path / "killed")
    for command in (undisturbed.train, undisturbed.evaluate):
        undisturbed.finish(command())
    rng, kills = random.Random(3), Counter[str]()
    for phase in [*PHASES, "evaluating"]:
        process = killed.evaluate() if phase == "evaluating" else killed.train()
        kills[killed.kill(process, phase, rng.uniform(0, 0.02 if phase == "saving" else 0.3))] += 1
        assert wait_for(lambda: not bearers(mark), 10), f"{phase}: processes were left behind"
        if phase == PHASES[-1]:
            killed.finish(killed.train())
    killed.finish(killed.evaluate())
    assert kills.total() == len(kills) == 5, kills
    same_end(killed, undisturbed)
    assert results(killed) == results(undisturbed)


def test_killed_at_many_moments_of_training_it_ends_bit_equal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Within and between steps, and while checkpoints are written, of which there is one every other step."""
    words = ("training.epochs=40", "training.save_every=2", "name=run")
    undisturbed = tiny_objective.trained(tmp_path / "undisturbed", *words)
    rng, session = random.Random(4), Session(tmp_path / "killed")
    moments = [f"{step}:{rng.uniform(0, 0.03):.4f}" for step in (1, 3, 8, 9, 24, 33, 50, 71, 90, 107)]
    monkeypatch.setenv("KILLS", " ".join(moments))
    session.finish(session.start(*TINY, str(session.folder), *words))
    assert session.log.read_text().count("training resumed") > 5, "most of them had saved something"
    tiny_objective.assert_same_end(session.run, undisturbed)


def test_two_processes_that_are_killed_or_stopped_end_bit_equal(tmp_path: Path) -> None:
    words = ["hardware.local_devices=null", "training.batch_size=12", "training.epochs=80",
             "training.validate_every=20", "training.save_every=15"]  # fmt: skip
    checkpoints = tmp_path / "outputs/killed/checkpoints"

    def steps() -> set[int]:
        return {int(path.name) for path in checkpoints.glob("*") if path.name.isdigit()}

    def start(name: str) -> list[subprocess.Popen]:
        return team_of([str(tmp_path), *words, f"name={name}"], cwd=tmp_path, processes=2, devices=2, program=TINY)

    def after_a_save(team: list[subprocess.Popen]) -> None:
        before = steps()
        while not steps() - before:
            assert all(process.poll() is None for process in team), ended(team)
            time.sleep(0.01)
        time.sleep(rng.uniform(0, 0.05))

    def before_its_first_step(team: list[subprocess.Popen]) -> None:
        assert team[0].stdout is not None
        while not team[0].stdout.readline().startswith("training resumed"):
            assert team[0].poll() is None, ended(team)

    rng = random.Random(5)
    said = ended(start("alone"))
    assert [code for *_, code in said] == [0, 0], said
    for first in (0, 1):
        team = start("killed")
        after_a_save(team)
        for process in (team[first], team[1 - first]):  # as on a cluster that loses one of them
            process.kill()
            time.sleep(rng.uniform(0, 0.3))
        codes = [code for *_, code in ended(team)]
        assert codes[first] == -signal.SIGKILL
        assert codes[1 - first] in (-signal.SIGKILL, -signal.SIGABRT)  # jax may have noticed it first
    for heard, moment in (((0, 1), before_its_first_step), ((1,), after_a_save)):
        team = start("killed")  # a cluster signals all of them, one of them first
        moment(team)
        for index in heard:
            team[index].terminate()
        said = ended(team, timeout=60)
        assert [code for *_, code in said] == [75, 75], said
        [at] = re.findall(r"step (\d+)", said[0][1].splitlines()[-1])
        assert max(steps()) == int(at), "no step is lost"
    said = ended(start("killed"))
    assert [code for *_, code in said] == [0, 0], said
    tiny_objective.assert_same_end(*(tmp_path / "outputs" / name for name in ("killed", "alone")))
    again = ended(start("killed"))
    assert [code for *_, code in again] == [0, 0] and "already trained" in again[0][0]
    assert "train" not in again[1][0], "only the leader prints"


LISTENING = """
import sys
from instructrl.config.training import HardwareConfig
from instructrl.errors import InterruptedRun, report_user_errors
from instructrl.training.distributed import multihost

multihost.POLL_SECONDS = 0.0  # so that the end of the interpreter finds each one within a call of jax
group = dict(word.removeprefix("hardware.").split("=") for word in sys.argv[1:])
here = HardwareConfig("cpu", coordinator=group["coordinator"], num_processes=2, process_id=int(group["process_id"]))
with report_user_errors():
    with multihost.process_group(here):
        raise InterruptedRun("by SIGTERM")
"""


def test_processes_that_are_stopped_while_they_listen_to_each_other_do_not_abort(tmp_path: Path) -> None:
    said = ended(team_of([], cwd=tmp_path, processes=2, program=["-c", LISTENING]))
    assert [code for *_, code in said] == [75, 75], said
