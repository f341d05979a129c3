"""A server on this machine that plays a Hugging Face hub, or any place with files; it can break off, err and change."""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class FileServer(ThreadingHTTPServer):
    """Answers with `files` (path to content); what it is asked for is in `asked` (method, path, first byte)."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.files: dict[str, bytes] = {}
        self.asked: list[tuple[str, str, int]] = []
        self.break_after: list[int] = []  # bytes after which each of the next answers breaks off
        self.errors: list[int] = []  # status of each of the next answers
        self.content_type = "application/octet-stream"
        self.ranges = True  # whether it can begin in the middle
        self.validators = True  # whether it says by what a version is known
        self.etags: dict[str, str] = {}  # what it says instead of the truth
        self.url = f"http://127.0.0.1:{self.server_port}"

    def etag(self, path: str) -> str:
        """As the hub does: SHA-256 of large files, git's name of small ones."""
        content = self.files[path]
        small = hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
        return self.etags.get(path, small if path.endswith(".json") else hashlib.sha256(content).hexdigest())


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: FileServer

    def log_message(self, *_: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self.answer(body=False)

    def do_GET(self) -> None:
        self.answer(body=True)

    def answer(self, *, body: bool) -> None:
        server, asked = self.server, self.headers.get("Range", "")
        start = int(asked.removeprefix("bytes=").removesuffix("-")) if asked and server.ranges else 0
        server.asked.append((self.command, self.path, start))
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
            rest = content[start:]
            if server.break_after:
                rest = rest[: server.break_after.pop(0)]
                self.close_connection = True
            with suppress(ConnectionError):  # of one who has heard enough
                self.wfile.write(rest)
        return None

    def refuse(self, status: int) -> None:
        self.send_response(status)
        if status == 404:
            self.send_header("X-Error-Code", "EntryNotFound")
        self.send_header("Content-Length", "0")
        self.end_headers()


@contextmanager
def serving() -> Iterator[FileServer]:
    """A server, until the end of the block."""
    with FileServer() as server:
        thread = Thread(target=server.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()
