"""Life cycle of a pod against a fake cloud: requested, queued, ready, refused, preempted, deleted."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from instructrl.config.launcher import TpuConfig
from instructrl.errors import InputError, RunError
from launchers.tpu.__main__ import main
from launchers.tpu.accelerator import slice_of
from launchers.tpu.api import Cloud
from launchers.tpu.cloud_errors import CloudError
from launchers.tpu.pod import (
    cloud_of,
    create,
    delete,
    describe_resources,
    hosts_of,
    list_resources,
    obtain,
    pod_status,
    wait,
)
from launchers.tpu.request import describe_request
from tests.fakes.cloud import PARENT, PROJECT, QUOTA, ZONE, FakeCloud, cloud
from tests.fixtures.commands import run_main


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[FakeCloud]:
    with cloud("127.0.0.2", "127.0.0.3") as fake:
        monkeypatch.setenv("TPU_EMULATOR_HOST", fake.url)
        monkeypatch.setenv("HOME", str(tmp_path))
        (tmp_path / "key.pub").write_text("ssh-ed25519 AAAAC3Nza me@here\n")
        yield fake


def tpu_settings(tmp_path: Path, **others) -> TpuConfig:
    values = {"pod": "study", "accelerator": "v4-16", "project": PROJECT, "zone": ZONE, "user": "me"}
    values |= {"key": str(tmp_path / "key"), "poll_seconds": 0.02, "wait_minutes": 0.2, "delete_minutes": 0.1}
    return TpuConfig(**(values | others))


@pytest.fixture(params=[{}, {"queued": True}, {"spot": True}], ids=["node", "queued", "spot"])
def tpu(request: pytest.FixtureRequest, tmp_path: Path) -> TpuConfig:
    return tpu_settings(tmp_path, **request.param)


def test_a_pod_from_its_request_to_its_end(server: FakeCloud, tpu: TpuConfig) -> None:
    messages: list[str] = []
    client = cloud_of(tpu)
    create(client, tpu, messages.append)
    assert "billed until it is deleted" in messages[-1]
    node = wait(client, tpu, messages.append)
    assert node["state"] == "READY" and node["metadata"] == {"ssh-keys": "me:ssh-ed25519 AAAAC3Nza"}
    assert bool(server.queued) == (tpu.queued or tpu.spot)
    if tpu.spot:
        assert server.queued["study"]["spot"] == {}
    assert [(host.name, host.address, host.user) for host in hosts_of(tpu, node)] == [
        ("study-0", "127.0.0.2", "me"), ("study-1", "127.0.0.3", "me")]  # fmt: skip
    count = server.created
    create(client, tpu, messages.append)  # again: the existing pod is used
    assert server.created == count
    assert len(list_resources(client)) == 1 + bool(server.queued) and all(
        "study" in row and "v4-16" in row for row in list_resources(client)
    )
    delete(client, tpu, messages.append)
    assert (
        not server.nodes and not server.queued and messages[-1] == "study: deleted; no resource with this name is left"
    )
    assert list_resources(client) == [] and describe_resources(client, tpu) == "no resources exist"
    delete(client, tpu, messages.append)  # again: nothing to do


def test_every_change_is_said_once(server: FakeCloud, tmp_path: Path) -> None:
    messages: list[str] = []
    tpu = tpu_settings(tmp_path, queued=True)
    create(cloud_of(tpu), tpu, lambda _: None)
    wait(cloud_of(tpu), tpu, messages.append)
    states = [text.removeprefix("study: ").removesuffix(" (0 min)") for text in messages]
    assert (
        states[0] == "queued resource PROVISIONING, node CREATING"
        and states[-1] == "queued resource ACTIVE, node READY"
    )
    assert len(states) == len(set(states))


OPTIONS: list[tuple[dict, list[str]]] = [
    ({"spot": True, "valid_minutes": 90}, ['"spot": {}', '"queueingPolicy": {"validUntilDuration": "5400s"}']),
    ({"guaranteed_minutes": 60}, ['"guaranteed": {"minDuration": "3600s"}']),
    ({"reservation": "mine"}, [f'"reservationName": "projects/{PROJECT}/locations/{ZONE}/reservations/mine"']),
    (
        {"accelerator": "v4-8", "disks": ["data", "scratch:rw"]},
        [
            f'{{"sourceDisk": "projects/{PROJECT}/zones/{ZONE}/disks/data", "mode": "READ_ONLY"}}',
            f'{{"sourceDisk": "projects/{PROJECT}/zones/{ZONE}/disks/scratch", "mode": "READ_WRITE"}}',
        ],
    ),
    ({"os_login": True, "user": "me_lab_org"}, ['"metadata": {"enable-oslogin": "TRUE"}']),
    (
        {"internal": True, "iap_group": "pods"},
        [
            '"enableExternalIps": false',
            "ssh ProxyCommand: gcloud compute start-iap-tunnel %h %p --listen-on-stdin --project=lab "
            "--region=us-central2 --network=default --dest-group=pods",
        ],
    ),
]


@pytest.mark.parametrize(("settings", "parts"), OPTIONS, ids=lambda value: "-".join(value))
def test_a_dry_run_shows_what_the_cloud_then_accepts(
    server: FakeCloud, tmp_path: Path, settings: dict, parts: list[str]
) -> None:
    tpu = tpu_settings(tmp_path, **settings)
    shown = " ".join(describe_request(tpu).split()).replace("{ ", "{").replace(" }", "}")
    assert [part for part in parts if part not in shown] == []
    create(cloud_of(tpu), tpu, lambda _: None)
    server.addresses = server.addresses[: slice_of(tpu).hosts]
    [*_, last] = hosts_of(tpu, wait(cloud_of(tpu), tpu, lambda _: None))
    assert any("ProxyCommand" in word for word in last.ssh("true")) == (tpu.iap_group is not None)


@pytest.mark.parametrize(
    ("settings", "line"),
    [
        ({"spot": True, "guaranteed_minutes": 60}, "guaranteed_minutes: found 60 with spot=true; leave one"),
        ({"spot": True, "reservation": "mine"}, "reservation: found mine with spot=true; leave one of them out"),
        ({"disks": ["data:rw"]}, "disks: found data:rw, but the 2 hosts of v4-16 can only read a disk; allowed: data"),
        ({"os_login": True, "user": None}, "user: not set, but os_login=true needs its user name; gcloud compute os-"),
    ],
)
def test_options_that_contradict_are_refused_before_a_request(
    server: FakeCloud, tmp_path: Path, settings: dict, line: str
) -> None:
    with pytest.raises(InputError, match="^" + re.escape(line)):
        create(cloud_of(tpu_settings(tmp_path)), tpu_settings(tmp_path, **settings))
    assert not server.requests


@pytest.mark.parametrize(
    ("status", "message", "advice"),
    [
        (429, QUOTA, "request more quota"),
        (403, QUOTA, "the quota is exhausted"),
        (401, "no", "gcloud auth"),
        (400, "bad", ""),
    ],
)
def test_a_refusal_is_one_line_with_the_clouds_words(
    server: FakeCloud, tpu: TpuConfig, status: int, message: str, advice: str
) -> None:
    server.faults = [("POST", status, message)]
    with pytest.raises(CloudError) as error:
        create(cloud_of(tpu), tpu)
    text = str(error.value)
    assert error.value.status == status and message in text and advice in text and "\n" not in text
    assert not server.nodes and not server.queued


def error_info(reason: str, **metadata: str) -> dict:
    kind = "type.googleapis.com/google.rpc.ErrorInfo"
    return {"@type": kind, "reason": reason, "domain": "googleapis.com", "metadata": metadata}


@pytest.mark.parametrize(
    ("details", "message", "advice"),
    [
        (
            [error_info("SERVICE_DISABLED", service="tpu.googleapis.com", consumer="projects/123")],
            "Cloud TPU API has not been used in project 123 before or it is disabled.",
            "the API is disabled: run gcloud services enable tpu.googleapis.com --project=123",
        ),
        ([], "Cloud TPU API has not been used in project 123 before or it is disabled.", "the API is disabled: run"),
        (
            [error_info("IAM_PERMISSION_DENIED", permission="tpu.queuedresources.create", resource="projects/lab")],
            "Permission denied on resource",
            "a role is missing, with the permission tpu.queuedresources.create: request the role roles/tpu.admin",
        ),
        ([], "Permission denied", "a role is missing: request the role roles/tpu.admin, or check project= and zone="),
        ([error_info("BILLING_DISABLED", consumer="projects/lab")], "Billing", "link a billing account to lab"),
        (
            [{"@type": "type.googleapis.com/google.rpc.QuotaFailure", "violations": []}],
            "Limit of TPUs reached",
            "the quota is exhausted: request more quota, or choose another zone=",
        ),
        ([{"reason": 3}, "text"], "odd\ndetails", "a role is missing: "),
    ],
)
def test_a_403_says_whether_api_role_or_quota(
    server: FakeCloud, tmp_path: Path, details: list, message: str, advice: str
) -> None:
    server.faults = [("POST", 403, message, *details)]
    with pytest.raises(CloudError) as error:
        create(cloud_of(tpu_settings(tmp_path)), tpu_settings(tmp_path))
    text = str(error.value)
    assert text.startswith("cloud: 403 for ") and " ".join(message.split()) in text and advice in text
    assert text.isprintable() and not server.nodes


NO_CAPACITY = 'There is no more capacity in the zone "us-central2-b"; you can try in another zone'


def test_a_creation_that_fails_says_why(server: FakeCloud, tmp_path: Path) -> None:
    """The request is accepted, and the node disappears again: before it was seen, or while it is waited for."""
    tpu = tpu_settings(tmp_path)
    line = f"^study: the cloud reports: {NO_CAPACITY}; choose another zone=, or queued=true, which waits for capacity$"
    server.exhausted = NO_CAPACITY
    create(cloud_of(tpu), tpu, lambda _: None)
    with pytest.raises(CloudError, match=line):
        wait(cloud_of(tpu), tpu, lambda _: None)
    assert not server.nodes

    def remove(text: str) -> None:
        if "requested" in text:
            server.nodes.clear()

    with pytest.raises(CloudError, match=line):
        create(cloud_of(tpu), tpu, remove)


def test_a_resource_that_is_not_found_at_first_is_waited_for(server: FakeCloud, tpu: TpuConfig) -> None:
    def say(text: str) -> None:
        if "requested" in text:
            server.hidden = 5

    create(cloud_of(tpu), tpu, say)
    assert server.hidden == 0
    assert wait(cloud_of(tpu), tpu, lambda _: None)["state"] == "READY"


def test_a_failed_queued_resource_is_requested_again_up_to_a_limit(server: FakeCloud, tmp_path: Path) -> None:
    tpu = tpu_settings(tmp_path, queued=True, requests=3)
    messages: list[str] = []
    server.fates = ["FAILED", "SUSPENDED"]
    assert obtain(cloud_of(tpu), tpu, messages.append)["state"] == "READY"
    assert server.created == 1 and [text.partition("(")[2] for text in messages if "requesting it again" in text] == [
        "1 of at most 3 requests so far)",
        "2 of at most 3 requests so far)",
    ]
    delete(cloud_of(tpu), tpu, lambda _: None)
    server.fail = "no quota"
    with pytest.raises(RunError, match=r"failed, .*no quota.*requested 3 times, as requests=3 allows"):
        obtain(cloud_of(tpu), tpu, lambda _: None)
    assert sum(request == ("POST", f"/v2/{PARENT}/queuedResources") for request in server.requests) == 6


def test_waiting_with_the_settings_of_a_request_repeats_one_that_failed(server: FakeCloud, tmp_path: Path) -> None:
    place = ["pod=study", f"project={PROJECT}", f"zone={ZONE}", "poll_seconds=0.02", f"key={tmp_path / 'key'}"]
    words = [*place, "accelerator=v4-16", "queued=true"]
    server.fates = ["FAILED"]
    assert run_main(main, "create", *words).returncode == 0
    alone = run_main(main, "wait", *place)
    assert alone.returncode == 1 and alone.stderr.count("\n") == 1
    assert alone.stderr.endswith("with the settings of python -m launchers.tpu create, wait requests it again\n")
    waited = run_main(main, "wait", *words)
    assert waited.returncode == 0 and waited.stdout.count("requesting it again") == 1, waited.stderr
    assert waited.stdout.splitlines()[-2:] == ["study-0: 127.0.0.2", "study-1: 127.0.0.3"]


def test_what_passes_is_tried_again(server: FakeCloud, tmp_path: Path) -> None:
    tpu = tpu_settings(tmp_path)
    server.faults = [("POST", 503, "busy"), ("GET", 429, "slowly"), ("GET", 503, "busy")]
    create(cloud_of(tpu), tpu, lambda _: None)
    assert wait(cloud_of(tpu), tpu, lambda _: None)["state"] == "READY"
    server.faults = [("GET", 503, "out for lunch")] * 5
    with pytest.raises(CloudError, match=r"503 .*out for lunch"):
        pod_status(cloud_of(tpu), "study")


def test_a_cloud_that_cannot_be_reached_is_one_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("TPU_EMULATOR_HOST", "http://127.0.0.1:9")
    with pytest.raises(CloudError, match=r"^http://127.0.0.1:9: no answer \(ConnectionError\)"):
        pod_status(Cloud("lab", ZONE, pause=0.01), "study")


def test_without_credentials_nothing_is_asked(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("TPU_EMULATOR_HOST", raising=False)
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(tmp_path / "absent.json"))
    with pytest.raises(InputError, match=r"^credentials: none found \(.*gcloud auth application-default login"):
        cloud_of(tpu_settings(tmp_path))
    with pytest.raises(InputError, match=r"^zone: not set; give zone=NAME"):
        cloud_of(tpu_settings(tmp_path, zone=None))


def test_what_takes_too_long_or_fails_says_what_exists(server: FakeCloud, tmp_path: Path) -> None:
    tpu = tpu_settings(tmp_path, queued=True, wait_minutes=0.005)
    server.full = True
    create(cloud_of(tpu), tpu, lambda _: None)
    command = f"exists and may be billed: python -m launchers.tpu delete pod=study zone={ZONE} project={PROJECT}"
    with pytest.raises(RunError, match=f"not ready within wait_minutes=0.005 .*WAITING_FOR_RESOURCES.*{command}"):
        wait(cloud_of(tpu), tpu, lambda _: None)
    server.fail = "There is no more capacity in the zone"
    with pytest.raises(RunError, match=f"failed, .*no more capacity in the zone.*{command}"):
        wait(cloud_of(tpu), tpu, lambda _: None)
    server.stuck = True
    with pytest.raises(RunError, match=f"not deleted .*{command}"):
        delete(cloud_of(tpu), tpu, lambda _: None)


def test_a_pod_that_was_taken_away_is_asked_for_again(server: FakeCloud, tmp_path: Path) -> None:
    tpu = tpu_settings(tmp_path, spot=True)
    client = cloud_of(tpu)
    create(client, tpu, lambda _: None)
    first = wait(client, tpu, lambda _: None)
    server.preempt("study")
    assert pod_status(client, "study").state == "lost"
    with pytest.raises(RunError, match="lost, "):
        wait(client, tpu, lambda _: None)
    create(client, tpu, lambda _: None)
    second = wait(client, tpu, lambda _: None)
    assert second["id"] != first["id"] and second["state"] == "READY"
    assert hosts_of(tpu, first)[0].known != hosts_of(tpu, second)[0].known  # new hosts have new keys


def test_another_kind_of_the_same_name_is_left_alone(server: FakeCloud, tmp_path: Path) -> None:
    tpu = tpu_settings(tmp_path)
    create(cloud_of(tpu), tpu, lambda _: None)
    with pytest.raises(RunError, match="accelerator: pod study exists with v4-16, not v4-32"):
        create(cloud_of(tpu), tpu_settings(tmp_path, accelerator="v4-32"), lambda _: None)
    node = wait(cloud_of(tpu), tpu, lambda _: None)
    server.nodes["study"]["networkEndpoints"].pop()
    with pytest.raises(RunError, match=r"reports 1 hosts, expected 2; .*launchers\.tpu delete pod=study"):
        hosts_of(tpu, pod_status(cloud_of(tpu), "study").node or node)


def test_the_list_has_all_pages(server: FakeCloud, tmp_path: Path) -> None:
    for name in ("one", "two", "three"):
        create(cloud_of(tpu_settings(tmp_path)), tpu_settings(tmp_path, pod=name), lambda _: None)
    rows = list_resources(cloud_of(tpu_settings(tmp_path)))
    assert [row.partition(":")[0] for row in rows] == ["one", "two", "three"]
