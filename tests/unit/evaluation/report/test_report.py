import math
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import ImageFont

from instructrl.cli.entry import compose
from instructrl.config.evaluation import EvalConfig, protocol_record
from instructrl.evaluation.evaluator import Condition
from instructrl.evaluation.report import charts
from instructrl.evaluation.report.page import page, write_report
from instructrl.evaluation.report.templates import environment
from instructrl.evaluation.report.video import (
    add_captions,
    caption,
    choose_episodes,
    wrapped,
)
from instructrl.evaluation.results.summary import combine, failed_task_results, summarize
from instructrl.evaluation.rollout import Episode
from instructrl.evaluation.workers import task_info
from instructrl.sim import EpisodeStart, Outcome
from tests.fakes.sim import InlineWorkers

HOSTILE = '<script>alert("1")</script> & "the" <b>ball</b>'
METRICS = [
    {
        "step": 10 * epoch,
        "epoch": epoch,
        "split": split,
        "loss": 5.0 / epoch,
        "position_cm": 9.0 / epoch,
        "odd_key": epoch,
    }
    for epoch in range(1, 6)
    for split in ("train", "val")
] + [{"step": 50, "epoch": 5, "split": "rollout", "success_rate": 0.75}]
VOID = {"meta", "link", "br", "wbr", "img", "line", "polyline", "circle"}


def episode(outcome: Outcome, *, variation: int = 0, instruction: str = "touch 0", goal: int | None = None) -> Episode:
    return Episode(EpisodeStart(variation, 2_000_000_000, goal), instruction, outcome, np.zeros((2, 8)))


def protocol(**changes: Any) -> dict[str, Any]:
    return {
        **protocol_record(compose("eval", EvalConfig, ["run=x"]).protocol),
        "conditions": ["trained", "swapped_instruction"],
        **changes,
    }


def results(**changes: Any) -> dict[str, Any]:
    """Results with two conditions, and an instruction that would be markup."""
    info = task_info(InlineWorkers(), "numbers", None)
    info.instructions[0] = (HOSTILE,)  # type: ignore[index]
    good, bad = episode(Outcome.SUCCESS), episode(Outcome.TIME_LIMIT, variation=1)
    conditions = [
        Condition("trained", {0: good, 1: good, 2: good, 3: bad}, 2.0),
        Condition("swapped_instruction", {}, absent=f"no {HOSTILE}"),
    ]
    about = {
        "run": f"outputs/{HOSTILE.replace('/', '')}",
        "checkpoint": {"name": "best", "step": 12345},
        "seed": 0,
        "renderer": {"data": "raycast", "evaluation": "raycast"},
        "command": f"python eval.py {HOSTILE}",
        "date": "2026-11-22",
        "workers": 2,
        "videos": [],
        "protocol": protocol(),
    }
    return {**summarize(conditions, info, about=about), **changes}


def page_text(found: dict[str, Any]) -> str:
    """The text on the page of these results of one task, with no run behind them."""
    about = ("run", "checkpoint", "seed", "renderer", "command", "date", "workers", "videos", "protocol")
    known = {key: value for key, value in results().items() if key in about}
    return read(page({**known, **found}, metrics=[], settings="", folder=Path())).text


class Checker(HTMLParser):
    """Checks that tags nest and close; collects the page's text and references."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.references: list[str] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.references += [value or "" for key, value in attrs if key in ("src", "href", "srcset", "data", "action")]
        assert not [key for key, _ in attrs if key.startswith("on")], "an event handler"
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] != "style":
            self.text += data


def read(text: str) -> Checker:
    checker = Checker()
    checker.feed(text)
    assert checker.open == []
    return checker


def filmed(folder: Path) -> dict[str, Any]:
    """Results with two videos, whose files only begin like videos."""
    (folder / "videos").mkdir()
    videos = []
    for index, outcome, instruction in ((0, Outcome.SUCCESS, HOSTILE), (3, Outcome.TIME_LIMIT, "touch 0")):
        name = f"videos/{index:04d}-{outcome}.mp4"
        (folder / name).write_bytes(b"\0\0\0 ftypisom")
        videos.append({"file": name, "instruction": instruction, "outcome": str(outcome)})
    return results(videos=videos)


def draw(figure: charts.Figure) -> str:
    """A figure's markup."""
    return str(environment().get_template("macros.html.j2").make_module().figure(figure))  # type: ignore[attr-defined]


def test_the_page_asks_for_nothing_and_executes_nothing(tmp_path: Path) -> None:
    found = filmed(tmp_path)
    checker = read(page(found, metrics=METRICS, settings=f"name: {HOSTILE}", folder=tmp_path))
    assert not {"script", "iframe", "object", "embed", "img"} & set(checker.tags)
    assert checker.references
    assert all(reference.startswith("data:") for reference in checker.references)
    style = re.search("<style>(.*)</style>", page(found, metrics=[], settings="", folder=tmp_path), re.DOTALL)
    assert style is not None
    assert "url(" not in style[1]
    assert "@import" not in style[1]
    assert checker.text.count(HOSTILE) >= 4, "name, command, reason, instruction and settings are shown verbatim"


def test_the_page_shows_the_numbers(tmp_path: Path) -> None:
    checker = read(page(results(), metrics=METRICS, settings="seed: 0", folder=tmp_path))
    for expected in (
        "75.0%",
        "of 4 episodes",
        "30.1",
        "95.4",
        "time limit 1",
        "3/3",
        "0/1",
        "12,345",
        "not run",
        "seed: 0",
    ):
        assert expected in checker.text, expected
    assert checker.tags.count("svg") == 4, "loss, position, rollouts and the odd one"
    assert "the images differ from the training images" not in checker.text


def test_names_of_metrics_and_splits_are_shown_verbatim(tmp_path: Path) -> None:
    lines = [{"step": 1, "split": HOSTILE, f"our {HOSTILE}": 1.0}]
    checker = read(page(results(), metrics=lines, settings="", folder=tmp_path))
    assert "script" not in checker.tags
    assert f"Our {HOSTILE.lower()}{HOSTILE} 1" in checker.text, "title and legend"


def test_another_renderer_is_said(tmp_path: Path) -> None:
    mixed = results(renderer={"data": "opengl", "evaluation": "raycast"})
    shown = read(page(mixed, metrics=[], settings="", folder=tmp_path)).text
    assert "collected with renderer opengl, these episodes played with renderer raycast" in shown


def test_a_run_without_metrics_or_settings_has_a_page(tmp_path: Path) -> None:
    (tmp_path / "eval").mkdir()
    write_report(tmp_path / "eval" / "report.html", results(), run=tmp_path)
    assert "no metrics.jsonl" in read((tmp_path / "eval" / "report.html").read_text()).text


def test_the_caption_is_in_the_picture() -> None:
    frames = np.full((3, 96, 96, 3), 128, np.uint8)
    film = add_captions(frames, episode(Outcome.SUCCESS, instruction="touch the red ball"))
    band = film.shape[1] - 96
    assert (film[:, band:] == 128).all(), "the frames stay as they are, and the last one stands"
    assert len(film) > 3
    assert film.shape[1] % 2 == 0
    other = add_captions(frames, episode(Outcome.SUCCESS, instruction="touch the blue ball"))
    failed = add_captions(frames, episode(Outcome.FAILURE, instruction="touch the red ball"))
    assert not np.array_equal(film[0, :band], other[0, :band])
    assert not np.array_equal(film[0, :band], failed[0, :band])


@pytest.mark.parametrize("text", ["short", "many words " * 12, "x" * 120, ""])
def test_a_sentence_of_any_length_fits(text: str) -> None:
    font = ImageFont.load_default(12)
    lines = wrapped(text, font, 90)
    assert "".join(lines).replace(" ", "") == text.replace(" ", "")
    assert max(font.getlength(line) for line in lines) <= 90
    assert caption(episode(Outcome.FAILURE, instruction=text), 96).shape[0] % 2 == 0


def test_chosen_episodes_spread_over_variations() -> None:
    outcomes = [Outcome.SUCCESS] * 9 + [Outcome.TIME_LIMIT, Outcome.SIMULATOR_ERROR, Outcome.FAILURE]
    variations = [0, 0, 0, 1, 1, 1, 2, 2, 2, 0, 1, 0]
    episodes = {i: episode(outcomes[i], variation=variations[i]) for i in range(12)}
    assert choose_episodes(episodes, count=2) == [0, 3, 9, 11]
    assert choose_episodes(episodes, count=4) == [0, 3, 6, 1, 9, 11]
    assert choose_episodes(episodes, count=0) == []
    swapped = {i: episode(Outcome.SUCCESS, variation=0, goal=goal) for i, goal in enumerate([1, 1, 2])}
    assert choose_episodes(swapped, count=2) == [0, 2], "an episode with an alternative goal counts for that variation"


def test_curves_take_every_number_by_split() -> None:
    lines = [*METRICS, {"step": 60, "epoch": 6, "split": "train", "loss": math.nan, "note": "x", "flag": True}]
    found = charts.curves(lines)
    assert list(found) == ["loss", "position_cm", "success_rate", "odd_key"]
    assert found["loss"]["train"] == [(epoch, 5.0 / epoch) for epoch in range(1, 6)]
    assert found["success_rate"] == {"rollout": [(5.0, 0.75)]}
    by_step = charts.curves([{"step": 3, "split": "train", "loss": 1.0}])
    assert by_step == {"loss": {"train": [(3.0, 1.0)]}}
    assert charts.curves([]) == {}


@pytest.mark.parametrize(
    "points",
    [
        [(1.0, 5.0)],
        [(1, 0.0), (2, 0.0)],
        [(1, 1e-6), (2, 1e6)],
        [(1, -3.0), (2, 4.0)],
        [(e, 1 / e) for e in range(1, 2000)],
    ],
    ids=["one", "flat zero", "decades", "negative", "many"],
)
def test_charts_stay_inside_their_frame(points: list[tuple[float, float]]) -> None:
    drawing = draw(charts.chart("loss", {"train": points}, axis="epoch"))
    read(drawing)
    line = re.search('points="([^"]*)"', drawing)
    assert line is not None
    places = [tuple(map(float, place.split(","))) for place in line[1].split()]
    assert 1 <= len(places) <= 301
    assert all(0 <= x <= charts.WIDTH and 0 <= y <= charts.HEIGHT for x, y in places)
    if len(points) == 2 and points[0][1] != points[1][1]:
        assert places[0][1] > places[1][1], "larger is higher"


@pytest.mark.parametrize(("low", "high"), [(0, 1), (0.31, 0.98), (0, 0.0012), (-7, 13), (3, 3), (0, 0), (12, 48000)])
def test_ticks_are_round_and_enclose(low: float, high: float) -> None:
    ticks = charts.round_ticks(low, high)
    assert ticks[0] <= low <= high <= ticks[-1]
    assert 2 <= len(ticks) <= 6
    assert all(len(f"{tick:.3g}") <= 8 and math.isclose(float(f"{tick:.3g}"), tick, abs_tol=1e-12) for tick in ticks)


def test_videos_are_embedded(tmp_path: Path) -> None:
    text = page(filmed(tmp_path), metrics=[], settings="", folder=tmp_path)
    assert text.count("<video controls") == 2
    assert text.count("data:video/mp4;base64,AAAA") == 2
    assert text.index("(success)") < text.index("(time limit)")


def test_the_robot_is_shown_before_the_numbers(tmp_path: Path) -> None:
    (tmp_path / "set").mkdir()
    for found in (filmed(tmp_path), set_results(tmp_path / "set")):
        text = page(found, metrics=[], settings="", folder=tmp_path if "tasks" not in found else tmp_path / "set")
        body = text[text.index("<main") :]
        assert body.index("<h1>") < body.index("<video ") <= body.rindex("<video ") < body.index('class="rate"')


def test_cells_carry_the_heads_of_their_columns_for_narrow_screens(tmp_path: Path) -> None:
    text = page(filmed(tmp_path), metrics=[], settings="", folder=tmp_path)
    numbers = re.findall(r'<td class="number"[^>]*>', text)
    assert numbers and all("data-head=" in cell for cell in numbers)


def test_a_condition_has_one_name_on_the_page(tmp_path: Path) -> None:
    text = page(filmed(tmp_path), metrics=[], settings="", folder=tmp_path)
    heads = re.findall(r"<th(?: [^>]*)?>([^<]*)", text[text.index("By variation") :])
    assert heads[:4] == ["Variation", "Example instruction", "", "Training instructions"]
    assert not re.search(r">(trained|oracle|[a-z ]+ instructions?)<|data-head=\"[a-oq-z]", text)


# Several tasks on one page.

HOSTILE_TASK = f"third_{HOSTILE}"


def set_results(folder: Path, **changes: Any) -> dict[str, Any]:
    """Three tasks: one with videos, one with some variations only, one whose simulator did not start."""
    film = filmed(folder)["videos"][:1]
    good, bad = episode(Outcome.SUCCESS, instruction=HOSTILE), episode(Outcome.FAILURE)
    every = [replace(good, start=EpisodeStart(variation, 1)) for variation in range(4)]
    info = task_info(InlineWorkers(), "first_task", None)
    conditions = [
        Condition("trained", dict(enumerate(every)), 2.0),
        Condition("swapped_instruction", {0: good, 1: bad}, 1.0),
    ]
    first = {**summarize(conditions, info, about={}), "videos": film}
    conditions = [
        Condition("trained", {0: good, 1: bad, 2: bad, 3: bad}, 2.0),
        Condition("swapped_instruction", {}, absent="nothing else"),
    ]
    second = {**summarize(conditions, replace(info, task="second_task"), about={}), "videos": []}
    asked = replace(
        compose("eval", EvalConfig, ["run=x"]).protocol, episodes=5, conditions=["trained", "swapped_instruction"]
    )
    third = failed_task_results(HOSTILE_TASK, f"not {HOSTILE}", asked)
    known = {key: value for key, value in results().items() if key in ("run", "checkpoint", "seed", "renderer")}
    known |= {"command": "python eval.py", "date": "2026-11-22", "workers": 2, "task": "a_set"}
    tasks = {"first_task": first, "second_task": second, HOSTILE_TASK: third}
    return combine(tasks, about={**known, "protocol": protocol(name="mine", keyframes=9, tries=2), **changes})


def test_the_page_of_a_set_has_an_overview_and_a_section_for_each_task(tmp_path: Path) -> None:
    text = page(set_results(tmp_path), metrics=METRICS, settings="", folder=tmp_path)
    checker = read(text)
    shown = checker.text
    assert f"{(1 + 0.25 + 0) / 3:.1%}" in shown, "the mean over tasks"
    assert "mean success over 3 tasks, 13 episodes" in shown
    for task in ("first_task", "second_task", HOSTILE_TASK):
        assert shown.count(task) >= 3, "among the tasks, in the overview, over its section"
    assert shown.index("Tasks") < shown.index("Does it follow") < shown.index("4 of 4 episodes succeeded")
    assert shown.index("4 of 4 episodes") < shown.index("1 of 4 episodes") < shown.index("0 of 5 episodes")
    assert "1 of 4 episodes succeeded, on variation 0 of 4 only" in shown
    assert "mean of the 2 tasks that have this condition" in shown
    assert "simulator error 5" in shown and "no simulator" in shown and f"not {HOSTILE}" in shown
    assert "not run: nothing else" in shown
    assert text.count("<video ") == 1
    for number in ("100.0 %", "25.0 %", "0.0 %"):
        assert number.replace(" ", "\u00a0") in shown


def test_the_page_of_a_set_keeps_the_promises_of_every_page(tmp_path: Path) -> None:
    checker = read(page(set_results(tmp_path), metrics=METRICS, settings="", folder=tmp_path))
    assert not {"script", "iframe", "object", "embed", "img"} & set(checker.tags)
    inside = [reference for reference in checker.references if not reference.startswith("data:")]
    assert inside == [f"#task-{task}" for task in ("first_task", "second_task", HOSTILE_TASK)]


def test_links_of_the_overview_lead_to_the_sections(tmp_path: Path) -> None:
    text = page(set_results(tmp_path), metrics=[], settings="", folder=tmp_path)
    links, places = re.findall('href="#([^"]*)"', text), re.findall('<section id="([^"]*)"', text)
    assert links == places and len(places) == 3


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({}, "Protocol mine: 200 episodes per condition, seed 0, all trained variations (in turn)"),
        ({"name": "default"}, "Protocol default (InstructRL's own)"),
        ({"variations": [0]}, "variation 0 (in turn)"),
        ({"variations": "held_out", "order": "shuffled"}, "all variations that were not trained (shuffled)"),
        ({"keyframes": None}, "as many keyframes as the task allows"),
        ({"keyframes": 25}, "at most 25 keyframes"),
        ({"sentence": "first"}, "the first instruction of each"),
        ({"tries": 1}, "the first unreachable action ends an episode"),
        ({"tries": 3}, "unreachable action number 3 ends an episode"),
    ],
)
def test_the_page_says_what_was_asked(changes: dict[str, Any], said: str, tmp_path: Path) -> None:
    asked = results(protocol=protocol(**{"name": "mine", **changes}))
    assert said in read(page(asked, metrics=[], settings="", folder=tmp_path)).text
