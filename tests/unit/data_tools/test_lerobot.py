"""LeRobot: exports are restored, data sets of others are converted, and whatever is wrong with them is one line."""

import json
import os
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from data_tools.lerobot.__main__ import ExportConfig, ImportConfig, main, parse, run_export, run_import, usage
from instructrl.config.simulators import TabletopConfig
from instructrl.data.demonstrations.dataset import DemonstrationDataset
from instructrl.data.demonstrations.schema import Header
from instructrl.errors import InputError
from instructrl.types import COLLISIONS, KEYFRAME
from tests.fixtures import demonstrations as samples
from tests.fixtures.commands import run_main
from tests.fixtures.lerobot_tiny import MAPPING, TINY, exported_mapping, mapping
from tests.paths import ROOT

av = pytest.importorskip("av")
pa = pytest.importorskip("pyarrow")
pq = pytest.importorskip("pyarrow.parquet")
exporter = pytest.importorskip("data_tools.lerobot.exporter")
video = pytest.importorskip("data_tools.lerobot.video")

TARGETS = [np.random.default_rng(episode).uniform(0, 1, 3) for episode in range(3)]


def exported(src: Path, out: Path, *more: str) -> None:
    run_export(parse([f"src={src}", f"out={out}", *more], ExportConfig))


def imported(src: Path, out: Path, *more: str) -> None:
    run_import(parse([f"src={src}", f"out={out}", "compression=none", *more], ImportConfig))


def episodes(count: int, header: Header = samples.HEADER) -> list[Any]:
    return [samples.demonstration(seed, steps=1 + seed % 3, between=seed % 2, header=header) for seed in range(count)]


@pytest.fixture
def src(tmp_path: Path) -> Path:
    """A copy of the data set that lerobot wrote."""
    return Path(shutil.copytree(TINY, tmp_path / "tiny"))


# InstructRL's own exports.


@pytest.mark.parametrize("actions", [KEYFRAME, COLLISIONS])
def test_an_export_of_images_comes_back_bit_for_bit(tmp_path: Path, actions: str) -> None:
    for split, count in (("train", 4), ("val", 2)):
        header = replace(samples.HEADER, split=split, actions=actions)
        samples.write(tmp_path / "data" / f"{split}.hdf5", episodes(count, header), header)
    exported(tmp_path / "data", tmp_path / "out", "images=png")
    assert json.loads((tmp_path / "out/meta/info.json").read_text())["splits"] == {"train": "0:4", "val": "4:6"}
    imported(tmp_path / "out", tmp_path / "back")
    for split in ("train", "val"):
        expected = (tmp_path / "data" / f"{split}.hdf5").read_bytes()
        assert (tmp_path / "back" / f"{split}.hdf5").read_bytes() == expected
    imported(tmp_path / "out", tmp_path / "one.hdf5", "split=val")
    assert (tmp_path / "one.hdf5").read_bytes() == expected
    metadata = json.loads((tmp_path / "out/meta/instructrl.json").read_text())
    metadata["episodes"][0]["seed"] += 1
    (tmp_path / "out/meta/instructrl.json").write_text(json.dumps(metadata))
    with pytest.raises(InputError, match="not the episodes that were exported; export it again"):
        imported(tmp_path / "out", tmp_path / "other")
    assert not [*(tmp_path / "other").rglob("*.hdf5*")]


@pytest.mark.parametrize(("codec", "least"), [("av1", 35), ("h264", 35)])
def test_an_export_of_videos_comes_back_but_for_their_loss(tmp_path: Path, codec: str, least: float) -> None:
    smooth = []
    for one in episodes(3):
        ramp = (
            np.linspace(20, 200, one.images.shape[2])[:, None, None]
            + 8 * np.arange(len(one.images))[:, None, None, None]
        )
        smooth.append(one._replace(images=np.broadcast_to(ramp[:, None], one.images.shape).astype(np.uint8)))
    file = samples.write(tmp_path / "one.hdf5", smooth)
    exported(file, tmp_path / "out", f"images={codec}", "fps=30")
    imported(tmp_path / "out", tmp_path / "back.hdf5")
    with DemonstrationDataset(file) as given, DemonstrationDataset(tmp_path / "back.hdf5") as found:
        assert found.header == given.header
        for number, expected in enumerate(smooth):
            one = found.demonstration(number)
            error = np.mean((one.images.astype(float) - expected.images) ** 2)
            assert 10 * np.log10(255**2 / max(error, 1e-9)) > least
            samples.assert_equal(one._replace(images=expected.images), expected)


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="threads are listed on Linux")
def test_encoders_of_videos_leave_the_priority_of_the_process_as_it_is(tmp_path: Path) -> None:
    def policies() -> set[int]:
        return {os.sched_getscheduler(int(thread.name)) for thread in Path("/proc/self/task").iterdir()}

    before = policies() - {os.SCHED_BATCH}  # of idle helpers of a renderer
    writer = video.VideoWriter(tmp_path / "one.mp4", (64, 64), fps=10, codec="av1", crf=None)
    writer.add(np.zeros((64, 64, 3), np.uint8))
    found = policies() - {os.SCHED_BATCH}
    writer.close()
    assert found == before == {os.SCHED_OTHER}


def test_a_larger_export_has_several_files_and_is_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("data_tools.lerobot.exporter.FILE_BYTES", {"data": 20_000, "videos": 3_000})
    file = samples.write(tmp_path / "one.hdf5", episodes(6))
    for kind in ("png", "h264"):
        exported(file, tmp_path / kind, f"images={kind}")
        imported(tmp_path / kind, tmp_path / f"{kind}.hdf5")
    assert (tmp_path / "png.hdf5").read_bytes() == file.read_bytes()
    assert len([*(tmp_path / "png/data").rglob("*.parquet")]) > 1
    assert len([*(tmp_path / "h264/videos/observation.images.front").rglob("*.mp4")]) > 1


def test_other_content_is_not_replaced(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    one, two = (samples.write(tmp_path / f"{count}.hdf5", episodes(count)) for count in (1, 2))
    exported(one, tmp_path / "out", "images=png")
    exported(one, tmp_path / "out", "images=png")
    assert "exists already" in capsys.readouterr().out
    with pytest.raises(InputError, match="found other content; choose another out="):
        exported(two, tmp_path / "out", "images=png")
    exported(two, tmp_path / "out", "images=png", "overwrite=true")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "letter").write_text("dear")
    with pytest.raises(InputError, match="something other than a LeRobot data set"):
        exported(one, tmp_path / "mine", "overwrite=true")
    assert not [*tmp_path.glob("*.tmp")]


def test_an_interrupted_export_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file, add = samples.write(tmp_path / "one.hdf5", episodes(3)), exporter.DatasetWriter.add

    def interrupted(writer: Any, one: Any) -> None:
        if writer.count == 1:
            raise KeyboardInterrupt
        add(writer, one)

    monkeypatch.setattr(exporter.DatasetWriter, "add", interrupted)
    with pytest.raises(KeyboardInterrupt):
        exported(file, tmp_path / "out", "images=h264")
    assert [path.name for path in tmp_path.iterdir()] == ["one.hdf5"]


def test_data_of_a_simulators_robot_is_of_its_world(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    samples.write(tmp_path / "data" / "train.hdf5", episodes(4))
    exported(tmp_path / "data", tmp_path / "out", "images=png")
    words = (exported_mapping(tmp_path, "front", "wrist"), "task=reach_target", "sim=tabletop", "renderer=raycast")
    imported(tmp_path / "out", tmp_path / "back", *words)
    next_command = capsys.readouterr().out.splitlines()[-1]
    assert next_command.startswith("next: ") and "sim=tabletop" in next_command and "sim.workspace" not in next_command
    with DemonstrationDataset(tmp_path / "back/tabletop/reach_target-16px-front+wrist/train.hdf5") as found:
        assert found.workspace == TabletopConfig().bounds and found.provenance["renderer"] == "raycast"
        for number, expected in enumerate(episodes(4)[:3]):
            np.testing.assert_array_equal(found.demonstration(number).images[0], expected.images[0])


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["sim=habitat"], r"sim: found habitat; allowed: tabletop, rlbench, metaworld"),
        (["sim=tabletop", "renderer=egl"], r"renderer: found egl; allowed with sim=tabletop: opengl, raycast, or null"),
        (["renderer=opengl"], r"renderer: found opengl; allowed with sim=rlbench: rlbench_opengl, rlbench_opengl3, or"),
        (
            ["sim=metaworld", "task=drawer-open-v3"],
            r"mapping: .*, line 3: cameras: found front; allowed with sim=metaworld: corner4, corner, ",
        ),
    ],
)
def test_what_a_simulator_does_not_have_is_one_line(tmp_path: Path, words: list[str], line: str) -> None:
    with pytest.raises(InputError, match=f"^{line}"):
        imported(TINY, tmp_path / "back", mapping(tmp_path), *words)
    assert not (tmp_path / "back").exists()


# A data set that lerobot wrote.


def test_the_mapping_in_the_documentation_is_read(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    [shown] = re.findall(r"```yaml\n(cameras:.*?)```", (ROOT / "docs" / "data.md").read_text(), flags=re.DOTALL)
    (tmp_path / "mug.yaml").write_text(shown)
    imported(TINY, tmp_path / "one.hdf5", f"mapping={tmp_path / 'mug.yaml'}", "task=mug", "split=train")
    assert "3 episodes found, 3 converted" in capsys.readouterr().out


def test_episodes_of_lerobot_become_their_keyframes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    imported(TINY, tmp_path / "one.hdf5", mapping(tmp_path), "task=reach", "split=train")
    assert "3 episodes found, 3 converted" in capsys.readouterr().out
    with DemonstrationDataset(tmp_path / "one.hdf5") as found:
        assert found.provenance["expert"] == "unknown, LeRobot data set lerobot_tiny v3.0"
        sentences = [found.instructions(number) for number in range(3)]
        assert sentences == [("go to the red blob",), ("go to the green blob",), ("go to the red blob",)]
        for number, target in enumerate(TARGETS):
            one = found.demonstration(number)
            np.testing.assert_allclose(one.actions[-1], [*target, 0, 1, 0, 0, 0], atol=1e-6)
            assert one.images.shape[1:] == (2, 48, 48, 3)
            for frame, image in enumerate(one.images):  # the video's blob is at the target, that of the images moves
                _, bright = np.unravel_index(image[0, ..., number % 2].argmax(), (48, 48))
                assert abs(bright / 48 - 0.15 - 0.7 * target[1]) < 0.04
                row, _ = np.unravel_index(image[1, ..., 2].argmax(), (48, 48))
                at = one.actions[frame - 1][0] if frame else 0.5
                assert abs(row / 48 - 0.15 - 0.7 * at) < 0.08


def test_every_step_is_the_frame_of_its_time(tmp_path: Path) -> None:
    stops = ("kind: stops, joint_positions: observation.joints, seconds: 0.1", "kind: every")
    imported(TINY, tmp_path / "one.hdf5", mapping(tmp_path, stops), "task=reach", "split=train")
    with DemonstrationDataset(tmp_path / "one.hdf5") as found:
        one = found.demonstration(2)
        assert len(one.images) == 12
        way = np.minimum(np.arange(12) / 8, 1)[:, None]
        places = np.array([0.5, 0.5, 0.2]) + (TARGETS[2] - [0.5, 0.5, 0.2]) * way
        np.testing.assert_allclose(one.actions[:-1, :3], places[1:-1], atol=1e-6)
        assert one.state[:, 0].tolist() == [1] * 8 + [0] * 4


ARM = """<mujoco><worldbody><body name="arm"><joint name="shoulder" type="hinge" axis="0 0 1"/>
<body name="hand" pos="0.3 0 0"><joint name="elbow" type="hinge" axis="0 1 0"/><site name="tip" pos="0.2 0 0"/>
</body></body></worldbody></mujoco>"""
POSE = MAPPING[MAPPING.index("  position:") : MAPPING.index("  gripper:")]
KINEMATICS = "kinematics: {model: arm.xml, frame: tip, joints: observation.joints}\n"


def test_data_of_joints_follows_the_model_of_the_robot(tmp_path: Path) -> None:
    (tmp_path / "arm.xml").write_text(ARM)
    given = mapping(
        tmp_path,
        (POSE, ""),
        ("leads_to: next", "leads_to: same"),
        ("action:\n", f"{KINEMATICS}action:\n"),
        ("action[7]", "observation.state[7]"),
        ("kind: stops, joint_positions: observation.joints, seconds: 0.1", "kind: every"),
    )
    imported(TINY, tmp_path / "one.hdf5", given, "task=reach", "split=train")
    share = np.minimum(np.arange(1, 12) / 8, 1)
    reach = 0.3 + 0.2 * np.cos(0.2 * share)
    expected = [reach * np.cos(0.1 * share), reach * np.sin(0.1 * share), -0.2 * np.sin(0.2 * share)]
    with DemonstrationDataset(tmp_path / "one.hdf5") as found:
        actions = found.demonstration(1).actions
        np.testing.assert_allclose(actions[:, :3], np.stack(expected, axis=1), atol=1e-6)
        np.testing.assert_allclose(2 * np.arccos(actions[:, 6]), np.hypot(0.1, 0.2) * share, rtol=1e-3)


def test_corners_of_a_path_are_keyframes(tmp_path: Path) -> None:
    path = ("kind: stops, joint_positions: observation.joints, seconds: 0.1", "kind: path, tolerance: 0.01")
    imported(TINY, tmp_path / "one.hdf5", mapping(tmp_path, path), "task=reach", "split=train")
    with DemonstrationDataset(tmp_path / "one.hdf5") as found:
        one = found.demonstration(0)
        assert len(one.actions) == 2  # the way is straight: the gripper closes on arrival, and the arm rests
        np.testing.assert_allclose(one.actions[0], [*TARGETS[0], 0, 1, 0, 0, 0], atol=1e-6)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ([(POSE, "")], "action.position: no value given; write position: ..., or kinematics"),
        ([("action:\n", f"{KINEMATICS}action:\n")], "action.position: the pose follows from kinematics already"),
        ([(POSE, ""), ("action:\n", "kinematics: {model: arm.xml}\naction:\n")], "kinematics.frame: no value given"),
        (
            [(POSE, ""), ("action:\n", KINEMATICS.replace("tip", "top") + "action:\n")],
            "kinematics.frame: found top; ",
        ),
        (
            [(POSE, ""), ("action:\n", KINEMATICS.replace("arm", "leg") + "action:\n")],
            "leg.xml: cannot be read as",
        ),
        ([("kind: stops", "tolerance: 0.1, kind: stops")], "keyframes: tolerance goes with kind=path"),
    ],
)
def test_a_wrong_model_is_one_line(tmp_path: Path, changes: list[tuple[str, str]], expected: str) -> None:
    (tmp_path / "arm.xml").write_text(ARM)
    with pytest.raises(InputError) as error:
        imported(TINY, tmp_path / "one.hdf5", mapping(tmp_path, *changes), "task=reach")
    assert expected in str(error.value) and "\n" not in str(error.value)


def info(change: Callable[[dict[str, Any]], object]) -> Callable[[Path], None]:
    """Change info.json."""

    def apply(src: Path) -> None:
        content = json.loads((src / "meta/info.json").read_text())
        change(content)
        (src / "meta/info.json").write_text(json.dumps(content))

    return apply


def table(path: str, change: Callable[[Any], Any]) -> Callable[[Path], None]:
    """Change a parquet file."""

    def apply(src: Path) -> None:
        pq.write_table(change(pq.read_table(src / path)), src / path)

    return apply


def column(name: str, value: Any) -> Callable[[Any], Any]:
    """Replace a column of a table by one value."""
    return lambda rows: rows.set_column(
        rows.column_names.index(name), name, pa.array([value] * len(rows), rows.schema.field(name).type)
    )


def replaced(name: str, change: Callable[[list[Any]], list[Any]]) -> Callable[[Any], Any]:
    """Replace the values of a column of a table, whose type follows from the new ones."""
    return lambda rows: rows.set_column(
        rows.column_names.index(name), name, pa.array(change(rows.column(name).to_pylist()))
    )


DATA, EPISODES = "data/chunk-000/file-000.parquet", "meta/episodes/chunk-000/file-000.parquet"
VIDEO = "videos/observation.images.front/chunk-000/file-000.mp4"


def cut(path: str, share: float) -> Callable[[Path], None]:
    """Keep the beginning of a file."""

    def apply(src: Path) -> None:
        content = (src / path).read_bytes()
        (src / path).write_bytes(content[: int(share * len(content))])

    return apply


WRONG: dict[str, tuple[Callable[[Path], Any], str]] = {
    "no info": (lambda src: (src / "meta/info.json").unlink(), "has no meta/info.json"),
    "no JSON": (lambda src: (src / "meta/info.json").write_text("{"), "info.json: cannot be read"),
    "v2.1": (info(lambda given: given.update(codebase_version="v2.1")), "convert_dataset_v21_to_v30"),
    "v4": (info(lambda given: given.update(codebase_version="v4.0")), "found v4.0, expected v3.0"),
    "no speed": (info(lambda given: given.update(fps=0)), "fps: found 0"),
    "speed in a text": (info(lambda given: given.update(fps="10")), "fps: found the text 10; allowed: a number above"),
    "count in a text": (info(lambda given: given.update(total_episodes="3")), "total_episodes: found the text 3, but"),
    "no image": (
        table(DATA, replaced("observation.images.wrist", lambda rows: [row | {"bytes": b"x" * 99} for row in rows])),
        "observation.images.wrist: row 0: found no PNG or JPEG; copy it again",
    ),
    "path above": (
        info(lambda given: given.update(data_path="../{chunk_index}.parquet")),
        "data_path: found ../{chunk",
    ),
    "path of root": (info(lambda given: given.update(video_path="/etc/{video_key}")), "video_path: found /etc/{vi"),
    "attributes": (info(lambda given: given.update(data_path="{chunk_index.__class__}")), "data_path: found"),
    "key above": (info(lambda given: given["features"].update({"../x": {}})), "features: found '../x'"),
    "huge value": (info(lambda given: given["features"]["action"].update(shape=[1 << 40])), "features.action: found"),
    "huge image": (
        info(lambda given: given["features"]["observation.images.front"].update(shape=[10**6, 10**6, 3])),
        "features.observation.images.front: found",
    ),
    "more episodes": (info(lambda given: given.update(total_episodes=4)), "total_episodes: found 4, but"),
    "wrong split": (info(lambda given: given.update(splits={"train": "0:9"})), "splits.train: found 0:9"),
    "no episodes": (lambda src: (src / EPISODES).unlink(), "contains no meta/episodes"),
    "no tasks": (lambda src: (src / "meta/tasks.parquet").unlink(), "tasks.parquet: no such file"),
    "no data": (lambda src: (src / DATA).unlink(), "file-000.parquet: no such file"),
    "no parquet": (lambda src: (src / DATA).write_bytes(b"x" * 99), "cannot be read as parquet"),
    "fewer rows": (table(DATA, lambda rows: rows.slice(0, 30)), "found 30 rows, but the lengths of its episodes"),
    "no column": (table(DATA, lambda rows: rows.drop_columns(["action"])), "has no column action"),
    "other numbers": (
        table(DATA, lambda rows: rows.set_column(rows.column_names.index("action"), "action", pa.array([[1.0]] * 36))),
        "action: found 36 numbers, expected 288",
    ),
    "rows of unequal length": (
        table(DATA, replaced("action", lambda rows: [[*rows[0], 0.0], rows[1][:7], *rows[2:]])),
        "action: found rows of 7 and 9 numbers, expected 8 float32",
    ),
    "a value of another shape": (
        lambda src: (
            info(lambda given: given["features"]["action"].update(shape=[2, 4]))(src),
            table(DATA, replaced("action", lambda rows: [[row[:2], row[2:4], row[4:6], row[6:]] for row in rows]))(src),
        ),
        "action: found rows of 4 x 2 numbers, expected 2x4 float32",
    ),
    "parts of a value": (
        lambda src: (
            info(lambda given: given["features"]["action"].update(shape=[2]))(src),
            table(DATA, replaced("action", lambda rows: [{"x": row[0], "y": row[1]} for row in rows]))(src),
        ),
        "action: found struct<x: double, y: double>",
    ),
    "fractions for integers": (
        table(DATA, replaced("task_index", lambda rows: [0.7] * len(rows))),
        "task_index: found double, expected 1 int64",
    ),
    "integers for fractions": (
        table(DATA, replaced("action", lambda rows: [[int(one) for one in row] for row in rows])),
        "action: found list<element: int64>, expected 8 float32",
    ),
    "integers for flags": (
        lambda src: (
            info(lambda given: given["features"]["action"].update(dtype="bool"))(src),
            table(DATA, replaced("action", lambda rows: [[int(one) for one in row] for row in rows]))(src),
        ),
        "action: found list<element: int64>, expected 8 bool",
    ),
    "wrong lengths": (table(EPISODES, column("length", 13)), "found 36 rows, but the lengths of its episodes add"),
    "huge length": (table(EPISODES, column("length", 1 << 39)), "but the lengths of its episodes add"),
    "other episode": (table(DATA, column("episode_index", 7)), "found rows of another episode_index than"),
    "other times": (table(DATA, column("timestamp", 0.5)), "timestamp: found 0.5000 s at frame 0, expected 0.0000 s"),
    "other task": (table(DATA, column("task_index", 9)), "task_index: found 9, which meta/tasks.parquet does not"),
    "no video": (lambda src: (src / VIDEO).unlink(), "file-000.mp4: no such file"),
    "half a video": (cut(VIDEO, 0.5), "cannot be "),
    "no video file": (lambda src: (src / VIDEO).write_bytes(b"x" * 999), "cannot be read as a video"),
    "times after the end": (
        table(EPISODES, column("videos/observation.images.front/from_timestamp", 99.0)),
        "ends at 3.5000 s, before the frame at 99.0000 s",
    ),
    "other size": (
        info(lambda given: given["features"]["observation.images.front"].update(shape=[64, 48, 3])),
        "found a video in av1, 48 x 48; expected av1 or",
    ),
    "other size of images": (
        info(lambda given: given["features"]["observation.images.wrist"].update(shape=[64, 48, 3])),
        "found 48 x 48 pixels, expected 64x48x3",
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_data_set_is_one_line_and_nothing_is_written(
    name: str, src: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    damage, expected = WRONG[name]
    damage(src)
    words = [
        f"src={src}",
        f"out={tmp_path / 'one.hdf5'}",
        mapping(tmp_path),
        "task=reach",
        "workspace=[-1,-1,-1,2,2,2]",
    ]
    ran = run_main(main, "import", *words)
    assert ran.returncode == 2 and ran.stderr.count("\n") == 1, ran.stderr
    assert expected in ran.stdout + ran.stderr
    assert not [*tmp_path.glob("one.hdf5*")]


def test_a_fault_of_the_numbers_is_not_said_to_be_of_the_images(src: Path, tmp_path: Path) -> None:
    table(DATA, column("timestamp", 0.5))(src)
    with pytest.raises(InputError) as error:
        imported(src, tmp_path / "data", mapping(tmp_path), "task=reach", "workspace=[-1,-1,-1,2,2,2]")
    assert "timestamp: found 0.5000 s" in str(error.value) and "image" not in str(error.value)


@pytest.mark.parametrize("seed", range(12))
def test_damaged_files_are_refused_in_one_line_or_read(seed: int, src: Path, tmp_path: Path) -> None:
    files, rng = sorted(path for path in src.rglob("*") if path.is_file()), np.random.default_rng(seed)
    damaged = files[seed % len(files)]
    content = bytearray(damaged.read_bytes())
    if seed % 4:
        content[rng.integers(len(content))] ^= 1 << int(rng.integers(8))
    else:
        del content[rng.integers(len(content)) :]
    damaged.write_bytes(content)
    try:
        imported(src, tmp_path / "one.hdf5", mapping(tmp_path), "task=reach", "split=train")
    except InputError as error:
        assert "\n" not in str(error) and not [*tmp_path.glob("one.hdf5*")]
    else:
        with DemonstrationDataset(tmp_path / "one.hdf5") as found:
            assert 1 <= len(found) <= 3


def test_a_video_in_another_codec_is_refused(src: Path, tmp_path: Path) -> None:
    with av.open(str(src / VIDEO), "w") as container:
        stream: Any = container.add_stream("mjpeg", rate=10)
        stream.width, stream.height, stream.pix_fmt = 48, 48, "yuvj420p"
        for _ in range(36):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.zeros((48, 48, 3), np.uint8), format="rgb24")))
        container.mux(stream.encode(None))
    with pytest.raises(InputError, match="found a video in mjpeg, 48 x 48; expected av1 or h264"):
        imported(src, tmp_path / "one.hdf5", mapping(tmp_path), "task=reach", "split=train")


@pytest.mark.parametrize(
    ("words", "found"),
    [
        ([], "command: found none; allowed: export, import"),
        (["export", "src=nowhere", "out=x"], "which does not exist"),
        (["export", "src=README.md", "out=x", "images=png", "crf=3"], "crf: found 3 with images=png; allowed: 0 to 63"),
        (["export", "src=README.md", "out=x", "images=h264", "crf=60"], "0 to 51 with images=h264"),
        (["import", "src=conf", "out=x"], "has no meta/info.json"),
        (["import", f"src={TINY}", "out=x"], "mapping: none given for"),
        (["import", f"src={TINY}", "out=x"], "observation.images.front (48x48x3 uint8, video)"),
        (["import", f"src={TINY}", "out=x", "episode=3"], "episode: no such setting; did you mean episodes?"),
    ],
)
def test_a_wrong_command_line_is_one_line(
    words: list[str], found: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "conf").mkdir()
    ran = run_main(main, *words)
    assert ran.returncode == 2 and found in ran.stderr and len(ran.stderr.splitlines()) == 1, ran.stderr


def test_the_help_names_every_setting() -> None:
    assert all(f"{key} " in usage() for key in ("src", "mapping", "source_split", "images", "crf", "fps"))
