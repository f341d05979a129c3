"""An encoded picture (JPEG, PNG, whatever Pillow reads) as a square of pixels."""

import io
import warnings

import numpy as np
from PIL import Image, ImageOps

WHITE = (255, 255, 255)


class BadPictureError(Exception):
    """Bytes of which no picture can be made; says why."""


def decoded(content: bytes, canvas: int) -> np.ndarray:
    """A picture as uint8 [C,C,3]: turned as its EXIF says, its shorter side resized to `canvas`, its centre cut out.

    What is transparent becomes white. A JPEG much larger than that is decoded at a half, a quarter or an eighth.

    Raises:
        BadPictureError: it is none, is damaged or cut short, or has too many pixels to be safe.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of large pictures and odd metadata
            image: Image.Image = Image.open(io.BytesIO(content))
            image.draft("RGB", (canvas, canvas))  # never smaller than asked for
            image = opaque(ImageOps.exif_transpose(image))
            return np.asarray(ImageOps.fit(image, (canvas, canvas), Image.Resampling.BICUBIC))
    except Exception as error:  # Pillow's readers raise whatever the bytes lead them to
        raise BadPictureError(" ".join(str(error).split()) or type(error).__name__) from None


def opaque(image: Image.Image) -> Image.Image:
    """The picture in RGB, on white where it is transparent."""
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        image = image.convert("RGBA")
        ground = Image.new("RGB", image.size, WHITE)
        ground.paste(image, mask=image.getchannel("A"))
        return ground
    return image.convert("RGB")


def encoded(image: np.ndarray, quality: int) -> bytes:
    """Pixels uint8 [H,W,3] as a JPEG without subsampled colours, which small things would lose theirs to."""
    file = io.BytesIO()
    Image.fromarray(image).save(file, "JPEG", quality=quality, subsampling=0)
    return file.getvalue()
