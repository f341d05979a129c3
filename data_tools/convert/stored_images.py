"""Images of RLBench's stored demonstrations, and the camera matrices that belong to them.

PyRep's cameras have their principal point at the centre of the image, so a matrix says of which size its images were.
Images of another size with the same aspect ratio were resized after the recording, and the matrix is rescaled. (Of
images that were cropped, the numbers say nothing else: cropping must be left to the converter.)
"""

import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from data_tools.convert.skip_report import SkippedError, SkipReason

FILE_NAME = re.compile(r"(?:rgb_|depth_)?(\d+)\.(png|jpe?g)", re.IGNORECASE)
MODES = ("RGB", "RGBA", "P", "PA")  # of colour images that are read
MAX_DEPTH = 2**24 - 1  # of a depth image: 24 bits, the highest in red
SAME_SIZE = 0.51  # pixels by which a matrix may differ from its image
SAME_ASPECT = 0.02  # relative difference by which a width may have been resized otherwise than its height


@dataclass(frozen=True)
class StoredView:
    """A stored image and what is cut out of it."""

    image: Image.Image  # RGB, square
    recorded_size: tuple[int, int]  # width and height of the stored image, in pixels

    def resized(self, size: int) -> np.ndarray:
        """Pixels uint8 [size size 3]."""
        return resize(self.image, size)

    def fit_matrix(self, matrix: np.ndarray, size: int) -> tuple[np.ndarray, str]:
        """Return the intrinsics float32 [3 3] of the image after resizing, and a note if its size was changed before.

        Raises:
            SkippedError: the matrix [3 3] belongs to an image of another aspect ratio.
        """
        width, height = self.recorded_size
        wide, high = 2 * float(matrix[0, 2]), 2 * float(matrix[1, 2])
        found, note = np.array(matrix, np.float64), ""
        if abs(wide - width) > 2 * SAME_SIZE or abs(high - height) > 2 * SAME_SIZE:
            if min(wide, high) < 1 or abs(width / wide * high / height - 1) > SAME_ASPECT:
                said = f"a camera matrix of images of {wide:g} x {high:g} pixels with an image of {width} x {height}"
                raise SkippedError(SkipReason.MATRICES, f"{said}; expected the same size, or the same aspect ratio")
            found[:2] *= np.array([[width / wide], [height / high]])
            note = f"images of {width} x {height} pixels had camera matrices of {wide:g} x {high:g}: rescaled"
        side = self.image.height
        found[:2] -= np.outer([(width - side) // 2, (height - side) // 2], found[2])
        found[:2] *= size / side
        return found.astype(np.float32), note


def list_images(folder: Path, *, lossless: bool = False) -> dict[int, Path]:
    """Images in a camera's folder by frame, <i>.png or <i>.jpg; `lossless` leaves out the latter."""
    found: dict[int, Path] = {}
    paths = sorted(folder.iterdir()) if folder.is_dir() else []
    for path in sorted(paths, key=lambda path: path.suffix.lower() != ".png"):
        name = FILE_NAME.fullmatch(path.name)
        if name and not (lossless and name[2].lower() != "png"):
            found.setdefault(int(name[1]), path)
    return found


def read_view(path: Path, *, crop: bool) -> StoredView:
    """Read a colour image; `crop` cuts the central square out of a wide or high one.

    Raises:
        SkippedError: it cannot be read, has no colours, or is not square.
    """
    image = read_image(path)
    if image.mode not in MODES:
        raise SkippedError(SkipReason.IMAGES, f"{path}: found {image.mode}, expected colours ({', '.join(MODES)})")
    width, height = image.size
    if width != height and not crop:
        found = f"found {width} x {height} pixels, expected a square"
        raise SkippedError(SkipReason.IMAGES, f"{path}: {found}; crop=true takes the central one")
    side = min(width, height)
    left, top = (width - side) // 2, (height - side) // 2
    colours = image.convert("RGB")
    return StoredView(colours.crop((left, top, left + side, top + side)), image.size)


def read_image(path: Path) -> Image.Image:
    """Read an image.

    Raises:
        SkippedError: it cannot be read.
    """
    try:
        with Image.open(path) as file:
            file.load()
            return file.copy()
    except Exception as error:  # a damaged file can raise any error
        raise SkippedError(SkipReason.IMAGES, f"{path}: cannot be read ({type(error).__name__})") from None


def resize(one: Image.Image, size: int) -> np.ndarray:
    """Resize a square image to pixels uint8 [size size 3]."""
    return np.asarray(one if one.height == size else one.resize((size, size), Image.Resampling.BOX))


def decode_depth(one: Image.Image) -> np.ndarray:
    """Decode depths [H W] from 0 (near) to 1 (far) of a 24-bit depth image."""
    red, green, blue = np.moveaxis(np.asarray(one, np.int64)[..., :3], -1, 0)
    return (red * 65536 + green * 256 + blue) / MAX_DEPTH
