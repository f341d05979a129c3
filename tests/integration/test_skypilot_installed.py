"""Tests that need an installation of SkyPilot: `make test-skypilot`, which installs it; skipped without one.

SkyPilot itself reads the task of every profile, with its own schema and resources. No cloud and no network is asked.
"""

import os
import subprocess
from pathlib import Path

import pytest

from instructrl.cli.compose import compose
from instructrl.cli.overrides import options
from instructrl.config.launcher import LaunchConfig
from launchers.job import ROOT, JobSpec
from launchers.skypilot.task import task_yaml

PYTHON = os.environ.get("SKYPILOT_PYTHON", "")  # of an environment with SkyPilot
pytestmark = [
    pytest.mark.skypilot,
    pytest.mark.skipif(not PYTHON, reason="SKYPILOT_PYTHON names no interpreter with SkyPilot; run make test-skypilot"),
]
READ = """
import sys, yaml, sky
for text in sys.stdin.read().split("\\n---\\n"):
    task = sky.Task.from_yaml_config(yaml.safe_load(text), secrets_overrides=[("HF_TOKEN", "x")])
    [resources] = task.resources
    spot, accelerators = resources.use_spot, dict(resources.accelerators or {})
    print(task.num_nodes, spot, accelerators, sorted(task.storage_mounts), sorted(task.secrets), resources.job_recovery)
"""
MORE = [
    "launcher.skypilot.nodes=2", "launcher.skypilot.mounts=[/mnt/data:gs://lab-data]",
    "launcher.skypilot.secrets=[HF_TOKEN]", "launcher.skypilot.recovery=FAILOVER", "launcher.skypilot.restarts=2",
    "launcher.skypilot.environment={NCCL_DEBUG: INFO}",
]  # fmt: skip


def tasks(*words: str) -> list[str]:
    """The tasks of all profiles."""
    found = []
    for profile in options("launcher"):
        resources = compose("launch", LaunchConfig, [f"launcher={profile}", *words]).launcher
        if resources.kind == "skypilot":
            spec = JobSpec(("train.py", "seed=0"), "/mnt/x", profile, ("seed=0",), resources, True)
            found.append(task_yaml(spec, f"instructrl-001-{profile}", ROOT))
    return found


def read(texts: list[str], home: Path) -> subprocess.CompletedProcess[str]:
    """Let SkyPilot read tasks, in a home of its own."""
    environment = {**os.environ, "HOME": str(home), "SKYPILOT_DISABLE_USAGE_COLLECTION": "1"}
    words = [PYTHON, "-c", READ]
    return subprocess.run(
        words, input="\n---\n".join(texts), env=environment, cwd=home, capture_output=True, text=True, timeout=300
    )


def test_skypilot_reads_the_task_of_every_profile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf-token-value")
    plain, full = tasks(), tasks(*MORE)
    assert len(plain) >= 3
    ended = read([*plain, *full], tmp_path)
    assert ended.returncode == 0, ended.stderr[-2000:]
    lines = [line for line in ended.stdout.splitlines() if line.startswith(("1 ", "2 "))]
    assert len(lines) == len(plain) + len(full)
    assert any("{'H100': 8}" in line and line.startswith("1 True") for line in lines)
    assert any("{'tpu-v5litepod-8': 1}" in line for line in lines)
    for line in lines[len(plain) :]:
        assert line.startswith("2 ") and "['/mnt/data'] ['HF_TOKEN']" in line
        assert "FAILOVER" in line and "'max_restarts_on_errors': 2" in line and "[75]" in line


def test_skypilot_refuses_a_task_with_a_key_that_it_does_not_have(tmp_path: Path) -> None:
    ended = read([tasks()[0].replace("use_spot:", "spot:")], tmp_path)
    assert ended.returncode != 0 and "spot" in ended.stderr
