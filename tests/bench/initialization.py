"""Processor time of drawing a model's parameters, against compiling the model's `init`.

python tests/bench/initialization.py [OVERRIDES]     the quickstart's agent: two minutes

Each measurement is a process of its own with an empty compilation cache, except `again`: there another model, twice as
wide, was drawn with the same cache before. A process that draws nothing is subtracted.
"""

import os
import shutil
import subprocess
import sys
import tempfile
from functools import partial
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from tests.fixtures.rounds import alternate, processor, ratio
from tests.paths import ROOT

ROUNDS = 3
OTHER = ("encoder.dim=128", "policy.dim=128", "head.dim=256")
DRAW = """
import sys
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
if way == "compiled":
    jax.block_until_ready(jax.jit(agent.init)(key, batch))
elif way == "drawn":
    jax.block_until_ready(random_params(agent, batch, seed=0))
"""


def draw_without_programs(way: str, words: list[str]) -> None:
    """Draw the parameters of an agent with an empty folder of compiled programs."""
    with tempfile.TemporaryDirectory() as folder:
        run(way, words, folder)


def run(way: str, words: list[str], cache: str) -> None:
    """Draw in a process of its own, `compiled`, `drawn` or `nothing`, with a folder of compiled programs."""
    environment = os.environ | {
        "PYTHONPATH": str(ROOT),
        "JAX_PLATFORMS": "cpu",
        "JAX_COMPILATION_CACHE_DIR": cache,
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
    }
    subprocess.run([sys.executable, "-c", DRAW, way, *words], env=environment, cwd=ROOT, check=True)


def main() -> None:
    """Print the ratios and their spread."""
    words = sys.argv[1:] or ["experiment=quickstart"]
    with tempfile.TemporaryDirectory() as folder:
        cache, backup = Path(folder) / "cache", Path(folder) / "backup"
        run("drawn", [*words, *OTHER], str(cache))
        cache.rename(backup)

        def draw_again() -> None:
            shutil.rmtree(cache, ignore_errors=True)
            shutil.copytree(backup, cache)  # where it was written: programs are known by their folder too
            run("drawn", words, str(cache))

        works = {way: partial(draw_without_programs, way, words) for way in ("nothing", "compiled", "drawn")}
        found = alternate(works | {"again": draw_again}, rounds=ROUNDS)
    took = {name: processor(each) - processor(found["nothing"]) for name, each in found.items()}
    print(f"{' '.join(words)}; init compiled: {np.median(took['compiled']):.1f} s of the processor")
    for way, label in (("drawn", "parameters drawn"), ("again", "drawn after those of another model")):
        print(f"{label}: {ratio(took[way], took['compiled'])} of it")


if __name__ == "__main__":
    main()
