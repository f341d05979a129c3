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

from instructrl.errors import InputError, RunError, short_message
from instructrl.retries import attempts

ADDRESS = "https://tpu.googleapis.com"
SCOPE = "https://www.googleapis.com/auth/cloud-platform"
TIMEOUT = 60  # seconds per request
MAX_ATTEMPTS = 5  # per request, if it fails with a transient error
TRANSIENT = (500, 502, 503, 504)
LOGIN = "run gcloud auth application-default login, or set GOOGLE_APPLICATION_CREDENTIALS"


class CloudError(RunError):
    """The cloud refuses a request or does not complete it. `status` is the HTTP status, or 0."""

    def __init__(self, message: str, status: int = 0) -> None:
        super().__init__(message)
        self.status = status


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
                raise refused_request(response, path)
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
        """Yield all `nodes` or `queuedResources`, over all pages."""
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
            raise CloudError(f"cloud: {operation['error'].get('message', 'failed without a reason')}")


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


def refused_request(response: requests.Response, path: str) -> CloudError:
    """Build the one-line error of a refused request."""
    try:
        message = " ".join(str(response.json()["error"]["message"]).split())
    except (ValueError, KeyError, TypeError):
        message = response.reason or "no reason given"
    status = response.status_code
    advice = {
        401: f"; {LOGIN}",
        403: "; request the role roles/tpu.admin, or check project= and zone=",
        404: "; check pod=, zone= and project=",
        409: "; the name exists already: choose another pod=, or delete it",
        429: "; request more quota, or choose another zone= or a smaller accelerator=",
    }.get(status, "")
    return CloudError(f"cloud: {status} for {path}: {message}{advice}", status)
