"""Encoder weights of others, as files that train.py reads.

python -m data_tools.weights fetch kind=clip name=b16
python -m data_tools.weights convert kind=m3ae src=FILE out=weights/m3ae_b16.safetensors

fetch downloads the weights and the tokenizer of an encoder option to where it looks for them, or those at url= (with
the checksum sha256=) to out=. convert reads a published file: M3AE's pickle, of which nothing is run, or CLIP's
model.safetensors or flax_model.msgpack. Other weights at the same place are kept unless overwrite=true.
"""

import re
import shlex
import sys
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path

import numpy as np
from omegaconf import MISSING, OmegaConf

from data_tools.clip_files import CLIP_FILES
from data_tools.download import (
    GoneError,
    Remote,
    UnreachableError,
    download,
    hub_address,
    hub_file,
    hub_headers,
    sha256,
)
from data_tools.published import read_published
from instructrl.command import compose, table
from instructrl.config import EncoderConfig, TrainConfig, resolve
from instructrl.data.lock import only_process
from instructrl.errors import InputError, one_line_errors
from instructrl.models.sizes import check_sizes
from instructrl.models.weights import checksum, read_weights, write_weights
from instructrl.overrides import options
from instructrl.schema import allowed, leaves, one_of, shown

M3AE_PAGE = "https://github.com/young-geng/m3ae_public"
M3AE_SIZES = {"s": "small", "b": "base", "l": "large", "h": "huge"}


@dataclass
class ConvertConfig:
    """`convert`."""

    kind: str = one_of("m3ae", "clip")
    src: str = MISSING  # the published file; of CLIP also its folder
    out: str = MISSING
    overwrite: bool = False  # whether other weights at `out` may be replaced


@dataclass
class FetchConfig:
    """`fetch`."""

    kind: str = one_of("m3ae", "clip")
    name: str | None = None  # the encoder option without its kind: b16
    out: str | None = None  # null: where that option looks
    url: str | None = None  # a direct link; null: Hugging Face (M3AE has no fixed address)
    sha256: str | None = None  # of the file at `url`
    overwrite: bool = False


SCHEMAS: dict[str, type] = {"convert": ConvertConfig, "fetch": FetchConfig}


def parse(words: list[str]) -> ConvertConfig | FetchConfig:
    """What a command line asks for.

    Raises:
        InputError: it asks for nothing that there is.
    """
    if not words or words[0] not in SCHEMAS:
        found = shown(words[0]) if words else "nothing"
        raise InputError(
            f"command: found {found}; allowed: {', '.join(SCHEMAS)}; see python -m data_tools.weights --help"
        )
    given = {}
    for word in words[1:]:
        key, equals, value = word.partition("=")
        if not equals:
            raise InputError(f"{shown(word)}: cannot be read as key=value; see python -m data_tools.weights --help")
        given[key] = None if value == "null" else value
    return resolve(OmegaConf.create(given), SCHEMAS[words[0]])


def usage() -> str:
    """The help."""
    lines = [(__doc__ or "").strip()]
    for name, schema in SCHEMAS.items():
        lines += ["", f"{name}: key=value (what is allowed)"]
        lines += table({key: allowed(field) for key, field in leaves(schema).items()})
    names = (f"{kind}: {', '.join(fetched_options(kind))}" for kind in ("m3ae", "clip"))
    return "\n".join([*lines, "", f"names of {'; of '.join(names)}"])


def convert(asked: ConvertConfig) -> None:
    """Do `convert`."""
    src, out = Path(asked.src), Path(asked.out)
    if out.exists() and src.exists() and out.samefile(src):
        raise InputError(f"out: found the file that is to be read, {out}; choose another place")
    write(src, out, kind=asked.kind, source=src.name, overwrite=asked.overwrite)


def write(
    src: Path, out: Path, *, kind: str, source: str, overwrite: bool, encoder: EncoderConfig | None = None
) -> None:
    """Convert a published file, which must be of the size of `encoder`, and say what it is.

    Raises:
        InputError: it cannot be used, or something else is at `out`.
    """
    published = read_published(src, kind)
    arrays = published.arrays
    if encoder is not None:
        check_sizes(src, shapes(arrays), encoder)
    if present(out, kind) != checksum(arrays):
        if out.exists() and not overwrite:
            raise InputError(
                f"{out}: found another file there; choose another out=, or add overwrite=true to replace it"
            )
        write_weights(out, arrays, kind=kind, source=source, source_sha256=sha256(published.path))
    print(
        f"{out}: {described(published.config, published.vocabulary)}, checksum {checksum(arrays)[:12]}, from {source}"
    )


def shapes(arrays: Mapping[str, np.ndarray]) -> dict[str, tuple[int, ...]]:
    """The shapes of arrays."""
    return {name: value.shape for name, value in arrays.items()}


def present(out: Path, kind: str) -> str:
    """The checksum of the weights that are at a place; empty if there are none that can be read."""
    try:
        return read_weights(out, kind=kind).checksum
    except InputError:
        return ""


def described(config: EncoderConfig, vocabulary: int) -> str:
    """What weights are: the option of conf/encoder that they fit, and their sizes."""
    fitting = [name for name in options_of(config.kind) if same_sizes(encoder_option(name), config)]
    width = f"{config.dim} wide, patches of {config.patch_size}"
    name = fitting[0].replace("_", " ") if fitting else f"{config.kind} of a size without option"
    return f"{name}, vocabulary {vocabulary}, {config.depth} blocks, {width}"


def same_sizes(one: EncoderConfig, other: EncoderConfig) -> bool:
    """Whether two encoders have parameters of the same shapes, but for their vocabulary."""
    keys: tuple[str, ...] = ("dim", "depth", "patch_size")
    keys += ("image_size", "text_dim", "text_depth", "text_length", "projection") if one.kind == "clip" else ()
    return all(getattr(one, key) == getattr(other, key) for key in keys)


def options_of(kind: str) -> list[str]:
    """The options of conf/encoder that are named after a kind."""
    return [option for option in options("encoder") if option.startswith(f"{kind}_")]


@cache
def encoder_option(option: str) -> EncoderConfig:
    """An option of conf/encoder."""
    return compose("train", TrainConfig, [f"encoder={option}"]).encoder


def fetched_options(kind: str) -> list[str]:
    """Names of the options of a kind whose weights somebody may have published: those with a tokenizer of others."""
    return [name.removeprefix(f"{kind}_") for name in options_of(kind) if encoder_option(name).tokenizer != "small"]


def fetch(asked: FetchConfig) -> None:
    """Do `fetch`: the tokenizer and the weights, each unless it is there."""
    names = fetched_options(asked.kind)
    if asked.name not in names:
        raise InputError(f"name: found {shown(asked.name)}; allowed for {asked.kind}: {', '.join(names)}")
    if asked.sha256 is not None and not re.fullmatch("[0-9a-fA-F]{64}", asked.sha256):
        raise InputError(f"sha256: found {shown(asked.sha256)}; allowed: 64 hexadecimal digits, or null")
    encoder = encoder_option(f"{asked.kind}_{asked.name}")
    out = Path(asked.out or str(encoder.weights))
    tokenizer = out.parent / "tokenizers" / encoder.tokenizer.replace("/", "--") / "tokenizer.json"
    failures = []
    with only_process(
        out.parent / "downloads", does="downloads", remedy="choose another out=", elsewhere="choose out="
    ):
        for step in (partial(fetch_tokenizer, encoder, tokenizer), partial(fetch_weights, asked, encoder, out)):
            try:
                step()
            except UnreachableError as error:
                failures.append(str(error))
    if failures:
        raise InputError(f"{failures[-1]}; {by_hand(encoder, out, tokenizer)}")


def fetch_tokenizer(encoder: EncoderConfig, path: Path) -> None:
    """Download a tokenizer, unless there is one."""
    if not path.exists():
        try:
            download(hub_file(encoder.tokenizer, path.name), path, headers=hub_headers())
        except GoneError:
            raise UnreachableError(f"{encoder.tokenizer}: the repository has no {path.name}") from None
    print(f"{path}: the tokenizer of {encoder.tokenizer}", flush=True)


def fetch_weights(asked: FetchConfig, encoder: EncoderConfig, out: Path) -> None:
    """Download and convert weights, unless there are some."""
    if out.exists() and not asked.overwrite:
        found = read_weights(out, kind=encoder.kind)
        check_sizes(out, shapes(found.arrays), encoder)
        print(f"{out}: is there already, checksum {found.checksum[:12]}; overwrite=true fetches it again")
        return
    file = out.parent / "downloads" / f"{encoder.name}.download"
    remote = Remote(asked.url, (asked.sha256 or "").lower(), asked.url) if asked.url else published_at(encoder)
    try:
        download(remote, file, headers={} if asked.url else hub_headers())
    except GoneError:
        raise InputError(f"{remote.url}: the server has no such file; check the address") from None
    write(file, out, kind=encoder.kind, source=remote.version, overwrite=asked.overwrite, encoder=encoder)
    file.unlink()


def published_at(encoder: EncoderConfig) -> Remote:
    """Where an encoder's published weights are."""
    if encoder.kind == "m3ae":
        raise UnreachableError("url: found null; the weights of M3AE have no fixed address")
    for name in CLIP_FILES:
        with suppress(GoneError):
            return hub_file(encoder.tokenizer, name)
    raise UnreachableError(f"{encoder.tokenizer}: the repository has neither {' nor '.join(CLIP_FILES)}")


def by_hand(encoder: EncoderConfig, out: Path, tokenizer: Path) -> str:
    """What to do without a network, or without a fixed address, for what is not there."""
    steps = []
    if not out.exists():
        command = f"python -m data_tools.weights convert kind={encoder.kind} src=FILE out={shlex.quote(str(out))}"
        if encoder.kind == "m3ae":
            size = M3AE_SIZES[encoder.name.removeprefix("m3ae_")[0]]
            where = f"the pickle of M3AE {size} (not of MAE) in the folder that {M3AE_PAGE} links as its weights"
            command += ", or give its direct link as url=..."
        else:
            where = hub_address(encoder.tokenizer, CLIP_FILES[0])
        steps.append(f"download {where}, and run {command}")
    if not tokenizer.exists():
        steps.append(f"put {hub_address(encoder.tokenizer, tokenizer.name)} at {tokenizer}")
    return "; and ".join(steps)


def main() -> None:
    """Run the command."""
    with one_line_errors():
        words = sys.argv[1:]
        if "--help" in words or "-h" in words:
            print(usage())
            return
        asked = parse(words)
        if isinstance(asked, ConvertConfig):
            convert(asked)
        else:
            fetch(asked)


if __name__ == "__main__":
    main()
