"""The boxes, rods and cubes of which things are built, as MJCF.

`kind` is a class of `scene.py`: a `prop` is solid and stays or moves on joints, an `object` is solid and moves freely,
a `marker` is only seen. `more` holds further attributes. Metres.
"""

from collections.abc import Sequence


def box(center: Sequence[float], half: Sequence[float], paint: str, *, kind: str = "prop", more: str = "") -> str:
    """A box of half sizes `half`, along the axes of its body."""
    return f'<geom class="{kind}" type="box" pos="{_row(center)}" size="{_row(half)}" rgba="{paint} 1" {more}/>'


def rod(
    start: Sequence[float], end: Sequence[float], radius: float, paint: str, *, kind: str = "prop", more: str = ""
) -> str:
    """A cylinder between two points, the middles of its ends; flat ones are discs."""
    ends = _row((*start, *end))
    return f'<geom class="{kind}" type="cylinder" fromto="{ends}" size="{radius:.6g}" rgba="{paint} 1" {more}/>'


def cubes(names: Sequence[str], half: float) -> str:
    """Free cubes of half an edge `half`, a body and a geom of each name, still to be painted."""
    return "".join(
        f'<body name="{name}"><freejoint/>'
        f'<geom name="{name}" class="object" type="box" size="{half} {half} {half}"/></body>'
        for name in names
    )


def _row(values: Sequence[float]) -> str:
    return " ".join(f"{value:.6g}" for value in values)
