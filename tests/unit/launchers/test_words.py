"""Words of settings that reach a scheduler, a shell, ssh, the cloud or a path have the form that those expect."""

import dataclasses
import re
from pathlib import Path
from typing import Any

import pytest

from instructrl.cli.entry import compose, compose_launcher
from instructrl.config.fields import leaves
from instructrl.config.launcher import LaunchConfig, LauncherConfig, TpuConfig
from instructrl.errors import InputError
from launchers.tpu.launcher import TpuBackend
from launchers.tpu.run import split_variables
from launchers.tpu.settings import PodConfig, read

ODD = (
    "-x",
    "-oProxyCommand=touch",
    "a b",
    "p%A",
    'a"b',
    "a'b",
    "a;b",
    "$(x)",
    "`x`",
    "a\\b",
    "é x",
    "#",
    "a\u2028b",
    "x" * 201 + " ",
)
PATHS = {  # may lie anywhere
    "tpu.key", "tpu.known_hosts", "slurm.container", "slurm.container_python", "kubernetes.folder", "kubernetes.code",
}  # fmt: skip
VALID = {
    "sweep": ["study", "x" * 200, "train-seed,lr-0123abcd", "2026-01-01_a.b=c"],
    "slurm.gpu": ["a100", "nvidia_a100_80gb_pcie_1g.5gb"],
    "slurm.partition": ["gpus", "gpus,long"],
    "slurm.account": ["lab", "def-me_gpu"],
    "slurm.qos": ["high"],
    "slurm.constraint": ["a100", "a100|h100", "[rack1*2&rack2*4]", "!old", "(a&b)|c,d"],
    "slurm.reservation": ["day_1"],
    "slurm.nodelist": ["gpu[1-4,7],big2"],
    "slurm.exclude": ["node1.cluster", "a,b[01-10]"],
    "slurm.gres": ["nvme:1", "gpu:a100:2,license=x"],
    "slurm.dependency": ["afterok:12", "afterany:12_3:14+5,singleton", "after:1?aftercorr:2"],
    "slurm.comment": ["a-study", "project=3"],
    "slurm.mail_user": ["me", "me.x+y@lab.example.org"],
    "slurm.container": ["/shared/jax.sif", "docker://nvcr.io/nvidia/jax:24.10-py3", "nvcr.io#nvidia/jax:24.10"],
    "slurm.container_python": ["python3", "/opt/venv/bin/python3.11"],
    "tpu.accelerator": ["v4-32", "v5litepod-256"],
    "tpu.runtime": ["tpu-vm-tf-2.16.1-pjrt", "v2-alpha-tpuv5-lite"],
    "tpu.pod": ["study", "a-1"],
    "tpu.project": ["lab-123", "example.com:lab"],
    "tpu.zone": ["us-central2-b"],
    "tpu.network": ["default", "projects/lab/global/networks/one"],
    "tpu.subnetwork": ["https://www.googleapis.com/compute/v1/projects/lab/regions/r/subnetworks/one"],
    "tpu.reservation": ["mine", "projects/lab/locations/us-central2-b/reservations/mine"],
    "tpu.iap_group": ["pods"],
    "tpu.service_account": ["me@lab.iam.gserviceaccount.com"],
    "tpu.addresses": ["me@10.0.0.1:2222, tpu-7", "a,b"],
    "tpu.user": ["me", "sa_1.x"],
    "tpu.key": ["~/.ssh/id_ed25519", "/home/me/key-1"],
    "tpu.known_hosts": ["known"],
    "tpu.folder": ["instructrl", "code/instructrl-2", ".code"],
    "skypilot.infra": ["gcp", "aws/us-east-1", "*/*/us-central2-b", "k8s/gke_lab_us-central1-c_one", "slurm/cluster"],
    "skypilot.accelerators": ["H100:8", "A100-80GB", "tpu-v5litepod-8"],
    "skypilot.runtime": ["v2-alpha-tpuv5-lite"],
    "kubernetes.image": ["instructrl", "registry.lab:5000/me/instructrl:gpu", "ghcr.io/lab/x@sha256:0a1b"],
    "kubernetes.namespace": ["lab"],
    "kubernetes.resource": ["nvidia.com/gpu", "google.com/tpu", "amd.com/gpu"],
    "kubernetes.folder": ["/work", "/mnt/disk-1/a.b"],
    "kubernetes.code": ["/opt/instructrl"],
    "kubernetes.service_account": ["trainer"],
    "kubernetes.queue": ["gpus", "team.lab"],
    "skypilot.image": ["docker:nvcr.io/nvidia/jax:24.04-py3", "ami-0123", "projects/deeplearning/global/images/one"],
}


def texts(schema: type) -> set[str]:
    """The settings of a schema that are any text."""
    found = leaves(schema).items()
    return {key for key, entry in found if entry.type in (str, str | None) and "choices" not in entry.metadata}


def test_every_text_of_a_launcher_has_a_form() -> None:
    assert texts(LauncherConfig) - {"name"} == set(VALID), "name is only shown"
    assert texts(PodConfig) - texts(TpuConfig) == {"launcher", "run"}, "a profile's name is one of those that exist"


@pytest.mark.parametrize("key", VALID)
def test_a_launchers_words_are_taken_or_refused_in_one_line(key: str) -> None:
    entry = leaves(LauncherConfig)[key]
    for text in VALID[key]:
        config: LauncherConfig = compose("launch", LaunchConfig, [f"launcher.{key}='{text}'"]).launcher
        group, _, name = key.rpartition(".")
        assert getattr(getattr(config, group) if group else config, name) == text
    outside = () if key in PATHS else ("../x", "../../..", "..", "a/../../b", "/etc")
    for text in (*ODD, *outside):
        assert not re.fullmatch(entry.metadata["pattern"], text), text
    with pytest.raises(InputError) as refused:
        compose("launch", LaunchConfig, [f"launcher.{key}=-oProxyCommand"])
    line = str(refused.value)
    assert line.startswith(f"launcher.{key}: found -oProxyCommand; allowed: ") and line.isprintable()
    assert entry.metadata["allowed"] in line


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["folder=../../.."], "folder: found ../../..; allowed: a folder within the home directory"),
        (["folder=/etc"], "folder: found /etc; allowed: a folder within the home directory"),
        (["addresses=-oProxyCommand"], "addresses: found -oProxyCommand; allowed: [USER@]ADDRESS[:PORT]"),
        (["addresses=-x@host"], "addresses: found -x@host; allowed: [USER@]ADDRESS[:PORT]"),
        (["run=../x"], "run: found ../x; allowed: at most 200 letters"),
        (["pod=a/b"], "pod: found a/b; allowed: at most 63 lower-case letters"),
        (["user=-x"], "user: found -x; allowed: letters, digits"),
        (["key=a b"], "key: found a b; allowed: the path of a file"),
        *(
            ([f"environment=[HF_TOKEN,{name}]"], f"environment: found [HF_TOKEN, {name}]; allowed: a list like [A,B]")
            for name in ("RUN_MARK", "INSTRUCTRL_SETUP", "PYTHONUNBUFFERED", "SHELLOPTS")
        ),
    ],
)
def test_a_pods_words_are_refused_at_once(words: list[str], line: str) -> None:
    with pytest.raises(InputError, match="^" + re.escape(line)):
        read([*words, "dry_run=true"])


@pytest.mark.parametrize("name", ["RUN_MARK", "INSTRUCTRL_SETUP", "PYTHONUNBUFFERED", "EUID"])
def test_variables_of_a_command_on_a_pod_are_none_that_the_launcher_sets(name: str) -> None:
    assert split_variables(["A=1", f"{name}_2=b=c", "train.py", f"{name}=0"]) == (
        ["train.py", f"{name}=0"],
        {"A": "1", f"{name}_2": "b=c"},
    )
    with pytest.raises(InputError, match=rf"^run: found {name}= before the command; allowed: names of variables, "):
        split_variables(["A=1", f"{name}=2", "train.py"])


@pytest.mark.parametrize("addresses", ["a,a", "a:99999", "a:0"])
def test_addresses_of_no_hosts_are_refused_also_in_a_dry_run(tmp_path: Path, addresses: str) -> None:
    resources = LauncherConfig(name="x", kind="tpu", dry_run=True, tpu=TpuConfig(addresses=addresses))
    with pytest.raises(InputError, match=r"^launcher.tpu.addresses: "):
        TpuBackend(tmp_path, resources)


@pytest.mark.parametrize(
    ("settings", "line"),
    [
        ({"accelerator": "nonsense"}, "launcher.tpu.accelerator: found nonsense; allowed: "),
        ({"accelerator": "v4-32", "hosts": 3}, "launcher.tpu.hosts: found 3, but v4-32 has 4; "),
        ({"accelerator": "v4-32", "os_login": True}, "launcher.tpu.user: not set, but os_login=true needs "),
    ],
)
def test_a_sweep_names_the_settings_of_a_pod_as_they_are_written_there(
    tmp_path: Path, settings: dict[str, Any], line: str
) -> None:
    backend = TpuBackend(tmp_path, LauncherConfig(name="x", kind="tpu", sweep="study", tpu=TpuConfig(**settings)))
    with pytest.raises(InputError, match="^" + re.escape(line)):
        backend.preview([])


@pytest.mark.parametrize("sweep", ["my_study", "-,=+.A", "Grüße", "study"])
def test_a_pod_without_a_name_gets_one_that_the_cloud_accepts(tmp_path: Path, sweep: str) -> None:
    pod = TpuBackend(tmp_path, LauncherConfig(name="x", kind="tpu", sweep=sweep)).tpu.pod
    [entry] = [entry for entry in dataclasses.fields(TpuConfig) if entry.name == "pod"]
    assert pod is not None and re.fullmatch(entry.metadata["pattern"], pod), pod


@pytest.mark.parametrize(
    ("word", "line"),
    [
        ("extra={time: 3}", "launcher.slurm.extra: found {'time': 3}; allowed: a dict like {KEY: VALUE} of sbatch's"),
        ("extra={tim: 3}", "launcher.slurm.extra: found {'tim': 3}; allowed: "),  # sbatch reads it as time
        ("extra={comment: x}", "launcher.slurm.extra: found {'comment': 'x'}; allowed: "),
        ("extra={Hint: x}", "launcher.slurm.extra: found {'Hint': 'x'}; allowed: "),
        ("extra={hint: 'a b'}", "launcher.slurm.extra: found {'hint': 'a b'}; allowed: "),
        ("extra={hint: 'a\\\\nb'}", "launcher.slurm.extra: found {'hint': "),
        ("extra={hint: -x}", "launcher.slurm.extra: found {'hint': '-x'}; allowed: "),
        ("extra={hint: [x]}", "launcher.slurm.extra: found {'hint': ['x']}; allowed: "),
        ("extra=x", "launcher.slurm.extra: found x; allowed: a dict like {KEY: VALUE} of sbatch's long options"),
        ("extra.hint=x", "launcher.slurm.extra.hint: no such setting; write 'launcher.slurm.extra={hint: VALUE}'"),
        ("environment={SLURM_JOB_ID: 3}", "launcher.slurm.environment: found {'SLURM_JOB_ID': 3}; allowed: variables"),
        *(
            (f"environment={{{name}: 3}}", f"launcher.slurm.environment: found {{'{name}': 3}}; allowed: variables")
            for name in ("SLURMD_NODENAME", "SBATCH_X", "SRUN_DEBUG", "PYTHONUNBUFFERED", "attempt", "UID", "PPID")
        ),
        ("environment={A: true}", "launcher.slurm.environment: found {'A': True}; allowed: "),
        ("environment={WANDB_API_KEY: abcdefgh1234}", "launcher.slurm.environment: found a password or a token ("),
        ("mail_types=[FIAL]", "launcher.slurm.mail_types: found [FIAL]; allowed: a list like [A,B] of NONE, BEGIN, "),
        ("container_mounts=[data]", "launcher.slurm.container_mounts: found [data]; allowed: a list like [A,B] of FOL"),
    ],
)
def test_options_of_sbatch_and_variables_are_refused_in_one_line(word: str, line: str) -> None:
    with pytest.raises(InputError) as refused:
        compose("launch", LaunchConfig, [f"launcher.slurm.{word}"])
    text = str(refused.value).replace("a dict like {KEY: VALUE} of variables", "variables")
    assert text.startswith(line) and text.isprintable(), text


def test_dicts_of_the_users_file_and_of_words_are_merged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    file = tmp_path / "instructrl/launcher.yaml"
    file.parent.mkdir()
    file.write_text("slurm: {account: lab, extra: {hint: nomultithread, tmp: 1G}, environment: {NCCL_DEBUG: WARN}}\n")
    words = ["launcher=slurm_gpu", "launcher.slurm.extra={tmp: null, exclusive: true}"]
    settings = compose_launcher(words)[1].slurm
    assert settings.account == "lab" and settings.environment == {"NCCL_DEBUG": "WARN"}
    assert settings.extra == {"hint": "nomultithread", "tmp": None, "exclusive": True}
    file.write_text("slurm: {extra: {mem: 1G}}\n")
    with pytest.raises(InputError, match=r"launcher.yaml: launcher.slurm.extra: found \{'mem': '1G'\}; allowed: "):
        compose_launcher(words)
