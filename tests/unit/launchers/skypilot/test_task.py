"""The task of a job for SkyPilot, and the settings that are refused."""

import re
import shlex
import textwrap
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from instructrl.cli.compose import compose
from instructrl.config.launcher import LaunchConfig, LauncherConfig
from instructrl.errors import InputError, RunError
from launchers.job import JobSpec
from launchers.skypilot.commands import launch_words, parse_records
from launchers.skypilot.launcher import SkyPilot
from launchers.skypilot.task import check_output, task_yaml

SETUP = ["sudo mkdir -p /mnt/x", "echo 'it is ready'"]
EVERYTHING = [
    "launcher=skypilot", "launcher.skypilot.infra=gcp/us-central1", "launcher.skypilot.accelerators=H100:8",
    "launcher.skypilot.nodes=2", "launcher.skypilot.spot=true", "launcher.skypilot.recovery=FAILOVER",
    "launcher.skypilot.restarts=3", "launcher.skypilot.cpus=64", "launcher.skypilot.memory_gb=512",
    "launcher.skypilot.disk_gb=500", "launcher.skypilot.image=docker:lab/image:1",
    "launcher.skypilot.mounts=[/mnt/data:gs://lab-data,/mnt/disk:shared]", "launcher.skypilot.secrets=[HF_TOKEN,MINE]",
    "launcher.skypilot.environment={NCCL_DEBUG: INFO, NCCL_IB_DISABLE: 1}", f"launcher.skypilot.setup={SETUP}",
]  # fmt: skip
RUN = """\
    set -- train.py seed=0 'name=a b' hardware=gpu
    if [ "${SKYPILOT_NUM_NODES:-1}" -gt 1 ]; then
      set -- "$@" "hardware.coordinator=$(echo "$SKYPILOT_NODE_IPS" | head -n 1):8476" \\
        "hardware.num_processes=$SKYPILOT_NUM_NODES" "hardware.process_id=$SKYPILOT_NODE_RANK"
    fi
    .venv/bin/python "$@"
    code=$?
    echo "instructrl: exit code $code"
    exit $code
"""


def launcher(*words: str) -> LauncherConfig:
    return compose("launch", LaunchConfig, list(words)).launcher


def spec(*words: str, run: str = "/mnt/disk/outputs/x", training: bool = True) -> JobSpec:
    command = ("train.py", "seed=0", "name=a b") if training else ("eval.py", "run=/mnt/x")
    return JobSpec(command, run, "001-seed=0", command[1:], launcher(*words), training)


def task_of(job: JobSpec) -> dict:
    return yaml.safe_load(task_yaml(job, "instructrl-001-x", Path("/code")))


def test_a_task_has_every_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf-token-value")
    monkeypatch.delenv("MINE", raising=False)
    text = task_yaml(spec(*EVERYTHING), "instructrl-001-x", Path("/code"))
    assert yaml.safe_load(text) == {
        "name": "instructrl-001-x",
        "workdir": "/code",
        "num_nodes": 2,
        "resources": {
            "infra": "gcp/us-central1",
            "accelerators": "H100:8",
            "cpus": "64+",
            "memory": "512+",
            "disk_size": 500,
            "image_id": "docker:lab/image:1",
            "use_spot": True,
            "job_recovery": {"strategy": "FAILOVER", "max_restarts_on_errors": 3, "recover_on_exit_codes": [75]},
        },
        "file_mounts": {"/mnt/data": {"source": "gs://lab-data", "mode": "MOUNT"}},
        "volumes": {"/mnt/disk": "shared"},
        "envs": {"PYTHONUNBUFFERED": "1", "NCCL_DEBUG": "INFO", "NCCL_IB_DISABLE": "1"},
        "secrets": {"HF_TOKEN": None},
        "setup": "\n".join(["set -e", *SETUP, "bash launchers/setup/setup_gpu.sh", ""]),
        "run": textwrap.dedent(RUN),
    }
    assert f"run: |\n{textwrap.indent(textwrap.dedent(RUN), '  ')}" in text and "hf-token-value" not in text


@pytest.mark.parametrize("mark", ["\n", "\r", "\u2028", "\x85", "\x1b", "\ufeff", " \n", "$$", "$(x)", "${x}"])
def test_words_reach_the_nodes_as_they_were_given(mark: str) -> None:
    job = replace(spec("launcher=skypilot"), command=("train.py", f"task.tasks=['a{mark}b: c']"))
    script = task_of(job)["run"].partition("\nif ")[0]
    assert shlex.split(script) == ["set", "--", *job.command]


def test_a_job_that_is_no_training_runs_on_one_node_with_what_its_machine_needs() -> None:
    task = task_of(spec("launcher=skypilot_v5e_8", "launcher.skypilot.nodes=4", training=False))
    assert task["num_nodes"] == 1 and "hardware" not in task["run"]
    assert task["resources"]["accelerator_args"] == {"runtime_version": "v2-alpha-tpuv5-lite"}
    assert task["setup"] == "set -e\nbash launchers/setup/setup_tpu.sh\n"
    assert "make_environment requirements.txt" in task_of(spec("launcher=skypilot"))["setup"]
    assert "hardware=tpu\n" in task_of(spec("launcher=skypilot_v5e_8"))["run"]


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["runtime=x"], "launcher.skypilot.runtime: found x with accelerators=null; allowed: null, or "),
        (
            ["secrets=[GOOGLE_APPLICATION_CREDENTIALS]"],
            "launcher.skypilot.secrets: found GOOGLE_APPLICATION_CREDENTIALS",
        ),
        (
            ["mounts=[/mnt/x:gs://a,/mnt/x:gs://b]"],
            "launcher.skypilot.mounts: found /mnt/x twice; allowed: a different",
        ),
        (
            ["mounts=[data:gs://a]"],
            "launcher.skypilot.mounts: found [data:gs://a]; allowed: a list like [A,B] of PATH:",
        ),
        (["mounts=[/mnt/x:gs://a/b]"], "launcher.skypilot.mounts: found [/mnt/x:gs://a/b]; allowed: a list"),
        (["recovery=failover"], "launcher.skypilot.recovery: found failover; allowed: FAILOVER, EAGER_NEXT_REGION, or"),
        (["setup=['export X_TOKEN=4f1e-marker-key']"], "launcher.skypilot.setup: found a password or a token"),
        (["spots=true"], "launcher.skypilot.spots: no such setting; did you mean launcher.skypilot.spot?"),
        (["accelerator=H100:8"], "launcher.skypilot.accelerator: no such setting; did you mean launcher.skypilot.acc"),
        (["environment={SKYPILOT_X: 3}"], "launcher.skypilot.environment: found {'SKYPILOT_X': 3}; allowed: a dict"),
        (["environment={PYTHONUNBUFFERED: 0}"], "launcher.skypilot.environment: found {'PYTHONUNBUFFERED': 0}; allo"),
        (["environment={UID: 3}"], "launcher.skypilot.environment: found {'UID': 3}; allowed: a dict"),
        (["secrets=[SKYPILOT_NODE_RANK]"], "launcher.skypilot.secrets: found [SKYPILOT_NODE_RANK]; allowed: a list"),
        (["environment={HF_TOKEN: abcdefgh1234}"], "launcher.skypilot.environment: found a password or a token"),
        (["nodes=0"], "launcher.skypilot.nodes: found 0; allowed: an integer at least 1"),
    ],
)
def test_settings_are_refused_in_one_line(words: list[str], line: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="^" + re.escape(line)) as refused:
        SkyPilot(tmp_path, launcher("launcher=skypilot", *(f"launcher.skypilot.{word}" for word in words)))
    assert "4f1e" not in str(refused.value) and not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("run", "words", "line"),
    [
        (
            "outputs/x",
            [],
            "outputs/x: found a folder that would be lost with the nodes; choose a bucket, like output_dir=",
        ),
        ("gs://b/x", ["nodes=2"], "gs://b/x: found a bucket, which several nodes cannot write to; choose a volume"),
        (
            "gs://b/x",
            ["accelerators=tpu-v5litepod-16"],
            "gs://b/x: found a bucket, which several nodes cannot write to",
        ),
        (
            "/mnt/b/x",
            ["nodes=2", "mounts=[/mnt/b:gs://b]"],
            "/mnt/b/x: found a bucket, which several nodes cannot write",
        ),
        ("/mnt/b/x", ["nodes=2", "mounts=[/mnt/b:volume]"], ""),
        ("gs://b/x", ["accelerators=tpu-v5litepod-8"], ""),
    ],
)
def test_output_that_would_be_lost_is_refused(run: str, words: list[str], line: str) -> None:
    job = spec("launcher=skypilot", *(f"launcher.skypilot.{word}" for word in words), run=run)
    if not line:
        check_output(job)
        return
    with pytest.raises(InputError, match="^" + re.escape(line)):
        check_output(job)


def test_a_dry_run_shows_the_commands_and_tasks_and_writes_nothing(tmp_path: Path) -> None:
    job = spec("launcher=skypilot_h100_8_spot")
    text = SkyPilot(tmp_path, job.resources).preview([job, JobSpec(("x.py",), "/y", "002", ("seed=1",), job.resources)])
    first, second = yaml.safe_load_all(text)
    assert first["resources"]["use_spot"] and first["name"] != second["name"]
    assert text.startswith("# sky jobs launch --yes --detach-run ") and not list(tmp_path.iterdir())


def test_the_queue_is_read_after_other_lines_and_anything_else_is_refused_in_one_line() -> None:
    assert parse_records('Checking\n[tip] use -a\n[\n  {"job_id": 1}\n]\nDone\n') == [{"job_id": 1}]
    assert parse_records("[]\n") == []
    for text in ("", "No jobs\n", "[1, 2]\n", '[\n  {"job_id"'):
        with pytest.raises(RunError, match=r"^sky jobs queue: found .*; expected a list as JSON") as refused:
            parse_records(text)
        assert "\n" not in str(refused.value)


def test_secrets_are_words_without_values() -> None:
    assert launch_words(Path("/x.yaml"), ["HF_TOKEN"])[2:] == ["--yes", "--detach-run", "--secret=HF_TOKEN", "/x.yaml"]
