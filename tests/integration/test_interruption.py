"""A run that receives SIGTERM or SIGUSR2 loses nothing, and its results equal those of an undisturbed one."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from instructrl.config.model import EncoderConfig
from instructrl.data.demonstrations.dataset import DemonstrationDataset
from instructrl.data.feature_cache.cache import ensure_features
from instructrl.data.feature_cache.compute import EncodePlan
from instructrl.data.text.tokenizer import make_tokenizer
from instructrl.errors import InterruptedRun
from instructrl.preemption import handle_signals
from instructrl.sim.vector.pool import Workers
from instructrl.training.checkpointing.manager import open_checkpoints
from instructrl.training.monitoring.metric_writer import read_lines
from instructrl.types import Features, FeatureSizes
from tests.fixtures import tiny, tiny_objective
from tests.fixtures.demonstrations import demonstration, write
from tests.fixtures.tiny_objective import Metrics, assert_same_end
from tests.fixtures.waiting import bearers, wait_for
from tests.paths import ROOT

SIZES = FeatureSizes(pooled=3, text=0, patches=None, dtype="float32")


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_objective.trained(tmp_path_factory.mktemp("undisturbed"))


def saved(run: Path) -> list[int]:
    return sorted(int(path.name) for path in (run / "checkpoints").iterdir() if path.name.isdigit())


def test_a_signal_at_any_step_loses_no_step_and_changes_no_number(undisturbed: Path, tmp_path: Path) -> None:
    for step, number in zip((1, 2, 3, 5, 6, 12), [signal.SIGTERM, signal.SIGUSR2] * 3, strict=True):

        def signalled(at: int, metrics: Metrics, step: int = step, number: int = number) -> Metrics:
            if at == step:
                os.kill(os.getpid(), number)
            return metrics

        with pytest.raises(InterruptedRun, match=rf"by {signal.Signals(number).name}, step {step} is saved"):
            tiny_objective.trained(tmp_path, on_step=signalled)
        [run] = (tmp_path / "outputs").iterdir()
        assert saved(run)[-1] == step and len(saved(run)) <= 2
    assert_same_end(tiny_objective.trained(tmp_path), undisturbed)


def test_an_exception_at_any_moment_changes_no_number(undisturbed: Path, tmp_path: Path) -> None:
    def interrupted(*given: Any) -> Any:
        if given[-1] == moment or given[0] == moment:
            raise KeyboardInterrupt
        return given[-1]

    for moment in (2, 5, 9, 11):  # noqa: B007  (read by `interrupted`)
        with pytest.raises(KeyboardInterrupt):
            tiny_objective.trained(tmp_path, "training.save_every=2", on_step=interrupted)
    for moment in (1, 3):
        folder = tmp_path / str(moment)
        with pytest.raises(KeyboardInterrupt):
            tiny_objective.trained(folder, "training.rollout_every=1", rollout=lambda _, epoch: interrupted(epoch, {}))
        assert_same_end(tiny_objective.trained(folder), undisturbed)
    assert_same_end(tiny_objective.trained(tmp_path), undisturbed)


@pytest.mark.parametrize("where", ["rolling out", "validating"])
def test_a_signal_at_the_end_of_an_epoch_saves_it(undisturbed: Path, tmp_path: Path, where: str) -> None:
    def rollout(params: Any, epoch: int) -> dict[str, float]:
        if epoch == 2:
            os.kill(os.getpid(), signal.SIGTERM)
            with Workers(NoEnv, 1, timeout=30) as workers:
                workers.call({0: ("nap", ())})
        return {"success_rate": 0.5}

    def validation() -> None:
        os.kill(os.getpid(), signal.SIGTERM)

    words = ("training.rollout_every=1",) if where == "rolling out" else ()
    with pytest.raises(InterruptedRun, match="is saved"):
        tiny_objective.trained(tmp_path, *words, rollout=rollout, on_validation=None if words else validation)
    [run] = (tmp_path / "outputs").iterdir()
    assert saved(run)[-1] == (6 if words else 3)
    run = tiny_objective.trained(tmp_path, *words, rollout=lambda *_: {"success_rate": 0.5})
    assert_same_end(run, undisturbed)
    rolled = [line["epoch"] for line in read_lines(run / "metrics.jsonl") if line["split"] == "rollout"]
    assert rolled == ([1, 2, 3, 4] if words else [])


class NoEnv:
    """An environment with a slow method."""

    def nap(self) -> None:
        time.sleep(20)


def test_a_call_to_simulators_is_left_within_a_second_and_their_processes_end() -> None:
    with pytest.raises(InterruptedRun, match="by SIGUSR2"), handle_signals(), Workers(NoEnv, 2, timeout=60) as workers:
        for slot in workers._slots:  # the whole process group, or a cluster's step, may get the signal
            for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR2):
                os.kill(slot.worker._process.pid, number)
        processes = [slot.worker._process for slot in workers._slots]
        os.kill(os.getpid(), signal.SIGUSR2)
        begun = time.monotonic()
        try:
            workers.call({0: ("nap", ()), 1: ("nap", ())})
        finally:
            assert time.monotonic() - begun < 5
            assert all(process.poll() is None for process in processes), "workers must ignore the signals"
    assert all(process.poll() is not None for process in processes)


def test_signals_count_only_while_they_are_heeded() -> None:
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGUSR2)}
    with handle_signals():
        with handle_signals():
            os.kill(os.getpid(), signal.SIGTERM)
        assert signal.getsignal(signal.SIGTERM) is not before[signal.SIGTERM], "the outer block is still active"
    assert {number: signal.getsignal(number) for number in before} == before


def test_checkpoints_within_an_epoch_now_and_then(undisturbed: Path, tmp_path: Path) -> None:
    words = ("training.save_every=2", "training.keep_last=3", "training.keep_best=2")
    run = tiny_objective.trained(tmp_path, *words)
    losses = {line["step"]: line["loss"] for line in read_lines(run / "metrics.jsonl") if line["split"] == "val"}
    best = sorted(losses, key=losses.__getitem__)[:2]
    assert saved(run) == sorted({9, 10, 12, *best})
    assert_same_end(run, undisturbed)
    with open_checkpoints(run, read_only=True) as checkpoints:
        assert checkpoints.step("best") == best[0]
        assert checkpoints.progress(10)["count"] > 0 and checkpoints.progress(12) == {}


@pytest.mark.parametrize("moment", ["collecting", "rolling out"])
def test_the_command_exits_with_75_and_one_line_and_leaves_nothing_behind(tmp_path: Path, moment: str) -> None:
    words = {
        "collecting": ("task.episodes=4000",),
        "rolling out": (
            "training.epochs=100000",
            "training.rollout_every=1",
            "training.rollout_episodes=2",
            f"data.dir={tiny.shared_collection()}",
        ),
    }[moment]
    mark, log = f"interrupted_{os.getpid()}_{moment.replace(' ', '_')}", tmp_path / "log"
    with log.open("w") as out:
        process = subprocess.Popen(
            [sys.executable, str(ROOT / "train.py"), *tiny.overrides(tmp_path, *words)],
            cwd=tmp_path,
            stdout=out,
            stderr=out,
            env=os.environ | {"MARK": mark},
            start_new_session=True,
        )

    def come() -> bool:
        assert process.poll() is None, log.read_text()
        if moment == "collecting":
            return len(bearers(mark)) >= 2
        return any('"rollout"' in path.read_text() for path in tmp_path.glob("outputs/*/metrics.jsonl"))

    try:
        assert wait_for(come, 300), log.read_text()
        for pid in [*bearers(mark)]:  # as a cluster does
            os.kill(pid, signal.SIGTERM)
        assert process.wait(60) == 75, log.read_text()
        last = log.read_text().splitlines()[-1]
        assert last.startswith("interrupted by SIGTERM") and last.endswith("the same command resumes")
        assert "Traceback" not in log.read_text()
        assert wait_for(lambda: not bearers(mark), 10), bearers(mark)
    finally:
        for pid in bearers(mark):
            os.kill(pid, signal.SIGKILL)


def test_computing_features_ends_after_the_batch_in_which_a_signal_comes(tmp_path: Path) -> None:
    path, sizes, calls = write(tmp_path / "train.hdf5", [demonstration(seed) for seed in range(6)]), SIZES, []

    def encode(images: Any, tokens: Any, padding: Any) -> Features:
        calls.append(len(calls))
        if len(calls) == 2:
            os.kill(os.getpid(), signal.SIGTERM)
        pooled = np.ones((*images.shape[:2], sizes.pooled), np.float32)
        return Features(pooled, np.ones((len(images), 0), np.float32), None)

    def ensure() -> None:
        with handle_signals(), DemonstrationDataset(path) as episodes:
            ensure_features(
                episodes, make_tokenizer(EncoderConfig()), encode=encode, sizes=sizes, identity={}, joint=False,
                max_instructions=None, folder=None, plan=EncodePlan(2),
            )  # fmt: skip

    with pytest.raises(InterruptedRun, match="by SIGTERM"):
        ensure()
    assert calls == [0, 1], "no further batch is begun"
    ensure()
    assert len(calls) == 6, "twelve frames in batches of two: none is computed again"


COMPILING = """
import sys
import jax
import jax.numpy as jnp
from instructrl import preemption
from instructrl.errors import report_user_errors

def slow(x):
    for number in range(int(sys.argv[2])):
        x = jnp.sin(x @ x + number) + jnp.sort(x, axis=0)
    return x

preemption.COMPILATION_GRACE = float(sys.argv[1])
with report_user_errors(), preemption.handle_signals():
    lowered = jax.jit(slow).lower(jnp.ones((8, 8)))
    print("compiling", flush=True)
    lowered.compile()
    print("compiled", flush=True)
    preemption.raise_if_preempted()
"""


@pytest.mark.parametrize(
    ("number", "grace", "code"),
    [(signal.SIGTERM, 1, 75), (signal.SIGINT, 1, 130), (signal.SIGTERM, 300, 75), (signal.SIGINT, 300, 130)],
)
def test_a_signal_during_a_compilation_is_answered_at_once_and_ends_it_in_time(
    number: signal.Signals, grace: int, code: int
) -> None:
    depth = 400 if grace == 1 else 120  # a compilation of minutes, or of seconds
    command = [sys.executable, "-c", COMPILING, str(grace), str(depth)]
    environment = os.environ | {"JAX_PLATFORMS": "cpu", "JAX_COMPILATION_CACHE_DIR": ""}
    environment |= {"XLA_FLAGS": "", "JAX_DISABLE_MOST_OPTIMIZATIONS": "false"}  # compile as slowly as for users
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, cwd=ROOT, env=environment, **pipes) as process:  # type: ignore[call-overload]
        try:
            assert process.stdout.readline() == "compiling\n"
            time.sleep(0.3)
            process.send_signal(number)
            begun = time.monotonic()
            first = process.stderr.readline()
            assert time.monotonic() - begun < 5
            printed, rest = process.communicate(timeout=120)
        finally:
            process.kill()
    name = "ctrl-C" if number == signal.SIGINT else number.name
    assert first == f"{name}: stopping after compilation, or in {grace} s\n"
    by = "" if number == signal.SIGINT else f" by {number.name}"
    if grace == 1:
        assert printed == "" and rest == f"interrupted{by} while compiling: the same command resumes\n"
        assert time.monotonic() - begun < 30
    else:
        assert printed == "compiled\n" and rest == f"interrupted{by}: the same command resumes\n"
    assert process.returncode == code
