"""Errors of the cloud's API, each one line: what the cloud says, and what to do about it.

An error is a `google.rpc.Status`: a code, a message, and details such as `ErrorInfo`, whose `reason` is one of
`google.api.ErrorReason`, and `QuotaFailure`.
"""

from collections.abc import Iterable, Mapping
from typing import Any

from instructrl.errors import RunError

LOGIN = "run gcloud auth application-default login, or set GOOGLE_APPLICATION_CREDENTIALS"
ROLE = "request the role roles/tpu.admin"
QUOTA = "request more quota, or choose another zone= or a smaller accelerator="
CAPACITY = "choose another zone=, or queued=true, which waits for capacity"
EXHAUSTED = 8  # google.rpc.Code.RESOURCE_EXHAUSTED
REASONS = {
    "SERVICE_DISABLED": "the API is disabled: run gcloud services enable {service} --project={project}",
    "BILLING_DISABLED": "billing is disabled: link a billing account to {project}",
    "IAM_PERMISSION_DENIED": "a role is missing, with the permission {permission}: " + ROLE,
    "ACCESS_TOKEN_SCOPE_INSUFFICIENT": "the credentials have too small a scope; " + LOGIN,
    "ACCESS_TOKEN_EXPIRED": LOGIN,
    "CONSUMER_INVALID": "the project does not exist, or is not yours: check project=",
    "CONSUMER_SUSPENDED": "the project is suspended: check it, or choose another project=",
    "USER_PROJECT_DENIED": "a role is missing: request roles/serviceusage.serviceUsageConsumer",
    "RATE_LIMIT_EXCEEDED": "the quota of requests is exhausted: raise poll_seconds=, or request more quota",
    "RESOURCE_QUOTA_EXCEEDED": "the quota is exhausted: " + QUOTA,
}
BY_STATUS = {
    401: LOGIN,
    403: f"a role is missing: {ROLE}, or check project= and zone=",
    404: "check pod=, zone= and project=",
    409: "the name exists already: choose another pod=, or delete it",
    429: QUOTA,
}


class CloudError(RunError):
    """The cloud refuses a request or does not complete it. `status` is the HTTP status, or 0."""

    def __init__(self, message: str, status: int = 0) -> None:
        super().__init__(message)
        self.status = status


def refused_request(status: int, content: Any, path: str, default: str) -> CloudError:
    """Build the error of a refused request from the content of the answer; `default` is the message if it has none."""
    error = content.get("error") if isinstance(content, dict) else None
    error = error if isinstance(error, dict) else {}
    what_next = advice(error) or BY_STATUS.get(status, "")
    text = f"cloud: {status} for {path}: {message_of(error, default)}"
    return CloudError(f"{text}; {what_next}" if what_next else text, status)


def failed_operation(error: Mapping[str, Any], name: str) -> CloudError:
    """Build the error of an operation that was accepted and has failed, like the creation of a pod."""
    what_next = advice(error)
    if not what_next and (error.get("code") == EXHAUSTED or "capacity" in message_of(error)):
        what_next = CAPACITY
    text = f"{name}: the cloud reports: {message_of(error)}"
    return CloudError(f"{text}; {what_next}" if what_next else text)


def message_of(error: Mapping[str, Any], default: str = "failed without a reason") -> str:
    """Return the cloud's message in one line."""
    return " ".join(str(error.get("message") or default).split())


def advice(error: Mapping[str, Any]) -> str:
    """Return what to do about an error, from its details or its message; empty if neither says."""
    details = [detail for detail in error.get("details") or () if isinstance(detail, dict)]
    for detail in details:
        if detail.get("reason") in REASONS:
            return REASONS[detail["reason"]].format_map(metadata_of(detail))
    message = message_of(error).lower()
    if "quota" in message or any(str(detail.get("@type", "")).endswith("QuotaFailure") for detail in details):
        return f"the quota is exhausted: {QUOTA}"
    if "has not been used in project" in message or "it is disabled" in message:
        return REASONS["SERVICE_DISABLED"].format(service="tpu.googleapis.com", project="PROJECT")
    return ""


def metadata_of(detail: Mapping[str, Any]) -> dict[str, str]:
    """Return what an `ErrorInfo` says of the service, the project and the permission."""
    found = detail.get("metadata") or {}
    values = {"service": "tpu.googleapis.com", "permission": "tpu.nodes.create", **found}
    return {**values, "project": str(found.get("consumer", "PROJECT")).removeprefix("projects/")}


def error_of(operations: Iterable[Mapping[str, Any]], target: str) -> Mapping[str, Any] | None:
    """Return the error with which the last creation of a resource has failed, if it has."""
    found = [each for each in operations if is_creation(each, target)]
    latest = max(found, key=lambda each: str(each["metadata"].get("createTime", "")), default={})
    return latest.get("error")


def is_creation(operation: Mapping[str, Any], target: str) -> bool:
    """Return True if an operation creates this resource."""
    about = operation.get("metadata") or {}
    return about.get("verb") == "create" and str(about.get("target", "")).endswith(target)
