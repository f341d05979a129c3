"""Worker processes in another interpreter, which has numpy and the simulator's package and nothing of ours."""

import os
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from instructrl.config.environment import SIMULATORS
from instructrl.errors import InputError
from instructrl.sim import EpisodeStart, Outcome, check_tasks, make_checked_env, working_renderer
from instructrl.sim.vector.pool import Workers
from tests.fixtures.interpreters import make_interpreter, own_packages, packages
from tests.fixtures.packages import EXAMPLE, install, packages_in
from tests.paths import ROOT

# the names of all modules, once those are imported that a worker of any simulator imports
LOADED = """[
    __import__("instructrl.sim.checked"), __import__("instructrl.evaluation.worker_env"), [*__import__("sys").modules]
][-1]"""
START = EpisodeStart(variation=1, seed=5)


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> str:
    """An interpreter with numpy and the example of a simulator."""
    folder = tmp_path_factory.mktemp("interpreter")
    path = make_interpreter(folder)
    install(EXAMPLE, packages(folder))
    return str(path)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The folder in which the example is installed for this process."""
    folder = tmp_path_factory.mktemp("site")
    install(EXAMPLE, folder)
    with packages_in(folder):
        yield folder


def settings(**values: Any) -> Any:
    return SIMULATORS["mat"](name="mat", kind="mat", image_size=32, workers=1, **values)


def asked(workers: Workers, method: str, *arguments: Any) -> Any:
    return workers.call({0: (method, arguments)})[0]


@pytest.mark.usefixtures("site")
def test_an_environment_is_the_same_in_another_interpreter(python: str) -> None:
    sim = settings(python=python)
    here = make_checked_env(settings(), "touch_disc")
    with Workers(partial(make_checked_env, sim, "touch_disc"), 1, timeout=60, python=sim.interpreter) as workers:
        there, expected = asked(workers, "reset", START), here.reset(START)
        for name, value in there._asdict().items():
            np.testing.assert_array_equal(value, getattr(expected, name))
        demonstration, outcome = asked(workers, "demonstrate", START)
        assert outcome is Outcome.SUCCESS
        np.testing.assert_array_equal(demonstration.actions, here.demonstrate(START)[0].actions)


def test_such_a_process_imports_none_of_our_packages(python: str) -> None:
    with Workers(partial(eval, LOADED), 1, timeout=60, python=python) as workers:
        loaded = set(asked(workers, "copy"))
    with Workers(partial(eval, "__import__('sys').path"), 1, timeout=60, python=python) as workers:
        path = asked(workers, "copy")
    assert {"numpy", "instructrl.sim.checked"} <= loaded
    assert not loaded & {"jax", "jaxlib", "flax", "hydra", "omegaconf", "ml_dtypes", "jaxtyping", "psutil", "h5py"}
    assert not set(path) & {*own_packages(), str(ROOT), ""}


@pytest.mark.usefixtures("site")
def test_a_simulators_class_is_asked_in_its_interpreter(python: str, monkeypatch: pytest.MonkeyPatch) -> None:
    sim = settings(python=python)
    monkeypatch.setattr(type(sim), "implementation", "mat_world:Missing")  # here, where it must not be imported
    assert working_renderer(sim, "auto") == "numpy"
    check_tasks(sim, ["touch_disc"])


@pytest.mark.usefixtures("site")
def test_what_an_interpreter_lacks_is_one_line(tmp_path: Path) -> None:
    bare, poor = make_interpreter(tmp_path / "bare", numpy=False), make_interpreter(tmp_path / "poor")
    old, other = tmp_path / "old", tmp_path / "other"
    for script, line in ((old, '[[3, 8, 1], "1.24.0"]'), (other, '[[3, 12, 1], "1.26.4"]')):
        script.write_text(f"#!/bin/sh\necho '{line}'\n")
        script.chmod(0o755)
    lines = {
        str(tmp_path / "none"): "which does not exist; allowed: null, or a Python 3.11 or newer with numpy 2",
        str(tmp_path): "which is no Python that runs here (",
        "/bin/true": "which is no Python that runs here (it does not answer)",
        str(old): "a Python 3.8.1; allowed",
        str(other): "whose numpy 1.26.4 cannot exchange arrays with",
        str(bare): f"which has no numpy; install it: {bare} -m pip install 'numpy>=2'",
        str(poor): "cannot import the simulator (No module named 'mat_world'); install its packages there: ",
    }
    for python, line in lines.items():
        with pytest.raises(InputError) as raised:
            working_renderer(settings(python=python), "auto")
        text = str(raised.value)
        assert line in text and text.startswith("sim.python: ") and python in text and "\n" not in text, text


def test_demonstrations_are_collected_by_another_interpreter(python: str, site: Path, tmp_path: Path) -> None:
    words = ("sim=mat", "task=touch_disc", "sim.workers=1", "episodes=4", "val_episodes=2")
    path = os.pathsep.join(map(str, [ROOT, site]))
    for name, more in (("here", ()), ("there", (f"sim.python={python}",))):
        command = [sys.executable, "-m", "data_tools.collect", *words, f"data.dir={name}", *more]
        done = subprocess.run(
            command,
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": path},
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
        assert done.returncode == 0, done.stderr[-2000:]
    here, there = (sorted((tmp_path / name).rglob("*.hdf5")) for name in ("here", "there"))
    assert len(here) == 2
    assert [file.read_bytes() for file in here] == [file.read_bytes() for file in there]
