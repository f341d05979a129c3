"""Reader of Hugging Face CLIP weights, converted to the parameter names and layout of its flax model.

Supported files: model.safetensors (PyTorch), also in shards, and flax_model.msgpack, with config.json beside them.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgpack
import numpy as np

from data_tools.weights.array_tree import FLOAT_DTYPES, MAX_DEPTH, Arrays, Contents, flatten, printable, to_float32
from data_tools.weights.clip_config import read_clip_config, tokenizer_checksum
from data_tools.weights.shards import INDEX, read_tensors
from instructrl.errors import InputError

CLIP_FILES = ("model.safetensors", "flax_model.msgpack")
INTEGER_DTYPES = {np.dtype(name) for name in ("int32", "int64")}  # dtypes of buffers, which are not parameters
ARRAY, NUMBER = 1, 3  # extension types of flax's msgpack
Convert = Callable[[str, np.ndarray], tuple[str, np.ndarray] | None]  # our name and layout; None: not used


class UnsupportedTypeError(Exception):
    """Numbers of a type that cannot be read; the message is its name."""


def find_weight_file(path: Path) -> Path:
    """Return the weight file in a folder of Hugging Face; a path to a file is returned unchanged."""
    if not path.is_dir():
        return path
    files = [path / name for name in (CLIP_FILES[0], INDEX, *CLIP_FILES[1:]) if (path / name).is_file()]
    if not files:
        raise InputError(f"{path}: found neither {' nor '.join(CLIP_FILES)} in this folder, nor {INDEX}; put one there")
    return files[0]


def read_clip(path: Path) -> Contents:
    """Read all parameters of Hugging Face's CLIP, its architecture and its preprocessing.

    Raises:
        InputError: a file is missing, damaged or in another format.
    """
    if not path.is_file():
        raise InputError(f"{path}: no such file; give the path of {' or '.join(CLIP_FILES)}")
    arrays = read_parameters(path)
    return Contents(arrays, read_clip_config(path.parent), tokenizer_checksum(path.parent))


def read_parameters(path: Path) -> Arrays:
    """Read all parameters of one of the supported files."""
    try:
        if is_torch(path):
            return read_torch(path, to_flax)
        return dict(flatten(path, from_flax(path)))
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from None


def is_torch(path: Path) -> bool:
    """Return True for safetensors, or an index of their shards.

    Raises:
        InputError: the file is PyTorch's pickle.
    """
    with path.open("rb") as file:
        head = file.read(9)
    if head[:4] == b"PK\x03\x04" or (head[:1] == b"\x80" and head[1:2] in b"\x02\x03\x04\x05"):
        raise InputError(f"{path}: found a PyTorch pickle; use {' or '.join(CLIP_FILES)} of the same repository")
    return path.name.endswith(".index.json") or head[8:9] == b"{"


def read_safetensors(path: Path, convert: Convert) -> Arrays:
    """Read the parameters of an encoder that is published in no other form, with names and layout converted.

    Raises:
        InputError: a file is missing, damaged or in another format.
    """
    try:
        supported = is_torch(path)
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); give the path of {CLIP_FILES[0]}") from None
    if not supported:
        raise InputError(f"{path}: not a safetensors file; use {CLIP_FILES[0]}, or its shards with {INDEX}")
    return read_torch(path, convert)


def read_torch(path: Path, convert: Convert) -> Arrays:
    """Read model.safetensors or an index of shards, with names and layout converted.

    Raises:
        InputError: a file is missing, damaged or in another format.
    """
    arrays = {}
    for file, name, value in read_tensors(path):
        if converted := convert(name, to_float32(file, name, value)):
            arrays[converted[0]] = converted[1]
    return arrays


def to_flax(name: str, value: np.ndarray) -> tuple[str, np.ndarray]:
    """Convert a PyTorch parameter to flax: weights are transposed and renamed by their role (kernel, scale ...)."""
    *folders, last = name.split(".")
    if last == "weight":
        if folders[-1:] in (["token_embedding"], ["position_embedding"]):
            last = "embedding"
        elif value.ndim == 1:
            last = "scale"
        else:  # out, in -> in, out; convolutions: out, in, height, width -> height, width, in, out
            last, value = "kernel", value.transpose(2, 3, 1, 0) if value.ndim == 4 else value.T
    return "/".join([*folders, last]), value


def from_flax(path: Path) -> Any:
    """Read the parameter tree of flax_model.msgpack; extension types other than arrays and numbers are refused."""
    try:
        tree = msgpack.unpackb(path.read_bytes(), ext_hook=decode_extension, raw=False, strict_map_key=False)
        tree = clean_tree(tree["params"] if type(tree) is dict and set(tree) == {"params"} else tree, depth=0)
    except OSError:
        raise
    except UnsupportedTypeError as error:
        allowed = ", ".join(sorted(dtype.name for dtype in FLOAT_DTYPES))
        raise InputError(
            f"{path}: found numbers of type {error}; allowed: {allowed}; use the weights in one of these"
        ) from None
    except Exception as error:  # a damaged or malicious file can raise any error
        raise InputError(f"{path}: damaged or not one of {' and '.join(CLIP_FILES)} ({type(error).__name__})") from None
    if type(tree) is not dict:
        raise InputError(f"{path}: found {type(tree).__name__}; expected a tree of parameters")
    return tree


def decode_extension(code: int, data: bytes) -> Any:
    """Decode an array or a number of flax's msgpack format."""
    if code not in (ARRAY, NUMBER):
        raise ValueError("unknown extension")
    shape, name, content = msgpack.unpackb(data, raw=True)
    dtype = next((dtype for dtype in FLOAT_DTYPES | INTEGER_DTYPES if dtype.name.encode() == name), None)
    if dtype is None:
        raise UnsupportedTypeError(printable(name.decode("latin1")) if type(name) is bytes else "unknown")
    return np.frombuffer(content, dtype).reshape(shape)


def clean_tree(tree: Any, *, depth: int) -> Any:
    """Join chunked arrays and drop entries that are not parameters."""
    if type(tree) is not dict or depth > MAX_DEPTH:
        return tree
    if "__msgpack_chunked_array__" in tree:
        shape, chunks = ([tree[key][str(index)] for index in range(len(tree[key]))] for key in ("shape", "chunks"))
        return np.concatenate(chunks).reshape(shape)
    return {key: clean_tree(value, depth=depth + 1) for key, value in tree.items() if key != "position_ids"}
