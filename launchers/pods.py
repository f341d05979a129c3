"""The life of a pod in the cloud: asked for, waited for, preempted, deleted.

A pod is one TPU node. With `queued` or `spot` the cloud makes it from a queued resource of the same name, which waits
in line and may lose it again.
"""

import getpass
import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from instructrl.errors import InputError, RunError
from instructrl.profiles import TpuConfig
from instructrl.schema import shown
from launchers.cloud import Cloud, CloudError
from launchers.hosts import Host

LABEL = "instructrl"
LOST = ("PREEMPTED", "TERMINATED", "SUSPENDING", "SUSPENDED")  # states of nodes and of queued resources
STOPPED = ("STOPPING", "STOPPED", "HIDING", "HIDDEN")


@dataclass(frozen=True)
class Seen:
    """What the cloud says of a pod.

    Attributes:
        word: absent, waiting, ready, lost, failed, stopped or deleting.
        detail: the cloud's own words.
        node, queued: what there is, as the cloud describes it.
    """

    word: str
    detail: str
    node: dict[str, Any] | None = None
    queued: dict[str, Any] | None = None


def cloud_of(tpu: TpuConfig) -> Cloud:
    """The cloud that the settings name.

    Raises:
        InputError: they name none, or there are no credentials.
    """
    for key in ("project", "zone"):
        if getattr(tpu, key) is None:
            raise InputError(f"{key}: not set; give {key}=NAME, or write it into the private file (see the README)")
    return Cloud(str(tpu.project), str(tpu.zone), pause=min(1.0, tpu.poll_seconds))


def pod_name(tpu: TpuConfig) -> str:
    """The pod's name.

    Raises:
        InputError: it is not set.
    """
    if tpu.pod is None:
        raise InputError("pod: not set; give pod=NAME")
    return tpu.pod


def request_of(tpu: TpuConfig, *, key_text: str | None = None) -> tuple[str, dict[str, Any]]:
    """What is asked of the cloud: `nodes` or `queuedResources`, and the body. `key_text` stands for the public key.

    Raises:
        InputError: a setting is missing, or the public key cannot be read.
    """
    if tpu.accelerator is None:
        raise InputError(
            "accelerator: not set; give launcher=tpu_v4_32 or another of conf/launcher/, or accelerator=v4-32"
        )
    node: dict[str, Any] = {
        "acceleratorType": tpu.accelerator,
        "runtimeVersion": tpu.runtime,
        "networkConfig": {"enableExternalIps": not tpu.internal},
        "metadata": {"ssh-keys": f"{user_of(tpu)}:{key_text or public_key(tpu)}"},
        "labels": {LABEL: "pod"},
    }
    if tpu.network:
        node["networkConfig"]["network"] = tpu.network
    if tpu.subnetwork:
        node["networkConfig"]["subnetwork"] = tpu.subnetwork
    if tpu.service_account:
        scope = ["https://www.googleapis.com/auth/cloud-platform"]
        node["serviceAccount"] = {"email": tpu.service_account, "scope": scope}
    if not (tpu.queued or tpu.spot):
        return "nodes", node
    parent = f"projects/{tpu.project or 'PROJECT'}/locations/{tpu.zone or 'ZONE'}"
    body: dict[str, Any] = {"tpu": {"nodeSpec": [{"parent": parent, "nodeId": tpu.pod, "node": node}]}}
    if tpu.spot:
        body["spot"] = {}
    return "queuedResources", body


def request_shown(tpu: TpuConfig) -> str:
    """What would be asked of the cloud, as text, without reading a key."""
    kind, body = request_of(tpu, key_text=f"the content of {tpu.key}.pub")
    where = f"projects/{tpu.project or 'PROJECT'}/locations/{tpu.zone or 'ZONE'}/{kind}"
    return f"POST {where} {tpu.pod or 'POD'}\n{json.dumps(body, indent=2)}"


def user_of(tpu: TpuConfig) -> str:
    """Who logs in on the hosts."""
    return tpu.user or getpass.getuser()


def public_key(tpu: TpuConfig) -> str:
    """The public half of the ssh key, which a new node is told of.

    Raises:
        InputError: there is none.
    """
    path = Path(f"{tpu.key}.pub").expanduser()
    try:
        return " ".join(path.read_text().split()[:2])
    except (OSError, UnicodeDecodeError):
        raise InputError(f"key: no public key in {path}; run ssh-keygen -t ed25519 -f {tpu.key}, or set key=") from None


def look(cloud: Cloud, name: str) -> Seen:
    """What the cloud says of a pod now."""
    queued, node = cloud.find("queuedResources", name), cloud.find("nodes", name)
    if queued is None and node is None:
        return Seen("absent", "there is no such node or queued resource")
    state = (queued or {}).get("state", {})
    line, at = state.get("state", ""), (node or {}).get("state", "")
    detail = ", ".join(
        ([f"queued resource {line or 'unknown'}"] if queued else []) + ([f"node {at or 'unknown'}"] if node else [])
    )
    if "DELETING" in (line, at):
        word = "deleting"
    elif line == "FAILED":
        word = "failed"
        detail += f": {state.get('failedData', {}).get('error', {}).get('message', 'no reason given')}"
    elif line in LOST or at in LOST or (line == "ACTIVE" and node is None):
        word = "lost"
    elif at in STOPPED:
        word = "stopped"
    else:
        word = "ready" if at == "READY" and line in ("", "ACTIVE") else "waiting"
    return Seen(word, detail, node, queued)


def create(cloud: Cloud, tpu: TpuConfig, say: Callable[[str], None] = print) -> None:
    """Ask for the pod, unless it is there. What was lost is deleted and asked for again.

    Raises:
        CloudError: the cloud refuses (quota, rights, capacity).
        RunError: one of that name is there and of another kind.
    """
    name = pod_name(tpu)
    kind, body = request_of(tpu)
    seen = look(cloud, name)
    if seen.word in ("lost", "failed", "deleting"):
        say(f"{name}: {seen.detail}; deleting what is left of it")
        delete(cloud, tpu, say)
        seen = look(cloud, name)
    if seen.word != "absent":
        have = accelerator_of(seen.node, seen.queued)
        if have not in (None, tpu.accelerator):
            raise RunError(f"accelerator: pod {name} is there with {have}, not {tpu.accelerator}; take another pod=")
        say(f"{name}: {seen.detail}")
        return
    try:
        operation = cloud.create(kind, name, body)
    except CloudError as error:
        if error.status == 409 and look(cloud, name).word in ("waiting", "ready"):
            return  # an earlier try of the same request arrived
        raise
    spot = " (spot)" if tpu.spot else ""
    say(f"{name}: asked for {tpu.accelerator} in {tpu.zone}{spot}; it is billed until it is deleted")
    if operation.get("error"):
        raise CloudError(f"cloud: {operation['error'].get('message')}")


def asked_node(queued: dict[str, Any]) -> dict[str, Any]:
    """The node that a queued resource asks for."""
    return (queued.get("tpu", {}).get("nodeSpec") or [{}])[0].get("node", {})


def accelerator_of(node: dict[str, Any] | None, queued: dict[str, Any] | None) -> str | None:
    """What kind a pod is, if the cloud says so."""
    return (node or asked_node(queued or {})).get("acceleratorType")


def wait(cloud: Cloud, tpu: TpuConfig, say: Callable[[str], None] = print) -> dict[str, Any]:
    """Wait until the pod is ready; says each change, and every few minutes that it still waits.

    Returns:
        The node.

    Raises:
        RunError: it failed, was lost, or takes longer than `wait_minutes`; says what exists.
    """
    name, began, told, at = pod_name(tpu), time.monotonic(), "", 0.0
    while True:
        seen = look(cloud, name)
        minutes = (time.monotonic() - began) / 60
        if seen.detail != told or minutes - at > 5:
            say(f"{name}: {seen.detail} ({minutes:.0f} min)")
            told, at = seen.detail, minutes
        if seen.word == "ready" and seen.node is not None:
            return seen.node
        if seen.word not in ("waiting", "ready"):
            raise RunError(f"{name}: {seen.word}, {seen.detail}; {left_over(cloud, tpu)}")
        if minutes > tpu.wait_minutes:
            raise RunError(
                f"{name}: not ready within wait_minutes={tpu.wait_minutes:g} ({seen.detail}); {left_over(cloud, tpu)}"
            )
        time.sleep(tpu.poll_seconds)


def delete(cloud: Cloud, tpu: TpuConfig, say: Callable[[str], None] = print) -> None:
    """Delete the pod, and look whether it is gone.

    Raises:
        RunError: something is left; says what.
    """
    name = pod_name(tpu)
    for kind in ("queuedResources", "nodes"):  # the first takes its node with it, if it made one
        operation = cloud.delete(kind, name)
        if operation is not None:
            say(f"{name}: deleting ({kind})")
            cloud.finish(operation, seconds=tpu.delete_minutes * 60, poll=tpu.poll_seconds, tick=lambda: None)
    end = time.monotonic() + tpu.delete_minutes * 60
    while (seen := look(cloud, name)).word != "absent":
        if time.monotonic() > end:
            raise RunError(f"{name}: not deleted ({seen.detail}); {left_over(cloud, tpu)}")
        time.sleep(tpu.poll_seconds)
    say(f"{name}: deleted; nothing of that name is left")


def left_over(cloud: Cloud, tpu: TpuConfig) -> str:
    """What exists of the pod and how to end it, in words; never an error of its own."""
    name = pod_name(tpu)
    command = f"python -m launchers.tpu delete pod={name} zone={tpu.zone} project={tpu.project}"
    try:
        seen = look(cloud, name)
    except (RunError, InputError) as error:
        return f"what exists is unknown ({error}); look with python -m launchers.tpu list, end it with {command}"
    if seen.word == "absent":
        return "nothing of it exists"
    return f"{seen.detail} exists and may be billed: {command}"


def hosts_of(tpu: TpuConfig, node: dict[str, Any]) -> list[Host]:
    """The pod's hosts in the order of the TPU's workers.

    Raises:
        RunError: the cloud names no addresses, or another number of them than `hosts`.
    """
    name = pod_name(tpu)
    found = []
    for index, endpoint in enumerate(node.get("networkEndpoints", [])):
        outside = endpoint.get("accessConfig", {}).get("externalIp")
        address = endpoint.get("ipAddress") if tpu.internal else outside
        if not address:
            kind = (
                "internal"
                if tpu.internal
                else "external; internal=true takes the internal one, from where it is reached"
            )
            raise RunError(f"{name}: the cloud gives worker {index} no address of the kind {kind}")
        found.append(Host(f"{name}-{index}", address, tpu.ssh_port, user_of(tpu), key_of(tpu), known_hosts(tpu, node)))
    if not found or (tpu.hosts is not None and len(found) != tpu.hosts):
        raise RunError(
            f"{name}: the cloud names {len(found)} hosts, expected {tpu.hosts or 'some'}; look at accelerator="
        )
    return found


def key_of(tpu: TpuConfig) -> str:
    """The private key's path."""
    return str(Path(tpu.key).expanduser())


def known_hosts(tpu: TpuConfig, node: dict[str, Any]) -> str:
    """Where the keys of the hosts are kept: one file for each node that was, for the cloud gives addresses again."""
    folder = Path("~/.cache/instructrl/pods").expanduser()
    folder.mkdir(parents=True, exist_ok=True)
    return str(
        folder / f"{pod_name(tpu)}-{node.get('id') or node.get('createTime', 'node')}.known_hosts".replace(":", "")
    )


def listing(cloud: Cloud) -> list[str]:
    """What exists in the project's zone, and is billed or may be soon; a line each."""
    rows = []
    for kind in ("nodes", "queuedResources"):
        for each in cloud.all(kind):
            state = each.get("state")
            state = state.get("state") if isinstance(state, dict) else state
            node = each if kind == "nodes" else asked_node(each)
            ours = "" if node.get("labels", {}).get(LABEL) else " (not made by this suite)"
            rows.append(
                f"{each['name'].rpartition('/')[2]}: {kind[:-1]} {node.get('acceleratorType', '')} {shown(state)}{ours}"
            )
    return rows
