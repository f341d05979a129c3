"""Files of encoder weights: one layout for all, written whole, read strictly. Needs neither jax nor flax.

A safetensors file whose names are the paths of the encoder's parameter tree joined with slashes, all float32. Its
metadata say what it is; `checksum` covers names, shapes and values.
"""

import hashlib
import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from instructrl.config import EncoderConfig
from instructrl.errors import InputError

SHIPPED = Path(__file__).with_name("shipped")  # weights of the suite's own encoders
FORMAT, VERSION = "instructrl encoder weights", "1"
DECODER = (  # of M3AE's pretraining; kept in its file
    "decoder/",
    "decoder_input_projection/",
    "decoder_image_type_embedding",
    "decoder_text_type_embedding",
    "decoder_image_output/",
    "decoder_text_output/",
    "image_mask_embedding",
    "text_mask_embedding",
)
TEXT = (  # what reads the instruction; an encoder without text does without
    "text_embedding/",
    "encoder_text_type_embedding",
    "text_model/",
    "text_projection/",
    "logit_scale",
)
WORDS = ("text_embedding/embedding", "text_model/embeddings/token_embedding/embedding")
PLACES = "text_model/embeddings/position_embedding/embedding"  # of tokens, learnt


class Weights(NamedTuple):
    """What is in a file."""

    path: Path
    kind: str
    checksum: str
    arrays: dict[str, np.ndarray]
    tokenizer: str = ""  # the checksum of the one that they were pretrained with; empty where nobody noted it


def weights_path(encoder: EncoderConfig) -> Path | None:
    """The file that `encoder.weights` means: that of the suite for `shipped`; None for random ones."""
    if encoder.weights is None:
        return None
    return SHIPPED / f"{encoder.name}.safetensors" if encoder.weights == "shipped" else Path(encoder.weights)


def checksum(arrays: Mapping[str, np.ndarray]) -> str:
    """A digest of names, shapes and values."""
    digest = hashlib.sha256()
    for name in sorted(arrays):
        digest.update(f"{name} {arrays[name].shape}\n".encode())
        digest.update(np.ascontiguousarray(arrays[name]).data)
    return digest.hexdigest()


def read_checksum(path: Path, *, kind: str) -> str:
    """The checksum that a file says it has; its values are not read.

    Raises:
        InputError: the file is missing, or is none of ours or of another kind.
    """
    with opened(path) as file:
        return check_metadata(path, file.metadata() or {}, kind)


def read_shapes(path: Path, *, kind: str) -> dict[str, tuple[int, ...]]:
    """The shapes of a file's parameters by their names; their values are not read.

    Raises:
        InputError: the file is missing or damaged, or is none of ours or of another kind.
    """
    with opened(path) as file:
        check_metadata(path, file.metadata() or {}, kind)
        return {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118


def read_weights(path: Path, *, kind: str) -> Weights:
    """All of a file.

    Raises:
        InputError: the file is missing or damaged, or is none of ours or of another kind.
    """
    with opened(path) as file:
        about = file.metadata() or {}
        said = check_metadata(path, about, kind)
        try:
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        except (SafetensorError, OSError) as error:
            raise damaged(path, error) from None
    if checksum(arrays) != said:
        raise damaged(path, "its checksum is another one")
    return Weights(path, kind, said, arrays, about.get("tokenizer", ""))


def opened(path: Path) -> Any:
    """The file, opened; a context manager."""
    if not path.is_file():
        raise InputError(
            f"{path}: no encoder weights there; restore them, or get them with python -m data_tools.weights "
            "fetch or convert (see its --help)"
        )
    try:
        return safe_open(path, "numpy")
    except (SafetensorError, OSError) as error:
        raise damaged(path, error) from None


def damaged(path: Path, why: object) -> InputError:
    """The error for a file that cannot be read."""
    return InputError(f"{path}: damaged, or no safetensors file ({why}); convert or fetch it again")


def check_metadata(path: Path, said: Mapping[str, str], kind: str) -> str:
    """The checksum in a file's metadata, if they are ours and of this kind."""
    if said.get("format") != FORMAT or said.get("version") != VERSION or "checksum" not in said:
        raise InputError(
            f"{path}: not written by this suite; make it so with "
            f"python -m data_tools.weights convert kind={kind} src={path} out=..."
        )
    if said.get("kind") != kind:
        raise InputError(f"{path}: found weights of kind {said.get('kind')}, expected {kind}; choose that kind's file")
    return said["checksum"]


def read_tokenizer(path: Path, *, kind: str) -> str:
    """The checksum of the tokenizer that a file's weights were pretrained with; empty where nobody noted it.

    Raises:
        InputError: the file is missing, or is none of ours or of another kind.
    """
    with opened(path) as file:
        about = file.metadata() or {}
        check_metadata(path, about, kind)
        return about.get("tokenizer", "")


def check_tokenizer(path: Path, learnt: str, *, tokenizer: str, name: str) -> None:
    """Raise InputError if weights were pretrained with other tokens than those of `encoder.tokenizer`, its `name`."""
    if learnt and learnt != tokenizer:
        raise InputError(
            f"encoder.tokenizer: found {name} (checksum {tokenizer[:12]}), but {path} was pretrained with other tokens "
            f"(checksum {learnt[:12]}); choose the tokenizer that it was trained with"
        )


def write_weights(
    path: Path,
    arrays: Mapping[str, np.ndarray],
    *,
    kind: str,
    source: str,
    source_sha256: str = "",
    about: Mapping[str, str] = MappingProxyType({}),
) -> None:
    """Write a file so that it is there whole or not at all; `about` says more of its origin.

    Raises:
        InputError: it cannot be written.
    """
    plain = {name: np.asarray(value, np.float32, order="C") for name, value in arrays.items()}
    said = {"format": FORMAT, "version": VERSION, "kind": kind, "source": source, "source_sha256": source_sha256}
    write_arrays(path, plain, {**about, **said, "checksum": checksum(plain)})


def write_arrays(path: Path, arrays: Mapping[str, np.ndarray], said: Mapping[str, str]) -> None:
    """Write arrays and what is said of them as safetensors, so that the file is there whole or not at all.

    Raises:
        InputError: it cannot be written.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("wb") as file:
            file.write(save(dict(arrays), dict(said)))
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        with suppress(OSError):
            temporary.unlink()
        raise InputError(f"{path}: cannot be written ({error.strerror}); make room or choose another place") from None


def fit(weights: Weights, shapes: Mapping[str, tuple[int, ...]], *, besides: tuple[str, ...] = ()) -> dict[str, Any]:
    """The arrays of these names and shapes as a tree of dicts.

    Names that begin with one of `besides` may be in the file too.

    Raises:
        InputError: a name is missing or unknown, or a shape is another one.
    """
    found = {name: value.shape for name, value in weights.arrays.items() if not name.startswith(besides)}
    wrong = sorted(name for name in found.keys() | shapes.keys() if found.get(name) != shapes.get(name))
    wrong.sort(key=lambda name: (name not in WORDS, name != PLACES))
    if wrong:
        name = wrong[0]
        have, want = (str(have.get(name, "none")) for have in (found, shapes))
        line = f"{weights.path}: {name}: found {have}, expected {want}"
        more = f" (and {len(wrong) - 1} more)" if len(wrong) > 1 else ""
        if name in WORDS and name in found and name in shapes and found[name][1:] == shapes[name][1:]:
            raise InputError(
                f"{line}{more}: the vocabulary of encoder.tokenizer has {shapes[name][0]} entries, that of the weights "
                f"{found[name][0]}; choose the tokenizer that they were trained with"
            )
        if name == PLACES and found.get(name, ())[1:] == shapes.get(name, ())[1:]:
            raise InputError(
                f"{line}{more}: encoder.text_length is {shapes[name][0]}, the weights have places for {found[name][0]} "
                f"tokens; set encoder.text_length={found[name][0]}"
            )
        raise InputError(f"{line}{more}; choose the encoder= option or the weights of the right size")
    return tree({name: weights.arrays[name] for name in shapes})


def tree(leaves: Mapping[str, Any]) -> Any:
    """The tree of dicts whose leaves have these paths, joined with slashes."""
    found: dict[str, Any] = {}
    for name, leaf in leaves.items():
        *folders, last = name.split("/")
        place = found
        for folder in folders:
            place = place.setdefault(folder, {})
        place[last] = leaf
    return found
