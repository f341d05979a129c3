"""Client of Cloud TPU's REST API, version 2: nodes and queued resources.

No client library is used: there are few requests, `requests` and `google-auth` are dependencies already (of gcsfs),
states keep the names of the documentation, and every error is one line with the cloud's message. `TPU_EMULATOR_HOST`
selects another server, without credentials.
"""

import os
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import requests

from instructrl.errors import InputError, short_message
from instructrl.retries import attempts
from launchers.tpu.cloud_errors import LOGIN, CloudError, error_of, failed_operation, refused_request

ADDRESS = "https://tpu.googleapis.com"
SCOPE = "https://www.googleapis.com/auth/cloud-platform"
TIMEOUT = 60  # seconds per request
MAX_ATTEMPTS = 5  # per request, if it fails with a transient error
VISIBLE_SECONDS = 120  # until a resource that was requested is found
TRANSIENT = (500, 502, 503, 504)


class Cloud:
    """TPUs of one project in one zone."""

    def __init__(self, project: str, zone: str, *, pause: float = 1.0) -> None:
        """Find the credentials.

        Args:
            project: its ID.
            zone: for example us-central2-b.
            pause: seconds before a request is retried, doubled each time.

        Raises:
            InputError: no credentials are found.
        """
        self.parent = f"projects/{project}/locations/{zone}"
        self.pause = pause
        self.address = os.environ.get("TPU_EMULATOR_HOST", ADDRESS).rstrip("/")
        self.session = requests.Session() if "TPU_EMULATOR_HOST" in os.environ else signed_session()

    def request(self, method: str, path: str, *, body: Any = None, **query: Any) -> dict[str, Any]:
        """Send a request, retrying on transient errors.

        Raises:
            CloudError: the cloud refuses or does not answer.
        """
        url = f"{self.address}/v2/{path}"
        for last in attempts(MAX_ATTEMPTS, first_wait=self.pause):
            try:
                response = self.session.request(method, url, json=body, params=query, timeout=TIMEOUT)
            except requests.RequestException as error:
                if last:
                    raise CloudError(f"{self.address}: no answer ({type(error).__name__}); try again later") from None
                continue
            except Exception as error:  # google-auth's errors have no common base class with requests'
                raise InputError(f"credentials: cannot be used ({short_message(error)}); {LOGIN}") from None
            if response.status_code < 400:
                return response.json() if response.content else {}
            if last or not (response.status_code in TRANSIENT or (response.status_code == 429 and method == "GET")):
                raise refused_request(response.status_code, content_of(response), path, response.reason or "no reason")
        raise AssertionError

    def find(self, kind: str, name: str) -> dict[str, Any] | None:
        """Get one of the `nodes` or `queuedResources` by name; None if it does not exist."""
        try:
            return self.request("GET", f"{self.parent}/{kind}/{name}")
        except CloudError as error:
            if error.status == 404:
                return None
            raise

    def all(self, kind: str) -> Iterator[dict[str, Any]]:
        """Yield all `nodes`, `queuedResources` or `operations`, over all pages."""
        token = ""
        while True:
            page = self.request("GET", f"{self.parent}/{kind}", **({"pageToken": token} if token else {}))
            yield from page.get(kind, [])
            token = page.get("nextPageToken", "")
            if not token:
                return

    def create(self, kind: str, name: str, body: Mapping[str, Any]) -> dict[str, Any]:
        """Request a node or a queued resource; returns the operation."""
        key = {"nodes": "nodeId", "queuedResources": "queuedResourceId"}[kind]
        return self.request("POST", f"{self.parent}/{kind}", body=body, **{key: name})

    def delete(self, kind: str, name: str) -> dict[str, Any] | None:
        """Request a deletion; returns the operation, or None if the name does not exist."""
        try:
            force = {"force": "true"} if kind == "queuedResources" else {}  # including its node
            return self.request("DELETE", f"{self.parent}/{kind}/{name}", **force)
        except CloudError as error:
            if error.status == 404:
                return None
            raise

    def finish(self, operation: Mapping[str, Any], *, seconds: float, poll: float, tick: Callable[[], None]) -> None:
        """Wait until an operation is done; `tick` is called at each poll.

        Raises:
            CloudError: it failed, or takes longer than `seconds`.
        """
        deadline = time.monotonic() + seconds
        while not operation.get("done"):
            if time.monotonic() > deadline:
                raise CloudError(f"{operation['name']}: not done within {seconds:g} seconds")
            time.sleep(poll)
            tick()
            operation = self.request("GET", str(operation["name"]))
        if "error" in operation:
            raise failed_operation(operation["error"], str(operation["name"]))

    def wait_until_visible(self, kind: str, name: str, operation: Mapping[str, Any], *, poll: float) -> None:
        """Wait until a resource that was just requested is found, which takes a while.

        Raises:
            CloudError: its creation has failed, or it is not found in time.
        """
        deadline = time.monotonic() + VISIBLE_SECONDS
        while True:
            if operation.get("error"):
                raise failed_operation(operation["error"], name)
            if self.find(kind, name) is not None:
                return
            if time.monotonic() > deadline:
                raise CloudError(f"{name}: requested, but not found within {VISIBLE_SECONDS} seconds")
            time.sleep(poll)
            if "name" in operation:
                operation = self.request("GET", str(operation["name"]))

    def creation_error(self, name: str) -> CloudError | None:
        """Return the error with which the creation of a node has failed, after which it does not exist."""
        error = error_of(self.all("operations"), f"/nodes/{name}")
        return failed_operation(error, name) if error else None


def content_of(response: requests.Response) -> Any:
    """Return the content of an answer, None if it is no JSON."""
    try:
        return response.json()
    except ValueError:
        return None


def signed_session() -> Any:
    """Create a session that signs its requests.

    Raises:
        InputError: no credentials are found.
    """
    import google.auth
    from google.auth.transport.requests import AuthorizedSession

    try:
        return AuthorizedSession(google.auth.default(scopes=[SCOPE])[0])
    except Exception as error:  # DefaultCredentialsError, and errors of a damaged credentials file
        raise InputError(f"credentials: none found ({short_message(error)}); {LOGIN}") from None
