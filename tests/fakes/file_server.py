"""Local stand-in for a Hugging Face hub or any file server, with interruptions, errors and changed files."""

import hashlib
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import TypeVar

COMMIT = "0123456789abcdef0123456789abcdef01234567"
ServerT = TypeVar("ServerT", bound=ThreadingHTTPServer)


class FileServer(ThreadingHTTPServer):
    """Serves `files` (path to content) and records `requests` (method, path, first byte)."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.files: dict[str, bytes] = {}
        self.requests: list[tuple[str, str, int]] = []
        self.break_after: list[int] = []  # bytes after which each of the next responses is cut off
        self.errors: list[int] = []  # status of each of the next responses
        self.content_type = "application/octet-stream"
        self.ranges = True  # supports range requests
        self.validators = True  # sends ETags
        self.etags: dict[str, str] = {}  # wrong ETags to send, by path
        self.url = f"http://127.0.0.1:{self.server_port}"

    def etag(self, path: str) -> str:
        """ETag as on the hub: SHA-256 of large files, git's blob hash of small ones."""
        content = self.files[path]
        small = hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
        return self.etags.get(path, small if path.endswith(".json") else hashlib.sha256(content).hexdigest())


class Handler(BaseHTTPRequestHandler):
    missing = "EntryNotFound"  # the hub's code of a 404
    protocol_version = "HTTP/1.1"
    server: FileServer

    def log_message(self, *_: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self.answer(body=False)

    def do_GET(self) -> None:
        self.answer(body=True)

    def answer(self, *, body: bool) -> None:
        server, range_header = self.server, self.headers.get("Range", "")
        start = int(range_header.removeprefix("bytes=").removesuffix("-")) if range_header and server.ranges else 0
        server.requests.append((self.command, self.path, start))
        if body and server.errors:
            return self.refuse(server.errors.pop(0))
        if self.path not in server.files:
            return self.refuse(404)
        content, etag = server.files[self.path], f'"{server.etag(self.path)}"'
        if self.headers.get("If-Range", etag) != etag:
            start = 0
        if start >= len(content) and start:
            self.send_response(416)
            self.send_header("Content-Range", f"bytes */{len(content)}")
            self.send_header("Content-Length", "0")
            return self.end_headers()
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        self.send_header("Content-Length", str(len(content) - start))
        self.send_header("Content-Type", server.content_type)
        self.send_header("X-Repo-Commit", COMMIT)
        if server.validators:
            self.send_header("ETag", etag)
        self.end_headers()
        if body:
            remaining = content[start:]
            if server.break_after:
                remaining = remaining[: server.break_after.pop(0)]
                self.close_connection = True
            with suppress(ConnectionError):  # the client may disconnect early
                self.wfile.write(remaining)
        return None

    def refuse(self, status: int) -> None:
        self.send_response(status)
        if status == 404:
            self.send_header("X-Error-Code", self.missing)
        self.send_header("Content-Length", "0")
        self.end_headers()


@contextmanager
def running(server: ServerT) -> Iterator[ServerT]:
    """Context manager in which a server runs."""
    with server:
        thread = Thread(target=server.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


def serving() -> AbstractContextManager[FileServer]:
    """Context manager for a running server."""
    return running(FileServer())
