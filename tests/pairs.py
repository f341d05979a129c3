"""Small sets of pictures with captions, for tests."""

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from PIL import Image

from instructrl.data.tokenizer import Tokenizer, shipped


def tokenizer(length: int = 12) -> Tokenizer:
    return Tokenizer(shipped()[1].pieces, length=length)


def color(number: int) -> tuple[int, int, int]:
    """The one colour of picture `number`: no two of the first few hundred are alike."""
    return (number * 37 % 256, number * 91 % 256, number % 256)


def jpeg(number: int, *, size: tuple[int, int] = (20, 16), kind: str = "JPEG", mode: str = "RGB") -> bytes:
    """A picture, width and height as given, in its colour."""
    file = io.BytesIO()
    Image.new("RGB", size, color(number)).convert(mode).save(file, kind)
    return file.getvalue()


def sentence(number: int) -> str:
    return f"the {number} red ball"


def m3ae_file(
    path: Path,
    *,
    pictures: Sequence[bytes] | None = None,
    captions: Sequence[Any] | None = None,
    texts: Sequence[Any] | None = None,
    text_type: Any = None,
) -> Path:
    """A file as M3AE's release reads it, written with h5py alone."""
    with h5py.File(path, "w") as file:
        if pictures is not None:
            array = file.create_dataset("jpg", (len(pictures),), h5py.vlen_dtype(np.uint8))
            for number, picture in enumerate(pictures):
                array[number] = np.frombuffer(picture, np.uint8)
        for name, entries in (("caption", captions), ("text", texts)):
            if entries is not None:
                array = file.create_dataset(name, (len(entries),), text_type or h5py.string_dtype())
                for number, entry in enumerate(entries):
                    array[number] = entry
    return path


def some(path: Path, count: int = 10, **other: Any) -> Path:
    """A file with so many good pictures and their captions."""
    pictures = [jpeg(number) for number in range(count)]
    return m3ae_file(path, **{"pictures": pictures, "captions": [sentence(n) for n in range(count)]} | other)
