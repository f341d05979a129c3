"""Files of weights and of parameters: each is read as what it was written as, and as nothing else."""

from pathlib import Path

import numpy as np
import pytest

from instructrl.errors import InputError
from instructrl.models.parameter_files import read_parameters, write_parameters
from instructrl.models.weight_files import read_checksum, read_shapes, read_weights, write_weights
from instructrl.package_files import SHIPPED_WEIGHTS

ARRAYS = {"block/kernel": np.arange(6, dtype=np.float32).reshape(2, 3), "scale": np.ones(2, np.float32)}


@pytest.mark.parametrize("path", sorted(SHIPPED_WEIGHTS.glob("*.safetensors")), ids=lambda path: path.stem)
def test_shipped_weights_are_read(path: Path) -> None:
    weights = read_weights(path, kind="m3ae")
    assert weights.checksum == read_checksum(path, kind="m3ae")
    assert read_shapes(path, kind="m3ae") == {name: value.shape for name, value in weights.arrays.items()}


def test_parameters_are_no_weights_of_an_encoder(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    write_parameters(path, {"block": {"kernel": ARRAYS["block/kernel"]}}, metadata={"kind": "m3ae"})
    with pytest.raises(InputError, match="not written by InstructRL; convert it with"):
        read_weights(path, kind="m3ae")
    write_weights(path, ARRAYS, kind="m3ae", source="random")
    assert read_weights(path, kind="m3ae").arrays.keys() == ARRAYS.keys()
    with pytest.raises(InputError, match=r"not written by InstructRL, or by another version of it; try again"):
        read_parameters(path, hint="try again")


@pytest.mark.parametrize("damage", ["empty", "header", "truncated", "flipped", "missing"])
def test_a_file_that_is_not_whole_is_one_line(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "x.safetensors"
    write_weights(path, ARRAYS, kind="m3ae", source="random")
    content = path.read_bytes()
    damaged = {
        "empty": b"",
        "header": b"\xff" + content[1:],
        "truncated": content[:-1],
        "flipped": content[:-1] + bytes([content[-1] ^ 1]),
    }
    path.unlink()
    if damage in damaged:
        path.write_bytes(damaged[damage])
    expected = "no encoder weights found" if damage == "missing" else "damaged or not a safetensors file"
    with pytest.raises(InputError, match=f"^{path}: {expected} .*$" if damage != "missing" else expected) as caught:
        read_weights(path, kind="m3ae")
    assert "\n" not in str(caught.value)
    with pytest.raises(InputError, match=f"^{path}: (damaged|missing|not written).*; try again$"):
        read_parameters(path, hint="try again")
