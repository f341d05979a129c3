"""Commands on buckets: results are bit-identical to local ones, also after a kill."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from instructrl.config.environment import DataConfig
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
from tests.paths import ROOT

NAME = "name=run"
pytestmark = pytest.mark.slow


def started(store: Store | None, *words: str) -> subprocess.Popen:
    environment = os.environ | (store.environment if store else {})
    return subprocess.Popen([sys.executable, *words], cwd=ROOT, env=environment, stdout=-1, stderr=-2, text=True)


def ran(store: Store | None, *words: str) -> str:
    done = started(store, *words)
    printed, _ = done.communicate(timeout=300)
    assert done.returncode == 0, printed
    return printed


def words(folder: Path, root: str, cache: str, *more: str) -> list[str]:
    """Return the arguments of a training with data and runs below `root`."""
    plain = [word for word in tiny.overrides(folder) if not word.startswith(("data.dir", "output_dir"))]
    places = [f"data.dir={root}/data", f"output_dir={root}/outputs", f"data.cache_dir={folder / cache}"]
    return ["train.py", *plain, *places, "optimizer.warmup_epochs=1", *([] if more else [NAME]), *more]


@pytest.fixture(scope="module")
def local(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a local run, trained and evaluated."""
    folder = tmp_path_factory.mktemp("local")
    ran(None, *words(folder, str(folder), "cache"))
    ran(None, *eval_words(str(folder / "outputs/run")))
    return folder


def eval_words(run: str) -> list[str]:
    return ["eval.py", f"run={run}", "episodes=2", "videos=1", "workers=2", "conditions=[trained,no_instruction]"]


@pytest.fixture(scope="module", params=["gs", "s3"])
def store(request: pytest.FixtureRequest) -> Iterator[Store]:
    with emulators.store(request.param) as store, pytest.MonkeyPatch.context() as patch:
        for key, value in store.environment.items():
            patch.setenv(key, value)
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
    from instructrl.data.text.tokenizer import make_tokenizer

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


def test_collecting_training_and_judging_in_a_bucket_give_what_they_give_on_the_disk(
    store: Store, local: Path, tmp_path: Path
) -> None:
    printed = ran(store, *words(tmp_path, store.root, "first"))
    assert f"run: {store.root}/outputs/run" in printed
    expected = local / "outputs/run"
    same_run(fetched(store, tmp_path / "seen"), expected)
    printed = ran(store, *eval_words(f"{store.root}/outputs/run"))
    assert f"report: {store.root}/outputs/run/eval/report.html" in printed
    run = fetched(store, tmp_path / "evaluated")
    assert results(run) == results(expected)
    assert (run / "eval/report.html").is_file() and list((run / "eval/videos").glob("*.mp4"))

    files = [name for name in object_store.list_objects(f"{store.root}/data") if name.endswith(".hdf5")]
    assert len(files) == 2
    size = sum(object_store.stat(f"{store.root}/data/{name}").size for name in files)  # type: ignore[union-attr]
    more = ("name=again", f"output_dir={tmp_path}/outputs")
    for limit in (1.2 * size, 0):  # first on another machine, then on the same one again: four epochs each
        store.proxy.reset()
        ran(store, *words(tmp_path, store.root, "second", *more))
        assert store.proxy.sent <= limit and len(store.proxy.requests) <= 30
        assert (tmp_path / "outputs/again/metrics.jsonl").read_bytes() == (expected / "metrics.jsonl").read_bytes()
        (tmp_path / "outputs/again").rename(tmp_path / f"outputs/{limit}")


def test_a_killed_training_goes_on_from_the_bucket_on_another_machine(
    store: Store, local: Path, tmp_path: Path
) -> None:
    command = words(tmp_path, store.root, "first", "name=killed")
    first = started(store, *command)
    until = time.monotonic() + 200
    while not any(
        name.endswith("_CHECKPOINT_METADATA") for name in object_store.list_objects(f"{store.root}/outputs/killed")
    ):
        assert first.poll() is None and time.monotonic() < until
        time.sleep(0.02)
    first.send_signal(signal.SIGKILL)
    first.communicate()
    printed = ran(store, *words(tmp_path, store.root, "second", "name=killed"))
    assert "training resumed" in printed or "already trained" in printed
    same_run(fetched(store, tmp_path / "seen", "killed"), local / "outputs/run")


def test_features_in_a_bucket_are_computed_once(store: Store, tmp_path: Path) -> None:
    frozen = ("encoder.frozen=true", "training.token_dropout=0", "head=regression", "head.dim=16")
    printed = ran(None, *words(tmp_path, str(tmp_path), "cache", "name=frozen", *frozen))
    assert "features: computing" in printed
    for cache, computes in (("first", True), ("first", False), ("second", False)):
        more = (f"name=frozen-{cache}-{computes}", f"output_dir={tmp_path}/outputs", *frozen)
        printed = ran(store, *words(tmp_path, store.root, cache, *more))
        assert ("features: computing" in printed) == computes
        found = (tmp_path / f"outputs/frozen-{cache}-{computes}/metrics.jsonl").read_bytes()
        assert found == (tmp_path / "outputs/frozen/metrics.jsonl").read_bytes()
