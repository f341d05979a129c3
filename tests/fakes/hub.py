"""Local stand-in for the Hugging Face hub to which repositories are uploaded, and from which they are read."""

import base64
import json
import re
from contextlib import AbstractContextManager
from typing import Any

from tests.fakes.file_server import COMMIT, FileServer, Handler, running


class Hub(FileServer):
    """Keeps what is uploaded in `files`; `created` are the requests for new repositories."""

    def __init__(self) -> None:
        super().__init__()
        self.RequestHandlerClass = HubHandler
        self.created: list[dict[str, Any]] = []
        self.status = 200  # of answers about repositories

    def names(self, repository: str) -> list[str]:
        """The files of a repository."""
        start = f"/{repository}/resolve/{COMMIT}/"
        return [path.removeprefix(start) for path in self.files if path.startswith(start)]


class HubHandler(Handler):
    server: Hub
    missing = "RepoNotFound"

    def do_GET(self) -> None:  # noqa: N802  (of http.server)
        found = re.fullmatch(r"/api/models/([\w.-]+/[\w.-]+)/(revision|tree)/[^?]+(\?.*)?", self.path)
        if not found:
            return super().do_GET()
        names = self.server.names(found[1])
        if not names:
            return self.refuse(404)
        if found[2] == "revision":
            return self.say({"id": found[1], "sha": COMMIT, "siblings": [{"rfilename": name} for name in names]})
        sizes = {name: len(self.server.files[f"/{found[1]}/resolve/{COMMIT}/{name}"]) for name in names}
        return self.say([{"type": "file", "path": name, "size": size, "oid": "0"} for name, size in sizes.items()])

    def do_POST(self) -> None:  # noqa: N802  (of http.server)
        body = self.body()
        if self.server.status != 200:
            return self.refuse(self.server.status)
        if self.path == "/api/repos/create":
            self.server.created.append(json.loads(body))
            asked = self.server.created[-1]
            return self.say({"url": f"{self.server.url}/{asked['organization']}/{asked['name']}"})
        if self.path == "/api/validate-yaml":
            return self.say({"errors": [], "warnings": []})
        repository, action = re.fullmatch(r"/api/models/([^/]+/[^/]+)/(preupload|commit)/main", self.path).groups()  # type: ignore[union-attr]
        if action == "preupload":
            asked_files = [one["path"] for one in json.loads(body)["files"]]
            entry = {"uploadMode": "regular", "shouldIgnore": False, "oid": None}
            return self.say({"files": [{"path": path, **entry} for path in asked_files]})
        for line in map(json.loads, body.splitlines()):
            if line["key"] == "file":
                path = f"/{repository}/resolve/{COMMIT}/{line['value']['path']}"
                self.server.files[path] = base64.b64decode(line["value"]["content"])
        url = f"{self.server.url}/{repository}/commit/{COMMIT}"
        return self.say({"success": True, "commitOid": COMMIT, "commitUrl": url, "hookOutput": ""})

    def body(self) -> bytes:
        """The request's content, which may come in chunks."""
        if "chunked" not in self.headers.get("Transfer-Encoding", ""):
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        found = b""
        while size := int(self.rfile.readline(), 16):
            found += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return found

    def say(self, answer: Any) -> None:
        content = json.dumps(answer).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)


def hub() -> AbstractContextManager[Hub]:
    """Context manager for a running stand-in."""
    return running(Hub())
