"""Emulated object storage (GCS and S3), each behind a proxy that records requests and injects faults."""

import http.client
import json
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Lock, Thread
from time import sleep
from typing import Any
from urllib.parse import quote

from tests.fixtures.team import free_port

BUCKET = "demos"
ENVIRONMENT = {  # endpoint and credentials of a process, by provider
    "gs": {"STORAGE_EMULATOR_HOST": "{url}"},
    "s3": {
        "AWS_ENDPOINT_URL": "{url}",
        "AWS_ACCESS_KEY_ID": "somebody",
        "AWS_SECRET_ACCESS_KEY": "something",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
    },
}


class Proxy(ThreadingHTTPServer):
    """Forwards requests to an emulator. `faults` apply to the next ones: a status, `reset` or `break`."""

    daemon_threads = True

    def __init__(self, port: int) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.port, self.lock = port, Lock()
        self.requests: list[tuple[str, str]] = []  # method and path
        self.sent = 0  # bytes of objects that were read
        self.faults: list[Any] = []
        self.delay = 0.0  # seconds before an object is returned
        self.forbidden = ""  # methods that are always answered with 403
        self.writes_left: int | None = None  # further PUT, POST and DELETE are answered with 403
        self.checksums = True  # False: none is reported, as by some stores
        self.damages = False  # content is returned with a flipped bit
        self.url = f"http://127.0.0.1:{self.server_port}"

    def restore(self) -> None:
        """Answer all requests as the emulator does."""
        self.faults.clear()
        self.forbidden, self.writes_left, self.checksums, self.damages = "", None, True, False

    def reset(self) -> None:
        """Reset the counters."""
        self.requests.clear()
        self.sent = 0

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Ignore clients that disconnect."""


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: Proxy

    def log_message(self, *_: object) -> None:
        pass

    def forward(self) -> None:
        server = self.server
        body = self.body()
        with server.lock:
            server.requests.append((self.command, self.path))
            fault = server.faults.pop(0) if server.faults else None
            refused = self.command in server.forbidden.split()
            if server.writes_left is not None and self.command in ("PUT", "POST", "DELETE"):
                refused = refused or server.writes_left == 0
                server.writes_left = max(server.writes_left - 1, 0)
        if refused:
            return self.answer(403, [], b"")
        if fault == "reset":
            self.connection.shutdown(socket.SHUT_RDWR)
            self.close_connection = True
            return None
        if isinstance(fault, int):
            return self.answer(fault, [], b"")
        store = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
        sent = {key: value for key, value in self.headers.items() if key.lower() not in ("transfer-encoding",)}
        path, body = media_upload(self.path, body, sent)
        sent["Content-Length"] = str(len(body))
        store.request(self.command, path, body, sent)
        found = store.getresponse()
        data, headers = found.read(), found.getheaders()
        store.close()
        if self.command == "GET" and ("alt=media" in self.path or "Range" in self.headers):
            sleep(server.delay)
            with server.lock:
                server.sent += len(data)
            if server.damages:
                data = bytes([data[0] ^ 1]) + data[1:]
        if not server.checksums:
            headers, data = without_checksums(headers, data)
        return self.answer(found.status, headers, data, broken=fault == "break")

    do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = do_PATCH = forward  # noqa: N815

    def body(self) -> bytes:
        if self.headers.get("Transfer-Encoding", "") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        parts = []
        while size := int(self.rfile.readline().split(b";")[0], 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        while self.rfile.readline().strip():
            pass
        return b"".join(parts)

    def answer(self, status: int, headers: list[tuple[str, str]], data: bytes, *, broken: bool = False) -> None:
        self.send_response_only(status)
        length = str(len(data))
        for key, value in headers:
            if key.lower() == "content-length" and self.command == "HEAD":
                length = value
            elif key.lower() not in ("content-length", "transfer-encoding", "connection"):
                self.send_header(key, value)
        self.send_header("Content-Length", length)
        self.end_headers()
        with suppress(ConnectionError):
            if self.command != "HEAD":
                self.wfile.write(data[: len(data) // 2] if broken else data)
        if broken:
            self.close_connection = True


def media_upload(path: str, body: bytes, headers: dict[str, str]) -> tuple[str, bytes]:
    """Send a multipart upload to GCS whose content ends with a carriage return in one part: the emulator strips it."""
    end = b"\r\n--==0==--"
    if "uploadType=multipart" not in path or not body.endswith(end):
        return path, body
    _, meta, content = body.removesuffix(end[1:]).split(b"\n\n", 2)
    name = quote(json.loads(meta.partition(b"\n")[0])["name"], safe="")
    headers["Content-Type"] = "application/octet-stream"
    return path.replace("uploadType=multipart", f"uploadType=media&name={name}"), content


def without_checksums(headers: list[tuple[str, str]], data: bytes) -> tuple[list[tuple[str, str]], bytes]:
    """Remove checksums from a response: of S3 the ETag of an object with a KMS key is none, of GCS two fields are."""
    headers = [(key, value) for key, value in headers if not key.lower().startswith("x-amz-checksum")]
    headers.append(("x-amz-server-side-encryption", "aws:kms"))
    if b'"md5Hash"' in data:
        data = json.dumps({k: v for k, v in json.loads(data).items() if k not in ("md5Hash", "crc32c")}).encode()
    return headers, data


@dataclass
class Store:
    """An empty bucket and the proxy in front of it."""

    kind: str
    proxy: Proxy
    root: str = field(init=False)

    def __post_init__(self) -> None:
        self.root = f"{self.kind}://{BUCKET}"

    @property
    def environment(self) -> dict[str, str]:
        """Environment variables with endpoint and credentials."""
        return {key: value.format(url=self.proxy.url) for key, value in ENVIRONMENT[self.kind].items()}


@contextmanager
def emulated(kind: str) -> Iterator[int]:
    """Yield the port of an emulator with one empty bucket."""
    port = free_port()
    if kind == "gs":
        from gcp_storage_emulator.server import create_server

        server = create_server("127.0.0.1", port, in_memory=True, default_bucket=BUCKET)
        server.start()
        try:
            yield port
        finally:
            server.stop()
        return
    import logging

    from moto.server import ThreadedMotoServer

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    moto = ThreadedMotoServer(ip_address="127.0.0.1", port=port, verbose=False)
    moto.start()
    try:
        connection = http.client.HTTPConnection("127.0.0.1", port)
        connection.request(
            "PUT", f"/{BUCKET}", headers={"Authorization": "AWS4-HMAC-SHA256 Credential=a/b/us-east-1/s3"}
        )
        assert connection.getresponse().status == 200
        connection.close()
        yield port
    finally:
        moto.stop()


@contextmanager
def store(kind: str) -> Iterator[Store]:
    """Yield an emulated provider (gs or s3) behind a proxy."""
    with emulated(kind) as port, Proxy(port) as proxy:
        thread = Thread(target=proxy.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        try:
            yield Store(kind, proxy)
        finally:
            proxy.shutdown()
            thread.join()
