"""The layers of the code, and what a command loads before its settings are known to be right."""

import ast
import functools
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.paths import ROOT

JAX = ("jax", "flax", "optax", "orbax")
NO_JAX = (  # what a command runs through before its settings are known to be right
    "train.py",
    "eval.py",
    "data_tools/collect.py",
    *sorted(path.relative_to(ROOT).as_posix() for path in (ROOT / "instructrl").glob("*.py")),
    *sorted(path.relative_to(ROOT).as_posix() for path in (ROOT / "instructrl").glob("c[ol]*/*.py")),
    "instructrl/training/preflight.py",
    "instructrl/training/run_dir.py",
    "instructrl/evaluation/run_checks.py",
    "instructrl/inference/serve.py",
    "instructrl/inference/client.py",
    "instructrl/inference/hub.py",
)


def lint(folder: Path) -> subprocess.CompletedProcess:
    """Check the import contracts of pyproject.toml on the checkout in a folder."""
    program = "import sys; sys.path.insert(0, '.'); from importlinter.cli import lint_imports_command as c; c()"
    return subprocess.run(
        [sys.executable, "-c", program, "--no-cache"], cwd=folder, capture_output=True, text=True, timeout=60
    )


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("checkout")
    for name in ("instructrl", "data_tools", "launchers"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("*.pyc", "shipped"))
    shutil.copy(ROOT / "pyproject.toml", folder)
    return folder


def test_the_import_contracts_hold(checkout: Path) -> None:
    checked = lint(checkout)
    assert checked.returncode == 0 and " 0 broken" in checked.stdout, checked.stdout + checked.stderr


VIOLATIONS = [  # file, lines at its end, what they import
    ("instructrl/training/state.py", "def late():\n    import instructrl.sim.env", "instructrl.sim.env"),
    ("instructrl/training/state.py", "from instructrl import evaluation", "instructrl.evaluation"),
    ("instructrl/data/loading/loader.py", "from instructrl.training import state", "instructrl.training.state"),
    ("instructrl/models/agent.py", "import instructrl.data.loading.loader", "instructrl.data.loading.loader"),
    ("instructrl/types.py", "from instructrl.data.loading import loader", "instructrl.data.loading.loader"),
    ("instructrl/sim/env.py", "import data_tools.collect", "data_tools.collect"),
    ("instructrl/evaluation/evaluate.py", "def late():\n    import launchers.sweep.plan", "launchers.sweep.plan"),
    ("instructrl/evaluation/rollout.py", "import mujoco", "mujoco"),
    ("instructrl/training/state.py", "from flax import linen", "flax"),
    ("launchers/local.py", "import submitit", "submitit"),
    ("data_tools/rlbench.py", "from pyrep.const import RenderMode", "pyrep"),
    ("instructrl/sim/env.py", "import gymnasium", "gymnasium"),
    ("data_tools/convert/__main__.py", "def late():\n    import tensorflow_datasets as tfds", "tensorflow_datasets"),
    ("instructrl/storage/paths.py", "def late():\n    import gcsfs", "gcsfs"),
    ("launchers/job.py", "import h5py", "h5py"),
    ("instructrl/inference/client.py", "from websockets.sync.client import connect", "websockets"),
]


@pytest.fixture(scope="module")
def broken(checkout: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The report on a checkout with all violations."""
    folder = shutil.copytree(checkout, tmp_path_factory.mktemp("broken"), dirs_exist_ok=True)
    for place, line, _ in VIOLATIONS:
        with (folder / place).open("a") as file:
            file.write(f"\n{line}\n")
    checked = lint(folder)
    assert checked.returncode == 1, checked.stdout + checked.stderr
    return checked.stdout


@pytest.mark.parametrize(("place", "line", "target"), VIOLATIONS)
def test_a_planted_violation_is_found(broken: str, place: str, line: str, target: str) -> None:
    module = place.removesuffix(".py").replace("/", ".")
    number = next(n for n, text in enumerate(broken.splitlines()) if text == "Broken contracts")
    found = " ".join(broken.splitlines()[number:])
    assert re.search(rf"{re.escape(module)} (->|is not allowed to import) {re.escape(target)}\b", found), broken


@functools.cache
def head_imports(path: Path) -> set[str]:
    """Dotted names that a file imports when it is loaded."""
    found = set()
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return found


@pytest.mark.parametrize("place", NO_JAX)
def test_what_runs_before_the_settings_are_checked_does_not_load_jax(place: str) -> None:
    """Also not through what it imports: the modules loaded at its head are followed to the end."""
    seen, waiting = set(), [ROOT / place]
    while waiting:
        path = waiting.pop()
        seen.add(path)
        for name in head_imports(path):
            assert name.partition(".")[0] not in JAX, path
            parts = name.split(".")
            files = [ROOT.joinpath(*parts[:n]) for n in range(1, len(parts) + 1)]
            files = [f.with_suffix(".py") if f.with_suffix(".py").is_file() else f / "__init__.py" for f in files]
            waiting += [file for file in files if file.is_file() and file not in seen]


def test_importing_the_entry_points_loads_neither_jax_nor_a_simulator() -> None:
    program = """
import sys, train, eval, data_tools.collect, data_tools.rlbench
import instructrl.training.run_dir, instructrl.evaluation.run_checks, instructrl.sim.rlbench.env
print(sorted({"jax", "flax", "mujoco", "wandb", "optax", "rlbench", "pyrep", "fsspec", "gcsfs", "s3fs", "hdf5plugin"}
    & set(sys.modules)))
"""
    ran = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert ran.stdout.strip() == "[]", ran.stderr
