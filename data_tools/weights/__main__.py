"""Conversion of third-party encoder weights to files that train.py reads.

python -m data_tools.weights fetch kind=clip name=b16
python -m data_tools.weights convert kind=m3ae src=FILE out=weights/m3ae_b16.safetensors

fetch downloads the weights and the tokenizer of an encoder option to the option's path, or those at url= (with the
checksum sha256=) to out=. convert reads a published file: M3AE's pickle, without executing any of it, or
model.safetensors (or its shards and index) of CLIP, DINOv2, SigLIP 2 or T5, or CLIP's flax_model.msgpack, with
config.json beside it, or the .npz of SigLIP 2.
Architecture, preprocessing and licence are recorded with the weights. Other weights at the same path are kept unless
overwrite=true.
"""

import re
import shutil
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path

import numpy as np
from omegaconf import OmegaConf

from data_tools.weights.clip import CLIP_FILES
from data_tools.weights.clip_config import CONFIG, PREPROCESSOR
from data_tools.weights.clip_download import download_from_hub, download_from_link
from data_tools.weights.download import (
    Remote,
    RemoteFileMissingError,
    UnreachableError,
    download,
    hub_address,
    hub_file,
    hub_headers,
    sha256,
)
from data_tools.weights.model_card import read_licence
from data_tools.weights.published import READERS, SIZES, Published, read_published
from instructrl.cli.entry import compose
from instructrl.cli.help import tool_help
from instructrl.cli.overrides import options
from instructrl.cli.progress import stopwatch
from instructrl.config.fields import format_value, one_of, setting
from instructrl.config.model import EncoderConfig
from instructrl.config.resolve import resolve
from instructrl.config.training import TrainConfig
from instructrl.errors import InputError, report_user_errors, warn
from instructrl.models.encoders.architecture import check_sizes
from instructrl.models.parameter_files import checksum
from instructrl.models.weight_files import Weights, read_weights, write_weights
from instructrl.storage.file_lock import exclusive_lock
from instructrl.storage.writable import check_writable_file
from instructrl.training.preflight import convert_command, m3ae_steps


@dataclass
class ConvertConfig:
    """Settings of the command convert."""

    kind: str = one_of(*READERS, help="model family")
    src: str = setting(help="published file, or its folder")
    out: str = setting(help="file to write")
    licence: str | None = setting(None, help="of the weights; null: that in the model card, README.md, beside them")
    overwrite: bool = setting(False, help="replace other weights at out")


@dataclass
class FetchConfig:
    """Settings of the command fetch."""

    kind: str = one_of(*READERS, help="model family")
    name: str | None = setting(None, help="encoder option without its kind, like b16")
    out: str | None = setting(None, help="file to write; null: where the encoder option reads it")
    url: str | None = setting(None, help="direct link; null: Hugging Face (M3AE has no fixed address)")
    sha256: str | None = setting(None, help="checksum of the file at url")
    overwrite: bool = setting(False, help="replace other weights at out")


SCHEMAS: dict[str, type] = {"convert": ConvertConfig, "fetch": FetchConfig}


def parse(words: list[str]) -> ConvertConfig | FetchConfig:
    """Parse a command line.

    Raises:
        InputError: the command or a setting is unknown, or a value is not allowed.
    """
    if not words or words[0] not in SCHEMAS:
        found = format_value(words[0]) if words else "nothing"
        raise InputError(
            f"command: found {found}; allowed: {', '.join(SCHEMAS)}; see python -m data_tools.weights --help"
        )
    given = {}
    for word in words[1:]:
        key, equals, value = word.partition("=")
        if not equals:
            raise InputError(
                f"{format_value(word)}: cannot be read as key=value; see python -m data_tools.weights --help"
            )
        given[key] = None if value == "null" else value
    return resolve(OmegaConf.create(given), SCHEMAS[words[0]])


def usage() -> str:
    """Help text of the command."""
    names = (f"{kind}: {', '.join(downloadable_options(kind))}" for kind in READERS)
    return f"{tool_help(__doc__, SCHEMAS)}\n\nnames of {'; of '.join(names)}"


def convert(config: ConvertConfig) -> None:
    """Run the command convert."""
    src, out = Path(config.src), Path(config.out)
    if out.exists() and src.exists() and out.samefile(src):
        raise InputError(f"out: found the source file, {out}; choose another path")
    write(src, out, kind=config.kind, source=src.name, overwrite=config.overwrite, licence=config.licence)


def write(
    src: Path,
    out: Path,
    *,
    kind: str,
    source: str,
    overwrite: bool,
    encoder: EncoderConfig | None = None,
    licence: str | None = None,
) -> None:
    """Convert a published file, which must have the size of `encoder`, and print a description.

    Raises:
        InputError: it cannot be used, or another file is at `out`.
    """
    check_writable_file(out, hint="choose another out=")
    with stopwatch(f"reading {src}"):
        published = read_published(src, kind)
    arrays, found = published.arrays, existing(out, kind)
    if encoder is not None:
        check_sizes(src, shapes(arrays), encoder)
    if found is None or found.checksum != checksum(arrays):
        if out.exists() and not overwrite:
            raise InputError(f"{out}: found another file; choose another out=, or add overwrite=true to replace it")
        found = None
    if published.unknown:
        warn(
            f"{src}: does not say {', '.join(published.unknown)}, which {out} does not record: train.py takes its "
            "settings without comparison"
        )
    licence = licence or read_licence(published.path.parent)
    record = (published.architecture, published.tokenizer, licence)
    if found is None or (found.architecture, found.tokenizer, found.licence) != record:
        write_published(out, published, kind=kind, source=source, licence=licence)
    print(
        f"{out}: {describe(published.config, published.vocabulary)}, checksum {checksum(arrays)[:12]}, from {source}, "
        f"licence {licence or 'not stated'}"
    )


def write_published(out: Path, published: Published, *, kind: str, source: str, licence: str) -> None:
    """Write the parameters of a published file, with its architecture."""
    write_weights(
        out,
        published.arrays,
        kind=kind,
        source=source,
        source_sha256=sha256(published.path),
        architecture=published.architecture,
        metadata={"tokenizer": published.tokenizer, "licence": licence},
    )


def shapes(arrays: Mapping[str, np.ndarray]) -> dict[str, tuple[int, ...]]:
    """Shapes of arrays by name."""
    return {name: value.shape for name, value in arrays.items()}


def existing(out: Path, kind: str) -> Weights | None:
    """The weights at a path; None if there are none or they cannot be read."""
    try:
        return read_weights(out, kind=kind)
    except InputError:
        return None


def describe(config: EncoderConfig, vocabulary: int) -> str:
    """Describe weights: the matching option of conf/encoder, and their sizes."""
    fitting = [name for name in options_of(config.kind) if same_sizes(encoder_option(name), config)]
    width = f"{config.dim} wide" + (f", patches of {config.patch_size}" if config.reads_images else "")
    name = fitting[0].replace("_", " ") if fitting else f"{config.kind} of a size without an option"
    words = f"vocabulary {vocabulary}, " if vocabulary else ""
    return f"{name}, {words}{config.depth} blocks, {width}"


def same_sizes(one: EncoderConfig, other: EncoderConfig) -> bool:
    """Return True if two encoders have the same parameter shapes, ignoring the vocabulary."""
    return all(getattr(one, key) == getattr(other, key) for key in SIZES[one.kind] if key != "vocabulary")


def options_of(kind: str) -> list[str]:
    """Options of conf/encoder of a kind, by their prefix."""
    return [option for option in options("encoder") if option.startswith(f"{kind}_")]


@cache
def encoder_option(option: str) -> EncoderConfig:
    """Config of an option of conf/encoder."""
    return compose("train", TrainConfig, [f"encoder={option}"]).encoder


def downloadable_options(kind: str) -> list[str]:
    """Names of a kind's options that may have published weights."""
    return [name.removeprefix(f"{kind}_") for name in options_of(kind) if is_published(encoder_option(name))]


def is_published(encoder: EncoderConfig) -> bool:
    """Return True if there may be published weights: a repository of them, or a third-party tokenizer."""
    return encoder.repository is not None or encoder.tokenizer != "small"


def fetch(config: FetchConfig) -> None:
    """Run the command fetch: download the tokenizer and the weights, each unless present."""
    names = downloadable_options(config.kind)
    if config.name not in names:
        raise InputError(f"name: found {format_value(config.name)}; allowed for {config.kind}: {', '.join(names)}")
    if config.sha256 is not None and not re.fullmatch("[0-9a-fA-F]{64}", config.sha256):
        raise InputError(f"sha256: found {format_value(config.sha256)}; allowed: 64 hexadecimal digits, or null")
    encoder = encoder_option(f"{config.kind}_{config.name}")
    out = Path(config.out or str(encoder.weights))
    tokenizer = out.parent / "tokenizers" / encoder.tokenizer.replace("/", "--") / "tokenizer.json"
    steps = [partial(fetch_weights, config, encoder, out)]
    steps = [partial(fetch_tokenizer, encoder, tokenizer), *steps] if encoder.reads_text else steps
    check_writable_file(out, hint="choose another out=")
    failures = []
    with exclusive_lock(
        out.parent / "downloads", activity="downloads", busy_hint="choose another out=", write_hint="choose out="
    ):
        for step in steps:
            try:
                step()
            except UnreachableError as error:
                failures.append(str(error))
    if failures:
        raise InputError("; ".join([failures[-1], *manual_steps(config, encoder, out, tokenizer)]))


def fetch_tokenizer(encoder: EncoderConfig, path: Path) -> None:
    """Download a tokenizer, unless present."""
    if not path.exists():
        try:
            download(hub_file(encoder.tokenizer, path.name), path, headers=hub_headers())
        except RemoteFileMissingError:
            raise UnreachableError(f"{encoder.tokenizer}: the repository has no {path.name}") from None
    print(f"{path}: the tokenizer of {encoder.tokenizer}", flush=True)


def fetch_weights(config: FetchConfig, encoder: EncoderConfig, out: Path) -> None:
    """Download and convert weights, unless present."""
    if out.exists() and not config.overwrite:
        found = read_weights(out, kind=encoder.kind)
        check_sizes(out, shapes(found.arrays), encoder)
        lacks = "" if found.architecture else " but does not record its architecture"
        print(f"{out}: exists already{lacks}, checksum {found.checksum[:12]}; overwrite=true fetches it again")
        return
    folder, digest = out.parent / "downloads", (config.sha256 or "").lower()
    if encoder.repository is not None:
        place = folder / encoder.name
        if config.url:
            file, source = download_from_link(config.url, digest, place)
        else:
            file, source = download_from_hub(encoder.repository, place)
    else:
        file, source = folder / f"{encoder.name}.download", config.url or ""
        download_m3ae(config.url, digest, file)
    write(file, out, kind=encoder.kind, source=source, overwrite=config.overwrite, encoder=encoder)
    if encoder.repository is not None:
        shutil.rmtree(place)
    else:
        file.unlink()


def download_m3ae(url: str | None, digest: str, path: Path) -> None:
    """Download M3AE's pickle from a link."""
    if url is None:
        raise UnreachableError("url: found null; the weights of M3AE have no fixed address")
    try:
        download(Remote(url, digest, url), path)
    except RemoteFileMissingError:
        raise InputError(f"{url}: the server has no such file; check the address") from None


def manual_steps(config: FetchConfig, encoder: EncoderConfig, out: Path, tokenizer: Path) -> list[str]:
    """Instructions for obtaining missing files manually, without a network or a fixed address."""
    steps = []
    if config.overwrite or not out.exists():
        steps.append(by_hand(encoder.repository, out, encoder) + (" overwrite=true" if out.exists() else ""))
        steps[0] += ", or give its direct link as url=..." if encoder.repository is None else ""
    if encoder.reads_text and not tokenizer.exists():
        steps.append(f"{'and ' if steps else ''}put {hub_address(encoder.tokenizer, tokenizer.name)} at {tokenizer}")
    return steps


def by_hand(repository: str | None, out: Path, encoder: EncoderConfig) -> str:
    """Instructions for obtaining weights without this command."""
    if repository is None:
        return m3ae_steps(out, encoder)
    files = ", ".join(hub_address(repository, name) for name in (CLIP_FILES[0], CONFIG, PREPROCESSOR))
    return f"download {files} into one folder, and run {convert_command(out, encoder)}"


def main() -> None:
    """Run the command."""
    with report_user_errors():
        words = sys.argv[1:]
        if "--help" in words or "-h" in words:
            print(usage())
            return
        config = parse(words)
        if isinstance(config, ConvertConfig):
            convert(config)
        else:
            fetch(config)


if __name__ == "__main__":
    main()
