"""Cloud TPU's REST API, version 2: nodes and queued resources.

A client of our own: it is a few requests, `requests` and `google-auth` are there already (gcsfs brings them), states
stay the words that the documentation uses, and every refusal is one line with what the cloud says. `TPU_EMULATOR_HOST`
points it at another server, without credentials.
"""

import os
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import requests

from instructrl.errors import InputError, RunError

ADDRESS = "https://tpu.googleapis.com"
SCOPE = "https://www.googleapis.com/auth/cloud-platform"
TIMEOUT = 60  # seconds, of one request
TRIES = 5  # of a request that the cloud could not answer just now
PASSING = (500, 502, 503, 504)
LOGIN = "run gcloud auth application-default login, or set GOOGLE_APPLICATION_CREDENTIALS"


class CloudError(RunError):
    """What the cloud refuses, or does not do. `status` is HTTP's, or 0."""

    def __init__(self, message: str, status: int = 0) -> None:
        super().__init__(message)
        self.status = status


class Cloud:
    """The TPUs of one project in one zone."""

    def __init__(self, project: str, zone: str, *, pause: float = 1.0) -> None:
        """Find the credentials.

        Args:
            project: the cloud's name of it.
            zone: like us-central2-b.
            pause: seconds before a request is given again, doubled each time.

        Raises:
            InputError: there are none.
        """
        self.parent = f"projects/{project}/locations/{zone}"
        self.pause = pause
        self.address = os.environ.get("TPU_EMULATOR_HOST", ADDRESS).rstrip("/")
        self.session = requests.Session() if "TPU_EMULATOR_HOST" in os.environ else signed_session()

    def ask(self, method: str, path: str, *, body: Any = None, **query: Any) -> dict[str, Any]:
        """One request, again while the cloud cannot answer.

        Raises:
            CloudError: it refuses, or does not answer.
        """
        url = f"{self.address}/v2/{path}"
        for attempt in range(TRIES):
            if attempt:
                time.sleep(self.pause * 2 ** (attempt - 1))
            last = attempt == TRIES - 1
            try:
                answer = self.session.request(method, url, json=body, params=query, timeout=TIMEOUT)
            except requests.RequestException as error:
                if last:
                    raise CloudError(f"{self.address}: no answer ({type(error).__name__}); try again later") from None
                continue
            except Exception as error:  # of google-auth, whose errors have no common root with these
                raise InputError(
                    f"credentials: cannot be used ({' '.join(str(error).split())[:200]}); {LOGIN}"
                ) from None
            if answer.status_code < 400:
                return answer.json() if answer.content else {}
            if last or not (answer.status_code in PASSING or (answer.status_code == 429 and method == "GET")):
                raise refusal(answer, path)
        raise AssertionError

    def find(self, kind: str, name: str) -> dict[str, Any] | None:
        """One of `nodes` or `queuedResources`; None if there is none of that name."""
        try:
            return self.ask("GET", f"{self.parent}/{kind}/{name}")
        except CloudError as error:
            if error.status == 404:
                return None
            raise

    def all(self, kind: str) -> Iterator[dict[str, Any]]:
        """All `nodes` or `queuedResources`, of all pages."""
        token = ""
        while True:
            page = self.ask("GET", f"{self.parent}/{kind}", **({"pageToken": token} if token else {}))
            yield from page.get(kind, [])
            token = page.get("nextPageToken", "")
            if not token:
                return

    def create(self, kind: str, name: str, body: Mapping[str, Any]) -> dict[str, Any]:
        """Ask for a node or a queued resource; returns the operation."""
        key = {"nodes": "nodeId", "queuedResources": "queuedResourceId"}[kind]
        return self.ask("POST", f"{self.parent}/{kind}", body=body, **{key: name})

    def delete(self, kind: str, name: str) -> dict[str, Any] | None:
        """Ask for the end of one; returns the operation, or None if there is nothing of that name."""
        try:
            force = {"force": "true"} if kind == "queuedResources" else {}  # with the node that it made
            return self.ask("DELETE", f"{self.parent}/{kind}/{name}", **force)
        except CloudError as error:
            if error.status == 404:
                return None
            raise

    def finish(self, operation: Mapping[str, Any], *, seconds: float, poll: float, tick: Callable[[], None]) -> None:
        """Wait for an operation's end; `tick` is called at each look.

        Raises:
            CloudError: it failed, or takes longer.
        """
        end = time.monotonic() + seconds
        while not operation.get("done"):
            if time.monotonic() > end:
                raise CloudError(f"{operation['name']}: not done within {seconds:g} seconds")
            time.sleep(poll)
            tick()
            operation = self.ask("GET", str(operation["name"]))
        if "error" in operation:
            raise CloudError(f"cloud: {operation['error'].get('message', 'failed without a reason')}")


def signed_session() -> Any:
    """A session that signs its requests.

    Raises:
        InputError: there are no credentials.
    """
    import google.auth
    from google.auth.transport.requests import AuthorizedSession

    try:
        return AuthorizedSession(google.auth.default(scopes=[SCOPE])[0])
    except Exception as error:  # DefaultCredentialsError, and what a damaged file of credentials makes
        raise InputError(f"credentials: none found ({' '.join(str(error).split())[:100]}); {LOGIN}") from None


def refusal(answer: requests.Response, path: str) -> CloudError:
    """The line for a request that was refused."""
    try:
        said = " ".join(str(answer.json()["error"]["message"]).split())
    except (ValueError, KeyError, TypeError):
        said = answer.reason or "no reason given"
    status = answer.status_code
    advice = {
        401: f"; {LOGIN}",
        403: "; ask for the role roles/tpu.admin, or look whether project= and zone= are right",
        404: "; look at pod=, zone= and project=",
        409: "; another one of this name is there: take another pod=, or delete it",
        429: "; ask for more quota, or take another zone= or a smaller accelerator=",
    }.get(status, "")
    return CloudError(f"cloud: {status} for {path}: {said}{advice}", status)
