"""Commands on buckets: results are bit-identical to local ones, also after a kill.

Each provider trains and evaluates once; what only concerns files is tested for both in test_storage.py.
"""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from instructrl.commands import evaluate, train
from instructrl.config.environment import DataConfig
from instructrl.data.text.tokenizer import make_tokenizer
from instructrl.storage import object_store
from instructrl.storage.paths import BucketPath, storage_path
from instructrl.storage.synced_dir import SyncedDir
from instructrl.training.checkpointing.manager import open_checkpoints
from instructrl.training.model_factory import abstract_params, dummy_batch, make_agent
from instructrl.training.run_dir import read_config
from tests.fakes import emulators
from tests.fakes.emulators import Store
from tests.fakes.sim import without_clock
from tests.fixtures import tiny
from tests.fixtures.commands import run_main
from tests.paths import ROOT


def train_here(*words: str) -> str:
    ended = run_main(train.main, *words)
    assert ended.returncode == 0, ended
    return ended.stdout


def evaluate_here(run: str) -> str:
    words = ["episodes=2", "videos=1", "workers=2", "conditions=[trained,no_instruction]"]
    ended = run_main(evaluate.main, f"run={run}", *words)
    assert ended.returncode == 0, ended
    return ended.stdout


def words(folder: Path, root: str, cache: str, *more: str) -> list[str]:
    """Return the arguments of a training with data and runs below `root`."""
    plain = [word for word in tiny.overrides(folder) if not word.startswith(("data.dir", "output_dir"))]
    places = [f"data.dir={root}/data", f"output_dir={root}/outputs", f"data.cache_dir={folder / cache}"]
    return [*plain, *places, "optimizer.warmup_epochs=1", *more]


@pytest.fixture(scope="module")
def local(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a local run, trained and evaluated."""
    folder = tmp_path_factory.mktemp("local")
    train_here(*words(folder, str(folder), "cache", "name=run"))
    evaluate_here(str(folder / "outputs/run"))
    return folder


@contextmanager
def variables(values: Mapping[str, str]) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        for key, value in values.items():
            patch.setenv(key, value)
        yield


@pytest.fixture(scope="module")
def gs() -> Iterator[Store]:
    with emulators.store("gs") as store, variables(store.environment):
        yield store


@pytest.fixture(scope="module")
def s3() -> Iterator[Store]:
    with emulators.store("s3") as store, variables(store.environment):
        yield store


def fetched(store: Store, folder: Path, name: str = "run") -> Path:
    """Download a run from a bucket."""
    path = storage_path(f"{store.root}/outputs/{name}", DataConfig(cache_dir=None))
    assert isinstance(path, BucketPath)
    SyncedDir(path, folder / name).pull()
    return folder / name


def parameters(run: Path) -> list[bytes]:
    """Return every array of the last checkpoint."""
    config = read_config(run)
    tokenizer = make_tokenizer(config.encoder)
    agent = make_agent(config, vocabulary_size=tokenizer.vocabulary_size)
    abstract = abstract_params(agent, dummy_batch(config, tokenizer))
    with open_checkpoints(run, read_only=True) as checkpoints:
        step = checkpoints.step("last")
        assert step is not None
        return [
            np.asarray(leaf).tobytes()
            for leaf in jax.tree.leaves(checkpoints.params(abstract, step=step, averaged=False))
        ]


def results(run: Path) -> dict[str, Any]:
    found = without_clock(json.loads((run / "eval/results.json").read_text()))
    return {key: value for key, value in found.items() if key not in ("run", "command", "date")}


def same_run(found: Path, expected: Path) -> None:
    assert (found / "metrics.jsonl").read_bytes() == (expected / "metrics.jsonl").read_bytes()
    assert parameters(found) == parameters(expected)
    checksums = [
        {key: entry["checksum"] for key, entry in json.loads((run / "data.json").read_text()).items()}
        for run in (found, expected)
    ]
    assert checksums[0] == checksums[1]


def test_collecting_training_and_evaluating_in_a_bucket_give_what_they_give_on_the_disk(
    gs: Store, local: Path, tmp_path: Path
) -> None:
    printed = train_here(*words(tmp_path, gs.root, "first", "name=run"))
    assert f"run: {gs.root}/outputs/run" in printed
    expected = local / "outputs/run"
    same_run(fetched(gs, tmp_path / "trained"), expected)
    printed = evaluate_here(f"{gs.root}/outputs/run")
    assert f"report: {gs.root}/outputs/run/eval/report.html" in printed
    run = fetched(gs, tmp_path / "evaluated")
    assert results(run) == results(expected)
    assert (run / "eval/report.html").is_file() and list((run / "eval/videos").glob("*.mp4"))


def test_another_machine_reads_the_demonstrations_once(gs: Store, local: Path, tmp_path: Path) -> None:
    """First without local copies, then with them: four epochs each."""
    for split in ("train", "val"):
        for path in (local / "data").rglob(f"{split}*.hdf5"):
            object_store.upload(path, f"{gs.root}/data/{path.relative_to(local / 'data').as_posix()}")
    files = [name for name in object_store.list_objects(f"{gs.root}/data") if name.endswith(".hdf5")]
    assert len(files) == 2
    size = sum(object_store.stat(f"{gs.root}/data/{name}").size for name in files)  # type: ignore[union-attr]
    for limit, name in ((1.2 * size, "cold"), (0, "warm")):
        gs.proxy.reset()
        train_here(*words(tmp_path, gs.root, "second", f"name={name}", f"output_dir={tmp_path}/outputs"))
        assert gs.proxy.sent <= limit and len(gs.proxy.requests) <= 30
        metrics = (tmp_path / f"outputs/{name}/metrics.jsonl").read_bytes()
        assert metrics == (local / "outputs/run/metrics.jsonl").read_bytes()


def test_a_killed_training_continues_from_the_bucket_on_another_machine(s3: Store, local: Path, tmp_path: Path) -> None:
    command = [sys.executable, "train.py", *words(tmp_path, s3.root, "first", "name=killed")]
    first = subprocess.Popen(command, cwd=ROOT, env=os.environ | s3.environment, stdout=-1, stderr=-2, text=True)
    until = time.monotonic() + 300
    while not any(method == "HEAD" and "_CHECKPOINT_METADATA" in path for method, path in list(s3.proxy.requests)):
        assert first.poll() is None and time.monotonic() < until, first.communicate()[0]
        time.sleep(0.02)
    first.send_signal(signal.SIGKILL)
    first.communicate()
    printed = train_here(*words(tmp_path, s3.root, "second", "name=killed"))
    assert "training resumed" in printed or "already trained" in printed
    expected = local / "outputs/run"
    same_run(fetched(s3, tmp_path / "trained", "killed"), expected)
    evaluate_here(f"{s3.root}/outputs/killed")
    assert results(fetched(s3, tmp_path / "evaluated", "killed")) == results(expected)


def test_features_in_a_bucket_are_computed_once(s3: Store, local: Path, tmp_path: Path) -> None:
    frozen = ("encoder.frozen=true", "training.token_dropout=0", "head=regression", "head.dim=16")
    frozen += ("training.epochs=1", "optimizer.warmup_epochs=0")
    data = f"data.dir={local}/data"
    printed = train_here(*words(tmp_path, str(tmp_path), "cache", "name=frozen", data, *frozen))
    assert "features: computing" in printed
    for path in (local / "data").rglob("*.hdf5"):
        object_store.upload(path, f"{s3.root}/data/{path.relative_to(local / 'data').as_posix()}")
    for cache, computes in (("first", True), ("first", False), ("second", False)):
        more = (f"name=frozen-{cache}-{computes}", f"output_dir={tmp_path}/outputs", *frozen)
        printed = train_here(*words(tmp_path, s3.root, cache, *more))
        assert ("features: computing" in printed) == computes
        found = (tmp_path / f"outputs/frozen-{cache}-{computes}/metrics.jsonl").read_bytes()
        assert found == (tmp_path / "outputs/frozen/metrics.jsonl").read_bytes()
