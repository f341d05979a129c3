"""Manifests of jobs on Kubernetes, and the settings that are refused."""

import re
from dataclasses import replace
from typing import Any

import pytest
import yaml

from instructrl.cli.compose import compose
from instructrl.cli.overrides import options
from instructrl.config.launcher import LaunchConfig, LauncherConfig
from instructrl.errors import InputError
from launchers.job import JobSpec
from launchers.kubernetes import jobset_manifests
from launchers.sweep.runner import make_backend

EVERYTHING = [
    "launcher=kubernetes_h100_8x2", "launcher.kubernetes.image=lab/instructrl:gpu", "launcher.kubernetes.namespace=lab",
    "launcher.kubernetes.mounts=[/work:shared,/data:sets.v2]", "launcher.kubernetes.secrets=[wandb]",
    "launcher.kubernetes.environment={NCCL_DEBUG: INFO, THREADS: 3}", "launcher.kubernetes.queue=gpus",
    "launcher.kubernetes.service_account=trainer", "launcher.kubernetes.restarts=2", "launcher.grace_seconds=60",
    "launcher.kubernetes.node_selector=[example.com/rack:2]",
]  # fmt: skip
SMALL = ["launcher=kubernetes", "launcher.kubernetes.image=x", "launcher.kubernetes.mounts=[/work:shared]"]


def launcher(*words: str) -> LauncherConfig:
    return compose("launch", LaunchConfig, ["launcher.dry_run=true", *words]).launcher


def spec(
    *words: str, run: str = "outputs/x", training: bool = True, overrides: tuple[str, ...] = ("seed=0",)
) -> JobSpec:
    command = ("train.py" if training else "eval.py", *overrides)
    return JobSpec(command, run, "001-x", overrides, launcher(*words), training)


def manifest(job: JobSpec) -> dict[str, Any]:
    return yaml.safe_load(jobset_manifests([job]))


def container(job: JobSpec) -> dict[str, Any]:
    [found] = pod(job)["containers"]
    return found


def pod(job: JobSpec) -> dict[str, Any]:
    [group] = manifest(job)["spec"]["replicatedJobs"]
    return group["template"]["spec"]["template"]["spec"]


def test_a_manifest_has_every_setting() -> None:
    found = manifest(spec(*EVERYTHING))
    name = found["metadata"]["name"]
    assert re.fullmatch(r"instructrl-[0-9a-f]{12}", name)
    process = [
        f"hardware.coordinator={name}-workers-0-0.{name}:8476",
        "hardware.num_processes=2",
        "hardware.process_id=$(JOB_COMPLETION_INDEX)",
    ]
    rules = [
        {"action": "FailJob", "onExitCodes": {"operator": "In", "values": [75]}},
        {"action": "FailJob", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]},
    ]
    pod = {
        "restartPolicy": "Never",
        "terminationGracePeriodSeconds": 60,
        "serviceAccountName": "trainer",
        "nodeSelector": {"example.com/rack": "2"},
        "containers": [
            {
                "name": "job",
                "image": "lab/instructrl:gpu",
                "command": ["python", "/opt/instructrl/train.py", "seed=0", "hardware=gpu", *process],
                "workingDir": "/work",
                "env": [
                    {"name": "PYTHONUNBUFFERED", "value": "1"},
                    {"name": "NCCL_DEBUG", "value": "INFO"},
                    {"name": "THREADS", "value": "3"},
                ],
                "envFrom": [{"secretRef": {"name": "wandb"}}],
                "resources": {"requests": {"cpu": 64, "memory": "512G"}, "limits": {"nvidia.com/gpu": 8}},
                "volumeMounts": [
                    {"name": "volume-0", "mountPath": "/work"},
                    {"name": "volume-1", "mountPath": "/data"},
                    {"name": "shared-memory", "mountPath": "/dev/shm"},
                ],
            }
        ],
        "volumes": [
            {"name": "volume-0", "persistentVolumeClaim": {"claimName": "shared"}},
            {"name": "volume-1", "persistentVolumeClaim": {"claimName": "sets.v2"}},
            {"name": "shared-memory", "emptyDir": {"medium": "Memory"}},
        ],
    }
    resume = {
        "name": "resume",
        "action": "RestartJobSetAndIgnoreMaxRestarts",
        "onJobFailureReasons": ["PodFailurePolicy"],
    }
    job = {
        "completionMode": "Indexed",
        "completions": 2,
        "parallelism": 2,
        "backoffLimit": 0,
        "podFailurePolicy": {"rules": rules},
        "template": {"spec": pod},
    }
    assert found == {
        "apiVersion": "jobset.x-k8s.io/v1alpha2",
        "kind": "JobSet",
        "metadata": {"name": name, "namespace": "lab", "labels": {"kueue.x-k8s.io/queue-name": "gpus"}},
        "spec": {
            "failurePolicy": {"maxRestarts": 2, "rules": [resume]},
            "replicatedJobs": [{"name": "workers", "replicas": 1, "template": {"spec": job}}],
        },
    }


def test_each_job_of_a_sweep_is_a_document_and_the_same_command_has_the_same_name() -> None:
    jobs = [spec(*SMALL, run=f"outputs/{seed}", overrides=(f"seed={seed}",)) for seed in (0, 1)]
    text = jobset_manifests(jobs)
    names = [document["metadata"]["name"] for document in yaml.safe_load_all(text)]
    assert len(set(names)) == 2 and "\n---\n# seed=1\n" in text and text.startswith("# seed=0\n")
    assert manifest(jobs[1])["metadata"]["name"] == names[1]


def test_every_profile_has_a_manifest() -> None:
    names = [name for name in options("launcher") if launcher(f"launcher={name}").kind == "kubernetes"]
    assert len(names) >= 3
    for name in names:
        assert container(spec(f"launcher={name}", *SMALL[1:]))["image"] == "x"


def test_the_nodes_of_a_tpu_slice_find_each_other() -> None:
    job = spec("launcher=kubernetes_v5e_16", *SMALL[1:])
    assert container(job)["command"][3:] == ["hardware=tpu", "hardware.coordinator=auto"]
    assert container(job)["resources"] == {"limits": {"google.com/tpu": 4}}


def test_hardware_that_the_user_chose_stays() -> None:
    given = ("hardware=gpu_bf16", "hardware.coordinator=a:1", "hardware.num_processes=2", "hardware.process_id=0")
    assert container(spec(*EVERYTHING, overrides=given))["command"][2:] == list(given)


def test_a_job_that_is_no_training_has_one_node() -> None:
    job = spec(*EVERYTHING, training=False, overrides=("run=outputs/x",))
    assert container(job)["command"] == ["python", "/opt/instructrl/eval.py", "run=outputs/x"]
    [group] = manifest(job)["spec"]["replicatedJobs"]
    assert group["template"]["spec"]["completions"] == 1


ODD = ["a$(b)-$seed", "$$", "a$$$b$", "$$(PYTHONUNBUFFERED)", "$(PYTHONUNBUFFERED)", "$", "$$$(x)", "100$", "a$$(b"]


def expanded(text: str) -> str:
    """Expand a word of `command` or a variable's value as Kubernetes does: $ of $$, and values of known $(NAME)."""
    known = {"JOB_COMPLETION_INDEX": "1", "PYTHONUNBUFFERED": "1"}
    return re.sub(r"\$(\$|\((\w+)\))", lambda found: "$" if found[1] == "$" else known.get(found[2], found[0]), text)


def test_kubernetes_replaces_nothing_in_the_users_words_and_values() -> None:
    values = {f"V{number}": text for number, text in enumerate(ODD)}
    environment = ", ".join(f"{name}: '{text}'" for name, text in values.items())
    words = (*ODD, "name=${seed}")
    found = container(spec(*EVERYTHING, f"launcher.kubernetes.environment={{{environment}}}", overrides=words))
    command = [expanded(word) for word in found["command"]]
    assert tuple(command[2 : 2 + len(words)]) == words and command[-1] == "hardware.process_id=1"
    assert values.items() <= {entry["name"]: expanded(entry["value"]) for entry in found["env"]}.items()


class Kubectl(yaml.SafeLoader):
    """Reads more plain words as flags and numbers than PyYAML does, as the YAML of kubectl."""


Kubectl.add_implicit_resolver("tag:yaml.org,2002:bool", re.compile("[yYnN]$"), list("yYnN"))
Kubectl.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?(\.\d+|\d+(\.\d*)?)([eE][-+]?\d+)?$"), list("-+.0123456789")
)


def test_texts_are_texts_to_kubectl() -> None:
    texts = ["y", "N", "1e3", "1E-3", "0o17", "007", "1_0", ".5e1", "null", "on", "2026-01-01", "~", "+1", "x"]
    environment = ", ".join(f"V{number}: '{text}'" for number, text in enumerate(texts))
    words = [f"launcher.kubernetes.environment={{{environment}}}", "launcher.kubernetes.node_selector=['y:1e3','n:y']"]
    found = yaml.load(jobset_manifests([spec(*SMALL, *words)]), Loader=Kubectl)
    [group] = found["spec"]["replicatedJobs"]
    nodes = group["template"]["spec"]["template"]["spec"]
    assert [entry["value"] for entry in nodes["containers"][0]["env"]] == ["1", *texts]
    assert nodes["nodeSelector"] == {"y": "1e3", "n": "y"}


@pytest.mark.parametrize("mark", ["\n", "\r", "\u2028", "\x85", "\x1b", "\x7f", "\ufeff", "\udcff"])
def test_the_comment_of_a_manifest_is_one_line_of_yaml(mark: str) -> None:
    word = f"task.tasks=['a{mark}b: c']"
    text = jobset_manifests([spec(*SMALL, overrides=("seed=0", word, "name=ä"))])
    assert yaml.safe_load(text)["kind"] == "JobSet" and text.startswith("# seed=0 ")
    assert text.partition("\napiVersion")[0].isprintable() and "name=ä" in text.partition("\n")[0]
    assert container(spec(*SMALL, overrides=(word,)))["command"][2] == word


@pytest.mark.parametrize(("seconds", "whole"), [("0", 0), ("0.2", 1), ("119.5", 120), ("120", 120)])
def test_a_job_has_at_least_the_seconds_that_it_needs_to_save(seconds: str, whole: int) -> None:
    assert pod(spec(*SMALL, f"launcher.grace_seconds={seconds}"))["terminationGracePeriodSeconds"] == whole


def test_a_variable_of_null_is_left_out() -> None:
    found = container(spec(*SMALL, "launcher.kubernetes.environment={A: null, B: 0}"))
    assert found["env"] == [{"name": "PYTHONUNBUFFERED", "value": "1"}, {"name": "B", "value": "0"}]


@pytest.mark.parametrize(
    ("words", "line"),
    [
        ([], "launcher.kubernetes.image: found null; allowed: an image that the cluster can pull"),
        (["image=x", "mounts=[/a:b,/a:c]"], "launcher.kubernetes.mounts: found /a twice; allowed: a different folder"),
        (["mounts=[work:b]"], "launcher.kubernetes.mounts: found [work:b]; allowed: a list like [A,B] of FOLDER:CLAIM"),
        (["mounts=[/a/../b:c]"], "launcher.kubernetes.mounts: found [/a/../b:c]; allowed: a list like [A,B] of FOLDER"),
        (["node_selector=[a]"], "launcher.kubernetes.node_selector: found [a]; allowed: a list like [A,B] of LABEL:VA"),
        (["secrets=[A_B]"], "launcher.kubernetes.secrets: found [A_B]; allowed: a list like [A,B] of names of secrets"),
        *(
            ([f"environment={{{name}: 3}}"], f"launcher.kubernetes.environment: found {{'{name}': 3}}; allowed: a dict")
            for name in ("JOB_COMPLETION_INDEX", "KUBERNETES_SERVICE_HOST", "TPU_WORKER_ID", "PYTHONUNBUFFERED")
        ),
        (["environment={HF_TOKEN: abcdefgh1234}"], "launcher.kubernetes.environment: found a password or a token"),
        (
            ["image=x", "node_selector=[a:b,c:b,a:c]"],
            "launcher.kubernetes.node_selector: found a twice; allowed: one value for each label",
        ),
        (
            ["image=x", "accelerators=1", "mounts=[/dev/shm:b]"],
            "launcher.kubernetes.mounts: found /dev/shm; allowed: a folder that does not overlap with /dev/shm, in",
        ),
        *(
            (
                ["image=x", f"mounts=[/work:a,{folder}:b]"],
                f"launcher.kubernetes.mounts: found {folder}; allowed: a folder that does not overlap with /opt/instr",
            )
            for folder in ("/opt", "/opt/instructrl", "/opt/instructrl/conf")
        ),
        (
            ["image=x", "code=/src/a", "mounts=[/src:b]"],
            "launcher.kubernetes.mounts: found /src; allowed: a folder that does not overlap with /src/a, which has",
        ),
    ],
)
def test_settings_are_refused_in_one_line(words: list[str], line: str) -> None:
    with pytest.raises(InputError, match="^" + re.escape(line)):
        jobset_manifests([spec("launcher=kubernetes", *(f"launcher.kubernetes.{word}" for word in words))])


LONG = "a" * 63
OBJECTS = ["a..b", "a.-b", "a-.b", ".a", "a.", "-a", "a-", "A", "a_b", f"{LONG}." * 4 + "a"]
REFUSED = {
    "secrets=[{}]": OBJECTS,
    "mounts=[/work:{}]": OBJECTS,
    "service_account={}": OBJECTS,
    "queue={}": [*OBJECTS, f"{LONG}a", f"{LONG}.a"],
    "node_selector=['{}']": [
        f"a:{LONG}b", "a:-b", "a:b-", "a:.", "a:b_", "a:b/c", f"{LONG}a:b", f"x/{LONG}a:b", "X.com/a:b", "x..y/a:b",
        "x_y/a:b", "x-/a:b", "/a:b", "x/:b", "x/y/a:b", "a-:b", "-a:b", "a", f"{LONG}." * 4 + "a/a:b",
    ],
    "resource={}": [
        "gpu", "cpu", "memory", "NVIDIA.com/gpu", "nvidia..com/gpu", "nvidia.com/", "nvidia.com/-gpu", "a/b/c",
        "nvidia_x/gpu", f"nvidia.com/{LONG}a", "kubernetes.io/gpu", "x.kubernetes.io/gpu", "requests.nvidia.com/gpu",
        f"{LONG}." * 3 + f"{LONG[:54]}/gpu",
    ],
}  # fmt: skip
ACCEPTED = {
    "secrets=[{}]": ["a", "a.b-c.0", LONG, f"{LONG}." * 3 + LONG[:61]],
    "mounts=[/work:{}]": ["a", "0.b--c", f"{LONG}a"],
    "queue={}": ["gpus", "team.lab", LONG],
    "node_selector=['{}']": [f"x-1.y/{LONG}:{LONG}", "A_b.c:B.c_d-E", "a:", f"{LONG}." * 3 + f"{LONG[:61]}/a:b"],
    "resource={}": ["nvidia.com/gpu", "nvidia.com/mig-1g.5gb", "amd/GPU_1", f"x/{LONG}"],
}


@pytest.mark.parametrize(("word", "value"), [(word, value) for word, values in REFUSED.items() for value in values])
def test_names_that_kubernetes_refuses_are_refused_in_one_line(word: str, value: str) -> None:
    key = word.partition("=")[0]
    with pytest.raises(InputError, match=rf"^launcher\.kubernetes\.{key}: found .*; allowed: ") as refused:
        launcher("launcher=kubernetes", f"launcher.kubernetes.{word.format(value)}")
    assert str(refused.value).isprintable()


@pytest.mark.parametrize(("word", "value"), [(word, value) for word, values in ACCEPTED.items() for value in values])
def test_names_that_kubernetes_accepts_are_accepted(word: str, value: str) -> None:
    assert manifest(spec(*SMALL, f"launcher.kubernetes.{word.format(value)}"))["kind"] == "JobSet"


@pytest.mark.parametrize(
    ("words", "folder"),
    [([], "/dev/shm"), (["accelerators=1"], "/dev/shm2"), (["code=/opt/a"], "/opt/ab"), (["code=/opt/a"], "/opt/b")],
)
def test_a_claim_beside_other_folders_is_accepted(words: list[str], folder: str) -> None:
    found = container(
        spec(*SMALL[:2], *(f"launcher.kubernetes.{word}" for word in [*words, f"mounts=[/work:a,{folder}:b]"]))
    )
    paths = [mount["mountPath"] for mount in found["volumeMounts"]]
    assert folder in paths and len(set(paths)) == len(paths)


@pytest.mark.parametrize("entry", [("train.py",), ("-m", "instructrl.commands.train")])
def test_a_folder_of_settings_that_the_nodes_do_not_have_is_refused(entry: tuple[str, ...]) -> None:
    for folder in ("/work/conf", "/opt/instructrl/more"):
        job = replace(spec(*SMALL), command=(*entry, "--config-dir", folder, "seed=0"))
        assert container(job)["command"][-3:] == ["--config-dir", folder, "seed=0"]
    for folder in ("/home/me/conf", "/workspaces/conf", "/opt", "/"):
        given = ("--config-dir", "/work/conf", "--config-dir", folder)
        with pytest.raises(InputError, match=rf"^--config-dir: found {folder}, which the nodes do not have; allowed: "):
            jobset_manifests([replace(spec(*SMALL), command=(*entry, *given, "seed=0"))])


@pytest.mark.parametrize(
    ("run", "words", "line"),
    [
        ("outputs/x", ["launcher.kubernetes.mounts=[/data:y]"], "/work/outputs/x: found a folder that would be lost"),
        ("../x", [], "/x: found a folder that would be lost with the nodes"),
        ("/workspaces/x", [], "/workspaces/x: found a folder that would be lost with the nodes"),
        ("gs://lab/x", ["launcher.kubernetes.nodes=2"], "gs://lab/x: found a bucket, which several nodes cannot write"),
    ],
)
def test_output_that_would_be_lost_is_refused(run: str, words: list[str], line: str) -> None:
    with pytest.raises(InputError, match="^" + re.escape(line)):
        jobset_manifests([spec(*SMALL, *words, run=run)])


@pytest.mark.parametrize("run", ["outputs/x", "/work/x", "./a/../x", "gs://lab/x"])
def test_output_that_stays_is_accepted(run: str) -> None:
    assert manifest(spec(*SMALL, run=run))["kind"] == "JobSet"


def test_jobs_are_shown_and_never_submitted(tmp_path: Any) -> None:
    line = r"^launcher: found kubernetes, which shows the jobs of Kubernetes and does not submit them; allowed: --dry"
    with pytest.raises(InputError, match=line):
        jobset_manifests([spec(*SMALL, "launcher.dry_run=false")])
    with pytest.raises(InputError, match=line):
        make_backend(launcher(*SMALL), tmp_path)
