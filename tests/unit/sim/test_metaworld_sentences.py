"""The instructions of Meta-World's tasks."""

from instructrl.sim.metaworld.sentences import held_out_sentences, sentences
from tests.fixtures.settings import composed

TASKS = composed("task=mt50", "sim=metaworld").task.tasks or []


def test_every_task_has_instructions_for_training_and_for_testing() -> None:
    assert len(TASKS) == len(set(TASKS)) == 50
    for task in TASKS:
        training, held_out = sentences(task), held_out_sentences(task)
        assert (len(training), len(held_out)) == (4, 2)
        assert len({*training, *held_out}) == 6, task


def test_held_out_instructions_are_of_known_words() -> None:
    for task in TASKS:
        known = {word for text in sentences(task) for word in text.split()}
        assert known >= {word for text in held_out_sentences(task) for word in text.split()}, task


def test_no_two_tasks_are_asked_for_in_the_same_words() -> None:
    seen: dict[str, str] = {}
    for task in TASKS:
        for text in (*sentences(task), *held_out_sentences(task)):
            assert seen.setdefault(text, task) == task, text
