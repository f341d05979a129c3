"""Training monitor: throughput, norms, profiler traces, and errors for non-finite values."""

import json
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from instructrl.config.model import EncoderConfig
from instructrl.data.demonstrations.dataset import DemonstrationDataset
from instructrl.data.loading.loader import Loader
from instructrl.data.text.tokenizer import make_tokenizer
from instructrl.errors import RunError
from instructrl.evaluation.report.page import page
from instructrl.training.flops import count_flops, peak_flops, step_flops
from instructrl.training.monitoring.finite_guard import NonFiniteGuard
from instructrl.training.monitoring.metric_writer import SPEED_FILE, read_lines
from instructrl.training.monitoring.throughput import EXCLUDED, Bottleneck, memory
from instructrl.training.objectives import behavior_cloning
from instructrl.training.objectives.behavior_cloning import describe_episodes
from instructrl.training.run_dir import open_run
from tests.fixtures import tiny, tiny_objective
from tests.fixtures.tiny_objective import Metrics
from tests.unit.evaluation.report.test_report import Checker, read, results


@pytest.fixture(scope="module")
def run() -> Path:
    return tiny.shared_run()


def test_the_speed_of_every_step_is_measured_once(run: Path) -> None:
    lines = read_lines(run / SPEED_FILE)
    assert {line["split"] for line in lines} == {"speed"} and lines[-1]["step"] == 12
    assert sum(line["steps"] for line in lines) == 12
    keyframes, episodes = 0.0, 0.0
    for line in lines:
        shares = {key: value for key, value in line.items() if key.startswith("share_")}
        assert sum(shares.values()) == pytest.approx(1) and min(shares.values()) >= 0
        training = line["seconds"] * (1 - sum(line[f"share_{part}"] for part in EXCLUDED))
        assert line["steps_per_second"] == pytest.approx(line["steps"] / training)
        keyframes += line["keyframes_per_second"] * training
        episodes += line["episodes_per_second"] * training
        flops = line["flops_per_step"]
        assert line["utilisation"] == pytest.approx(line["steps_per_second"] * flops / 1e11)
        assert line["process_memory_bytes"] > 1e7
    assert round(episodes) == 4 * 12 and round(keyframes) == 4 * 12 * 4  # pick_and_lift has four keyframes
    parts = ("step", "data", *EXCLUDED)
    seconds = {part: sum(line["seconds"] * line[f"share_{part}"] for line in lines) for part in parts}
    assert all(value > 0 for value in seconds.values()), seconds


def test_the_line_of_an_epoch_names_what_limits_it(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    tiny_objective.trained(tmp_path, "training.epochs=2")
    epochs = [line for line in capsys.readouterr().out.splitlines() if line.startswith("epoch ")]
    form = r"  limited by (data|steps) \(\d+ % waiting for data, [\d.]+ MB a batch, [\d.]+ GB/s\)"
    assert len(epochs) == 2 and all(re.search(form, line) for line in epochs), epochs
    config = tiny.config(tmp_path)
    images = config.training.batch_size * 4 * len(config.sim.cameras) * 32 * 32 * 3
    assert all(images < line["batch_bytes"] < 1.2 * images for line in read_lines(run / SPEED_FILE))

    bottleneck = Bottleneck()
    measured = {"seconds": 10.0, "steps": 4, "steps_per_second": 0.5, "batch_bytes": 3e9, "share_data": 0.4}
    bottleneck.add(measured)  # four of eight seconds of training
    assert bottleneck.read() == "limited by data (50 % waiting for data, 3000.0 MB a batch, 1.50 GB/s)"
    for waited in (0.0, 0.1):
        bottleneck.add(measured | {"share_data": waited})
    assert bottleneck.read() == "limited by steps (6 % waiting for data, 3000.0 MB a batch, 1.50 GB/s)"
    assert bottleneck.read() == ""


def test_metrics_have_the_norms_of_single_steps_too(run: Path) -> None:
    lines = read_lines(run / "metrics.jsonl")
    assert [line["step"] for line in lines if line["split"] == "step"] == [2, 4, 6, 8, 10, 12]
    for line in lines:
        norms = [line.get(f"{name}_norm", 0) for name in ("gradient", "parameter", "update")]
        assert all(norm > 0 for norm in norms) == (line["split"] in ("train", "step"))
    assert not any("second" in key or "share" in key for line in lines for key in line)


def test_metrics_of_steps_are_the_same_after_an_interruption(tmp_path: Path) -> None:
    def stop(_: Any, epoch: int) -> dict[str, float]:
        if epoch == 3:
            raise KeyboardInterrupt
        return {"success_rate": 0.5}

    whole = tiny_objective.trained(tmp_path / "whole", "training.log_every=2")
    words = ("training.log_every=2", "training.rollout_every=1")
    with pytest.raises(KeyboardInterrupt):
        tiny_objective.trained(tmp_path / "stopped", *words, rollout=stop)
    resumed = tiny_objective.trained(tmp_path / "stopped", "training.log_every=2")
    assert len([line for line in read_lines(resumed / "metrics.jsonl") if line["split"] == "step"]) == 6
    tiny_objective.assert_same_end(resumed, whole)
    found, expected = ([line["step"] for line in read_lines(one / SPEED_FILE)] for one in (resumed, whole))
    assert found == expected


def test_the_asked_for_steps_are_traced(run: Path) -> None:
    found = [path.name for path in (run / "profile").rglob("*") if path.is_file()]
    assert "perfetto_trace.json.gz" in found and any(name.endswith(".xplane.pb") for name in found)


def test_the_page_tells_of_the_speed(run: Path) -> None:
    def shown(lines: list[dict[str, Any]]) -> Checker:
        return read(page(results(), metrics=[], speeds=lines, settings="", folder=run))

    lines = read_lines(run / SPEED_FILE)
    whole = shown(lines)
    assert re.search(r"[\d.]+ episodes and [\d.]+ keyframes per second", whole.text) and whole.tags.count("svg") == 1
    assert " s for 12 steps: step " in whole.text and "compiling" in whole.text
    assert "% of the devices' published bfloat16 peak" in whole.text and "GB at most of the process" in whole.text
    for none in ([], [{"step": 3, "epoch": 1}]):
        assert "Training speed" in whole.text and "Training speed" not in shown(none).text
    older = [{key: value for key, value in line.items() if key[:4] not in ("util", "flop", "proc")} for line in lines]
    assert "Training speed" in shown(older).text and "Utilisation" not in shown(older).text


# Non-finite values.


@pytest.mark.parametrize("key", ["loss", "gradient_norm"])
def test_what_is_not_finite_ends_with_the_step_its_batch_and_the_norms_before_it(tmp_path: Path, key: str) -> None:
    def broken(step: int, metrics: Metrics) -> Metrics:
        return {**metrics, key: jnp.nan if step == 6 else metrics[key]}

    with pytest.raises(RunError) as caught:
        tiny_objective.trained(tmp_path, on_step=broken)
    line = str(caught.value)
    assert line.startswith(f"{key.replace('_', ' ')} is nan at step 5 (step 5: loss ") and "\n" not in line
    for before in (2, 3, 4):
        number = r"[\d.e+-]+"
        norms = rf"gradient norm {number}, parameter norm {number}, update norm {number}"
        assert re.search(rf"step {before}: loss {number}, {norms}", line)
    assert line.endswith("batch: points of step 5; draw other points")
    saved = [int(folder.name) for folder in (tmp_path / "outputs").glob("*/checkpoints/*") if folder.name.isdigit()]
    assert saved == [3]


def test_an_error_names_the_episodes_of_the_batch() -> None:
    with DemonstrationDataset(tiny.shared_demonstrations()["train"][0]) as episodes:
        loader = Loader([episodes], make_tokenizer(EncoderConfig()), batch_size=5, seed=0)
        [(_, numbers)] = loader.episodes_in_batch(5)
        seen = [episodes.episode(int(number)).actions for number in numbers]
        batch, line = loader.batch(5), describe_episodes(loader.episodes_in_batch(5))
    for row, actions in enumerate(seen):  # the reported episodes are those of the batch
        np.testing.assert_array_equal(batch.actions[row, : len(actions)], actions)
    found: list[int] = []
    for part in line.split("episodes ")[1].split():
        first, _, last = part.partition("-")
        found += range(int(first), int(last or first) + 1)
    assert line.startswith(f"pick_and_lift in {episodes.path}, episodes ") and found == sorted(numbers)


def test_the_first_step_may_be_the_wrong_one() -> None:
    guard = NonFiniteGuard(lambda step: f"batch {step}", advice="do better")
    message = r"loss is inf at step 7 .*steps before: no other step since the start; batch: batch 7; do better"
    with pytest.raises(RunError, match=message):
        guard.check({"loss": float("inf"), "gradient_norm": 1.0}, step=7)


# FLOPs, peak rates and memory.


def test_operations_of_matrix_products_and_convolutions() -> None:
    def flops(function: Any, *shapes: tuple[int, ...]) -> int:
        return count_flops(jax.make_jaxpr(function)(*(jnp.zeros(shape) for shape in shapes)).jaxpr)

    assert flops(lambda a, b: a @ b, (3, 5), (5, 7)) == 2 * 3 * 5 * 7
    assert flops(lambda a, b: jnp.einsum("hik,hjk->hij", a, b), (4, 3, 5), (4, 7, 5)) == 4 * 2 * 3 * 5 * 7
    assert flops(jax.grad(lambda a, b: jnp.sin(a @ b).sum(), argnums=(0, 1)), (3, 5), (5, 7)) == 3 * 2 * 3 * 5 * 7
    assert flops(jax.grad(lambda a, b: jnp.sin(a @ b).sum()), (3, 5), (5, 7)) == 2 * 2 * 3 * 5 * 7
    scanned = lambda a, b: jax.lax.scan(lambda x, _: (jax.jit(jnp.dot)(x, b), None), a, length=6)[0]  # noqa: E731
    assert flops(scanned, (3, 5), (5, 5)) == 6 * 2 * 3 * 5 * 5
    either = lambda a, b: jax.lax.cond(a[0, 0] > 0, lambda: a @ b, lambda: a)  # noqa: E731
    assert flops(either, (5, 5), (5, 5)) == 2 * 5**3
    same = lambda x, k: jax.lax.conv_general_dilated(x, k, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))  # noqa: E731
    assert flops(same, (2, 8, 8, 3), (3, 3, 3, 4)) == 2 * (2 * 8 * 8 * 4) * (3 * 3 * 3)
    assert flops(jnp.sin, (9,)) == 0


def test_the_count_is_that_of_xla_but_for_what_is_no_product() -> None:
    step = jax.jit(lambda a, b: jnp.tanh(a @ b) @ b)
    shapes = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in ((64, 128), (128, 128))]
    analysis: Any = step.lower(*shapes).compile().cost_analysis()
    assert step_flops(step, *shapes) == pytest.approx(analysis["flops"], rel=0.02)


def test_what_is_computed_twice_counts_once_and_what_is_frozen_not_at_all(tmp_path: Path) -> None:
    def flops(*more: str) -> float:
        config = tiny.config(tmp_path, f"name=run{len(list(tmp_path.glob('outputs/*')))}", *more)
        with behavior_cloning.open_demonstrations(config, tiny.shared_demonstrations()) as sets:
            training, state = behavior_cloning.prepare_behavior_cloning(config, open_run(config), sets)
            return training.flops(state, training.train.batch(0))

    plain = flops()
    assert flops("hardware.remat=blocks", "hardware.scan=true") == plain
    assert flops("training.freeze=[encoder]") < 0.8 * plain


@pytest.mark.parametrize(
    ("kind", "rate"),
    [("NVIDIA H100 80GB HBM3", 989e12), ("NVIDIA H100 PCIe", 756e12), ("NVIDIA H200", 989e12), ("TPU v4", 275e12),
     ("NVIDIA A100-SXM4-40GB", 312e12), ("TPU v5 lite", 197e12), ("TPU v5p", 459e12), ("TPU v6 lite", 918e12),
     ("NVIDIA L4", 121e12), ("NVIDIA L40S", 362e12), ("cpu", None), ("NVIDIA A10G", 70e12)],
)  # fmt: skip
def test_published_rates_are_found_by_the_devices_kind(kind: str, rate: float | None) -> None:
    assert peak_flops(kind) == rate


def test_memory_is_the_devices_where_it_says_so() -> None:
    here = jax.process_index()
    devices = [
        SimpleNamespace(process_index=here, memory_stats=lambda: {"peak_bytes_in_use": 7}),
        SimpleNamespace(process_index=here, memory_stats=lambda: {"peak_bytes_in_use": 9}),
        SimpleNamespace(process_index=here + 1, memory_stats=lambda: pytest.fail("of another process")),
    ]
    assert memory(devices) == {"device_memory_bytes": 9}
    assert set(memory([SimpleNamespace(process_index=here, memory_stats=lambda: None)])) == {"process_memory_bytes"}
    assert json.dumps(memory([]))
