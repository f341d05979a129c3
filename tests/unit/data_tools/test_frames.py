"""Captioned frames of the embedded tasks: files are a function of the settings, captions describe the image."""

import io
import itertools
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from data_tools.frames.__main__ import PROG, make_frames, usage
from data_tools.frames.captions import caption
from data_tools.frames.renderer import FrameRenderer, FramesConfig
from instructrl.cli.args import parse_settings
from instructrl.config.environment import EMBEDDED_TASKS
from instructrl.data.image_text.hdf5_source import open_pair_file
from instructrl.errors import InputError, RunError
from instructrl.sim import EpisodeStart
from instructrl.sim.tabletop.colors import COLORS
from instructrl.sim.tabletop.env import Tabletop
from instructrl.sim.tabletop.things import GripperState, SceneObject
from tests.fakes.inline_pool import InlinePool
from tests.fixtures import pairs as made_pairs

FEW = ("frames=11", "val_frames=5", "image_size=32", "tasks=[reach_target,push_buttons]", "renderer=raycast")
EMPTY = GripperState(np.array([0.0, 0.0, 9.0]), opened=True, held=None)


def inline(config: FramesConfig) -> Any:
    """A renderer without processes."""
    return InlinePool(FrameRenderer(config))


def made(folder: Path, *more: str, start: Callable[[FramesConfig], Any] = inline) -> dict[str, Path]:
    words = {word.partition("=")[0]: word for word in (*FEW, *more)}
    return make_frames(parse_settings([*words.values(), f"out={folder}"], FramesConfig, prog=PROG), start=start)


def content(path: Path) -> tuple[list[tuple[bytes, str]], dict[str, str]]:
    with open_pair_file(path) as file:
        return [(file.image(n) or b"", file.text(n) or "") for n in range(len(file))], file.attributes


@pytest.fixture(scope="module")
def few(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return made(tmp_path_factory.mktemp("frames"))


def test_pictures_have_the_size_and_number_that_were_asked_for(few: dict[str, Path]) -> None:
    for split, count in (("train", 11), ("val", 5)):
        pairs, _ = content(few[split])
        assert len(pairs) == count
        for jpeg, text in pairs:
            image = Image.open(io.BytesIO(jpeg))
            assert (image.format, image.size, image.mode) == ("JPEG", (32, 32), "RGB")
            assert np.asarray(image).std() > 5, "the image is not blank"
            assert re.fullmatch(r"[a-z][a-z, ]+", text)


def test_validation_and_other_seeds_show_other_scenes(few: dict[str, Path], tmp_path: Path) -> None:
    images = [{jpeg for jpeg, _ in content(path)[0]} for path in few.values()]
    other = made(tmp_path, "seed=1", "val_frames=0")
    assert set(other) == {"train"}
    images.append({jpeg for jpeg, _ in content(other["train"])[0]})
    assert [len(found) for found in images] == [11, 5, 11]
    assert not any(one & two for one, two in itertools.combinations(images, 2))


def test_files_say_how_they_were_made(few: dict[str, Path]) -> None:
    for split, path in few.items():
        _, attributes = content(path)
        assert attributes["made_by"] == PROG and attributes["split"] == split
        assert attributes["simulator"] == "tabletop" and attributes["renderer"] == "raycast" and attributes["version"]
        assert '"image_size": 32' in attributes["settings"] and '"seed": 0' in attributes["settings"]
        assert "out" not in attributes["settings"] and "workers" not in attributes["settings"]


def test_what_is_there_is_kept_unless_it_was_made_otherwise(
    few: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for path in few.values():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    (tmp_path / "val.hdf5").unlink()
    before = (tmp_path / "train.hdf5").stat().st_mtime_ns
    made(tmp_path)
    assert f"{tmp_path / 'train.hdf5'}: exists already" in capsys.readouterr().out
    assert (tmp_path / "train.hdf5").stat().st_mtime_ns == before
    assert (tmp_path / "val.hdf5").read_bytes() == few["val"].read_bytes()
    with pytest.raises(
        InputError, match=r"train\.hdf5: was made with other settings \(settings differ\); choose another out"
    ):
        made(tmp_path, "quality=80")
    made(tmp_path, "quality=80", "overwrite=true")
    assert (tmp_path / "train.hdf5").read_bytes() != few["train"].read_bytes()


def test_a_file_is_whole_or_absent(tmp_path: Path) -> None:
    def dying(config: FramesConfig) -> InlinePool:
        return InlinePool(FrameRenderer(config), lasts=2)

    with pytest.raises(RunError, match="it exited with code 7; the same command restarts this file"):
        made(tmp_path, start=dying)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["frames=0"], "frames: found 0; allowed: an integer at least 1"),
        (["tasks=[reach]"], "tasks: found "),
        (["views=3", "cameras=[front,wrist]"], "views: found 3; allowed: at most the number of cameras, 2"),
        (["out=gs://bucket/frames"], "out: found gs://bucket/frames; allowed: a local folder"),
        (["out=/proc/none"], "/proc/none: cannot be written"),
        (["framse=3"], "framse: no such setting; did you mean frames?"),
        (["frames"], "frames: cannot be read as key=value"),
    ],
)
def test_bad_input_is_one_line(words: list[str], message: str, tmp_path: Path) -> None:
    given = {word.partition("=")[0]: word for word in (*FEW, "workers=1", f"out={tmp_path}", *words)}
    with pytest.raises(InputError, match=f"^{re.escape(message)}") as raised:
        make_frames(parse_settings(list(given.values()), FramesConfig, prog=PROG), start=inline)
    assert "\n" not in str(raised.value)


def test_the_help_names_every_setting() -> None:
    assert "Settings: key=default" in usage() and "val_frames" in usage()


def thing(color: str | None, noun: str, position: tuple[float, float], *, seen: bool = True) -> SceneObject:
    return SceneObject(f"{color} {noun}", (noun,), color, np.array([*position, 0.8]), np.array(position), 1.0, seen)


def test_captions_say_what_is_seen_and_where() -> None:
    """Compare every phrase of a caption with the object positions."""
    things = [
        thing("red", "ball", (0.1, 0.1)),
        thing("blue", "ball", (0.9, 0.5)),
        thing(None, "rack", (0.5, 0.9)),
        thing("lime", "cup", (0.5, 0.5), seen=False),
    ]
    captions = {caption(things, EMPTY, np.random.default_rng(seed)) for seed in range(400)}
    assert len(captions) > 25
    phrases = {"red ball": "at the top left", "blue ball": "at the right", "rack": "at the bottom"}
    position = {"red ball": (0.1, 0.1), "blue ball": (0.9, 0.5), "rack": (0.5, 0.9)}
    relations = {
        "to the left of": lambda one, two: one[0] < two[0],
        "to the right of": lambda one, two: one[0] > two[0],
        "above": lambda one, two: one[1] < two[1],
        "below": lambda one, two: one[1] > two[1],
    }
    noun = "(red ball|blue ball|rack)"
    kinds = set()
    for text in captions:
        assert "cup" not in text and "lime" not in text, f"{text}: the object is hidden"
        if found := re.fullmatch(rf"(?:the|an?) {noun}(?: is)? ({'|'.join(relations)}) (?:the|an?) {noun}", text):
            assert relations[found[2]](position[found[1]], position[found[3]]), text
            kinds.add(found[2])
        elif text.startswith("two balls"):
            assert text in ("two balls, red and blue", "two balls, blue and red")
            kinds.add("counted")
        elif text.startswith("the gripper"):
            assert text == "the gripper is open"
            kinds.add("gripper")
        else:
            found_all = re.findall(
                rf"(?:the|an?) {noun} (?:is )?(at the (?:top|bottom)?(?: ?(?:left|right))?|in the middle)", text
            )
            assert found_all and all(phrases[name] == phrase for name, phrase in found_all), text
            kinds.add("places")
    assert kinds == {*relations, "counted", "gripper", "places"}


def test_captions_tell_of_the_gripper() -> None:
    cube = thing("red", "cube", (0.5, 0.5), seen=False)
    for gripper, message in (
        (GripperState(cube.position, opened=False, held=cube.body), "the gripper holds the red cube"),
        (GripperState(cube.position, opened=False, held=None), "the closed gripper is at the red cube"),
        (EMPTY, "the gripper is open"),
    ):
        assert caption([cube], gripper, np.random.default_rng(0)) == message


@pytest.mark.parametrize("task", EMBEDDED_TASKS)
def test_words_of_captions_are_known_whole(task: str) -> None:
    """A word split into pieces would be masked and predicted piece by piece."""
    tokenizer = made_pairs.tokenizer(length=64)
    world, rng = Tabletop(task, cameras=["front"], image_size=16, renderer="raycast"), np.random.default_rng(0)
    try:
        world.reset(EpisodeStart(0, 0))
        captions = {caption(world.scene_objects("front"), world.gripper(), rng) for _ in range(60)}
    finally:
        world.close()
    for text in captions:
        assert len(tokenizer.pieces(text)) == len(re.findall(r"\w+|,", text)), text


def test_things_are_where_and_in_the_colour_that_captions_say() -> None:
    """Of the colours in the scene, the image at a ball's position is closest to the ball's colour."""
    world, right, asked = Tabletop("reach_target", cameras=["front"], image_size=96, renderer="raycast"), 0, 0
    try:
        for seed in range(12):
            world.reset(EpisodeStart(seed, seed))
            image = world.camera_image("front").astype(float)
            balls = [one for one in world.scene_objects("front") if one.visible and one.color]
            shades = np.array([COLORS[str(one.color)] for one in balls])
            for number, ball in enumerate(balls):
                column, row = (ball.pixel * 96).astype(int)
                lit = image[row, column] / 255
                right += int(np.abs(shades / shades.sum(1, keepdims=True) - lit / lit.sum()).sum(1).argmin() == number)
                asked += 1
    finally:
        world.close()
    assert asked > 20 and right >= 0.9 * asked, f"{right} of {asked}"
