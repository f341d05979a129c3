"""Training step and encoder, compared with the machine's rate of matrix products. Prints utilisations.

python tests/bench/step.py [OVERRIDES]         m3ae_b16's features, vit_base, batch 64, float32 on the CPU: two minutes
python tests/bench/step.py hardware=gpu policy=vit_large encoder=m3ae_l16 encoder.weights=null training.batch_size=256

- `products`: the best rate of a few sizes of square matrix products in the precision of `hardware`.
- `step`: forward, backward and update on computed features, sequences of 4 keyframes and 4 cameras.
- `encoder`: features of images, as in feature extraction.
- FLOPs are those of the matrix products in the traced program, before compiler optimizations.
- `host`: the time that Python needs to dispatch a step, as a share of the step.
"""

import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import jax
import jax.numpy as jnp
import numpy as np

from instructrl.cli.entry import compose
from instructrl.config.training import TrainConfig
from instructrl.data.text.tokenizer import Tokenizer, make_tokenizer
from instructrl.models.agent import Agent
from instructrl.training.distributed.platform import compute_dtype, select_platform
from instructrl.training.feature_extraction import feature_sizes, make_encode_fn
from instructrl.training.flops import count_flops
from instructrl.training.model_factory import dummy_batch, make_agent, random_params
from instructrl.training.objectives.bc_step import make_train_step
from instructrl.training.optimizer import learning_rate, make_optimizer
from instructrl.training.state import initial_state
from instructrl.types import BatchSizes, FeatureSizes, fake_batch

ROUNDS, STEPS, KEYFRAMES = 5, 4, 4
SIZES = {"cpu": (1024, 2048, 3072), "gpu": (4096, 8192, 12288), "tpu": (4096, 8192)}
FRAMES = {"cpu": 2, "gpu": 32, "tpu": 32}  # observations of 4 cameras per encoder call
SETTINGS = (
    "encoder=m3ae_b16", "policy=vit_base", "head=regression", "hardware=cpu", "training.batch_size=64",
    "sim.cameras=[front,left_shoulder,right_shoulder,wrist]", "sim.image_size=256",
    "encoder.tokenizer=small", "encoder.weights=null",
)  # fmt: skip


def seconds(work: Callable[[], Any], *, calls: int) -> float:
    """Seconds per call, for `calls` calls dispatched in sequence; the best of a few rounds. The first one compiles."""
    jax.block_until_ready(work())
    rounds = []
    for _ in range(ROUNDS):
        start = time.perf_counter()
        results = [work() for _ in range(calls)]
        jax.block_until_ready(results)
        rounds.append((time.perf_counter() - start) / calls)
    return min(rounds)


def product_rate(size: int, dtype: Any) -> float:
    """FLOP/s of products of square matrices of random numbers."""
    keys = jax.random.split(jax.random.key(0))
    left, right = (jax.random.normal(key, (size, size), dtype) for key in keys)
    multiply = jax.jit(jnp.matmul)
    return 2 * size**3 / seconds(lambda: multiply(left, right), calls=STEPS)


def traced(function: Callable[..., Any], *given: Any) -> int:
    """FLOPs of a call."""
    return count_flops(jax.make_jaxpr(function)(*given).jaxpr)


def encoding(agent: Agent, params: Any, tokenizer: Tokenizer, size: int, frames: int) -> tuple[float, int]:
    """Seconds and FLOPs of encoding some observations."""
    images = np.random.default_rng(0).integers(0, 256, (frames, 4, size, size, 3), np.uint8)
    given = jax.device_put((images, *tokenizer(["pick up the red cup"] * frames)))
    encode = make_encode_fn(agent, params)
    return seconds(lambda: encode(*given), calls=STEPS), traced(encode, *given)


def training(config: TrainConfig, agent: Agent, params: Any, sizes: FeatureSizes, length: int) -> dict[str, float]:
    """Seconds and FLOPs of a step, and the seconds to dispatch it."""
    batch_size = config.training.batch_size
    shapes = BatchSizes(batch_size, KEYFRAMES, len(config.sim.cameras), config.sim.image_size, length, features=sizes)
    batch = jax.device_put(fake_batch(shapes))
    optimizer = make_optimizer(
        config.optimizer, learning_rate(config.optimizer, epochs=100, steps_per_epoch=10, batch_size=batch_size)
    )
    step = make_train_step(agent, optimizer, seed=0, token_dropout=0.0)
    state = initial_state({name: part for name, part in params.items() if name != "encoder"}, optimizer)
    counted = traced(step, state, batch, {})
    held, starting = [state], []

    def work() -> Any:
        began = time.perf_counter()
        held[0], metrics = step(held[0], batch, {})
        starting.append(time.perf_counter() - began)
        return metrics

    took = seconds(work, calls=STEPS)
    return {"seconds": took, "flops": counted, "host": min(starting)}


def main() -> None:
    config = compose("train", TrainConfig, [*SETTINGS, *sys.argv[1:]])
    select_platform(config.hardware)
    device, dtype = jax.devices()[0], compute_dtype(config.hardware)
    tokenizer = make_tokenizer(config.encoder)
    agent = make_agent(config, vocabulary_size=tokenizer.vocabulary_size)
    params = random_params(agent, dummy_batch(config, tokenizer), seed=0)
    print(f"{device.device_kind}, {jax.device_count()} of them, {os.cpu_count()} cores, jax {jax.__version__}")
    rate = max(product_rate(size, dtype) for size in SIZES[device.platform])
    print(f"products in {config.hardware.precision}: {rate / 1e12:.3g} TFLOP/s", flush=True)

    frames, size = FRAMES[device.platform], config.sim.image_size
    took, counted = encoding(agent, {"encoder": params["encoder"]}, tokenizer, size, frames)
    images = frames * len(config.sim.cameras)
    print(
        f"encoder {config.encoder.name}: {1e3 * took:.1f} ms for {images} images of {size} pixels, "
        f"{counted / 1e9:.0f} GFLOP, {counted / took / rate:.2f} of the products' rate",
        flush=True,
    )
    sample = (np.zeros((1, 4, size, size, 3), np.uint8), *tokenizer([""]))
    sizes = feature_sizes(make_encode_fn(agent, {"encoder": params["encoder"]}), *sample)
    found = training(config, agent, params, sizes, tokenizer.length)
    print(
        f"step {config.policy.name}, batch {config.training.batch_size}: {1e3 * found['seconds']:.1f} ms, "
        f"{found['flops'] / 1e9:.0f} GFLOP, {found['flops'] / found['seconds'] / rate:.2f} of the products' rate; "
        f"host {100 * found['host'] / found['seconds']:.2f} %"
    )


if __name__ == "__main__":
    main()
