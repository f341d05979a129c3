"""The rooms' rules (design, section 1), read from the import statements, also those inside functions."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
DOORS = {"errors", "interruption", "schema", "config", "overrides", "command", "profiles", "batch", "actions"}
LAYERS = {**dict.fromkeys(DOORS, 0), "data": 1, "models": 1, "sim": 1, "training": 2, "evaluation": 3}
NO_JAX = (  # what a command runs through before its settings are known to be right
    "train.py",
    "eval.py",
    "data_tools/collect.py",
    *(f"instructrl/{name}.py" for name in sorted(DOORS)),
    "instructrl/training/run_directory.py",
    "instructrl/evaluation/run.py",
)
ONLY_IN = {  # library -> where it may be imported
    "flax": "instructrl/models/",
    "optax": "instructrl/training/",
    "orbax": "instructrl/training/",
    "mujoco": "instructrl/sim/",
    "h5py": "instructrl/data/",
    "hdf5plugin": "instructrl/data/",
    **dict.fromkeys(("fsspec", "gcsfs", "s3fs"), "instructrl/data/buckets.py"),
    "hydra": "instructrl/",
    "submitit": "launchers/slurm.py",
    "gymnasium": "instructrl/sim/gym.py",
    "rlbench": "instructrl/sim/rlbench/library.py",
    "pyrep": "instructrl/sim/rlbench/library.py",
    "tensorflow_datasets": ("data_tools/rlds", "instructrl/data/tfds.py", "instructrl/data/records.py"),
    "array_record": ("data_tools/rlds", "instructrl/data/records.py"),
}


def sources(root: Path) -> list[Path]:
    """The suite's files, without its tests."""
    return [*sorted((root / "instructrl").rglob("*.py")), *sorted((root / "data_tools").rglob("*.py")),
            *sorted((root / "launchers").rglob("*.py")), root / "train.py", root / "eval.py"]  # fmt: skip


def imports(path: Path, root: Path, *, lazy: bool = True) -> set[str]:
    """Dotted names that a file imports; `lazy` also counts those inside functions and under TYPE_CHECKING."""
    tree = ast.parse(path.read_text())
    nodes = list(ast.walk(tree)) if lazy else [*tree.body]
    package = path.relative_to(root).with_suffix("").parts[:-1]
    found = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else ()
            module = ".".join([*base, *([node.module] if node.module else [])])
            found |= {module} | {f"{module}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Call) and getattr(node.func, "attr", "") == "import_module":
            found |= {argument.value for argument in node.args if isinstance(argument, ast.Constant)}
    return found


def room(name: str) -> str | None:
    """The room or door of a dotted name inside the package."""
    parts = name.split(".")
    return parts[1] if parts[0] == "instructrl" and len(parts) > 1 and parts[1] in LAYERS else None


def violations(root: Path) -> list[str]:
    """Every import that breaks a rule."""
    broken = []
    for path in sources(root):
        place = path.relative_to(root).as_posix()
        here = room(".".join(path.relative_to(root).with_suffix("").parts))
        for name in sorted(imports(path, root)):
            there, top = room(name), name.partition(".")[0]
            if top == "tests" or (here and top in ("data_tools", "launchers", "train", "eval")):
                broken.append(f"{place} imports {name}: nothing imports what lies above it")
            if here and there and here != there and not (LAYERS[here] > LAYERS[there] or {here, there} <= DOORS):
                broken.append(f"{place} imports {name}: imports point down, and rooms of one layer do not meet")
            if here == "training" and there == "sim":
                broken.append(f"{place} imports {name}: training needs no simulator")
            if top in ONLY_IN and not place.startswith(ONLY_IN[top]):
                broken.append(f"{place} imports {name}: only {ONLY_IN[top]} does")
            if place in NO_JAX and top in ("jax", "flax", "optax", "orbax"):
                broken.append(f"{place} imports {name}: errors come before jax does")
    return broken


def test_imports_keep_the_rooms_apart() -> None:
    assert violations(ROOT) == []


def test_every_part_of_the_package_has_a_place_in_the_layers() -> None:
    folder = ROOT / "instructrl"
    parts = {path.stem for path in folder.iterdir() if path.suffix == ".py" or (path / "__init__.py").exists()}
    assert parts - {"__init__"} == set(LAYERS)


@pytest.mark.parametrize(
    ("place", "line"),
    [
        ("instructrl/training/step.py", "from instructrl.sim import EpisodeStart"),
        ("instructrl/training/step.py", "def late():\n    import instructrl.sim.env"),
        ("instructrl/training/step.py", "from instructrl import evaluation"),
        ("instructrl/training/step.py", "from ..sim import env"),
        ("instructrl/data/loader.py", "from instructrl.models import agent"),
        ("instructrl/models/agent.py", "import instructrl.data.loader"),
        ("instructrl/batch.py", "from instructrl.data import format"),
        ("instructrl/evaluation/rollout.py", "import mujoco"),
        ("instructrl/training/state.py", "from flax import linen"),
        ("instructrl/config.py", "def late():\n    from jax import numpy"),
        ("instructrl/training/run_directory.py", "import jax.numpy as jnp"),
        ("instructrl/sim/env.py", "import data_tools.collect"),
        ("train.py", "from tests import tiny"),
        ("instructrl/evaluation/judge.py", "def late():\n    import launchers.sweep"),
        ("launchers/local.py", "import submitit"),
        ("data_tools/rlbench.py", "from pyrep.const import RenderMode"),
        ("instructrl/sim/rlbench/env.py", "def late():\n    import rlbench.tasks"),
        ("instructrl/sim/env.py", "import gymnasium"),
        ("data_tools/convert.py", "def late():\n    import tensorflow_datasets as tfds"),
        ("instructrl/data/storage.py", "def late():\n    import gcsfs"),
        ("instructrl/training/run_directory.py", "from s3fs import S3FileSystem"),
    ],
)
def test_a_planted_violation_is_found(tmp_path: Path, place: str, line: str) -> None:
    for path in sources(ROOT):
        copy = tmp_path / path.relative_to(ROOT)
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_bytes(path.read_bytes())
    assert violations(tmp_path) == []
    (tmp_path / place).write_text((tmp_path / place).read_text() + f"\n{line}\n")
    found = violations(tmp_path)
    assert found and all(text.startswith(f"{place} imports ") for text in found)


@pytest.mark.parametrize("place", NO_JAX)
def test_what_runs_before_the_settings_are_right_does_not_load_jax(place: str) -> None:
    """Also not through what it imports: the modules loaded at its head are followed to the end."""
    seen, waiting = set(), [ROOT / place]
    while waiting:
        path = waiting.pop()
        seen.add(path)
        for name in imports(path, ROOT, lazy=False):
            assert name.partition(".")[0] not in ("jax", "flax", "optax", "orbax"), path
            parts = name.split(".")
            files = [ROOT.joinpath(*parts[:n]) for n in range(1, len(parts) + 1)]
            files = [f.with_suffix(".py") if f.with_suffix(".py").is_file() else f / "__init__.py" for f in files]
            waiting += [file for file in files if file.is_file() and file not in seen]


def test_no_jax_and_no_simulator_in_a_process_that_only_imports_the_entries() -> None:
    program = """
import sys, train, eval, data_tools.collect, data_tools.rlbench
import instructrl.training.run_directory, instructrl.evaluation.run, instructrl.sim.rlbench.env
print(sorted({"jax", "flax", "mujoco", "wandb", "optax", "rlbench", "pyrep", "fsspec", "gcsfs", "s3fs", "hdf5plugin"}
    & set(sys.modules)))
"""
    ran = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert ran.stdout.strip() == "[]", ran.stderr
