"""Passwords and tokens are found in texts and replaced, and nothing else is."""

import sys
from pathlib import Path

import pytest

from instructrl.cli.compose import compose
from instructrl.cli.entry import command_line
from instructrl.config.environment import CollectConfig
from instructrl.config.evaluation import EvalConfig
from instructrl.config.fields import leaves
from instructrl.config.launcher import LaunchConfig, LauncherConfig, SlurmConfig
from instructrl.config.training import TrainConfig
from instructrl.errors import InputError, RunError, format_value
from instructrl.redaction import is_confidential, redact
from instructrl.storage.lease import current_process
from launchers.job import JobSpec
from launchers.slurm import Slurm
from launchers.tpu.settings import read

MARKER = "M4rker-5ecret"
CONFIDENTIAL = [
    "http://me:{}@proxy:3128", "https_proxy=http://me:x/{}@y@proxy:3128", "https://{}@hub.example/x",
    "s3://ID:{}@bucket/folder", "postgres://:{}@host/db", "socks5h://me:{}@host:1080",
    "export WANDB_API_KEY={}", "export HF_TOKEN='{}'", 'export AWS_SECRET_ACCESS_KEY="{} x"', "PGPASSWORD={} psql",
    "[export X=1,export MY_DB_PASSWORD={}]", "mount -o username=me,password={} //server/share",
    "https://host/file?X-Amz-Signature={}&part=1", "--password {}", "--api-key={}", "wandb login --host=h {}",
    "curl -u me:{} https://host", "sshpass -p {} ssh host", '{{"api_key": "{}"}}', "Authorization: Basic {}",
    "authorization: bearer {}",
]  # fmt: skip
PLAIN = [
    "gs://bucket/a:b@c", "https://host:80/a@b", "ssh://git@github.com/x", "me@10.0.0.1:2222,tpu-7", "s3://bucket/key",
    "training.token_dropout=0.2", "max_tokens=5", "export WANDB_API_KEY=$KEY", 'export HF_TOKEN="$(cat ~/.token)"',
    "GOOGLE_APPLICATION_CREDENTIALS is not set", "no token: none", "module load cuda", "sudo mount SERVER:/DISK /mnt",
    "/data/hf_model_checkpoints_of_2024/x", "sk-learn-models-of-2024-12-31", "outputs/eyJ-1",
    "http://localhost:4443/b?x=me@y", "[USER@]ADDRESS[:PORT]", "pick up the bearer of the basic token",
]  # fmt: skip


@pytest.mark.parametrize("text", CONFIDENTIAL)
def test_passwords_and_tokens_are_replaced(text: str) -> None:
    text = text.format(MARKER)
    found = redact(text)
    assert MARKER not in found and "***" in found and redact(found) == found
    assert is_confidential(text) and MARKER not in format_value(f"{'x' * 70} {text}")
    assert MARKER not in str(InputError(f"key: found {text}")) and MARKER not in str(RunError(text))


@pytest.mark.parametrize(
    "token", ["hf_", "ghp_", "github_pat_11A", "glpat-", "xoxb-123-", "ya29.", "sk-proj-", "AIzaSy"]
)
def test_tokens_are_known_by_their_form(token: str) -> None:
    assert redact(f"x={token}{'aB3' * 12}, y") == "x=***, y"


@pytest.mark.parametrize("text", PLAIN)
def test_other_texts_stay_as_they_are(text: str) -> None:
    assert redact(text) == text


def test_no_setting_is_taken_for_a_password() -> None:
    for schema in (TrainConfig, EvalConfig, CollectConfig, LaunchConfig):
        for key in leaves(schema):
            assert not is_confidential(f"{key}=abcd1234"), key


def test_values_of_secret_variables_are_found_wherever_they_stand(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COMET_API_KEY", MARKER)
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", "/home/me/key.json")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "something")
    assert redact(f"x{MARKER}y") == "x***y"
    assert redact("/home/me/key.json of something") == "/home/me/key.json of something"


@pytest.mark.parametrize(
    "word",
    [f"output_dir=https://me:{MARKER}@host/x", "wandb.entity=${oc.env:WANDB_API_KEY}",
     "name=x-${oc.env:WANDB_API_KEY}", f"data.dir='s3://ID:{MARKER}@bucket/x'"],
)  # fmt: skip
def test_a_setting_with_a_password_is_refused_without_showing_it(word: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_API_KEY", MARKER)
    with pytest.raises(
        InputError, match=r"^[a-z_.]+: found a password or a token \(.*\*\*\*.*\), but settings are"
    ) as refused:
        compose("train", TrainConfig, ["experiment=quickstart", word])
    assert MARKER not in str(refused.value)


@pytest.mark.parametrize("word", [
    f"launcher.sweep=https://me:{MARKER}@h", f"launcher.slurm.qos='X_TOKEN={MARKER}'",
    f"launcher.tpu.environment=['X_TOKEN={MARKER}']", f"launcher.tpu.environment=[X_TOKEN={MARKER}]",
])  # fmt: skip
def test_a_launchers_setting_with_a_password_is_refused_without_showing_it(word: str) -> None:
    with pytest.raises(InputError) as refused:
        compose("launch", LaunchConfig, [word])
    assert MARKER not in str(refused.value) and len(str(refused.value).splitlines()) == 1
    with pytest.raises(InputError) as refused:
        read([f"pod={MARKER}", f"WANDB_API_KEY={MARKER}"])
    assert "WANDB_API_KEY: no such setting" in str(refused.value)


def test_a_recorded_command_shows_no_password(monkeypatch: pytest.MonkeyPatch) -> None:
    words = ["seed=0,1", f"launcher.slurm.setup=[export X_TOKEN={MARKER}];x]", "--password", MARKER]
    monkeypatch.setattr(sys, "argv", ["train.py", *words])
    assert command_line() == "python train.py seed=0,1 'launcher.slurm.setup=***' --password '***'"
    assert MARKER not in current_process().command


def test_confidential_lines_of_set_up_stand_in_no_batch_script(tmp_path: Path) -> None:
    def script(*setup: str) -> str:
        resources = LauncherConfig(name="x", kind="slurm", slurm=SlurmConfig(setup=list(setup)))
        return Slurm(tmp_path, resources).preview([JobSpec(("train.py",), "run", "one", (), resources)])

    assert "module load cuda\n" in script("module load cuda")
    found = script("module load cuda", f"export X_TOKEN={MARKER}")
    assert MARKER not in found and f". {tmp_path}/slurm/SUBMISSION.setup.sh\n" in found
