"""The request for a pod: what the cloud is asked for, and how its hosts will be reached."""

import getpass
import json
from pathlib import Path
from typing import Any

from instructrl.config.launcher import TpuConfig
from instructrl.errors import InputError
from launchers.tpu.accelerator import Slice, slice_of

LABEL = "instructrl"


def request_of(tpu: TpuConfig, *, key_text: str | None = None) -> tuple[str, dict[str, Any]]:
    """Build the request for a pod: `nodes` or `queuedResources`, and the body. `key_text` replaces the public key.

    Raises:
        InputError: a setting is missing or contradicts another, or the public key cannot be read.
    """
    check_tier(tpu)
    node = node_of(tpu, key_text=key_text)
    policies: dict[str, Any] = {}
    if tpu.spot:
        policies["spot"] = {}
    if tpu.guaranteed_minutes is not None:
        policies["guaranteed"] = {"minDuration": duration(tpu.guaranteed_minutes)}
    if tpu.valid_minutes is not None:
        policies["queueingPolicy"] = {"validUntilDuration": duration(tpu.valid_minutes)}
    if tpu.reservation is not None:
        policies["reservationName"] = full_name(tpu, "locations", "reservations", tpu.reservation)
    if not (tpu.queued or policies):
        return "nodes", node
    spec = {"parent": parent_of(tpu), "nodeId": tpu.pod, "node": node}
    return "queuedResources", {"tpu": {"nodeSpec": [spec]}, **policies}


def node_of(tpu: TpuConfig, *, key_text: str | None) -> dict[str, Any]:
    """Build the description of the node.

    Raises:
        InputError: as `request_of`.
    """
    asked = slice_of(tpu)
    node: dict[str, Any] = {
        "acceleratorType": asked.accelerator,
        "runtimeVersion": asked.runtime,
        "networkConfig": {"enableExternalIps": not tpu.internal},
        "metadata": login_of(tpu, key_text),
        "labels": {LABEL: "pod"},
    }
    if tpu.network:
        node["networkConfig"]["network"] = tpu.network
    if tpu.subnetwork:
        node["networkConfig"]["subnetwork"] = tpu.subnetwork
    if tpu.service_account:
        scope = ["https://www.googleapis.com/auth/cloud-platform"]
        node["serviceAccount"] = {"email": tpu.service_account, "scope": scope}
    if tpu.disks:
        node["dataDisks"] = [disk_of(tpu, asked, text) for text in tpu.disks]
    return node


def check_tier(tpu: TpuConfig) -> None:
    """Raise InputError if a spot pod, which may be preempted, is to be guaranteed or taken from a reservation."""
    for key in ("guaranteed_minutes", "reservation"):
        if tpu.spot and getattr(tpu, key) is not None:
            raise InputError(f"{key}: found {getattr(tpu, key)} with spot=true; leave one of them out")


def login_of(tpu: TpuConfig, key_text: str | None) -> dict[str, str]:
    """Return the metadata by which the hosts accept ssh keys: this one, or those of OS Login.

    Raises:
        InputError: the name of the user of OS Login is missing, or the public key cannot be read.
    """
    if not tpu.os_login:
        return {"ssh-keys": f"{user_of(tpu)}:{key_text or public_key(tpu)}"}
    if tpu.user is None:
        raise InputError(
            "user: not set, but os_login=true needs its user name; gcloud compute os-login describe-profile shows it"
        )
    return {"enable-oslogin": "TRUE"}


def disk_of(tpu: TpuConfig, asked: Slice, text: str) -> dict[str, str]:
    """Return the description of an existing disk that is attached; `text` is its name, maybe with `:rw`.

    Raises:
        InputError: several hosts cannot write to it.
    """
    name, _, mode = text.partition(":")
    if mode == "rw" and asked.hosts > 1:
        raise InputError(
            f"disks: found {text}, but the {asked.hosts} hosts of {asked.accelerator} can only read a disk; "
            f"allowed: {name}, or a disk that setup= mounts from a server"
        )
    return {
        "sourceDisk": full_name(tpu, "zones", "disks", name),
        "mode": "READ_WRITE" if mode == "rw" else "READ_ONLY",
    }


def full_name(tpu: TpuConfig, place: str, kind: str, name: str) -> str:
    """Return the full name of a resource in the pod's project and zone, unless it is one."""
    project, zone = tpu.project or "PROJECT", tpu.zone or "ZONE"
    return name if "/" in name else f"projects/{project}/{place}/{zone}/{kind}/{name}"


def parent_of(tpu: TpuConfig) -> str:
    """Return the full name of the project's zone."""
    return f"projects/{tpu.project or 'PROJECT'}/locations/{tpu.zone or 'ZONE'}"


def duration(minutes: float) -> str:
    """Return a duration as the cloud writes it."""
    return f"{minutes * 60:.0f}s"


def describe_request(tpu: TpuConfig) -> str:
    """Format the request for a pod as text, without reading a key."""
    kind, body = request_of(tpu, key_text=f"the content of {tpu.key}.pub")
    proxy = proxy_of(tpu)
    through = f"\nssh ProxyCommand: {proxy}" if proxy else ""
    return f"POST {parent_of(tpu)}/{kind} {tpu.pod or 'POD'}\n{json.dumps(body, indent=2)}{through}"


def proxy_of(tpu: TpuConfig) -> str | None:
    """Return ssh's ProxyCommand for hosts that only the Identity-Aware Proxy reaches; ssh replaces %h and %p."""
    if tpu.iap_group is None:
        return None
    region = (tpu.zone or "ZONE").rpartition("-")[0] or "REGION"
    network = (tpu.network or "default").rpartition("/")[2]
    where = f"--project={tpu.project or 'PROJECT'} --region={region} --network={network}"
    return f"gcloud compute start-iap-tunnel %h %p --listen-on-stdin {where} --dest-group={tpu.iap_group}"


def user_of(tpu: TpuConfig) -> str:
    """Return the user name on the hosts."""
    return tpu.user or getpass.getuser()


def key_of(tpu: TpuConfig) -> str:
    """Return the path of the private key."""
    return str(Path(tpu.key).expanduser())


def public_key(tpu: TpuConfig) -> str:
    """Read the public half of the ssh key, which is installed on a new node.

    Raises:
        InputError: it cannot be read.
    """
    path = Path(f"{tpu.key}.pub").expanduser()
    try:
        return " ".join(path.read_text(encoding="utf-8", errors="replace").split()[:2])
    except (OSError, UnicodeDecodeError):
        raise InputError(f"key: no public key in {path}; run ssh-keygen -t ed25519 -f {tpu.key}, or set key=") from None
