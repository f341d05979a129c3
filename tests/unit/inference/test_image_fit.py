"""Images that are cropped and resized with their matrices: a point is seen where it is projected to."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from instructrl.errors import InputError
from instructrl.inference.image_fit import fit_image

INTRINSICS = np.array([[90.0, 0.5, 70.0], [0.0, 100.0, 55.0], [0.0, 0.0, 1.0]])


def seen_at(image: np.ndarray) -> np.ndarray:
    """The centre (x, y) of what is bright."""
    light = image[..., 0].astype(np.float64)
    rows, columns = np.indices(light.shape) + 0.5  # a pixel's centre
    return np.array([(light * columns).sum(), (light * rows).sum()]) / light.sum()


def projected(intrinsics: np.ndarray, point: np.ndarray) -> np.ndarray:
    pixel = intrinsics @ point
    return pixel[:2] / pixel[2]


def image_of(point: np.ndarray, height: int, width: int) -> np.ndarray:
    """A dark image with a soft spot where a point is."""
    x, y = projected(INTRINSICS, point)
    rows, columns = np.indices((height, width)) + 0.5
    spot = 255 * np.exp(-((columns - x) ** 2 + (rows - y) ** 2) / (2 * 3.0**2))
    return np.repeat(spot.astype(np.uint8)[..., None], 3, axis=2)


@settings(max_examples=40)
@given(
    st.tuples(*[st.floats(-0.15, 0.15)] * 2),
    st.floats(0.8, 2.0),
    st.sampled_from([48, 64, 100, 160]),
    st.tuples(*[st.floats(0, 12)] * 4) | st.none(),
)
def test_a_point_is_seen_where_the_new_matrix_projects_it(
    beside: tuple[float, float], depth: float, size: int, margins: tuple[float, float, float, float] | None
) -> None:
    height, width = 110, 140
    point = np.array([beside[0] * depth, beside[1] * depth, depth])
    box = None if margins is None else (margins[0], margins[1], width - margins[2], height - margins[3])
    image, intrinsics = fit_image(image_of(point, height, width), INTRINSICS, size, box=box)
    assert image.shape == (size, size, 3) and image.dtype == np.uint8 and intrinsics.dtype == np.float32
    np.testing.assert_allclose(seen_at(image), projected(intrinsics, point), atol=0.15)


def test_an_image_that_fits_stays_as_it_is() -> None:
    image = np.random.default_rng(0).integers(0, 256, (32, 32, 3), np.uint8)
    same, intrinsics = fit_image(image, INTRINSICS, 32)
    np.testing.assert_array_equal(same, image)
    np.testing.assert_allclose(intrinsics, INTRINSICS, rtol=1e-6)


@pytest.mark.parametrize(
    ("changed", "line"),
    [
        ({"image": np.zeros((8, 8, 3), np.float32)}, r"image: found float32\(8, 8, 3\); allowed: uint8\(H, W, 3\)"),
        ({"image": np.zeros((8, 8), np.uint8)}, r"image: found uint8\(8, 8\)"),
        ({"intrinsics": np.eye(4)}, r"intrinsics: found float64\(4, 4\); allowed: 3 x 3 finite numbers"),
        ({"intrinsics": np.full((3, 3), np.nan)}, "intrinsics: found"),
        ({"size": 0}, "size: found 0; allowed: 1 or more pixels"),
        ({"box": (0, 0, 9, 8)}, "box: found 0, 0, 9, 8; allowed: .* within 8 x 8 pixels"),
        ({"box": (4, 0, 4, 8)}, "box: found 4, 0, 4, 8"),
        ({"box": (0, float("nan"), 4, 8)}, "box: found 0, nan, 4, 8"),
    ],
)
def test_what_cannot_be_fitted_is_one_line(changed: dict, line: str) -> None:
    arguments = {"image": np.zeros((8, 8, 3), np.uint8), "intrinsics": np.eye(3), "size": 4, "box": None} | changed
    with pytest.raises(InputError, match=line):
        fit_image(**arguments)
