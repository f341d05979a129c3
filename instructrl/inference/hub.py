"""Publish a trained agent on the Hugging Face hub, with a model card, for `Agent.load("hf://USER/NAME")`.

python -m instructrl.inference.hub run=outputs/NAME repository=USER/NAME private=true licence=mit
"""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from omegaconf import MISSING

from instructrl.cli.help import tool_settings
from instructrl.cli.progress import stopwatch
from instructrl.config.fields import one_of, setting, word
from instructrl.errors import InputError, RunError, format_value, report_user_errors, short_message
from instructrl.inference.model_card import LICENCE, LICENCES

SCHEME = "hf://"
FILES = ("agent.safetensors", "config.yaml")  # of an exported agent; nothing else is downloaded
PROG = "python -m instructrl.inference.hub"
LOG_IN = "log in with hf auth login, or set HF_TOKEN, and see that the name is right"
UNREACHABLE = "check the network and HF_ENDPOINT"


def download(address: str) -> Path:
    """Download an agent, or find it in the local cache of the hub.

    Args:
        address: hf://USER/NAME, or hf://USER/NAME@REVISION.

    Raises:
        InputError: there is no such repository or revision, it may not be read, or it holds no agent.
        RunError: the hub does not answer.
    """
    import huggingface_hub

    repository, _, revision = address.removeprefix(SCHEME).partition("@")
    check_repository(repository, key=address)
    with hub_errors(address):
        folder = Path(
            huggingface_hub.snapshot_download(
                repository, revision=revision or None, allow_patterns=list(FILES), endpoint=endpoint()
            )
        )
    missing = [name for name in FILES if not (folder / name).is_file()]
    if missing:
        raise InputError(f"{address}: found no {missing[0]}; name a repository written by Agent.push_to_hub")
    return folder


def upload(folder: Path, repository: str, *, private: bool, message: str) -> str:
    """Upload a folder into a repository, which is created if it does not exist; returns its address.

    Raises:
        InputError: the name is none, or the hub refuses the user.
        RunError: the hub does not answer.
    """
    import huggingface_hub

    check_repository(repository, key="repository")
    api = huggingface_hub.HfApi(endpoint=endpoint())
    with hub_errors(repository):
        created = api.create_repo(repository, private=private, exist_ok=True)
        api.upload_folder(repo_id=repository, folder_path=folder, commit_message=message)
    return created.url


def endpoint() -> str | None:
    """The hub that HF_ENDPOINT names; None: Hugging Face's."""
    return os.environ.get("HF_ENDPOINT", "").rstrip("/") or None


def check_repository(repository: str, *, key: str) -> None:
    """Raise InputError unless a text is USER/NAME."""
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id

    try:
        validate_repo_id(repository)
    except HFValidationError:
        valid = False
    else:
        valid = repository.count("/") == 1
    if not valid:
        raise InputError(f"{key}: found {format_value(repository)}; allowed: USER/NAME of a repository on the hub")


@contextmanager
def hub_errors(place: str) -> Iterator[None]:
    """Turn what the hub and the network answer into one line."""
    from huggingface_hub.errors import HfHubHTTPError, LocalTokenNotFoundError

    try:
        yield
    except LocalTokenNotFoundError:
        raise InputError(f"{place}: found no token for the hub; {LOG_IN}") from None
    except HfHubHTTPError as error:
        status = error.response.status_code
        if status >= 500:
            raise RunError(f"{place}: the hub answers {status}; try again later") from None
        raise InputError(f"{place}: the hub answers {status}; {LOG_IN}") from None
    except Exception as error:  # depends on its network library
        raise RunError(f"{place}: the hub does not answer ({short_message(error)}); {UNREACHABLE}") from None


@dataclass
class PushConfig:
    """Settings of the command."""

    run: str = setting(help="run directory or exported folder, local or gs://... or s3://...")
    repository: str = setting(help="repository on the hub, USER/NAME; created if it does not exist")
    private: bool = setting(help="whether only you can read a repository that is created")
    licence: str = word(LICENCE, LICENCES, default=MISSING, help="licence of the agent, as the hub names it")
    checkpoint: str = one_of("best", "last", default="best", help="checkpoint of the run")


def main() -> None:
    """Run the command."""
    with report_user_errors():
        config = tool_settings(sys.argv[1:], PushConfig, prog=PROG, about=__doc__)
        check_repository(config.repository, key="repository")
        with stopwatch("loading jax", said=False):
            from instructrl.inference.agent import Agent

        agent = Agent.load(config.run, checkpoint=config.checkpoint)
        print(agent.push_to_hub(config.repository, private=config.private, licence=config.licence))


if __name__ == "__main__":
    main()
