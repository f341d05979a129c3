"""A killed trainer leaves no process behind, whatever it was doing."""

import os
import signal
import subprocess
import sys
import uuid
from pathlib import Path

from tests.fixtures import tiny
from tests.fixtures.waiting import bearers, wait_for
from tests.paths import ROOT

SECONDS = 300  # until the moment is reached, on a busy machine


def test_a_killed_trainer_leaves_no_process_behind(tmp_path: Path) -> None:
    """Neither simulators nor W&B's service; `test_killed` looks at the other moments."""
    words = ("training.epochs=100000", "training.rollout_every=1", "training.rollout_episodes=2", "wandb.mode=offline")
    data = f"data.dir={tiny.shared_collection()}"
    mark, log = f"left_behind_{uuid.uuid4().hex}", tmp_path / "log"
    command = [sys.executable, str(ROOT / "train.py"), *tiny.overrides(tmp_path, *words, data)]
    with log.open("w") as out:
        process = subprocess.Popen(
            command, cwd=tmp_path, stdout=out, stderr=out, env=os.environ | {"MARK": mark}, start_new_session=True
        )

    def come() -> bool:
        assert process.poll() is None, log.read_text()
        return any('"rollout"' in path.read_text() for path in tmp_path.glob("outputs/*/metrics.jsonl"))

    try:
        assert wait_for(come, SECONDS), log.read_text()
        started = " ".join(bearers(mark).values())
        assert "wandb" in started and len(bearers(mark)) > 2, "nothing was there that could be left"
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        assert wait_for(lambda: not bearers(mark), 10), bearers(mark)
    finally:
        for pid in bearers(mark):
            os.kill(pid, signal.SIGKILL)
