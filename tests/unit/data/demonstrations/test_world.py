"""Files of any world: workspace and state are kept, compared and checked; those of RLBench's are as they were."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from data_tools.rlds.__main__ import ExportConfig, ImportConfig, parse, run_export, run_import
from instructrl.data.demonstrations.dataset import DemonstrationDataset, check_alike
from instructrl.data.demonstrations.reader import read
from instructrl.data.demonstrations.schema import Header, checksum
from instructrl.data.demonstrations.world import check_inside, check_world
from instructrl.errors import InputError
from instructrl.types import Demonstration
from instructrl.workspace import Workspace
from tests.fixtures.demonstrations import HEADER, assert_equal, demonstration, write

LOW_TABLE = Workspace((0.2, -0.2, 0.02), (0.45, 0.2, 0.23))
OURS: Any = {"workspace": HEADER.workspace, "state": HEADER.state, "actions": HEADER.actions}
DENSE_HEADER = replace(HEADER, actions="dense")
OTHER = replace(HEADER, workspace=LOW_TABLE, state=("height (m)", "angle (rad)"))


def at_height(height: float, seed: int) -> Demonstration:
    """A demonstration whose second keyframe is at this height in metres."""
    made = demonstration(seed)
    made.actions[1, 2] = height
    return made


def test_checksums_are_those_of_earlier_versions(tmp_path: Path) -> None:
    """As computed when there were no other workspaces and states, which runs and evaluations have recorded."""
    path = write(tmp_path / "train.hdf5", [demonstration(0), demonstration(1)])
    assert checksum(*read(path)) == "635c814fceaf6b2639afe086a7f1bea8e05dd07861ccef83a2508d5f7a62658d"
    assert DemonstrationDataset(path).digest() == "b011e2baab48ef53c4a0aec64bf9caf83a87fcc7f151d9eb2dec4f314a9a76a8"


def test_workspace_and_state_are_kept_and_are_part_of_what_is_recorded(tmp_path: Path) -> None:
    made = demonstration(0, header=OTHER)
    files = [write(tmp_path / "one.hdf5", [made], OTHER)]
    files.append(write(tmp_path / "two.hdf5", [made], replace(OTHER, workspace=Workspace((0.2, -0.2, 0), (1, 1, 1)))))
    files.append(write(tmp_path / "three.hdf5", [made], replace(OTHER, state=("height (m)", "angle"))))
    opened = [DemonstrationDataset(path) for path in files]
    assert (opened[0].workspace, opened[0].state) == (OTHER.workspace, OTHER.state)
    assert_equal(opened[0].demonstration(0), made)
    assert len({one.digest() for one in opened}) == 3
    for other, key in zip(opened[1:], ("workspace", "state"), strict=True):
        with pytest.raises(InputError, match=rf"{key} .*, but .*one\.hdf5 has .*; collect them with the same settings"):
            check_alike([opened[0], other])


def test_dense_actions_are_told_apart_and_lead_to_every_frame(tmp_path: Path) -> None:
    made = demonstration(0, steps=3)
    dense, keyframes = write(tmp_path / "one.hdf5", [made], DENSE_HEADER), write(tmp_path / "two.hdf5", [made])
    assert [read(path)[0].actions for path in (dense, keyframes)] == ["dense", "keyframe"]
    assert DemonstrationDataset(dense).digest() != DemonstrationDataset(keyframes).digest()
    with pytest.raises(InputError, match=r"actions keyframe, but .*one\.hdf5 has dense; collect them"):
        check_alike([DemonstrationDataset(dense), DemonstrationDataset(keyframes)])
    with pytest.raises(InputError, match=r"episode 0: wrong episodes/keyframes \(dense actions: one for every frame"):
        write(tmp_path / "three.hdf5", [demonstration(0, between=1)], DENSE_HEADER)


@pytest.mark.parametrize("header", [OTHER, DENSE_HEADER])
def test_rlds_brings_the_same_file_back(tmp_path: Path, header: Header) -> None:
    path = write(tmp_path / "train.hdf5", [demonstration(seed, header=header) for seed in range(2)], header)
    run_export(parse([f"src={path}", f"out={tmp_path / 'rlds'}"], ExportConfig))
    words = [f"src={tmp_path / 'rlds'}", f"out={tmp_path / 'back.hdf5'}", "compression=none"]
    run_import(parse(words, ImportConfig))
    assert (tmp_path / "back.hdf5").read_bytes() == path.read_bytes()


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        (
            {"workspace": LOW_TABLE},
            "a: found demonstrations with the workspace [0.2,-0.2,0.02,0.45,0.2,0.23], but "
            "sim.workspace=[-0.3,-0.5,0.6,0.7,0.5,1.6] is set; train on them with "
            "'sim.workspace=[0.2,-0.2,0.02,0.45,0.2,0.23]', or choose another data.dir",
        ),
        (
            {"state": ("angle (rad)",)},
            'a: found demonstrations with the state ["angle (rad)"], but sim.state=["gripper open","left finger (m)",'
            '"right finger (m)","time"] is set; train on them with \'sim.state=["angle (rad)"]\', or choose another '
            "data.dir",
        ),
        (
            {"actions": "dense"},
            "a: found demonstrations with the actions dense, but sim.actions=keyframe is set; train on them with "
            "'sim.actions=dense', or choose another data.dir",
        ),
    ],
)
def test_another_world_than_that_of_the_settings_is_one_line(changes: dict[str, object], line: str) -> None:
    with pytest.raises(InputError) as error:
        check_world(Path("a"), replace(HEADER, **changes), **OURS)
    assert str(error.value) == line
    check_world(Path("a"), HEADER, **OURS)


def test_keyframes_outside_the_workspace_are_counted_and_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "a.hdf5", [demonstration(0), at_height(0.1, 1), at_height(0.2, 2), demonstration(3)])
    line = (
        r"a\.hdf5: found 2 of 8 keyframes outside the workspace \[-0\.3,.*\], the first in episode 1 at \[.*, 0\.1\]; "
    )
    with pytest.raises(InputError, match=f"{line}.*data.outside_workspace=clip$"):
        check_inside(DemonstrationDataset(path), clip=False)
    assert "found 2 of 8 keyframes" in check_inside(DemonstrationDataset(path), clip=True)
    assert check_inside(DemonstrationDataset(path, limit=1), clip=False) == ""


def test_a_workspace_has_the_precision_of_actions(tmp_path: Path) -> None:
    made = demonstration(0, header=OTHER)
    low, high = LOW_TABLE.bounds
    made.actions[:, :3] = np.stack([low, high])
    assert not DemonstrationDataset(write(tmp_path / "a.hdf5", [made], OTHER)).outside.any()
