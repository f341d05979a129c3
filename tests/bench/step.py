"""Training step and encoder, compared with the machine's rate of matrix products.

python tests/bench/step.py [OVERRIDES]      m3ae_b16's features, vit_base, batch 64, float32 on the CPU: three minutes
python tests/bench/step.py hardware=gpu policy=vit_large encoder=m3ae_l16 encoder.weights=null training.batch_size=256

- `products`: the size of square matrix products with the best rate, in the precision of `hardware`.
- `step`: forward, backward and update on computed features, sequences of 4 keyframes and 4 cameras.
- `encoder`: features of images, as in feature extraction.
- FLOPs are those of the matrix products in the traced program, before compiler optimizations; rates are by wall time.
- `host`: the time that Python needs to dispatch a step, as a share of the step.
"""

import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import jax
import numpy as np

from instructrl.cli.entry import compose
from instructrl.config.training import TrainConfig
from instructrl.data.text.tokenizer import make_tokenizer
from instructrl.training.distributed.platform import compute_dtype, select_platform
from instructrl.training.feature_extraction import feature_sizes, make_encode_fn
from instructrl.training.model_factory import dummy_batch, make_agent, random_params
from tests.fixtures.utilization import encoding, fastest_products, measure, product_rate, training

__all__ = ["encoding", "main", "product_rate", "training"]

FRAMES = {"cpu": 2, "gpu": 32, "tpu": 32}  # observations of 4 cameras per encoder call
SETTINGS = (
    "encoder=m3ae_b16", "policy=vit_base", "head=regression", "hardware=cpu", "training.batch_size=64",
    "sim.cameras=[front,left_shoulder,right_shoulder,wrist]", "sim.image_size=256",
    "encoder.tokenizer=small", "encoder.weights=null",
)  # fmt: skip


def main() -> None:
    """Print the rate of the products, and what encoder and step reach of it."""
    config = compose("train", TrainConfig, [*SETTINGS, *sys.argv[1:]])
    select_platform(config.hardware)
    device, dtype = jax.devices()[0], compute_dtype(config.hardware)
    tokenizer = make_tokenizer(config.encoder)
    agent = make_agent(config, vocabulary_size=tokenizer.vocabulary_size)
    params = random_params(agent, dummy_batch(config, tokenizer), seed=0)
    print(f"{device.device_kind}, {jax.device_count()} of them, {os.cpu_count()} cores", flush=True)
    frames, size = FRAMES[device.platform], config.sim.image_size
    sample = (np.zeros((1, 4, size, size, 3), np.uint8), *tokenizer([""]))
    sizes = feature_sizes(make_encode_fn(agent, {"encoder": params["encoder"]}), *sample)
    step, dispatches = training(config, agent, params, sizes, tokenizer.length)
    works = {
        "products": fastest_products(dtype),
        "encoder": encoding(agent, {"encoder": params["encoder"]}, tokenizer, size, frames),
        "step": step,
    }
    found = measure(works)
    labels = {
        "products": f"products in {config.hardware.precision}",
        "encoder": f"encoder {config.encoder.name}, {frames * len(config.sim.cameras)} images of {size} pixels",
        "step": f"step {config.policy.name}, batch {config.training.batch_size}",
    }
    for name, (rate, share) in found.items():
        print(f"{labels[name]}: {rate / 1e12:.3g} TFLOP/s, {share} of the products' rate")
    print(f"host: {100 * min(dispatches) * found['step'][0] / step.flops:.2f} % of a step")


if __name__ == "__main__":
    main()
