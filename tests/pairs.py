"""Small sets of image-text pairs for tests."""

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from PIL import Image

from instructrl.data.tokenizer import Tokenizer, bundled_vocabulary


def tokenizer(length: int = 12) -> Tokenizer:
    return Tokenizer(bundled_vocabulary()[1].pieces, length=length)


def color(number: int) -> tuple[int, int, int]:
    """Return the color of image `number`, unique among the first few hundred."""
    return (number * 37 % 256, number * 91 % 256, number % 256)


def jpeg(number: int, *, size: tuple[int, int] = (20, 16), kind: str = "JPEG", mode: str = "RGB") -> bytes:
    """Encode an image of one color, with the given width and height."""
    file = io.BytesIO()
    Image.new("RGB", size, color(number)).convert(mode).save(file, kind)
    return file.getvalue()


def sentence(number: int) -> str:
    return f"the {number} red ball"


def m3ae_file(
    path: Path,
    *,
    images: Sequence[bytes] | None = None,
    captions: Sequence[Any] | None = None,
    texts: Sequence[Any] | None = None,
    text_type: Any = None,
) -> Path:
    """Write a file in the format of M3AE's release, with h5py alone."""
    with h5py.File(path, "w") as file:
        if images is not None:
            array = file.create_dataset("jpg", (len(images),), h5py.vlen_dtype(np.uint8))
            for number, image in enumerate(images):
                array[number] = np.frombuffer(image, np.uint8)
        for name, entries in (("caption", captions), ("text", texts)):
            if entries is not None:
                array = file.create_dataset(name, (len(entries),), text_type or h5py.string_dtype())
                for number, entry in enumerate(entries):
                    array[number] = entry
    return path


def some(path: Path, count: int = 10, **other: Any) -> Path:
    """Write a file with `count` valid images and their captions."""
    images = [jpeg(number) for number in range(count)]
    return m3ae_file(path, **{"images": images, "captions": [sentence(n) for n in range(count)]} | other)
