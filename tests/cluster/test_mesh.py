"""Training on several devices, in microbatches and in several processes gives the results of one device."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec

from instructrl.collection.collect import ensure_demonstrations
from instructrl.config.training import HardwareConfig
from instructrl.data.text.tokenizer import make_tokenizer
from instructrl.errors import InputError
from instructrl.inference.batched_agent import load_batched_agent
from instructrl.training.checkpointing.manager import open_checkpoints
from instructrl.training.distributed.mesh import (
    BATCH_SPEC,
    FSDP,
    check_divisible,
    device_put_tree,
    gather,
    jit_sharded,
    make_mesh,
    partition_spec,
)
from instructrl.training.feature_extraction import open_features
from instructrl.training.gradient_accumulation import mean_gradient, split_batch
from instructrl.training.model_factory import dummy_batch, make_agent, random_params
from instructrl.training.monitoring.metric_writer import read_lines
from instructrl.training.objectives.behavior_cloning import open_demonstrations, prepare_behavior_cloning
from instructrl.training.run_dir import open_run
from instructrl.training.train_loop import train
from tests.fixtures import tiny
from tests.fixtures.team import ROOT, ended, free_port, team_of

ALL = "hardware.local_devices=null"
COLLECTED = ("task=pick_and_lift", "task.episodes=20")
SETTINGS = (*COLLECTED, "training.batch_size=16", "training.epochs=3", "policy.dim=64", "optimizer.warmup_epochs=0",
            "optimizer.learning_rate=1e-3", "head=regression", "policy.depth=1")  # fmt: skip
M3AE = ("encoder=m3ae_tiny", "encoder.dim=16", "encoder.depth=2", "encoder.heads=2", "encoder.patch_size=16",
        "encoder.weights=null", "encoder.frozen=true", "training.token_dropout=0", "head=regression")  # fmt: skip


ROWS = (".bin", ".crc32")  # files of features


def hardware(**more):
    return HardwareConfig(name="cpu", **more)


# The mesh.


def test_the_devices_form_a_grid_of_the_size_that_is_asked_for():
    assert dict(make_mesh(hardware(fsdp=2)).shape) == {"data": 4, "fsdp": 2}
    assert dict(make_mesh(hardware(local_devices=3)).shape) == {"data": 3, "fsdp": 1}


@pytest.mark.parametrize(
    ("more", "line"),
    [
        ({"fsdp": 3}, "hardware.fsdp: found 3; allowed: a divisor of the number of devices, 8"),
        ({"local_devices": 9}, "hardware.local_devices: found 9; allowed: at most 8, or null for all"),
    ],
)
def test_a_grid_that_cannot_be_is_one_line(more, line):
    with pytest.raises(InputError) as error:
        make_mesh(hardware(**more))
    assert str(error.value) == line


def test_a_batch_that_cannot_be_shared_out_is_one_line():
    check_divisible(make_mesh(hardware()), batch_size=32, accumulation=4)
    with pytest.raises(
        InputError, match=r"training.batch_size: found 24; allowed: a multiple of 32, for 8 devices x 4"
    ):
        check_divisible(make_mesh(hardware()), batch_size=24, accumulation=4)


@pytest.mark.parametrize(
    ("shape", "spec"),
    [
        ((768, 3072), PartitionSpec(None, FSDP)),
        ((3072, 768), PartitionSpec(FSDP)),
        ((768, 3, 12, 64), PartitionSpec(FSDP)),
        ((30522, 768), PartitionSpec(None, FSDP)),  # the longer axis is not divisible by four
        ((16, 64), PartitionSpec()),
        ((100_000,), PartitionSpec()),
        ((333, 777), PartitionSpec()),
        ((), PartitionSpec()),
    ],
)
def test_large_matrices_are_shared_out_along_their_longest_axis(shape, spec):
    assert partition_spec(shape, parts=4) == spec
    assert partition_spec(shape, parts=1) == PartitionSpec()


def test_each_device_holds_its_part_from_the_start_and_a_whole_copy_can_be_had():
    mesh = make_mesh(hardware(fsdp=4))
    array = np.arange(512 * 128, dtype=np.float32).reshape(512, 128)
    twice = jit_sharded(lambda part: {"twice": 2 * part}, mesh, device_put_tree(array, mesh))["twice"]
    assert {shard.data.shape for shard in twice.addressable_shards} == {(128, 128)}
    own = gather(twice, mesh)
    assert own.sharding.device_set == {jax.devices()[0]}
    np.testing.assert_array_equal(own, 2 * array)


# Accumulation.


@pytest.mark.parametrize("parts", [1, 2, 4])
@pytest.mark.parametrize("existing", [(3, 0, 1, 2, 0, 0, 2, 1), (0,) * 8])
def test_parts_of_a_batch_count_by_their_steps(parts, existing):
    mask = jnp.array([[1.0] * count + [0.0] * (3 - count) for count in existing])
    numbers = jax.random.normal(jax.random.key(0), (8, 3, 5))
    batch = Batch3(numbers, mask)

    def loss(params, batch):
        values = (jnp.tanh(batch.numbers @ params["kernel"]) - 1) ** 2
        mean = jnp.sum(values * batch.step_mask) / jnp.maximum(batch.step_mask.sum(), 1)
        return mean, {"loss": mean}

    params = {"kernel": jnp.arange(5.0)}
    expected = jax.grad(loss, has_aux=True)(params, batch)
    counted = {"microbatches": parts, "shardings": None, "count": lambda batch: batch.step_mask.sum()}
    found = jax.jit(lambda *given: mean_gradient(loss, *given, **counted))(params, batch)
    jax.tree.map(lambda one, other: np.testing.assert_allclose(one, other, atol=1e-6), found, expected)


class Batch3(NamedTuple):
    """The fields of a batch that accumulation uses."""

    numbers: Any
    step_mask: Any


def test_each_device_takes_its_parts_from_its_own_rows():
    mesh = make_mesh(hardware(fsdp=2))
    rows = placed_rows(mesh, 32)
    parts = jax.jit(lambda rows: split_batch(rows, 2, mesh=mesh))(rows)
    assert parts.shape == (2, 16)
    own = {shard.device: set(np.asarray(shard.data).tolist()) for shard in rows.addressable_shards}
    for shard in parts.addressable_shards:
        assert set(np.asarray(shard.data).ravel().tolist()) == own[shard.device]
    assert sorted(np.asarray(parts).ravel().tolist()) == list(range(32))


def placed_rows(mesh, count):
    return jax.device_put(np.arange(count), jax.sharding.NamedSharding(mesh, BATCH_SPEC))


# In one process.


@pytest.fixture(scope="module")
def data():
    return tiny.shared_demonstrations()


def stepped(folder, data, *more):
    """Losses of some steps with a checkpoint in between, number of compilations, and parameters."""
    config = tiny.config(folder, "training.batch_size=16", "policy.dim=64", "policy.depth=1", *more)
    with open_demonstrations(config, data) as sets:
        run = open_run(config)
        training, state = prepare_behavior_cloning(config, run, sets)
        losses = []
        with closing(training.batches(training.train, 0, 3)) as batches, open_checkpoints(run) as checkpoints:
            for step, batch in enumerate(batches):
                state, values = training.train_step(state, batch, training.frozen)
                losses.append(float(values["loss"]))
                if step == 1:
                    checkpoints.save(state, step=2, metrics={"loss": 1.0})
                    checkpoints.wait()
                    state = checkpoints.restore(state, step=2)
        params = jax.tree.map(np.asarray, training.gathered_params(state))
        return SimpleNamespace(losses=losses, compiled=training.train_step._cache_size(), params=params, state=state)


@pytest.mark.parametrize("encoder", [(), M3AE, (*M3AE, "features=live")], ids=["trained", "cached", "live"])
def test_eight_devices_give_the_numbers_of_one_and_nothing_is_compiled_twice(data, tmp_path, encoder):
    one = stepped(tmp_path / "one", data, *encoder)
    eight = stepped(tmp_path / "eight", data, ALL, "hardware.fsdp=2", "hardware.accumulation=2", *encoder)
    assert (one.compiled, eight.compiled) == (1, 1)
    np.testing.assert_allclose(eight.losses, one.losses, rtol=1e-5)
    assert_near(eight.params, one.params)
    kernel = eight.state.params["policy"]["block_0"]["mlp"]["expand"]["kernel"]
    moments = [leaf for leaf in jax.tree.leaves(eight.state.opt_state) if leaf.shape == kernel.shape]
    assert kernel.addressable_shards[0].data.size == kernel.size // 2
    assert moments and all(leaf.sharding == kernel.sharding for leaf in moments)


def features_of(folder):
    """The rows of all feature caches in a folder, and their checksums, by name."""
    return {path.relative_to(folder): path.read_bytes() for path in sorted(folder.rglob("*")) if path.suffix in ROWS}


def test_features_have_the_same_bytes_on_any_number_of_devices(data, tmp_path):
    config = tiny.config(tmp_path, *M3AE)
    tokenizer = make_tokenizer(config.encoder)
    agent = make_agent(config, vocabulary_size=tokenizer.vocabulary_size)
    params = {"encoder": random_params(agent, dummy_batch(config, tokenizer), seed=0)["encoder"]}

    def computed(devices):
        words = (f"hardware.local_devices={devices}", "hardware.encode_batch=6", f"features_dir={tmp_path / devices}")
        here = tiny.config(tmp_path, *M3AE, *words)
        with open_demonstrations(here, data) as sets:
            open_features(here, sets.train, tokenizer, agent=agent, params=params, checksum="of these weights")
        return features_of(tmp_path / devices)

    found = [computed(devices) for devices in "138"]
    assert found[0] and found[1] == found[0] and found[2] == found[0]


def assert_near(found, expected, tolerance=1e-4):
    def compare(path, one, other):
        if jax.tree_util.keystr(path).endswith("['query_key_value']['bias']"):
            # A key's bias shifts all scores of a query equally: its gradient is rounding noise, which Adam amplifies.
            one, other = (np.delete(leaf, 1, axis=0) for leaf in (one, other))
        np.testing.assert_allclose(one, other, atol=tolerance, rtol=0, err_msg=jax.tree_util.keystr(path))

    jax.tree_util.tree_map_with_path(compare, found, expected)


# Several processes, by the command line.


def start(folder, *words, **team):
    """Start the processes of a training."""
    data = f"data.dir={tiny.shared_collection(*COLLECTED)}"
    return team_of(tiny.overrides(folder, *SETTINGS, ALL, data, *words), cwd=folder, **team)


def trained(folder, *words, **team):
    """Train to the end; returns the run, and the outputs of its processes."""
    said = ended(start(folder, *words, **team))
    assert [code for *_, code in said] == [0] * len(said), said
    [name] = [word.removeprefix("name=") for word in words if word.startswith("name=")]
    return folder / "outputs" / name, said


def numbers(run):
    lines = read_lines(run / "metrics.jsonl")
    actor, step = load_batched_agent(run, checkpoint="last", slots=1, steps=6, hardware=hardware())
    return {(line["split"], line["epoch"]): line["loss"] for line in lines if "loss" in line}, actor.params, step


def alone(folder, *words):
    """What one process with one device ends with."""
    settings = tiny.config(folder, *SETTINGS, *words, f"data.dir={tiny.shared_collection(*COLLECTED)}", "name=alone")
    data = ensure_demonstrations(settings.task, settings.sim, settings.data)
    run = open_run(settings)
    train(settings, run, data=data)
    return numbers(run)


def assert_same_training(found, expected):
    (losses, params, step), (others, other_params, last) = expected, found
    assert last == step == 6 and others.keys() == losses.keys()
    for key, loss in losses.items():
        assert others[key] == pytest.approx(loss, rel=1e-5), key
    assert_near(other_params, params)


def test_two_processes_of_two_devices_train_as_one_and_roll_out(tmp_path):
    more = ("hardware.fsdp=4", "hardware.accumulation=2", "training.rollout_every=3", "training.rollout_episodes=2")
    run, said = trained(tmp_path, "name=two", *more, processes=2, devices=2)
    assert_same_training(numbers(run), alone(tmp_path))
    outputs = [out for out, _, _ in said]
    assert "training begins" in outputs[0]
    assert not [out for out in outputs[1:] if "training" in out or "epoch" in out]
    assert len([line for line in read_lines(run / "metrics.jsonl") if line["split"] == "rollout"]) == 1


def test_two_processes_with_a_frozen_encoder_train_as_one_and_compile_once(tmp_path, monkeypatch):
    cache = tmp_path / "compiled"
    expected = alone(tmp_path, *M3AE, f"features_dir={tmp_path / 'alone'}")
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", str(cache))

    def programs():
        return {path.relative_to(cache) for path in cache.rglob("*-cache")}

    words = (*M3AE, f"features_dir={tmp_path / 'features'}", "hardware.feature_cache=devices")
    run, said = trained(tmp_path, "name=first", *words, processes=2, devices=2)
    assert_same_training(numbers(run), expected)
    assert json.loads((run / "data.json").read_text()).keys() == {"train", "val", "tokenizer", "encoder"}
    assert "MB on the devices" in said[0][0]
    assert "features: computing" in said[0][0] and "features" not in said[1][0]
    assert features_of(tmp_path / "features") == features_of(tmp_path / "alone")
    cached = programs()
    of_others = {path.name for path in cached if path.parts[0] == "process-1-of-2"}
    assert any(name.startswith("jit_train_step") for name in of_others) and len(cached) > len(of_others)
    trained(tmp_path, "name=second", *words, processes=2, devices=2)
    assert programs() == cached, "the second start compiles nothing"


def test_a_second_start_with_shards_and_microbatches_ends(tmp_path, monkeypatch):
    """Its programs are compiled again: XLA's, read from the cache, would wait forever."""
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", str(tmp_path / "compiled"))
    metrics = []
    for name in ("first", "second"):
        words = (*M3AE, f"features_dir={tmp_path}/features", "hardware.fsdp=4", "hardware.accumulation=2")
        said = ended(start(tmp_path, *words, f"name={name}", devices=4), timeout=150)
        assert [code for *_, code in said] == [0], said
        metrics.append((tmp_path / "outputs" / name / "metrics.jsonl").read_text())
    assert metrics[0] == metrics[1]


@pytest.mark.parametrize("heard", [0, 1])
def test_processes_of_which_one_is_asked_to_end_before_they_meet_end_together(tmp_path, heard):
    team = start(tmp_path, processes=2, devices=1)

    def handles_signals():
        caught = re.search(r"SigCgt:\s*(\w+)", Path(f"/proc/{team[heard].pid}/status").read_text())[1]
        return int(caught, 16) & 1 << signal.SIGTERM - 1

    while not handles_signals():
        assert team[heard].poll() is None
        time.sleep(0.005)
    team[heard].terminate()
    said = ended(team, timeout=120)
    assert [code for *_, code in said] == [75, 75], said


@pytest.mark.parametrize("fails", [0, 1])
def test_a_process_that_fails_ends_the_others_with_its_line(tmp_path, fails):
    words = {fails: ("data.dir=/proc/nowhere",), 1 - fails: ()} if fails == 0 else {1: ("hardware.local_devices=9",)}
    said = ended(start(tmp_path, processes=2, devices=2, alone=words), timeout=120)
    assert [code for *_, code in said] == [2, 2], said
    lines = [[line for line in errors.splitlines() if line.startswith("error: ")] for _, errors, _ in said]
    assert [len(some) for some in lines] == [1, 1], said
    [own], [other] = lines[fails], lines[1 - fails]
    assert other == f"error: process {fails} ended: {own.removeprefix('error: ')}"


TWO_SESSIONS = """
import sys, time
from pathlib import Path
from instructrl.config.training import HardwareConfig
from instructrl.training.distributed.multihost import is_leader, leader_first, process_group

address, index, folder = sys.argv[1:]
config = HardwareConfig(name="cpu", coordinator=address, num_processes=2, process_id=int(index))
for number in range(2):
    with process_group(config), leader_first():
        file = Path(folder) / str(number)
        if is_leader():
            time.sleep(1)
            file.touch()
        assert file.exists(), number
"""


def test_processes_that_meet_again_wait_for_each_other_again(tmp_path):
    address = f"localhost:{free_port()}"
    team = [
        subprocess.Popen(
            [sys.executable, "-c", TWO_SESSIONS, address, index, str(tmp_path)],
            cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )
        for index in "01"
    ]  # fmt: skip
    said = ended(team, timeout=120)
    assert [code for *_, code in said] == [0, 0], said


COMPILING = """
import sys
import jax.numpy as jnp
from instructrl import preemption
from instructrl.config.training import HardwareConfig
from instructrl.errors import report_user_errors
from instructrl.training.distributed.multihost import process_group

address, index, grace = sys.argv[1:]
preemption.COMPILATION_GRACE = float(grace)
config = HardwareConfig(name="cpu", coordinator=address, num_processes=2, process_id=int(index))
with report_user_errors(), preemption.handle_signals(), process_group(config):
    import jax

    def slow(x):
        for number in range(400):
            x = jnp.sin(x @ x + number) + jnp.sort(x, axis=0)
        return x

    lowered = jax.jit(slow).lower(jnp.ones((8, 8)))
    print("compiling", file=sys.stderr, flush=True)
    lowered.compile()
"""


@pytest.mark.parametrize("first", [0, 1])
def test_processes_that_are_interrupted_while_they_compile_end_together(first):
    """JAX aborts a process whose leader is gone: a preempted job would count as one that failed."""
    address = f"localhost:{free_port()}"
    environment = os.environ | {"JAX_COMPILATION_CACHE_DIR": "", "JAX_DISABLE_MOST_OPTIMIZATIONS": "false"}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    graces = {first: "1", 1 - first: "60"}
    team = [
        subprocess.Popen(
            [sys.executable, "-c", COMPILING, address, str(i), graces[i]], cwd=ROOT, env=environment, **pipes
        )
        for i in range(2)
    ]
    for process in team:  # both before the first signal: its grace may end before the other one compiles
        assert "compiling\n" in iter(process.stderr.readline, "")
    for process in team:
        process.send_signal(signal.SIGUSR2)
    said = ended(team, timeout=120)
    assert [code for *_, code in said] == [75, 75], said
    assert "interrupted by SIGUSR2 while compiling: the same command resumes" in said[first][1]
    assert f"process {first} ended: interrupted while compiling" in said[1 - first][1]
