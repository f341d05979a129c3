"""Life cycle of a pod against a fake cloud: requested, queued, ready, refused, preempted, deleted."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from instructrl.config.launcher import TpuConfig
from instructrl.errors import InputError, RunError
from launchers.tpu.api import Cloud, CloudError
from launchers.tpu.pod import cloud_of, create, delete, describe_resources, hosts_of, list_resources, pod_status, wait
from tests.fakes.cloud import PROJECT, QUOTA, ZONE, FakeCloud, cloud


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[FakeCloud]:
    with cloud("127.0.0.2", "127.0.0.3") as fake:
        monkeypatch.setenv("TPU_EMULATOR_HOST", fake.url)
        monkeypatch.setenv("HOME", str(tmp_path))
        (tmp_path / "key.pub").write_text("ssh-ed25519 AAAAC3Nza me@here\n")
        yield fake


def tpu_settings(tmp_path: Path, **others) -> TpuConfig:
    values = {"pod": "study", "accelerator": "v4-16", "hosts": 2, "project": PROJECT, "zone": ZONE, "user": "me"}
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
    assert states[0] == "queued resource WAITING_FOR_RESOURCES" and states[-1] == "queued resource ACTIVE, node READY"
    assert len(states) == len(set(states))


@pytest.mark.parametrize(
    ("status", "message", "advice"),
    [(429, QUOTA, "request more quota"), (403, QUOTA, "roles/tpu.admin"), (401, "no", "gcloud auth"), (400, "bad", "")],
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
    with pytest.raises(RunError, match="reports 2 hosts, expected 4"):
        hosts_of(tpu_settings(tmp_path, hosts=4), node)


def test_the_list_has_all_pages(server: FakeCloud, tmp_path: Path) -> None:
    for name in ("one", "two", "three"):
        create(cloud_of(tpu_settings(tmp_path)), tpu_settings(tmp_path, pod=name), lambda _: None)
    rows = list_resources(cloud_of(tpu_settings(tmp_path)))
    assert [row.partition(":")[0] for row in rows] == ["one", "two", "three"]
