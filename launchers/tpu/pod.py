"""Life cycle of a pod in the cloud: request, wait, preemption, deletion.

A pod is one TPU node. With `queued`, `spot` and others the cloud creates it from a queued resource of the same name,
which waits in a queue and may be preempted.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from instructrl.config.fields import format_value
from instructrl.config.launcher import TpuConfig
from instructrl.errors import InputError, RunError
from launchers.ssh.host import Host
from launchers.tpu.accelerator import expected_hosts
from launchers.tpu.api import Cloud
from launchers.tpu.cloud_errors import CloudError
from launchers.tpu.request import LABEL, key_of, proxy_of, request_of, user_of
from launchers.tpu.settings import PROG

LOST = ("PREEMPTED", "TERMINATED", "SUSPENDING", "SUSPENDED")  # states of nodes and of queued resources
STOPPED = ("STOPPING", "STOPPED", "HIDING", "HIDDEN")


class UnservedRequestError(RunError):
    """A queued resource failed, or was suspended before the pod was ready; the same request may succeed later."""


@dataclass(frozen=True)
class PodStatus:
    """Status of a pod in the cloud.

    Attributes:
        state: absent, waiting, ready, lost, failed, stopped or deleting.
        detail: the states reported by the cloud.
        node, queued: the cloud's descriptions of the node and the queued resource; None if they do not exist.
    """

    state: str
    detail: str
    node: dict[str, Any] | None = None
    queued: dict[str, Any] | None = None


def cloud_of(tpu: TpuConfig) -> Cloud:
    """Return a client for the project and zone of the settings.

    Raises:
        InputError: they are not set, or there are no credentials.
    """
    for key in ("project", "zone"):
        if getattr(tpu, key) is None:
            raise InputError(f"{key}: not set; give {key}=NAME, or write it into the private file (docs/clusters.md)")
    return Cloud(str(tpu.project), str(tpu.zone), pause=min(1.0, tpu.poll_seconds))


def pod_name(tpu: TpuConfig) -> str:
    """Return the pod's name.

    Raises:
        InputError: it is not set.
    """
    if tpu.pod is None:
        raise InputError("pod: not set; give pod=NAME")
    return tpu.pod


def pod_status(cloud: Cloud, name: str) -> PodStatus:
    """Query the current status of a pod."""
    queued, node = cloud.find("queuedResources", name), cloud.find("nodes", name)
    if queued is None and node is None:
        return PodStatus("absent", "there is no such node or queued resource")
    record = (queued or {}).get("state", {})
    queue_state, node_state = record.get("state", ""), (node or {}).get("state", "")
    detail = ", ".join(
        ([f"queued resource {queue_state or 'unknown'}"] if queued else [])
        + ([f"node {node_state or 'unknown'}"] if node else [])
    )
    if "DELETING" in (queue_state, node_state):
        state = "deleting"
    elif queue_state == "FAILED":
        state = "failed"
        detail += f": {record.get('failedData', {}).get('error', {}).get('message', 'no reason given')}"
    elif queue_state in LOST or node_state in LOST or (queue_state == "ACTIVE" and node is None):
        state = "lost"
    elif node_state in STOPPED:
        state = "stopped"
    else:
        state = "ready" if node_state == "READY" and queue_state in ("", "ACTIVE") else "waiting"
    return PodStatus(state, detail, node, queued)


def create(cloud: Cloud, tpu: TpuConfig, say: Callable[[str], None] = print) -> None:
    """Request the pod unless it exists. A lost one is deleted and requested again.

    Raises:
        CloudError: the cloud refuses (quota, permissions, capacity).
        RunError: a pod with this name has another accelerator.
    """
    name = pod_name(tpu)
    kind, body = request_of(tpu)
    status = pod_status(cloud, name)
    if status.state in ("lost", "failed", "deleting"):
        say(f"{name}: {status.detail}; deleting its remains")
        delete(cloud, tpu, say)
        status = pod_status(cloud, name)
    if status.state != "absent":
        existing = accelerator_of(status.node, status.queued)
        if existing not in (None, tpu.accelerator):
            raise RunError(
                f"accelerator: pod {name} exists with {existing}, not {tpu.accelerator}; choose another pod="
            )
        say(f"{name}: {status.detail}")
        return
    try:
        operation = cloud.create(kind, name, body)
    except CloudError as error:
        if error.status == 409 and pod_status(cloud, name).state in ("waiting", "ready"):
            return  # an earlier attempt of the same request succeeded
        raise
    spot = " (spot)" if tpu.spot else ""
    say(f"{name}: requested {tpu.accelerator} in {tpu.zone}{spot}; it is billed until it is deleted")
    cloud.wait_until_visible(kind, name, operation, poll=tpu.poll_seconds)


def requested_node(queued: dict[str, Any]) -> dict[str, Any]:
    """Return the node description in a queued resource."""
    return (queued.get("tpu", {}).get("nodeSpec") or [{}])[0].get("node", {})


def accelerator_of(node: dict[str, Any] | None, queued: dict[str, Any] | None) -> str | None:
    """Return the accelerator of a pod, if known."""
    return (node or requested_node(queued or {})).get("acceleratorType")


def wait(cloud: Cloud, tpu: TpuConfig, say: Callable[[str], None] = print) -> dict[str, Any]:
    """Wait until the pod is ready, reporting each change and every few minutes.

    Returns:
        The node.

    Raises:
        UnservedRequestError: the queued resource failed, or was taken away again.
        CloudError: the creation failed, as there is no capacity.
        RunError: the pod takes longer than `wait_minutes`, or is stopped; the message lists existing resources.
    """
    name, started, reported, reported_at = pod_name(tpu), time.monotonic(), "", 0.0
    while True:
        status = pod_status(cloud, name)
        minutes = (time.monotonic() - started) / 60
        if status.detail != reported or minutes - reported_at > 5:
            say(f"{name}: {status.detail} ({minutes:.0f} min)")
            reported, reported_at = status.detail, minutes
        if status.state == "ready" and status.node is not None:
            return status.node
        if status.state == "absent" and (failure := cloud.creation_error(name)):
            raise failure
        if status.state not in ("waiting", "ready"):
            error = UnservedRequestError if status.state in ("failed", "lost") else RunError
            raise error(f"{name}: {status.state}, {status.detail}; {describe_resources(cloud, tpu)}")
        if minutes > tpu.wait_minutes:
            raise RunError(
                f"{name}: not ready within wait_minutes={tpu.wait_minutes:g} ({status.detail}); "
                f"{describe_resources(cloud, tpu)}"
            )
        time.sleep(tpu.poll_seconds)


def obtain(cloud: Cloud, tpu: TpuConfig, say: Callable[[str], None] = print) -> dict[str, Any]:
    """Request the pod unless it exists and wait for it; again if the queue fails it, up to `requests` times.

    Returns:
        The node.

    Raises:
        RunError: as `create` and `wait`.
    """
    for number in range(1, tpu.requests + 1):
        create(cloud, tpu, say)
        try:
            return wait(cloud, tpu, say)
        except UnservedRequestError as error:
            if number == tpu.requests:
                raise RunError(f"{error}; requested {number} times, as requests={tpu.requests} allows") from None
            say(f"{error}; requesting it again ({number} of at most {tpu.requests} requests so far)")
            time.sleep(tpu.poll_seconds)
    raise AssertionError


def delete(cloud: Cloud, tpu: TpuConfig, say: Callable[[str], None] = print) -> None:
    """Delete the pod, and verify that it is gone.

    Raises:
        RunError: resources are left; the message lists them.
    """
    name = pod_name(tpu)
    for kind in ("queuedResources", "nodes"):  # deleting a queued resource deletes its node
        operation = cloud.delete(kind, name)
        if operation is not None:
            say(f"{name}: deleting ({kind})")
            cloud.finish(operation, seconds=tpu.delete_minutes * 60, poll=tpu.poll_seconds, tick=lambda: None)
    deadline = time.monotonic() + tpu.delete_minutes * 60
    while (status := pod_status(cloud, name)).state != "absent":
        if time.monotonic() > deadline:
            raise RunError(f"{name}: not deleted ({status.detail}); {describe_resources(cloud, tpu)}")
        time.sleep(tpu.poll_seconds)
    say(f"{name}: deleted; no resource with this name is left")


def describe_resources(cloud: Cloud, tpu: TpuConfig) -> str:
    """Describe existing resources of the pod and how to delete them; never raises."""
    name = pod_name(tpu)
    command = f"{PROG} delete pod={name} zone={tpu.zone} project={tpu.project}"
    try:
        status = pod_status(cloud, name)
    except (RunError, InputError) as error:
        return f"its state is unknown ({error}); check with {PROG} list, delete it with {command}"
    if status.state == "absent":
        return "no resources exist"
    return f"{status.detail} exists and may be billed: {command}"


def hosts_of(tpu: TpuConfig, node: dict[str, Any]) -> list[Host]:
    """Return the pod's hosts in the order of the TPU's workers.

    Raises:
        RunError: the cloud reports no addresses, or not as many as its accelerator has.
    """
    name = pod_name(tpu)
    found = []
    for index, endpoint in enumerate(node.get("networkEndpoints", [])):
        external = endpoint.get("accessConfig", {}).get("externalIp")
        address = endpoint.get("ipAddress") if tpu.internal or tpu.iap_group else external
        if not address:
            kind = (
                "internal" if tpu.internal else "external; internal=true uses the internal one, if reachable from here"
            )
            raise RunError(f"{name}: the cloud reports no address for worker {index} of the kind {kind}")
        login = {"user": user_of(tpu), "key": key_of(tpu), "known": known_hosts(tpu, node), "proxy": proxy_of(tpu)}
        found.append(Host(f"{name}-{index}", address, tpu.ssh_port, **login))
    expected = expected_hosts(tpu, node.get("acceleratorType"))
    if not found or expected not in (None, len(found)):
        raise RunError(
            f"{name}: the cloud reports {len(found)} hosts, expected {expected or 'some'}; "
            f"check accelerator=, or delete the pod, which may be billed: {PROG} delete pod={name}"
        )
    return found


def known_hosts(tpu: TpuConfig, node: dict[str, Any]) -> str:
    """Return the known_hosts file of a node: one per node, since the cloud reuses addresses."""
    folder = Path("~/.cache/instructrl/pods").expanduser()
    folder.mkdir(parents=True, exist_ok=True)
    return str(
        folder / f"{pod_name(tpu)}-{node.get('id') or node.get('createTime', 'node')}.known_hosts".replace(":", "")
    )


def list_resources(cloud: Cloud) -> list[str]:
    """List the resources in the project's zone, which are or may soon be billed, one per line."""
    rows = []
    for kind in ("nodes", "queuedResources"):
        for each in cloud.all(kind):
            state = each.get("state")
            state = state.get("state") if isinstance(state, dict) else state
            node = each if kind == "nodes" else requested_node(each)
            origin = "" if node.get("labels", {}).get(LABEL) else " (not created by InstructRL)"
            name, accelerator = each["name"].rpartition("/")[2], node.get("acceleratorType", "")
            rows.append(f"{name}: {kind[:-1]} {accelerator} {format_value(state)}{origin}")
    return rows
