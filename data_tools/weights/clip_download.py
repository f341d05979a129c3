"""Downloads of Hugging Face's encoders into a folder: weights, in one file or in shards, and what is beside them."""

from contextlib import suppress
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urljoin

from data_tools.weights.clip import CLIP_FILES, INDEX
from data_tools.weights.clip_config import CONFIG, PREPROCESSOR, TOKENIZER
from data_tools.weights.download import (
    Remote,
    RemoteFileMissingError,
    UnreachableError,
    download,
    hub_file,
    hub_headers,
)
from data_tools.weights.model_card import MODEL_CARD
from data_tools.weights.shards import read_index
from instructrl.errors import InputError

OPTIONAL = (PREPROCESSOR, TOKENIZER, MODEL_CARD)


class Downloaded(NamedTuple):
    """A downloaded file of weights, and its source as it is recorded with them."""

    path: Path
    source: str


def download_from_hub(repository: str, folder: Path) -> Downloaded:
    """Download the weights of a repository on the Hugging Face hub, and their settings.

    Raises:
        InputError: the repository has no such files, or they cannot be downloaded.
    """
    try:
        download(hub_file(repository, CONFIG), folder / CONFIG, headers=hub_headers())
    except RemoteFileMissingError:
        raise UnreachableError(f"{repository}: the repository has no {CONFIG}") from None
    for name in OPTIONAL:
        with suppress(RemoteFileMissingError):
            download(hub_file(repository, name), folder / name, headers=hub_headers())
    for name in (CLIP_FILES[0], INDEX, *CLIP_FILES[1:]):
        with suppress(RemoteFileMissingError):
            remote = hub_file(repository, name)
            download(remote, folder / name, headers=hub_headers())
            if name == INDEX:
                download_shards(repository, folder)
            return Downloaded(folder / name, remote.version)
    raise UnreachableError(f"{repository}: the repository has neither {' nor '.join(CLIP_FILES)}")


def download_shards(repository: str, folder: Path) -> None:
    """Download the files that an index names, those that are not there yet."""
    for name in read_index(folder / INDEX):
        if not (folder / name).is_file():
            try:
                download(hub_file(repository, name), folder / name, headers=hub_headers())
            except RemoteFileMissingError:
                raise InputError(f"{repository}: the repository has no {name}, which its {INDEX} names") from None


def download_from_link(url: str, digest: str, folder: Path) -> Downloaded:
    """Download the weights at a link, and the settings in the same folder of the server.

    Raises:
        InputError: the server has no such files, or they cannot be downloaded.
    """
    config = urljoin(url, CONFIG)
    try:
        download(Remote(config), folder / CONFIG)
    except RemoteFileMissingError:
        raise InputError(
            f"{config}: the server has no such file, which belongs to the weights; put both into a folder, and convert "
            "that with python -m data_tools.weights convert"
        ) from None
    for name in OPTIONAL:
        with suppress(RemoteFileMissingError):
            download(Remote(urljoin(url, name)), folder / name)
    path = folder / "weights.download"
    try:
        download(Remote(url, digest, url), path)
    except RemoteFileMissingError:
        raise InputError(f"{url}: the server has no such file; check the address") from None
    return Downloaded(path, url)
