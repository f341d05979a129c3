"""The cameras that a caller names, checked against those of a simulator."""

from collections.abc import Sequence
from typing import Any

from instructrl.errors import InputError


def camera_names(cameras: Any, known: Sequence[str]) -> tuple[str, ...]:
    """Return names of cameras as a tuple; a single one may be given by itself, as "front".

    Raises:
        InputError: there is none, one that the simulator does not have, or one twice.
    """
    names = (cameras,) if isinstance(cameras, str) else tuple(cameras) if isinstance(cameras, Sequence) else ()
    if not names or len(set(map(str, names))) < len(names) or any(name not in known for name in names):
        found = list(cameras) if isinstance(cameras, tuple) else cameras
        raise InputError(f"sim.cameras: found {found}, expected some of {', '.join(known)}, without repetition")
    return tuple(map(str, names))
