"""Encoder weight files: one format for all encoders, written atomically, validated on reading. Needs no jax or flax.

A safetensors file of float32 arrays, named by slash-separated paths in the encoder's parameter tree. Its metadata
identify kind and origin; `checksum` covers names, shapes and values.
"""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from instructrl.config.model import EncoderConfig
from instructrl.errors import InputError
from instructrl.models.encoders.registry import flatten_params
from instructrl.package_files import SHIPPED_WEIGHTS
from instructrl.storage.atomic import write_atomically

# In the run directory: the weights of a frozen encoder that are not those of `encoder.weights`.
ENCODER_FILE = "encoder.safetensors"

FORMAT, VERSION = "instructrl encoder weights", "1"

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


def weights_path(encoder: EncoderConfig) -> Path | None:
    """The file of `encoder.weights`: one that InstructRL ships for `shipped`; None for random weights."""
    if encoder.weights is None:
        return None
    return SHIPPED_WEIGHTS / f"{encoder.name}.safetensors" if encoder.weights == "shipped" else Path(encoder.weights)


def checksum(arrays: Mapping[str, np.ndarray]) -> str:
    """SHA-256 of names, shapes and values."""
    digest = hashlib.sha256()
    for name in sorted(arrays):
        digest.update(f"{name} {arrays[name].shape}\n".encode())
        digest.update(np.ascontiguousarray(arrays[name]).data)
    return digest.hexdigest()


def read_checksum(path: Path, *, kind: str) -> str:
    """The checksum recorded in a file; its arrays are not read.

    Raises:
        InputError: the file is missing, has another format, or is of another kind.
    """
    with open_weights(path) as file:
        return check_metadata(path, file.metadata() or {}, kind)


def read_shapes(path: Path, *, kind: str) -> dict[str, tuple[int, ...]]:
    """Shapes of a file's parameters by name; the arrays are not read.

    Raises:
        InputError: the file is missing or damaged, has another format, or is of another kind.
    """
    with open_weights(path) as file:
        check_metadata(path, file.metadata() or {}, kind)
        return {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118


def read_weights(path: Path, *, kind: str) -> Weights:
    """Read a weight file and verify its checksum.

    Raises:
        InputError: the file is missing or damaged, has another format, or is of another kind.
    """
    with open_weights(path) as file:
        metadata = file.metadata() or {}
        recorded = check_metadata(path, metadata, kind)
        try:
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        except (SafetensorError, OSError) as error:
            raise damaged_file(path, error) from None
    if checksum(arrays) != recorded:
        raise damaged_file(path, "checksum mismatch")
    return Weights(path, kind, recorded, arrays, metadata.get("tokenizer", ""))


def open_weights(path: Path) -> Any:
    """Open a safetensors file, as a context manager.

    Raises:
        InputError: the file is missing or damaged.
    """
    if not path.is_file():
        raise InputError(
            f"{path}: no encoder weights found; restore them, or get them with python -m data_tools.weights "
            "fetch or convert (see its --help)"
        )
    try:
        return safe_open(path, "numpy")
    except (SafetensorError, OSError) as error:
        raise damaged_file(path, error) from None


def damaged_file(path: Path, reason: object) -> InputError:
    """InputError for a file that cannot be read."""
    return InputError(f"{path}: damaged or not a safetensors file ({reason}); convert or fetch it again")


def check_metadata(path: Path, metadata: Mapping[str, str], kind: str) -> str:
    """Check format and kind in a file's metadata; returns the recorded checksum.

    Raises:
        InputError: the file has another format, or is of another kind.
    """
    if metadata.get("format") != FORMAT or metadata.get("version") != VERSION or "checksum" not in metadata:
        raise InputError(
            f"{path}: not written by InstructRL; convert it with "
            f"python -m data_tools.weights convert kind={kind} src={path} out=..."
        )
    if metadata.get("kind") != kind:
        found = metadata.get("kind")
        raise InputError(f"{path}: found weights of kind {found}, expected {kind}; choose a file of that kind")
    return metadata["checksum"]


def read_tokenizer(path: Path, *, kind: str) -> str:
    """The checksum of the tokenizer with which a file's weights were pretrained; "" if not recorded.

    Raises:
        InputError: the file is missing, has another format, or is of another kind.
    """
    with open_weights(path) as file:
        metadata = file.metadata() or {}
        check_metadata(path, metadata, kind)
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
    metadata: Mapping[str, str] = MappingProxyType({}),
) -> None:
    """Write a weight file atomically; `metadata` holds further information on its origin.

    Raises:
        InputError: the file cannot be written.
    """
    plain = {name: np.asarray(value, np.float32, order="C") for name, value in arrays.items()}
    own = {"format": FORMAT, "version": VERSION, "kind": kind, "source": source, "source_sha256": source_sha256}
    write_arrays(path, plain, {**metadata, **own, "checksum": checksum(plain)})


def write_arrays(path: Path, arrays: Mapping[str, np.ndarray], metadata: Mapping[str, str]) -> None:
    """Write arrays and metadata as a safetensors file, atomically.

    Raises:
        InputError: the file cannot be written.
    """
    write_atomically(path, save(dict(arrays), dict(metadata)), hint="choose another path")


def match_params(
    weights: Weights, shapes: Mapping[str, tuple[int, ...]], *, ignore: tuple[str, ...] = ()
) -> dict[str, Any]:
    """Match a file's arrays with expected names and shapes; returns a tree of dicts.

    Names that begin with one of `ignore` may be in the file too.

    Raises:
        InputError: a name is missing or unknown, or a shape differs.
    """
    found = {name: value.shape for name, value in weights.arrays.items() if not name.startswith(ignore)}
    mismatched = sorted(name for name in found.keys() | shapes.keys() if found.get(name) != shapes.get(name))
    mismatched.sort(key=lambda name: (name not in WORD_EMBEDDINGS, name != POSITION_EMBEDDING))
    if mismatched:
        name = mismatched[0]
        have, want = (str(have.get(name, "none")) for have in (found, shapes))
        line = f"{weights.path}: {name}: found {have}, expected {want}"
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
    return unflatten_params({name: weights.arrays[name] for name in shapes})


def unflatten_params(leaves: Mapping[str, Any]) -> Any:
    """Build a tree of dicts from leaves by slash-separated path."""
    tree: dict[str, Any] = {}
    for name, leaf in leaves.items():
        *branches, last = name.split("/")
        node = tree
        for branch in branches:
            node = node.setdefault(branch, {})
        node[last] = leaf
    return tree


FORMAT, VERSION = "instructrl parameters", "1"


def params_checksum(params: Any) -> str:
    """Checksum of the paths, shapes and values of a parameter tree."""
    return checksum({name: np.asarray(leaf) for name, leaf in flatten_params(params).items()})


def write_parameters(path: Path, params: Any, *, metadata: Mapping[str, str]) -> str:
    """Write a parameter tree atomically; returns its checksum.

    Raises:
        InputError: the file cannot be written.
    """
    arrays = {name: np.asarray(leaf, order="C") for name, leaf in flatten_params(params).items()}
    full = {"format": FORMAT, "version": VERSION, "checksum": checksum(arrays), **metadata}
    write_arrays(path, arrays, full)
    return full["checksum"]


def read_parameters(path: Path, *, hint: str) -> tuple[Any, dict[str, str]]:
    """Read a parameter tree (numpy arrays) and its metadata; `hint` ends every error message.

    Raises:
        InputError: the file is missing, damaged, or was not written by `write_parameters`.
    """
    try:
        with safe_open(path, "numpy") as file:
            metadata = file.metadata() or {}
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except FileNotFoundError:
        raise InputError(f"{path}: missing; {hint}") from None
    except (SafetensorError, OSError) as error:
        raise InputError(f"{path}: damaged or not a safetensors file ({error}); {hint}") from None
    if metadata.get("format") != FORMAT or metadata.get("version") != VERSION:
        raise InputError(f"{path}: not written by InstructRL, or by another version of it; {hint}")
    if checksum(arrays) != metadata.get("checksum"):
        raise InputError(f"{path}: damaged (checksum mismatch); {hint}")
    return unflatten_params(arrays), metadata
