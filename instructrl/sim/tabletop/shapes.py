"""MJCF of boxes, rods and cubes, from which objects are built.

`kind` is a class of `scene.py`: a `prop` is solid and fixed or on joints, an `object` is solid and moves freely, a
`marker` is only visible. `more` holds additional attributes. Metres.
"""

from collections.abc import Sequence


def box(center: Sequence[float], half: Sequence[float], paint: str, *, kind: str = "prop", more: str = "") -> str:
    """A box with half sizes `half`, aligned with the axes of its body."""
    return f'<geom class="{kind}" type="box" pos="{_row(center)}" size="{_row(half)}" rgba="{paint} 1" {more}/>'


def rod(
    start: Sequence[float], end: Sequence[float], radius: float, paint: str, *, kind: str = "prop", more: str = ""
) -> str:
    """A cylinder between two points, the centres of its ends."""
    ends = _row((*start, *end))
    return f'<geom class="{kind}" type="cylinder" fromto="{ends}" size="{radius:.6g}" rgba="{paint} 1" {more}/>'


def cubes(names: Sequence[str], half: float) -> str:
    """Free cubes with half edge length `half`: a body and a geom per name, to be coloured later."""
    return "".join(
        f'<body name="{name}"><freejoint/>'
        f'<geom name="{name}" class="object" type="box" size="{half} {half} {half}"/></body>'
        for name in names
    )


def _row(values: Sequence[float]) -> str:
    return " ".join(f"{value:.6g}" for value in values)
