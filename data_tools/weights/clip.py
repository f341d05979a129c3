"""Reader of Hugging Face CLIP weights, converted to the parameter names and layout of its flax model.

Supported files: model.safetensors (PyTorch) and flax_model.msgpack.
"""

from itertools import starmap
from pathlib import Path
from typing import Any

import msgpack
import numpy as np

from data_tools.weights.array_tree import FLOAT_DTYPES, MAX_DEPTH, flatten, to_float32
from instructrl.errors import InputError
from instructrl.models.parameter_files import open_arrays

CLIP_FILES = ("model.safetensors", "flax_model.msgpack")
INTEGER_DTYPES = {np.dtype(name) for name in ("int32", "int64")}  # dtypes of buffers, which are not parameters
ARRAY, NUMBER = 1, 3  # extension types of flax's msgpack


def find_clip_file(path: Path) -> Path:
    """Return the weight file in a folder of Hugging Face's CLIP; a path to a file is returned unchanged."""
    if not path.is_dir():
        return path
    files = [path / name for name in CLIP_FILES if (path / name).is_file()]
    if not files:
        raise InputError(f"{path}: found neither {' nor '.join(CLIP_FILES)} in this folder; put one there")
    return files[0]


def read_clip(path: Path) -> dict[str, np.ndarray]:
    """Read all parameters of Hugging Face's CLIP.

    Raises:
        InputError: the file is missing, damaged or in another format.
    """
    if not path.is_file():
        raise InputError(f"{path}: no such file; give the path of {' or '.join(CLIP_FILES)} is")
    try:
        with path.open("rb") as file:
            head = file.read(9)
        if head[:4] == b"PK\x03\x04" or (head[:1] == b"\x80" and head[1:2] in b"\x02\x03\x04\x05"):
            raise InputError(f"{path}: found a PyTorch pickle; use {' or '.join(CLIP_FILES)} of the same repository")
        return from_torch(path) if head[8:9] == b"{" else dict(flatten(path, from_flax(path)))
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from None


def from_torch(path: Path) -> dict[str, np.ndarray]:
    """Read model.safetensors, converted to the names and layout of Hugging Face's flax model."""
    with open_arrays(path, "download it again") as (file, _):
        names = [name for name in file.keys() if not name.endswith("position_ids")]  # noqa: SIM118
        arrays = {name: to_float32(path, name, file.get_tensor(name)) for name in names}
    return dict(starmap(to_flax, arrays.items()))


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
    dtype = next(dtype for dtype in FLOAT_DTYPES | INTEGER_DTYPES if dtype.name.encode() == name)
    return np.frombuffer(content, dtype).reshape(shape)


def clean_tree(tree: Any, *, depth: int) -> Any:
    """Join chunked arrays and drop entries that are not parameters."""
    if type(tree) is not dict or depth > MAX_DEPTH:
        return tree
    if "__msgpack_chunked_array__" in tree:
        shape, chunks = ([tree[key][str(index)] for index in range(len(tree[key]))] for key in ("shape", "chunks"))
        return np.concatenate(chunks).reshape(shape)
    return {key: clean_tree(value, depth=depth + 1) for key, value in tree.items() if key != "position_ids"}
