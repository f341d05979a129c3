"""Processor time of drawing a model's parameters, against compiling the model's `init`.

python tests/bench/initialization.py [OVERRIDES]     the quickstart's agent: two minutes

Each measurement is a process of its own with an empty compilation cache, except `again`: there another model, twice as
wide, was drawn with the same cache before. The ways alternate; ratios are of one round.
"""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT, ROUNDS = Path(__file__).resolve().parents[2], 5
OTHER = ("encoder.dim=128", "policy.dim=128", "head.dim=256")
DRAW = """
import sys, time
import jax
from instructrl.cli.entry import compose
from instructrl.config.training import TrainConfig
from instructrl.data.text.tokenizer import make_tokenizer
from instructrl.training.model_factory import dummy_batch, make_agent, random_params

way, *words = sys.argv[1:]
config = compose("train", TrainConfig, words)
tokenizer = make_tokenizer(config.encoder)
agent, batch = make_agent(config, vocabulary_size=tokenizer.vocabulary_size), dummy_batch(config, tokenizer)
key = jax.block_until_ready(jax.random.key(0))
begin = time.process_time()
found = jax.jit(agent.init)(key, batch) if way == "compiled" else random_params(agent, batch, seed=0)
jax.block_until_ready(found)
print(time.process_time() - begin)
"""


def seconds(way: str, words: list[str], cache: str) -> float:
    """Processor time of drawing the parameters of an agent with these settings."""
    environment = os.environ | {
        "PYTHONPATH": str(ROOT),
        "JAX_PLATFORMS": "cpu",
        "JAX_COMPILATION_CACHE_DIR": cache,
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
    }
    command = [sys.executable, "-c", DRAW, way, *words]
    ran = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, check=True)
    return float(ran.stdout)


def measure(words: list[str]) -> dict[str, float]:
    """One round of all ways."""
    with tempfile.TemporaryDirectory() as first, tempfile.TemporaryDirectory() as second:
        found = {"compiled": seconds("compiled", words, first), "drawn": seconds("drawn", words, second)}
        with tempfile.TemporaryDirectory() as third:
            seconds("drawn", [*words, *OTHER], third)
            found["again"] = seconds("drawn", words, third)
    return found


def main() -> None:
    """Print the ratios and their spread."""
    words = sys.argv[1:] or ["experiment=quickstart"]
    rounds = [measure(words) for _ in range(ROUNDS)]
    print(f"{' '.join(words)}; init compiled: {sorted(row['compiled'] for row in rounds)[ROUNDS // 2]:.1f} CPU seconds")
    for way, label in (("drawn", "parameters drawn"), ("again", "drawn after those of another model")):
        ratios = sorted(row[way] / row["compiled"] for row in rounds)
        print(f"{label}: {ratios[ROUNDS // 2]:.2f} of it ({ratios[0]:.2f} to {ratios[-1]:.2f})")


if __name__ == "__main__":
    main()
