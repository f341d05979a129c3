"""CLIP as Hugging Face publishes it, by the names and in the layout of its flax model.

The files: model.safetensors, of PyTorch, or flax_model.msgpack.
"""

from itertools import starmap
from pathlib import Path
from typing import Any

import msgpack
import numpy as np
from safetensors import SafetensorError, safe_open

from data_tools.parameters import DEEPEST, FLOATS, flattened, floats
from instructrl.errors import InputError

CLIP_FILES = ("model.safetensors", "flax_model.msgpack")
INTEGERS = {np.dtype(name) for name in ("int32", "int64")}  # of buffers that are no parameters
ARRAY, NUMBER = 1, 3  # extension types of flax's msgpack


def file_in(path: Path) -> Path:
    """The file that a folder of Hugging Face's CLIP holds; a file is itself."""
    if not path.is_dir():
        return path
    files = [path / name for name in CLIP_FILES if (path / name).is_file()]
    if not files:
        raise InputError(f"{path}: found neither {' nor '.join(CLIP_FILES)} in this folder; put one there")
    return files[0]


def read_clip(path: Path) -> dict[str, np.ndarray]:
    """All parameters of Hugging Face's CLIP.

    Raises:
        InputError: the file is damaged, or is none.
    """
    if not path.is_file():
        raise InputError(f"{path}: no such file; say where {' or '.join(CLIP_FILES)} is")
    try:
        with path.open("rb") as file:
            head = file.read(9)
        if head[:4] == b"PK\x03\x04" or (head[:1] == b"\x80" and head[1:2] in b"\x02\x03\x04\x05"):
            raise InputError(
                f"{path}: found a pickle of PyTorch; take {' or '.join(CLIP_FILES)} of the same repository"
            )
        return from_torch(path) if head[8:9] == b"{" else dict(flattened(path, from_flax(path)))
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from None


def from_torch(path: Path) -> dict[str, np.ndarray]:
    """Those of model.safetensors by the names and in the layout of Hugging Face's flax model."""
    try:
        with safe_open(path, "numpy") as file:
            names = [name for name in file.keys() if not name.endswith("position_ids")]  # noqa: SIM118
            arrays = {name: floats(path, name, file.get_tensor(name)) for name in names}
    except (SafetensorError, OSError, TypeError, ValueError) as error:
        raise InputError(f"{path}: damaged, or no safetensors file ({type(error).__name__}); get it again") from None
    return dict(starmap(in_flax, arrays.items()))


def in_flax(name: str, value: np.ndarray) -> tuple[str, np.ndarray]:
    """A parameter of PyTorch as flax has it: a weight's axes are turned, and its name says what it does."""
    *folders, last = name.split(".")
    if last == "weight":
        if folders[-1:] in (["token_embedding"], ["position_embedding"]):
            last = "embedding"
        elif value.ndim == 1:
            last = "scale"
        else:  # out, in -> in, out; of images: out, in, height, width -> height, width, in, out
            last, value = "kernel", value.transpose(2, 3, 1, 0) if value.ndim == 4 else value.T
    return "/".join([*folders, last]), value


def from_flax(path: Path) -> Any:
    """The tree in flax_model.msgpack; only arrays are made of what it holds."""
    try:
        tree = msgpack.unpackb(path.read_bytes(), ext_hook=extension, raw=False, strict_map_key=False)
        tree = tidied(tree["params"] if type(tree) is dict and set(tree) == {"params"} else tree, depth=0)
    except OSError:
        raise
    except Exception as error:  # whatever a damaged or hostile file leads to
        raise InputError(f"{path}: damaged, or none of {' and '.join(CLIP_FILES)} ({type(error).__name__})") from None
    if type(tree) is not dict:
        raise InputError(f"{path}: found {type(tree).__name__}; expected a tree of parameters")
    return tree


def extension(code: int, data: bytes) -> Any:
    """An array or a number of flax's msgpack."""
    if code not in (ARRAY, NUMBER):
        raise ValueError("unknown extension")
    shape, name, content = msgpack.unpackb(data, raw=True)
    dtype = next(dtype for dtype in FLOATS | INTEGERS if dtype.name.encode() == name)
    return np.frombuffer(content, dtype).reshape(shape)


def tidied(tree: Any, *, depth: int) -> Any:
    """The tree with arrays whole that were too large for one piece, without what is no parameter."""
    if type(tree) is not dict or depth > DEEPEST:
        return tree
    if "__msgpack_chunked_array__" in tree:
        shape, chunks = ([tree[key][str(place)] for place in range(len(tree[key]))] for key in ("shape", "chunks"))
        return np.concatenate(chunks).reshape(shape)
    return {key: tidied(value, depth=depth + 1) for key, value in tree.items() if key != "position_ids"}
