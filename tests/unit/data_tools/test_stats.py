"""Statistics of demonstrations: equal to NumPy on all data at once; planted outliers and duplicates are found."""

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from data_tools.inspect import arguments as inspect_arguments
from data_tools.inspect import inspect
from data_tools.inspect import main as inspect_main
from data_tools.stats import measures
from data_tools.stats.__main__ import arguments, expand_folders, main, stats
from data_tools.stats.measures import cells, measure
from data_tools.stats.outliers import find_outliers
from instructrl.errors import InputError, RunError
from instructrl.evaluation.report.histograms import bars, cell_map
from instructrl.types import COLLISIONS, Demonstration
from instructrl.workspace import RLBENCH_WORKSPACE, Workspace
from tests.fixtures.commands import run_main
from tests.fixtures.demonstrations import HEADER, demonstration, write
from tests.unit.evaluation.report.test_report import draw
from tests.unit.evaluation.report.test_report import read as read_page

VAL = replace(HEADER, split="val")
HOSTILE = "<script>alert('x')</script> & co"


def usual_demonstration(seed: int, **options: int) -> Demonstration:
    """A demonstration without unusual values."""
    sample, rng = demonstration(seed, **options), np.random.default_rng(seed)
    actions = sample.actions.copy()
    actions[:, :3] = rng.uniform(*RLBENCH_WORKSPACE.bounds, (len(actions), 3))
    actions[:, 3:7] = (0, 1, 0, 0)
    still = {"extrinsics": np.broadcast_to(np.eye(4, dtype=np.float32), sample.extrinsics.shape).copy()}
    still |= {name: np.ones_like(getattr(sample, name)) for name in ("state", "intrinsics")}
    return sample._replace(actions=actions, **still)


def test_the_numbers_are_those_of_everything_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    demonstrations = [
        demonstration(seed, steps=1 + seed % 3, between=seed % 2, sentences=("go", f"go {seed % 4}"))
        for seed in range(30)
    ]
    path = write(tmp_path / "train.hdf5", demonstrations)
    found = {}
    for piece in (1, 5000, 2**23):
        monkeypatch.setattr(measures, "CHUNK_BYTES", piece)
        found[piece] = measure(path)
    images = np.concatenate([one.images for one in demonstrations]).astype(np.float64)
    actions = np.concatenate([one.actions for one in demonstrations]).astype(np.float64)
    for one in found.values():
        assert np.allclose(one.pixels, [images.mean((0, 2, 3)), images.std((0, 2, 3))], rtol=1e-12)
        assert np.array_equal(one.pixels, found[1].pixels) and one.outliers == found[1].outliers
        assert np.allclose(one.actions, [actions.min(0), actions.mean(0), actions.std(0), actions.max(0)])
    one = found[1]
    assert one.lengths.tolist() == [1 + seed % 3 for seed in range(30)]
    assert one.frames.sum() == len(images) and one.seeds == 30
    assert one.variations == {0: 10, 1: 10, 2: 10}
    assert one.sentences == [("go", 30), ("go 0", 8), ("go 1", 8), ("go 2", 7), ("go 3", 7)]
    inside = RLBENCH_WORKSPACE.contains(actions[:, :3])
    assert (one.reached.sum(), one.outside) == (inside.sum(), (~inside).sum())


@pytest.mark.parametrize("workspace", [RLBENCH_WORKSPACE, Workspace((0.1, -0.2, 0.02), (0.5, 0.2, 0.23))])
def test_cells_tile_the_workspace(workspace: Workspace) -> None:
    edges = [np.linspace(low, high, 11) for low, high in zip(*workspace.bounds, strict=True)]
    centres = np.stack(np.meshgrid(*[(edge[1:] + edge[:-1]) / 2 for edge in edges], indexing="ij"), -1).reshape(-1, 3)
    reached, outside = cells(centres, workspace)
    assert (reached == 1).all() and outside == 0
    low, high = workspace.bounds
    corners = np.array([low, high, high + np.float32(0.01)])
    reached, outside = cells(corners, workspace)
    assert (reached[0, 0, 0], reached[-1, -1, -1], reached.sum(), outside) == (1, 1, 2, 1)


def test_quiet_demonstrations_have_no_outliers(tmp_path: Path) -> None:
    path = write(tmp_path / "train.hdf5", [usual_demonstration(seed, steps=2 + seed % 2) for seed in range(40)])
    assert measure(path).outliers == []


PLANTED = {
    "keyframes 12; usual 2 to 2, 10 beyond": lambda one: usual_demonstration(99, steps=12),
    "frames 43; usual 3 to 3, 40 beyond": lambda one: usual_demonstration(99, steps=2, between=20),
    "position z 0.4 m; workspace 0.6 to 1.6 m, 0.2 m beyond": lambda one: moved(one, 2, 0.4),
    "position x 9 m; usual": lambda one: moved(one, 0, 9),
    "turn from the mean rotation 88": lambda one: one._replace(
        actions=np.concatenate([one.actions[:, :3], [[0, 0.5**0.5, 0, 0.5**0.5, 1]] * 2], 1).astype(np.float32)
    ),
    "left finger 1.5 m; usual 1 to 1 m, 0.5 m beyond": lambda one: one._replace(
        state=one.state + np.float32([[0, 0.5, 0, 0]])
    ),
    "camera wrist at y 0.25 m; usual": lambda one: one._replace(
        extrinsics=one.extrinsics + np.float32(0.25) * (np.arange(2)[None, :, None, None] == 1)
    ),
    "camera front's focal length 9 pixels": lambda one: one._replace(
        intrinsics=one.intrinsics + np.float32(8) * (np.arange(2)[None, :, None, None] == 0)
    ),
    "contrast of wrist 0; images 1 to 127.5, 1 beyond": lambda one: one._replace(
        images=one.images * (np.arange(2, dtype=np.uint8) == 0)[None, :, None, None, None]
    ),
    "brightness of front": lambda one: one._replace(images=one.images // 8),
}


def moved(one: Demonstration, axis: int, to: float) -> Demonstration:
    actions = one.actions.copy()
    actions[0, axis] = to
    return one._replace(actions=actions)


@pytest.mark.parametrize("text", PLANTED)
def test_a_planted_outlier_is_named(tmp_path: Path, text: str, capsys: pytest.CaptureFixture[str]) -> None:
    demonstrations = [usual_demonstration(seed) for seed in range(40)]
    demonstrations[17] = PLANTED[text](demonstrations[17])
    path = write(tmp_path / "train.hdf5", demonstrations)
    found = measure(path).outliers
    assert {one.episode for one in found} == {17}
    assert any(str(one).startswith(f"episode 17: {text}") for one in found), [*map(str, found)]
    stats(arguments([str(path)]))
    assert f"{path}: episode 17: {text}" in capsys.readouterr().out


def test_clusters_are_usual_and_the_scale_does_not_matter() -> None:
    rng, episode_of = np.random.default_rng(0), np.arange(400)
    values = np.concatenate([rng.normal(0, 1, 300), rng.normal(500, 1, 100)])
    assert find_outliers("x", "", values, episode_of, width=0.1) == []
    assert find_outliers("x", "", np.ones(400), episode_of, width=0.1) == []
    far = np.append(values, [1500.0, 2000.0])
    found = find_outliers("x", "", far, np.arange(402), width=0.1)
    assert [one.episode for one in found] == [400, 401] and found[1].beyond > found[0].beyond > 900
    assert len(find_outliers("x", "", far * 1e6, np.arange(402), width=0.1)) == 2


def test_duplicates_are_found_by_content_and_not_by_seed(tmp_path: Path) -> None:
    demonstrations = [usual_demonstration(seed) for seed in range(8)]
    train = write(
        tmp_path / "train.hdf5",
        [*demonstrations, demonstrations[2]._replace(seed=77, variation=1, instructions=("other",))],
    )
    near = demonstrations[5]._replace(images=demonstrations[5].images ^ np.uint8(1))
    write(
        tmp_path / "val.hdf5",
        [
            usual_demonstration(50),
            near,
            demonstrations[6]._replace(seed=1234),
            demonstrations[7]._replace(actions=demonstrations[6].actions),
        ],
        VAL,
    )
    with pytest.raises(RunError, match=r"train.hdf5: episode 8 is the same as episode 2 of .*train.hdf5, and 1 more"):
        stats(arguments([str(train)]))
    with pytest.raises(RunError, match=r"episode 8 is the same .* and 1 more"):
        inspect(inspect_arguments([str(train), "--verify"]))
    inspect(inspect_arguments([str(train)]))  # without --verify


@pytest.mark.parametrize("tool", ["stats", "inspect"])
@pytest.mark.parametrize("split", ["train", "val"])
def test_the_other_split_beside_a_file_is_looked_at(tmp_path: Path, tool: str, split: str) -> None:
    for name, header, seeds in (("train", HEADER, range(6)), ("val", VAL, [30, 3])):
        write(tmp_path / f"{name}.hdf5", [usual_demonstration(seed) for seed in seeds], header)
    write(tmp_path / "other.hdf5", [usual_demonstration(3)], replace(VAL, task="push_button"))
    (tmp_path / "notes.hdf5").write_text("none")
    words = [str(tmp_path / f"{split}.hdf5"), *(["--verify"] if tool == "inspect" else [])]
    ran = run_main(inspect_main if tool == "inspect" else main, *words)
    text = f"{tmp_path}/val.hdf5: episode 1 is the same as episode 3 of {tmp_path}/train.hdf5"
    assert ran.returncode == 1, ran.stderr
    assert re.search(rf"^duplicates +{text}$", ran.stdout, re.MULTILINE)
    assert "not compared" in ran.stdout and "notes.hdf5: not an HDF5 file" in ran.stdout
    assert ran.stderr.startswith(f"error: {text}; training episodes") and ran.stderr.count("\n") == 1


def test_a_link_to_itself_is_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    train = write(tmp_path / "train.hdf5", [usual_demonstration(seed) for seed in range(2)])
    (tmp_path / "val.hdf5").symlink_to("val.hdf5")
    beside = run_main(main, str(train))
    assert beside.returncode == 0 and "val.hdf5: no such file" in beside.stdout, beside.stderr
    for given in (tmp_path, tmp_path / "val.hdf5"):
        ran = run_main(main, str(given))
        assert ran.returncode == 2 and ran.stderr.startswith(f"error: {tmp_path}/val.hdf5: no such file"), ran.stderr


def test_files_that_extend_others_are_no_duplicates(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    demonstrations = [usual_demonstration(seed) for seed in range(8)]
    write(tmp_path / "a" / "train.hdf5", demonstrations[:5])
    write(tmp_path / "b" / "train.hdf5", demonstrations)
    stats(arguments([str(tmp_path)]))
    assert "duplicates      none in" in capsys.readouterr().out
    write(tmp_path / "c" / "val.hdf5", demonstrations[6:7], VAL)
    with pytest.raises(RunError, match=r"val.hdf5: episode 0 is the same as episode 6"):
        stats(arguments([str(tmp_path / "b"), str(tmp_path / "c")]))


def test_the_page_holds_all_and_asks_for_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    demonstrations = [demonstration(seed, steps=1 + seed % 3, sentences=(HOSTILE, f"go {seed}")) for seed in range(70)]
    write(tmp_path / "train.hdf5", demonstrations)
    write(tmp_path / "val.hdf5", demonstrations[:2], VAL)
    with pytest.raises(RunError):
        stats(arguments([str(tmp_path)]))
    printed, text = capsys.readouterr().out, (tmp_path / "stats.html").read_text()
    assert f"page            {tmp_path / 'stats.html'}" in printed
    checker = read_page(text)
    assert not {"script", "iframe", "object", "embed"} & set(checker.tags)
    assert text.count('<img src="data:image/jpeg;base64,') == checker.tags.count("img") >= 2 * (8 + 2)
    assert all(reference.startswith(("data:", "#set-")) for reference in checker.references)
    assert "url(" not in text and "@import" not in text and "color-scheme: light dark" in text
    assert checker.tags.count("svg") == 12 and checker.text.count(HOSTILE) == 2 + 8, "in the list and under images"
    one = measure(tmp_path / "train.hdf5")
    for expected in (
        "72 episodes", "214 frames", "reach_target, train", "reach_target, val", "70 distinct seeds", "... and 11 more",
        f"{tmp_path}/val.hdf5: episode 0 is the same as episode 0 of {tmp_path}/train.hdf5", "Keyframes from above",
        "Workspace reached", "x (m)",
        *(f"{mean:.1f} \N{PLUS-MINUS SIGN} {width:.1f}" for mean, width in zip(*one.pixels[:, 0], strict=True)),
        *(f"{value:.3f}" for value in one.actions[:, 0]), *(other.what for other in one.outliers),
    ):  # fmt: skip
        assert expected in checker.text, expected


def test_a_ninth_number_of_actions_is_shown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    header = replace(HEADER, actions=COLLISIONS)
    path = write(tmp_path / "train.hdf5", [demonstration(seed, steps=2, header=header) for seed in range(3)], header)
    stats(arguments([str(path)]))
    assert "collisions      0.000 to 1.000, mean 0.500, deviation 0.500" in capsys.readouterr().out
    assert "collisions" in read_page((tmp_path / "stats.html").read_text()).text


@pytest.mark.parametrize(
    "counts", [{3: 1}, {0: 5, 1: 2}, {number: number + 1 for number in range(200)}, {2: 1, 10**6: 3}]
)
def test_bars_show_every_count_inside_their_frame(counts: dict[int, int]) -> None:
    text = draw(bars("Lengths", counts, axis="steps"))
    read_page(text)
    titles = re.findall(r"<title>steps [^:]*: (\d+)</title>", text)
    assert sum(map(int, titles)) == sum(counts.values()) and len(titles) <= 60
    for x, y, width, height in re.findall(r'block" x="(.*?)" y="(.*?)" width="(.*?)" height="(.*?)"', text):
        assert float(x) >= 0 and float(x) + float(width) <= 340 and float(y) >= 0 and float(y) + float(height) <= 181


def test_a_map_puts_the_first_axis_across_and_the_second_up() -> None:
    counts = np.zeros((10, 10), int)
    counts[9, 0] = 7
    text = draw(cell_map("Map", counts, across=("x", -1, 1), up=("y", 0, 2)))
    read_page(text)
    (x, y) = re.findall(r'class="cell" x="(.*?)" y="(.*?)"', text)[0]
    assert float(x) > 250 and float(y) > 200 and "<title>7</title>" in text
    empty = draw(cell_map("Map", counts * 0, across=("x", -1, 1), up=("y", 0, 2)))
    assert '<rect class="cell"' not in empty and '<rect class="edge"' in empty


def test_folders_are_searched_and_each_file_is_taken_once(tmp_path: Path) -> None:
    first = write(tmp_path / "a" / "train.hdf5", [usual_demonstration(0)])
    second = write(tmp_path / "b" / "deep" / "val.hdf5", [usual_demonstration(1)])
    write(tmp_path / "b" / "val.parts" / "00000000-00000001.hdf5", [usual_demonstration(1)])
    assert expand_folders([tmp_path, first, tmp_path / "b"]) == [first, second]
    (tmp_path / "none").mkdir()
    with pytest.raises(InputError, match=r"no .hdf5 file in this folder"):
        expand_folders([tmp_path / "none"])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([], "the following arguments are required: FILE_OR_FOLDER"),
        (["none.hdf5"], "none.hdf5: no such file"),
        (["FILE", "--out", "/proc/none/page.html"], "/proc/none/page.html: cannot be written"),
        (["FILE", "--page"], "unrecognized arguments: --page"),
        (["DAMAGED"], "train.hdf5: episode 1: frames/images: damaged pixels"),
    ],
)
def test_wrong_use_is_one_line(tmp_path: Path, options: list[str], message: str) -> None:
    path, demonstrations = tmp_path / "train.hdf5", [usual_demonstration(0), usual_demonstration(1)]
    write(path, demonstrations)
    if options == ["DAMAGED"]:
        data = path.read_bytes()
        offset = data.index(demonstrations[1].images[0].tobytes())
        path.write_bytes(data[:offset] + bytes([data[offset] ^ 4]) + data[offset + 1 :])
    words = [str(path) if word in ("FILE", "DAMAGED") else word for word in options]
    ran = run_main(main, *words)
    assert ran.returncode == 2 and ran.stderr.count("\n") == 1 and message in ran.stderr
    assert not (tmp_path / "stats.html").exists()
