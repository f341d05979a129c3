"""Worker processes: parallel calls and all kinds of failures."""

import functools
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from instructrl.errors import InputError, RunError, SimulatorError
from instructrl.sim.vector import heartbeat
from instructrl.sim.vector.pool import WorkerFailure, Workers, worker_count
from tests.paths import ROOT


class Fake:
    """An environment that misbehaves on demand; `folder` counts across restarts."""

    size = 7

    def __init__(self, folder: Path):
        self.folder, self.steps, self.start = folder, [], None

    def pid(self) -> int:
        return os.getpid()

    def square(self, number: int) -> int:
        return number * number

    def nap(self, seconds: float) -> float:
        time.sleep(seconds)
        return seconds

    def note(self, name: str) -> None:
        (self.folder / name).touch()

    def reset(self, start: int) -> int:
        self.start, self.steps = start, []
        return start

    def step(self, action: int) -> tuple:
        if self.start is None:
            raise RuntimeError("reset first")
        self.steps.append(action)
        return self.start, tuple(self.steps)

    def step_dying(self, times: int) -> tuple:
        self.misbehave("die", times)
        return self.start, tuple(self.steps)

    def misbehave(self, how: str, times: int) -> str:
        """Fail in this way the first few times, counted over all processes."""
        mark = self.folder / how
        before = len(mark.read_text()) if mark.exists() else 0
        if before < times:
            mark.write_text("x" * (before + 1))
            {
                "die": lambda: os.kill(os.getpid(), signal.SIGKILL),
                "exit": lambda: os._exit(3),
                "hang": lambda: time.sleep(600),
                "stop": lambda: os.kill(os.getpid(), signal.SIGSTOP),
                "raise": lambda: 1 / 0,
            }[how]()
        return "well"

    def refuse(self) -> None:
        raise InputError("task: found 'x', expected another")

    def toil(self, seconds: float) -> float:
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            pass
        return seconds

    def big(self) -> np.ndarray:
        return np.arange(2_000_000)

    def modules(self) -> list[str]:
        return [name for name in ("jax", "flax") if name in sys.modules]

    def threads(self) -> str:
        return os.environ["OMP_NUM_THREADS"]

    def close(self) -> None:
        (self.folder / f"closed{os.getpid()}").touch()


def refusing_factory() -> None:
    raise InputError("sim.renderer: found 'x', expected another")


def failing_factory() -> None:
    raise ImportError("libsomething.so is missing")


def dying_factory() -> None:
    print("the driver is broken", file=sys.stderr, flush=True)
    os._exit(9)


def slow_factory() -> None:
    time.sleep(60)


def fitful_factory(folder: Path) -> Fake:
    """Fails at the very first start."""
    fake = Fake(folder)
    fake.misbehave("die", 1)
    return fake


def make_factory(folder: Path) -> functools.partial:
    return functools.partial(Fake, folder)


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


def gone_within(pids: list[int], seconds: float) -> bool:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if not any(alive(pid) for pid in pids):
            return True
        time.sleep(0.05)
    return False


def test_map_gives_every_result_once_on_several_processes(tmp_path: Path) -> None:
    with Workers(make_factory(tmp_path), 2, timeout=20) as workers:
        assert len(workers) == 2
        results = dict(workers.map("square", ((number,) for number in range(50))))
        assert results == {number: number * number for number in range(50)}
        assert len({workers.call({slot: ("pid", ())})[slot] for slot in range(2)}) == 2
        assert workers.call({0: ("size", ()), 1: ("modules", ())}) == {0: 7, 1: []}
        assert workers.call({1: ("threads", ())}) == {1: "1"}
        assert (workers.call({0: ("big", ())})[0] == np.arange(2_000_000)).all()
        assert list(workers.map("square", [])) == []
        assert workers.call({}) == {}


def test_map_gives_results_as_they_complete_and_draws_no_further_than_it_must(tmp_path: Path) -> None:
    drawn = []

    def endless():
        number = 0
        while True:
            drawn.append(number)
            yield (1.5 if number == 0 else 0.0,)
            number += 1

    with Workers(make_factory(tmp_path), 2, timeout=20) as workers:
        order = []
        for index, _ in workers.map("nap", endless()):
            order.append(index)
            assert len(drawn) <= len(order) + 2
            if index == 0 or len(order) > 300:
                break
        assert order[0] == 1
        # the abandoned calls do not answer for the next ones
        assert sorted(workers.map("square", [(3,), (4,), (5,)])) == [(0, 9), (1, 16), (2, 25)]


def test_map_goes_on_with_the_next_call_while_a_result_is_used(tmp_path: Path) -> None:
    with Workers(make_factory(tmp_path), 1, timeout=20) as workers:
        results, end = workers.map("note", [("one",), ("two",)], ahead=True), time.monotonic() + 20
        assert next(results)[0] == 0
        while not (tmp_path / "two").exists() and time.monotonic() < end:
            time.sleep(0.01)
        assert (tmp_path / "two").exists() and [index for index, _ in results] == [1]


@pytest.mark.parametrize("how", ["die", "exit", "hang", "raise"])
def test_one_failure_is_made_good_two_are_reported(tmp_path: Path, how: str) -> None:
    with Workers(make_factory(tmp_path), 2, timeout=1.5 if how == "hang" else 20) as workers:
        assert workers.call({0: ("misbehave", (how, 1)), 1: ("square", (3,))}) == {0: "well", 1: 9}
        (tmp_path / how).unlink()
        results = dict(workers.map("misbehave", [(how, 2), (how, 0), (how, 0)]))
        failure = results.pop(0)
        assert isinstance(failure, WorkerFailure)
        reason = {"die": "SIGKILL", "exit": "code 3", "hang": "did not answer", "raise": "ZeroDivisionError"}[how]
        assert reason in failure.reason
        assert set(results.values()) == {"well"}
        assert workers.call({0: ("square", (2,)), 1: ("square", (3,))}) == {0: 4, 1: 9}


def test_killed_from_outside_in_mid_work(tmp_path: Path) -> None:
    with Workers(make_factory(tmp_path), 2, timeout=20) as workers:
        pids = [workers.call({slot: ("pid", ())})[slot] for slot in range(2)]
        naps = workers.map("nap", [(0.4,)] * 4)
        first, _ = next(naps)
        os.kill(pids[0], signal.SIGKILL)
        assert sorted([first, *(index for index, value in naps if value == 0.4)]) == [0, 1, 2, 3]


def test_an_episode_survives_the_loss_of_its_process(tmp_path: Path) -> None:
    with Workers(make_factory(tmp_path), 2, timeout=20) as workers:
        workers.call({0: ("reset", (5,)), 1: ("reset", (6,))})
        workers.call({0: ("step", (1,)), 1: ("step", (2,))})
        os.kill(workers.call({0: ("pid", ())})[0], signal.SIGKILL)
        assert workers.call({0: ("step", (3,)), 1: ("step", (4,))}) == {0: (5, (1, 3)), 1: (6, (2, 4))}
        assert workers.call({0: ("step_dying", (1,))}) == {0: (5, (1, 3))}
        assert isinstance(workers.call({0: ("step_dying", (9,))})[0], WorkerFailure)
        assert isinstance(workers.call({0: ("step", (1,))})[0], WorkerFailure)  # that episode is lost
        assert workers.call({0: ("reset", (7,))}) == {0: 7}
        assert workers.call({0: ("step", (8,)), 1: ("step", (9,))}) == {0: (7, (8,)), 1: (6, (2, 4, 9))}


def test_errors_that_are_the_users_are_raised_here(tmp_path: Path) -> None:
    with Workers(make_factory(tmp_path), 2, timeout=20) as workers:
        with pytest.raises(InputError, match="expected another"):
            workers.call({0: ("refuse", ()), 1: ("square", (1,))})
        assert workers.call({0: ("square", (2,)), 1: ("square", (3,))}) == {0: 4, 1: 9}
        with pytest.raises(InputError, match="expected another"):
            list(workers.map("refuse", [()]))


@pytest.mark.parametrize(
    ("made", "kind", "message"),
    [
        (refusing_factory, InputError, "^sim.renderer: found 'x'"),
        (failing_factory, SimulatorError, "cannot start: it raised ImportError: libsomething.so is missing"),
        (dying_factory, SimulatorError, r"cannot start: it exited with code 9 \(the driver is broken\)"),
        (slow_factory, SimulatorError, "cannot start: it was not ready within 1 s"),
    ],
)
def test_a_worker_that_cannot_start_is_one_clear_error(made, kind: type, message: str) -> None:
    patience = 1 if made is slow_factory else 60
    with pytest.raises(kind, match=message), Workers(made, 2, timeout=5, start_timeout=patience):
        pass


def test_a_process_that_does_not_start_is_started_once_more(tmp_path: Path) -> None:
    with Workers(functools.partial(fitful_factory, tmp_path), 1, timeout=5) as workers:
        assert workers.call({0: ("square", (3,))}) == {0: 9}
        (tmp_path / "die").unlink()  # the process that comes in place of a lost one fails to start too, once
        assert workers.call({0: ("misbehave", ("exit", 1))}) == {0: "well"}


@pytest.fixture
def quick_ears(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(heartbeat, "SILENCE", 1.5)
    monkeypatch.setattr(heartbeat, "_BEAT", 0.05)


@pytest.mark.usefixtures("quick_ears")
@pytest.mark.parametrize("how", ["hang", "stop"])
def test_a_hang_is_told_long_before_the_time_out(tmp_path: Path, how: str) -> None:
    with Workers(make_factory(tmp_path), 2, timeout=1000) as workers:
        assert workers.call({0: ("misbehave", (how, 1)), 1: ("square", (3,))}) == {0: "well", 1: 9}
        [(_, failure)] = workers.map("misbehave", [(how, 9)])
        assert isinstance(failure, WorkerFailure) and "it hangs: it used no CPU for 1.5 s" in failure.reason


@pytest.mark.usefixtures("quick_ears")
def test_slow_work_is_no_hang(tmp_path: Path) -> None:
    with Workers(make_factory(tmp_path), 1, timeout=1000) as workers:
        pid = workers.call({0: ("pid", ())})
        assert workers.call({0: ("toil", (4.0,))}) == {0: 4.0}
        assert workers.call({0: ("pid", ())}) == pid, "it was not replaced"


@pytest.mark.usefixtures("quick_ears")
def test_time_in_which_nobody_looked_does_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    """For instance if parent and child are suspended together."""
    now = [100.0]
    monkeypatch.setattr(heartbeat.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(heartbeat.Heartbeat, "_cpu_seconds", lambda self: 0.0)
    listening = heartbeat.Heartbeat(os.getpid())
    now[0] += 3600.0
    assert listening.silence() == pytest.approx(0.3)
    for _ in range(10):
        now[0] += 0.2
        found = listening.silence()
    assert found == pytest.approx(2.3)
    listening.restart()
    assert listening.silence() == 0.0


@pytest.mark.usefixtures("quick_ears")
def test_a_hang_at_the_start_is_told_before_the_time_out() -> None:
    with (
        pytest.raises(RunError, match=r"cannot start: it hangs: it used no CPU for 1.5 s"),
        Workers(slow_factory, 1, timeout=5, start_timeout=1000),
    ):
        pass


def test_leaving_closes_environments_and_ends_processes(tmp_path: Path) -> None:
    with Workers(make_factory(tmp_path), 2, timeout=20) as workers:
        pids = [workers.call({slot: ("pid", ())})[slot] for slot in range(2)]
    assert {path.name for path in tmp_path.glob("closed*")} == {f"closed{pid}" for pid in pids}
    assert not any(alive(pid) for pid in pids)
    with pytest.raises(KeyError), Workers(make_factory(tmp_path), 1, timeout=20) as workers:
        pid = workers.call({0: ("pid", ())})[0]
        raise KeyError
    assert not alive(pid)


def test_interrupts_are_for_the_parent(tmp_path: Path) -> None:
    with Workers(make_factory(tmp_path), 1, timeout=20) as workers:
        pid = workers.call({0: ("pid", ())})[0]
        os.kill(pid, signal.SIGINT)
        assert workers.call({0: ("pid", ())}) == {0: pid}
        assert os.getpgid(pid) != os.getpgid(0)  # a terminal's ctrl-C does not even reach it


@pytest.mark.parametrize("thread", [False, True])
def test_workers_die_with_a_killed_parent(tmp_path: Path, thread: bool) -> None:
    """One idle and one busy worker, started from the main or another thread."""
    script = f"""
import threading
from pathlib import Path
from tests.integration.sim.test_pool import make_factory
from instructrl.sim.vector.pool import Workers

def run():
    with Workers(make_factory(Path({str(tmp_path)!r})), 2, timeout=100) as workers:
        print(*workers.call({{0: ("pid", ()), 1: ("pid", ())}}).values(), flush=True)
        workers.call({{0: ("nap", (90,))}})

if {thread}:
    threading.Thread(target=run).start()
else:
    run()
"""
    parent = subprocess.Popen([sys.executable, "-c", script], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    pids = [int(word) for word in parent.stdout.readline().split()]
    time.sleep(0.3)
    assert len(pids) == 2
    assert all(alive(pid) for pid in pids)
    parent.kill()
    parent.wait()
    parent.stdout.close()
    assert gone_within(pids, 5.0)


def test_worker_count() -> None:
    assert worker_count(3) == 3
    assert 1 <= worker_count(None) <= (os.cpu_count() or 1)
