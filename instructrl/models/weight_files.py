"""Encoder weight files: one format for all encoders, written atomically, validated on reading.

A safetensors file of float32 arrays, named by slash-separated paths in the encoder's parameter tree. Its metadata
tell kind, architecture, preprocessing and origin; `checksum` covers names, shapes and values.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np

from instructrl.config.model import Architecture, EncoderConfig
from instructrl.errors import InputError
from instructrl.models.encoders.architecture import decode_architecture, encode_architecture
from instructrl.models.parameter_files import checksum, damaged_file, open_arrays, unflatten_params, write_arrays
from instructrl.package_files import SHIPPED_WEIGHTS

# In the run directory: the weights of a frozen encoder that are not those of `encoder.weights`.
ENCODER_FILE = "encoder.safetensors"

FORMAT, VERSION = "instructrl encoder weights", "1"
REMEDY = "convert or fetch it again"  # of a damaged file

DECODER = (  # of M3AE's pretraining; optional in its file
    "decoder/",
    "decoder_input_projection/",
    "decoder_image_type_embedding",
    "decoder_text_type_embedding",
    "decoder_image_output/",
    "decoder_text_output/",
    "image_mask_embedding",
    "text_mask_embedding",
)

TEXT = (  # text parameters; unused by an encoder without text
    "text_embedding/",
    "encoder_text_type_embedding",
    "text_model/",
    "text_projection/",
    "logit_scale",
    "logit_bias",
)

WORD_EMBEDDINGS = ("text_embedding/embedding", "text_model/embeddings/token_embedding/embedding")

POSITION_EMBEDDING = "text_model/embeddings/position_embedding/embedding"  # learnt, one row per token


class Weights(NamedTuple):
    """Contents of a weight file."""

    path: Path
    kind: str
    checksum: str
    arrays: dict[str, np.ndarray]
    tokenizer: str = ""  # checksum of the tokenizer used in pretraining; "" if not recorded
    architecture: Architecture = {}  # and preprocessing; empty if not recorded
    licence: str = ""  # of published weights; "" if not recorded


def weights_path(encoder: EncoderConfig) -> Path | None:
    """The file of `encoder.weights`: one that InstructRL ships for `shipped`; None for random weights."""
    if encoder.weights is None:
        return None
    return SHIPPED_WEIGHTS / f"{encoder.name}.safetensors" if encoder.weights == "shipped" else Path(encoder.weights)


def read_checksum(path: Path, *, kind: str) -> str:
    """The checksum recorded in a file; its arrays are not read.

    Raises:
        InputError: the file is missing, has another format, or is of another kind.
    """
    with open_weights(path, kind) as (_, metadata):
        return metadata["checksum"]


def read_shapes(path: Path, *, kind: str) -> dict[str, tuple[int, ...]]:
    """Shapes of a file's parameters by name; the arrays are not read.

    Raises:
        InputError: the file is missing or damaged, has another format, or is of another kind.
    """
    with open_weights(path, kind) as (file, _):
        return {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118


def read_weights(path: Path, *, kind: str) -> Weights:
    """Read a weight file and verify its checksum.

    Raises:
        InputError: the file is missing or damaged, has another format, or is of another kind.
    """
    with open_weights(path, kind) as (file, metadata):
        arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    if checksum(arrays) != metadata["checksum"]:
        raise damaged_file(path, "checksum mismatch", REMEDY)
    architecture = decode_architecture(path, metadata.get("architecture", ""))
    tokenizer, licence = (metadata.get(key, "") for key in ("tokenizer", "licence"))
    return Weights(path, kind, metadata["checksum"], arrays, tokenizer, architecture, licence)


def read_architecture(path: Path, *, kind: str) -> Architecture:
    """Architecture and preprocessing that are recorded with a file's weights; the arrays are not read.

    Raises:
        InputError: the file is missing or damaged, has another format, or is of another kind.
    """
    with open_weights(path, kind) as (_, metadata):
        return decode_architecture(path, metadata.get("architecture", ""))


@contextmanager
def open_weights(path: Path, kind: str) -> Iterator[tuple[Any, dict[str, str]]]:
    """Open a weight file, of this kind; yields what `open_arrays` does.

    Raises:
        InputError: the file is missing or damaged, has another format, or is of another kind.
    """
    if not path.is_file():
        raise InputError(
            f"{path}: no encoder weights found; restore them, or get them with python -m data_tools.weights "
            "fetch or convert (see its --help)"
        )
    with open_arrays(path, REMEDY) as (file, metadata):
        if metadata.get("format") != FORMAT or metadata.get("version") != VERSION or "checksum" not in metadata:
            raise InputError(
                f"{path}: not written by InstructRL; convert it with "
                f"python -m data_tools.weights convert kind={kind} src={path} out=..."
            )
        if metadata.get("kind") != kind:
            found = metadata.get("kind")
            raise InputError(f"{path}: found weights of kind {found}, expected {kind}; choose a file of that kind")
        yield file, metadata


def read_tokenizer(path: Path, *, kind: str) -> str:
    """The checksum of the tokenizer with which a file's weights were pretrained; "" if not recorded.

    Raises:
        InputError: the file is missing, has another format, or is of another kind.
    """
    with open_weights(path, kind) as (_, metadata):
        return metadata.get("tokenizer", "")


def check_tokenizer(path: Path, expected: str, *, tokenizer: str, name: str) -> None:
    """Raise InputError unless the tokenizer called `name` is the one with which weights were pretrained.

    Args:
        path: the weight file.
        expected: checksum of the tokenizer used in pretraining; "" if unknown.
        tokenizer: checksum of the configured tokenizer.
        name: `encoder.tokenizer`.
    """
    if expected and expected != tokenizer:
        raise InputError(
            f"encoder.tokenizer: found {name} (checksum {tokenizer[:12]}), but {path} was pretrained with another one "
            f"(checksum {expected[:12]}); choose the tokenizer with which it was pretrained"
        )


def write_weights(
    path: Path,
    arrays: Mapping[str, np.ndarray],
    *,
    kind: str,
    source: str,
    source_sha256: str = "",
    architecture: Mapping[str, Any] = MappingProxyType({}),
    metadata: Mapping[str, str] = MappingProxyType({}),
) -> None:
    """Write a weight file atomically.

    Args:
        path: the file.
        arrays: parameters by their paths joined with slashes.
        kind: of the encoder.
        source: description of their origin.
        source_sha256: checksum of the file that they come from.
        architecture: `EncoderConfig.architecture`, or as much of it as is known.
        metadata: further information on the origin.

    Raises:
        InputError: the file cannot be written.
    """
    plain = {name: np.asarray(value, np.float32, order="C") for name, value in arrays.items()}
    own = {"format": FORMAT, "version": VERSION, "kind": kind, "source": source, "source_sha256": source_sha256}
    own |= {"architecture": encode_architecture(dict(architecture))} if architecture else {}
    write_arrays(path, plain, {**metadata, **own, "checksum": checksum(plain)})


def match_params(
    weights: Weights, shapes: Mapping[str, tuple[int, ...]], *, ignore: tuple[str, ...] = ()
) -> dict[str, Any]:
    """Match a file's arrays with expected names and shapes; returns a tree of dicts.

    Names that begin with one of `ignore` may be in the file too.

    Raises:
        InputError: a name is missing or unknown, or a shape differs.
    """
    found = {name: value.shape for name, value in weights.arrays.items()}
    check_shapes(weights.path, found, shapes, ignore=ignore)
    return unflatten_params({name: weights.arrays[name] for name in shapes})


def check_shapes(
    path: Path,
    found: Mapping[str, tuple[int, ...]],
    shapes: Mapping[str, tuple[int, ...]],
    *,
    ignore: tuple[str, ...] = (),
) -> None:
    """Raise InputError if a file lacks a name, has an unknown one, or a shape differs.

    Args:
        path: the weight file.
        found: the shapes in it.
        shapes: the expected ones.
        ignore: beginnings of names that may be in the file too.
    """
    found = {name: shape for name, shape in found.items() if not name.startswith(ignore)}
    mismatched = sorted(name for name in found.keys() | shapes.keys() if found.get(name) != shapes.get(name))
    mismatched.sort(key=lambda name: (name not in WORD_EMBEDDINGS, name != POSITION_EMBEDDING))
    if mismatched:
        name = mismatched[0]
        have, want = (str(have.get(name, "none")) for have in (found, shapes))
        line = f"{path}: {name}: found {have}, expected {want}"
        more = f" (and {len(mismatched) - 1} more)" if len(mismatched) > 1 else ""
        if name in WORD_EMBEDDINGS and name in found and name in shapes and found[name][1:] == shapes[name][1:]:
            raise InputError(
                f"{line}{more}: the vocabulary of encoder.tokenizer has {shapes[name][0]} entries, the weights have "
                f"{found[name][0]}; choose the tokenizer with which they were trained"
            )
        if name == POSITION_EMBEDDING and found.get(name, ())[1:] == shapes.get(name, ())[1:]:
            raise InputError(
                f"{line}{more}: encoder.text_length is {shapes[name][0]}, the weights have {found[name][0]} positions; "
                f"set encoder.text_length={found[name][0]}"
            )
        raise InputError(f"{line}{more}; choose the encoder= option or the weights of the right size")
