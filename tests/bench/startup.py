"""Start-up time of `train.py`. Prints seconds, and the second start relative to the first.

python tests/bench/startup.py [OVERRIDES]      vit_small: about two minutes

- `help`, `error`: `train.py --help`, and an invalid setting; goals 1.5 and 2 seconds.
- `first`, `second`: duration of a one-step training with an empty compilation cache, and with the cache that the
  first start has filled; both include the time of `error`. Goal: at most half.

The first two are the best of a few repetitions, since machines are shared.
"""

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
ROUNDS = 3
SETTINGS = (
    "task=reach_target", "task.episodes=8", "task.val_episodes=8", "sim.image_size=32", "sim.renderer=raycast",
    "encoder.patch_size=8", "training.batch_size=8", "training.epochs=1", "optimizer.warmup_epochs=0", "hardware=cpu",
)  # fmt: skip


def seconds(folder: Path, *words: str, code: int = 0) -> float:
    """Duration of `train.py` in seconds; it must end with exit code `code`."""
    environment = {key: value for key, value in os.environ.items() if key != "JAX_COMPILATION_CACHE_DIR"}
    start = time.perf_counter()
    command = [sys.executable, str(ROOT / "train.py"), *words]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    taken = time.perf_counter() - start
    if done.returncode != code:
        raise SystemExit(f"{' '.join(command)}: exit code {done.returncode}\n{done.stderr}")
    return taken


def main() -> None:
    """Print one line per measurement."""
    with tempfile.TemporaryDirectory() as directory:
        folder = Path(directory)
        words = [*SETTINGS, f"data.dir={folder}/data", f"hardware.compilation_cache={folder}/compiled", *sys.argv[1:]]
        subprocess.run(
            [sys.executable, "-m", "data_tools.collect", *words[:5], words[len(SETTINGS)]],
            cwd=ROOT, capture_output=True, check=True,
        )  # fmt: skip
        for name, goal, code, given in (("help", 1.5, 0, ["--help"]), ("error", 2.0, 2, ["policy.depth=0"])):
            taken = min(seconds(folder, *given, code=code) for _ in range(ROUNDS))
            print(f"{name:<8}{taken:>7.2f} s   goal {goal} s", flush=True)
        first, second = (seconds(folder, *words, f"name={name}") for name in ("first", "second"))
        print(
            f"{'first':<8}{first:>7.2f} s\n{'second':<8}{second:>7.2f} s   {second / first:.2f} of the first, goal 0.5"
        )


if __name__ == "__main__":
    main()
