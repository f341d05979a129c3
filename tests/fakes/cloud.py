"""Local stand-in for Cloud TPU's REST API: states, operations, pages and errors."""

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import RLock, Thread
from typing import Any
from urllib.parse import parse_qs, urlsplit

PROJECT, ZONE = "lab", "us-central2-b"
PARENT = f"projects/{PROJECT}/locations/{ZONE}"
NODE_KEYS = {"acceleratorType", "runtimeVersion", "networkConfig", "metadata", "labels", "serviceAccount", "dataDisks"}
QUEUED_KEYS = {"tpu", "spot", "guaranteed", "queueingPolicy", "reservationName"}
STATUS = {
    400: "INVALID_ARGUMENT",
    401: "UNAUTHENTICATED",
    403: "PERMISSION_DENIED",
    404: "NOT_FOUND",
    409: "ALREADY_EXISTS",
    429: "RESOURCE_EXHAUSTED",
    503: "UNAVAILABLE",
}
QUOTA = "Quota limit 'TPUV4sPodPerProjectPerZoneForTPUAPI' has been exceeded. Limit: 0 in zone us-central2-b."


class RefusedError(Exception):
    def __init__(self, status: int, message: str, *details: dict[str, Any]) -> None:
        super().__init__(message)
        self.status, self.details = status, details


def check_policies(body: dict[str, Any]) -> None:
    """Refuse values of a queued resource that the API's discovery document (tpu, v2) does not allow."""
    durations = [
        body.get("guaranteed", {}).get("minDuration"),
        body.get("queueingPolicy", {}).get("validUntilDuration"),
    ]
    if any(text is not None and not re.fullmatch(r"\d+(\.\d+)?s", text) for text in durations):
        raise RefusedError(400, "Invalid duration")
    if set(body.get("queueingPolicy", {})) - {"validUntilDuration"} or {"spot", "guaranteed"} <= set(body):
        raise RefusedError(400, "Invalid policy")
    name = body.get("reservationName")
    if name is not None and not re.fullmatch(r"projects/[^/]+/locations/[^/]+/reservations/[^/]+", name):
        raise RefusedError(400, "Invalid reservation")


class FakeCloud(ThreadingHTTPServer):
    """Existing resources. `faults` answer the next requests of a method: (method, status, message, *details)."""

    daemon_threads = True

    def __init__(self, addresses: list[str]) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.addresses = addresses
        self.nodes: dict[str, dict[str, Any]] = {}
        self.queued: dict[str, dict[str, Any]] = {}
        self.operations: dict[str, dict[str, Any]] = {}
        self.faults: list[tuple[Any, ...]] = []
        self.requests: list[tuple[str, str]] = []
        self.created = 0  # number of nodes created
        self.full = False  # no capacity: queued resources keep waiting
        self.fail = ""  # message with which queued resources fail
        self.fates: list[str] = []  # states that the next queued resources reach instead of PROVISIONING
        self.exhausted = ""  # message with which the creation of nodes fails after it was accepted
        self.hidden = 0  # answers that do not know a new resource yet
        self.stuck = False  # deletions have no effect
        self.lock = RLock()
        self.url = f"http://127.0.0.1:{self.server_port}"

    # State changes of pods.

    def preempt(self, name: str) -> None:
        """Preempt a spot pod."""
        with self.lock:
            self.nodes[name]["state"] = "PREEMPTED"
            if name in self.queued:
                self.queued[name]["state"]["state"] = "SUSPENDING"

    def add_node(self, name: str, body: dict[str, Any]) -> None:
        wrong = set(body) - NODE_KEYS
        if wrong or not re.fullmatch(r"[a-z][a-z0-9-]{0,61}", name):
            raise RefusedError(400, f"unknown name {sorted(wrong)} or wrong id {name}")
        keys = body["metadata"].get("ssh-keys")
        if not re.fullmatch(r"\w[\w.-]*:ssh-\S+ \S+", keys or "") and body["metadata"] != {"enable-oslogin": "TRUE"}:
            raise RefusedError(400, "ssh-keys")
        for disk in body.get("dataDisks", []):
            if not re.fullmatch(r"projects/[^/]+/zones/[^/]+/disks/[^/]+", disk["sourceDisk"]):
                raise RefusedError(400, "sourceDisk")
            if disk["mode"] not in ("READ_WRITE", "READ_ONLY"):
                raise RefusedError(400, "mode")
        self.created += 1
        created = f"2026-11-26T00:00:{self.created:02}Z"
        node = {
            "name": f"{PARENT}/nodes/{name}",
            "id": str(self.created),
            "state": "CREATING",
            "createTime": created,
            "polls": 0,
        }
        self.nodes[name] = node | body

    def advance(self, name: str) -> None:
        """Advance a pod to its next state."""
        queued_resource, node = self.queued.get(name), self.nodes.get(name)
        if queued_resource:
            state = queued_resource["state"]["state"]
            spec = queued_resource["tpu"]["nodeSpec"][0]
            if state in ("ACCEPTED", "WAITING_FOR_RESOURCES") and self.fail:
                queued_resource["state"] = {
                    "state": "FAILED",
                    "failedData": {"error": {"code": 8, "message": self.fail}},
                }
            elif state == "WAITING_FOR_RESOURCES" and self.fates and not self.full:
                queued_resource["state"] = {"state": self.fates.pop(0), "stateInitiator": "SERVICE"}
            elif state == "ACCEPTED":
                queued_resource["state"]["state"] = "WAITING_FOR_RESOURCES"
            elif state == "WAITING_FOR_RESOURCES" and not self.full:
                queued_resource["state"]["state"] = "PROVISIONING"
                self.add_node(spec["nodeId"], spec["node"])
            elif state == "PROVISIONING" and node and node["state"] == "READY":
                queued_resource["state"]["state"] = "ACTIVE"
            elif state == "SUSPENDING":
                queued_resource["state"]["state"] = "SUSPENDED"
                self.nodes.pop(name, None)
        if node and node["state"] == "CREATING":
            node["polls"] += 1
            if self.exhausted and not queued_resource:
                if node["polls"] >= 3:
                    del self.nodes[name]
            elif node["polls"] >= 2:
                node["state"] = "READY"
                node["networkEndpoints"] = [
                    {"ipAddress": address, "port": 8470, "accessConfig": {"externalIp": address}}
                    for address in self.addresses
                ]

    # The API.

    def answer(self, method: str, path: str, query: dict[str, list[str]], body: Any) -> dict[str, Any]:
        parts = path.removeprefix("/v2/").split("/")
        if "/".join(parts[:4]) != PARENT:
            raise RefusedError(403, f"Permission denied on resource project {parts[1]} (or it may not exist).")
        kind, name = parts[4], parts[5] if len(parts) > 5 else ""
        if kind == "operations":
            return self.operation(name) if name else self.page(kind, [*map(self.operation, self.operations)], query)
        resources = {"nodes": self.nodes, "queuedResources": self.queued}[kind]
        if method == "POST":
            return self.add(kind, query, body, resources)
        if not name:
            return self.page(kind, list(resources.values()), query)
        if name not in resources:
            raise RefusedError(404, f"Resource '{'/'.join(parts)}' was not found")
        if method == "DELETE":
            return self.remove(kind, name, query)
        if self.hidden:
            self.hidden -= 1
            raise RefusedError(404, f"Resource '{'/'.join(parts)}' was not found")
        if kind == "nodes" or name not in self.nodes:
            self.advance(name)
        if name not in resources:
            raise RefusedError(404, f"Resource '{'/'.join(parts)}' was not found")
        return {key: value for key, value in resources[name].items() if key != "polls"}

    def add(self, kind: str, query: dict[str, list[str]], body: Any, resources: dict[str, Any]) -> dict[str, Any]:
        name = query[{"nodes": "nodeId", "queuedResources": "queuedResourceId"}[kind]][0]
        if name in resources:
            raise RefusedError(409, f"Resource '{PARENT}/{kind}/{name}' already exists")
        if kind == "nodes":
            self.add_node(name, body)
        else:
            spec = body["tpu"]["nodeSpec"][0]
            if set(body) - QUEUED_KEYS or spec["parent"] != PARENT or set(spec) != {"parent", "nodeId", "node"}:
                raise RefusedError(400, "Invalid JSON payload received.")
            check_policies(body)
            self.queued[name] = {"name": f"{PARENT}/{kind}/{name}", "state": {"state": "ACCEPTED"}, **body}
        return self.begin(lambda: None, "create", f"{PARENT}/{kind}/{name}")

    def remove(self, kind: str, name: str, query: dict[str, list[str]]) -> dict[str, Any]:
        if kind == "queuedResources":
            if name in self.nodes and query.get("force") != ["true"]:
                raise RefusedError(400, "The queued resource has nodes; use force.")
            self.queued[name]["state"] = {"state": "DELETING"}
        elif name in self.queued and self.queued[name]["state"]["state"] == "ACTIVE":
            self.queued[name]["state"]["state"] = "SUSPENDING"
        if name in self.nodes:
            self.nodes[name]["state"] = "DELETING"

        def end() -> None:
            if kind == "queuedResources":
                self.queued.pop(name, None)
            self.nodes.pop(name, None)

        return self.begin((lambda: None) if self.stuck else end, "delete", f"{PARENT}/{kind}/{name}")

    def begin(self, end: Any, verb: str, target: str) -> dict[str, Any]:
        name = f"operation-{len(self.operations)}"
        created = f"2026-11-26T00:00:{len(self.operations):02}Z"
        about = {"createTime": created, "target": target, "verb": verb, "apiVersion": "v2"}
        self.operations[name] = {"polls": 0, "end": end, "metadata": about}
        return {"name": f"{PARENT}/operations/{name}", "metadata": about, "done": False}

    def operation(self, name: str) -> dict[str, Any]:
        running = self.operations[name]
        running["polls"] += 1
        about = running["metadata"]
        failed = self.exhausted and about["verb"] == "create" and "/nodes/" in about["target"]
        if failed:
            done = about["target"].rpartition("/")[2] not in self.nodes
        else:
            done = running["polls"] >= 2
        if done:
            running["end"]()
        error = {"error": {"code": 8, "message": self.exhausted}} if failed and done else {}
        return {"name": f"{PARENT}/operations/{name}", "metadata": about, "done": done, **error}

    def page(self, kind: str, items: list[dict[str, Any]], query: dict[str, list[str]]) -> dict[str, Any]:
        """Return one item per page, so that clients must follow the page token."""
        offset = int(query.get("pageToken", ["0"])[0])
        next_page = {"nextPageToken": str(offset + 1)} if offset + 1 < len(items) else {}
        return {kind: items[offset : offset + 1], **next_page}


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: FakeCloud

    def log_message(self, *_: object) -> None:
        pass

    def serve(self) -> None:
        size = int(self.headers.get("Content-Length") or 0)
        body = json.loads(self.rfile.read(size)) if size else None
        target = urlsplit(self.path)
        with self.server.lock:
            self.server.requests.append((self.command, target.path))
            try:
                for fault in self.server.faults:
                    if fault[0] == self.command:
                        self.server.faults.remove(fault)
                        raise RefusedError(*fault[1:])
                status, response = 200, self.server.answer(self.command, target.path, parse_qs(target.query), body)
            except RefusedError as error:
                status = error.status
                details = {"details": list(error.details)} if error.details else {}
                response = {"error": {"code": status, "message": str(error), "status": STATUS[status], **details}}
        text = json.dumps(response).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(text)))
        self.send_header("Content-Type", "application/json")
        self.end_headers()
        self.wfile.write(text)

    do_GET = do_POST = do_DELETE = serve  # noqa: N815


@contextmanager
def cloud(*addresses: str) -> Iterator[FakeCloud]:
    """Context manager for a fake cloud whose pods have hosts with these addresses."""
    server = FakeCloud(list(addresses))
    Thread(target=server.serve_forever, daemon=True, args=(0.05,)).start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
