"""Private names of jax and submitit are used in one file each, and each use has a fallback."""

import inspect
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from jax._src import compiler

from instructrl.config.launcher import LauncherConfig, SlurmConfig
from instructrl.errors import RunError
from instructrl.training.distributed import jax_internals
from launchers.job import JobSpec
from launchers.slurm import Slurm
from tests.paths import ROOT

PRIVATE = re.compile(r"^\s*(?:from|import) .*\b_[a-z].*|\bjax\._src\.\w+\.\w+\(|_make_sbatch_string|_cache_write", re.M)
ALLOWED = {"instructrl/training/distributed/jax_internals.py", "launchers/submitit_internals.py"}


def test_private_names_of_jax_and_submitit_stand_in_one_file_each() -> None:
    files = [path for folder in ("instructrl", "launchers", "data_tools") for path in (ROOT / folder).rglob("*.py")]
    found = {
        path.relative_to(ROOT).as_posix()
        for path in files
        if any(
            word in line for line in PRIVATE.findall(path.read_text()) for word in ("jax", "submitit", "_make", "_cac")
        )
    }
    assert found == ALLOWED


def test_without_its_coordination_service_jax_trains_in_one_process(monkeypatch: pytest.MonkeyPatch) -> None:
    alone = jax_internals.coordination()
    assert (alone.process, alone.processes) == (0, 1)
    monkeypatch.setattr(
        "jax._src.distributed.global_state", SimpleNamespace(client=None, process_id=1, num_processes=2)
    )
    with pytest.raises(RunError, match="does not expose its coordination service; install the version in"):
        jax_internals.coordination()
    monkeypatch.delattr("jax._src.distributed.global_state")
    with pytest.raises(RunError, match=r"^hardware\.coordinator: jax .* train in one process"):
        jax_internals.coordination()


def test_where_jax_decides_who_keeps_programs_it_stays_so(monkeypatch: pytest.MonkeyPatch) -> None:
    before = compiler._cache_write
    monkeypatch.setattr(compiler, "_cache_write", before)  # so that it is as before after this test
    assert jax_internals.write_compiled_programs() and compiler._cache_write is not before
    assert inspect.signature(compiler._cache_write).parameters.keys() == inspect.signature(before).parameters.keys()
    monkeypatch.setattr(compiler, "_cache_write", lambda key, executable: None)
    other = compiler._cache_write
    with pytest.warns(UserWarning, match="does not let this process cache its programs"):
        assert not jax_internals.write_compiled_programs()
    assert compiler._cache_write is other
    monkeypatch.delattr(compiler, "_cache_write")
    with pytest.warns(UserWarning, match="it recompiles at every start"):
        assert not jax_internals.write_compiled_programs()


def test_programs_that_took_long_are_kept_and_a_failure_is_a_warning() -> None:
    kept: list[tuple[Any, ...]] = []
    write = jax_internals._writer(lambda *given: kept.append(given), SimpleNamespace(value=0.2))
    write("a", 0.1, "quick", None, None, [])
    write("b", 9.0, "calls back", None, None, [object()])
    write("c", 9.7, "slow", "backend", "executable", [])
    assert kept == [("c", "slow", "executable", "backend", 9)]

    def full(*_: object) -> None:
        raise OSError("no space left")

    with pytest.warns(UserWarning, match="compiled programs cannot be cached: no space left"):
        jax_internals._writer(full, SimpleNamespace(value=0.2))("c", 9.7, "slow", None, None, [])


@pytest.mark.parametrize("gone", [True, False])
def test_a_dry_run_shows_the_parameters_where_submitit_shows_no_script(
    gone: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if gone:
        monkeypatch.delattr("submitit.slurm.slurm._make_sbatch_string")
    else:
        monkeypatch.setattr("submitit.slurm.slurm._make_sbatch_string", lambda command: command)
    resources = LauncherConfig(name="x", kind="slurm", slurm=SlurmConfig(partition="gpus"))
    spec = JobSpec(("train.py", "seed=3"), "outputs/run", "001", ("seed=3",), resources, True)
    lines = Slurm(tmp_path, resources).preview([spec]).splitlines()
    assert lines[0].startswith("# submitit ") and "does not expose its script" in lines[0]
    assert "# partition: gpus" in lines and lines[-1].endswith("train.py seed=3")
