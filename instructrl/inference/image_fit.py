"""Images of a robot's cameras in the size that an agent takes, together with their camera matrices."""

import numpy as np
from PIL import Image

from instructrl.errors import InputError

Box = tuple[float, float, float, float]


def fit_image(
    image: np.ndarray, intrinsics: np.ndarray, size: int, *, box: Box | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Crop an image and resize the rest to a square, so that points are still projected to where they are seen.

    Extrinsics stay as they are: the camera does not move.

    Args:
        image: uint8 [H W 3].
        intrinsics: matrix [3 3] from camera coordinates to the image's pixels, which span [0, W] x [0, H].
        size: side of the result in pixels.
        box: left, top, right and bottom of the part to keep, in pixels; None: the largest square in the middle. Another
            shape than a square is stretched.

    Returns:
        The image, uint8 [size size 3], and its intrinsics, float32 [3 3].

    Raises:
        InputError: the image or the matrix is none, or the box is not within the image.
    """
    image, intrinsics = np.asarray(image), np.asarray(intrinsics)
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or not image.size:
        raise InputError(f"image: found {image.dtype}{image.shape}; allowed: uint8(H, W, 3)")
    if intrinsics.shape != (3, 3) or not np.isfinite(intrinsics.astype(np.float64)).all():
        raise InputError(f"intrinsics: found {intrinsics.dtype}{intrinsics.shape}; allowed: 3 x 3 finite numbers")
    if size < 1:
        raise InputError(f"size: found {size}; allowed: 1 or more pixels")
    height, width = image.shape[:2]
    left, top, right, bottom = box or middle_square(height, width)
    if not (0 <= left < right <= width and 0 <= top < bottom <= height):
        found = ", ".join(f"{edge:g}" for edge in (left, top, right, bottom))
        raise InputError(f"box: found {found}; allowed: left, top, right, bottom within {width} x {height} pixels")
    fitted = Image.fromarray(image).resize((size, size), Image.Resampling.BICUBIC, box=(left, top, right, bottom))
    across, down = size / (right - left), size / (bottom - top)
    to_fitted = np.array([[across, 0, -across * left], [0, down, -down * top], [0, 0, 1]])
    return np.asarray(fitted), (to_fitted @ intrinsics).astype(np.float32)


def middle_square(height: int, width: int) -> Box:
    """The largest square in the middle of an image: left, top, right and bottom in pixels."""
    side = min(height, width)
    left, top = (width - side) / 2, (height - side) / 2
    return left, top, left + side, top + side
