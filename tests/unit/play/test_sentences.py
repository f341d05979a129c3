"""The meaning of typed sentences, in a scene and without one."""

import pytest

from instructrl.config.model import EncoderConfig
from instructrl.data.text.tokenizer import make_tokenizer
from instructrl.play.sentences import LONGEST, Goal, Sentences

SCENE = (Goal("reach_target", 0), Goal("reach_target", 9), Goal("reach_target", 14))  # red, silver, teal
OFFERED = ["reach the red ball", "reach the silver ball", "reach the teal ball"]


@pytest.fixture(scope="module")
def sentences() -> Sentences:
    tasks = ("reach_target", "push_button", "pick_and_lift", "put_money_in_safe")
    return Sentences(tasks, make_tokenizer(EncoderConfig("scratch_tiny")), None)


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("reach the teal ball", "reach the teal ball"),
        ("  Reach the TEAL ball ", "reach the teal ball"),
        ("touch the sphere that is silver", "touch the sphere that is silver"),  # held out
        ("reach red ball", "reach the red ball"),
    ],
)
def test_a_sentence_of_known_words_is_obeyed(sentences: Sentences, text: str, meant: str) -> None:
    reading = sentences.read(text, SCENE)
    assert reading.sentence is not None and reading.sentence.text == meant and not reading.problem


@pytest.mark.parametrize(
    ("text", "problem", "suggested"),
    [
        ("reech the teel bal", "no instruction of the training had 'reech', 'teel', 'bal'; did you mean", OFFERED[2:]),
        ("please reach the teal ball", "no instruction of the training had 'please'; did you mean", OFFERED[2:]),
        ("do not reach the red ball", "no instruction of the training had 'do', 'not'; did you mean", OFFERED[:1]),
        ("erreiche den roten ball", "'erreiche', 'den', 'roten'; the agent learned English sentences", OFFERED),
        ("触摸红色的球", "; the agent learned English sentences such as", OFFERED),
        ("", "no word in it; the agent learned English sentences such as", OFFERED),
        ("x" * (LONGEST + 1), "longer than 200 characters; the agent learned", OFFERED),
        ("reach the ball", "it does not say which; did you mean", OFFERED),
        ("red", "the training had these words, but no sentence like this; did you mean", OFFERED[:1]),
        ("reach the lime ball", "nothing that this asks for; in another scene there is", ["reach the lime ball"]),
        ("push the red button", "nothing that this asks for; in another scene there is", ["push the red button"]),
    ],
)
def test_another_one_is_answered_by_what_helps(
    sentences: Sentences, text: str, problem: str, suggested: list[str]
) -> None:
    reading = sentences.read(text, SCENE)
    assert reading.sentence is None and problem in reading.problem
    assert [one.text for one in reading.suggestions][: len(suggested)] == suggested


def test_without_a_scene_any_task_is_meant(sentences: Sentences) -> None:
    found = sentences.read("push the red button").sentence
    assert found is not None and found.goal == Goal("push_button", 0)
    assert [one.goal.task for one in sentences.read("prends la balle").suggestions] == [
        "reach_target", "push_button", "pick_and_lift", "put_money_in_safe",
    ]  # fmt: skip
    reading = sentences.read("put the money in the safe")
    assert reading.problem == "it does not say which; did you mean" and len(reading.suggestions) >= 3


def test_words_that_the_training_lacked_are_unknown_even_if_a_task_has_them() -> None:
    tokenizer = make_tokenizer(EncoderConfig("scratch_tiny"))
    few = Sentences(("reach_target",), tokenizer, frozenset({"reach", "the", "red", "ball"}))
    assert few.read("reach the red ball").sentence is not None
    assert few.read("reach the teal ball").problem.startswith("no instruction of the training had 'teal'")
