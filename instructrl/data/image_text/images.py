"""Decoding of images (JPEG, PNG, any format of Pillow) to square pixel arrays, and encoding."""

import io
import warnings

import numpy as np
from PIL import Image, ImageOps

from instructrl.errors import short_message

WHITE = (255, 255, 255)


class BadImageError(Exception):
    """Bytes that cannot be decoded as an image, with the reason."""


def decode_image(content: bytes, size: int) -> np.ndarray:
    """Decode an image to uint8 [C,C,3]: EXIF rotation applied, shorter side resized to `size`, center-cropped.

    Transparent pixels become white. A JPEG much larger than that is decoded at 1/2, 1/4 or 1/8 scale.

    Raises:
        BadImageError: it is not an image, is damaged or truncated, or has too many pixels to be safe.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about large images and odd metadata
            image: Image.Image = Image.open(io.BytesIO(content))
            image.draft("RGB", (size, size))  # never smaller than requested
            image = flatten_alpha(ImageOps.exif_transpose(image))
            return np.asarray(ImageOps.fit(image, (size, size), Image.Resampling.BICUBIC))
    except Exception as error:  # Pillow's decoders raise exceptions of any type
        raise BadImageError(short_message(error)) from None


def flatten_alpha(image: Image.Image) -> Image.Image:
    """Return the image in RGB, composited on white."""
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        image = image.convert("RGBA")
        background = Image.new("RGB", image.size, WHITE)
        background.paste(image, mask=image.getchannel("A"))
        return background
    return image.convert("RGB")


def encode_jpeg(image: np.ndarray, quality: int) -> bytes:
    """Encode pixels uint8 [H,W,3] as a JPEG without chroma subsampling, which would blur small objects."""
    file = io.BytesIO()
    Image.fromarray(image).save(file, "JPEG", quality=quality, subsampling=0)
    return file.getvalue()
