"""Cautions of results: unfinished training, and simulators other than the one of the demonstrations."""

import json
import os
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from instructrl.evaluation.results.comparability import (
    cautions,
    collected_with,
    demonstrations_record,
    training_record,
    unrecorded,
)
from instructrl.storage.lease import TIMEOUT, LeaseHolder, LeaseRecord, current_process

HERE = {"simulator": "tabletop", "version": "3.10.0", "renderer": "opengl", "opengl": "egl", "expert": "waypoints"}
ENDED = {"epoch": 5, "epochs": 5, "process": ""}


def results(collected: dict[str, str], **more: Any) -> dict[str, Any]:
    return {"task": "a", "simulator": HERE, "demonstrations": {"a": collected}, "training": ENDED, **more}


def difference(before: str, now: str) -> list[str]:
    return [
        f"The demonstrations were collected with {before}, these episodes played with {now}: what the agent sees, or "
        "how things move, may differ from its training."
    ]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({}, []),
        ({"suite": "0.1", "expert": "another"}, []),
        ({"version": "3.5.0"}, difference("simulator version 3.5.0", "simulator version 3.10.0")),
        ({"opengl": "osmesa"}, difference("OpenGL backend osmesa", "OpenGL backend egl")),
        ({"renderer": "raycast", "opengl": ""}, difference("renderer raycast", "renderer opengl")),
        (
            {"renderer": "raycast", "opengl": "", "version": "3.5.0"},
            difference("simulator version 3.5.0, renderer raycast", "simulator version 3.10.0, renderer opengl"),
        ),
    ],
)
def test_another_simulator_than_that_of_the_demonstrations_is_said(change: dict[str, str], said: list[str]) -> None:
    found = results({**HERE, **change})
    assert cautions(found) == said and unrecorded(found) == []


def test_another_simulator_names_its_own_parts() -> None:
    here = {
        "simulator": "rlbench",
        "version": "1.2.0",
        "pyrep": "4.1",
        "renderer": "rlbench_opengl3",
        "opengl": "llvmpipe",
    }
    found = results({**here, "version": "1.1", "opengl": "NVIDIA"}) | {"simulator": here}
    assert cautions(found) == difference(
        "simulator version 1.1, OpenGL backend NVIDIA", "simulator version 1.2.0, OpenGL backend llvmpipe"
    )


@pytest.mark.parametrize(
    ("collected", "said"),
    [
        ({"renderer": "opengl"}, ["Not recorded of the demonstrations: simulator, simulator version, OpenGL backend."]),
        ({"simulator": "tabletop", "version": "3.10.0", "renderer": "opengl"},
         ["Not recorded of the demonstrations: OpenGL backend."]),
        ({}, ["Not recorded of the demonstrations: simulator, simulator version, renderer, OpenGL backend."]),
    ],
)  # fmt: skip
def test_what_is_not_recorded_is_said_without_alarm(collected: dict[str, str], said: list[str]) -> None:
    found = results(collected)
    assert cautions(found) == [] and unrecorded(found) == said
    assert collected_with(found) in (
        "not recorded",
        "simulator tabletop, simulator version 3.10.0, renderer opengl",
        "renderer opengl",
    )


def test_the_tasks_of_a_set_are_named_where_they_differ() -> None:
    tasks = {name: {"simulator": HERE} for name in ("a", "b", "c")} | {"lost": {"simulator": {}}}
    old = {**HERE, "version": "3.5.0"}
    [sentence] = difference("simulator version 3.5.0", "simulator version 3.10.0")
    found = {"tasks": tasks, "training": ENDED}
    assert cautions(found | {"demonstrations": {"a": old, "b": HERE, "c": old}}) == [f"a, c: {sentence}"]
    assert cautions(found | {"demonstrations": dict.fromkeys("abc", old)}) == [sentence]


def test_earlier_results_say_what_they_recorded() -> None:
    assert cautions({"task": "a", "simulator": HERE}) == unrecorded({"task": "a", "simulator": HERE}) == []
    mixed = {"task": "a", "simulator": HERE, "renderer": {"data": "raycast", "evaluation": "opengl"}}
    assert cautions(mixed) == difference("renderer raycast", "renderer opengl") and unrecorded(mixed) == []
    assert collected_with(mixed) == "not recorded"


@pytest.mark.parametrize(
    ("training", "said"),
    [
        (ENDED, []),
        ({"epoch": None, "epochs": 5, "process": ""}, []),
        (
            {"epoch": 3, "epochs": 5, "process": ""},
            ["The training has not ended: the last checkpoint is of epoch 3 of 5."],
        ),
        (
            {"epoch": 3, "epochs": 5, "process": "process 7 on n1"},
            ["The run was still in training at epoch 3 of 5 (process 7 on n1): its agent may become another one."],
        ),
        (
            {"epoch": None, "epochs": 5, "process": "process 7 on n1"},
            ["The run was still in training (process 7 on n1): its agent may become another one."],
        ),
    ],
)
def test_a_training_that_has_not_ended_is_said(training: dict[str, Any], said: list[str]) -> None:
    assert cautions(results(HERE, training=training)) == said


def a_run(folder: Path, *steps: int) -> Path:
    """A run of 4 steps an epoch with checkpoints at these steps."""
    for step in steps:
        (folder / "checkpoints" / str(step)).mkdir(parents=True)
    lines = [
        {"step": 4 * epoch, "epoch": epoch, "split": split, "loss": 1.0}
        for epoch in (1, 2)
        for split in ("train", "val")
    ]
    lines.append({"step": 10, "epoch": 2.5, "split": "step", "loss": 1.0})
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


@pytest.mark.parametrize(("steps", "epoch"), [((), None), ((4,), 1), ((4, 8), 2), ((8, 10), 2), ((4, 20), 5)])
def test_the_epoch_is_that_of_the_last_checkpoint(tmp_path: Path, steps: tuple[int, ...], epoch: int | None) -> None:
    run = a_run(tmp_path / "run", *steps) if steps else tmp_path
    assert training_record(run, run, epochs=5, validate_every=1) == {"epoch": epoch, "epochs": 5, "process": ""}


@pytest.mark.parametrize(
    ("holder", "age", "at_work"),
    [
        (current_process(), 0.0, True),
        (current_process(), 10 * TIMEOUT, True),  # of this machine: it is there, however busy
        (replace(current_process(), pid=2**22 + 1), 0.0, False),
        (replace(current_process(), host="elsewhere"), 0.0, True),
        (replace(current_process(), host="elsewhere"), 2 * TIMEOUT, False),
    ],
    ids=["here", "here, not renewed", "killed", "elsewhere", "elsewhere, left behind"],
)
def test_a_process_that_trains_is_known_by_its_lease(
    tmp_path: Path, holder: LeaseHolder, age: float, at_work: bool
) -> None:
    run = a_run(tmp_path / "run", 4)
    record = LeaseRecord(run)
    record.write(holder)
    os.utime(record.path, (time.time() - age,) * 2)
    assert training_record(run, run, epochs=5, validate_every=1)["process"] == (str(holder) if at_work else "")


def test_a_lease_that_cannot_be_read_tells_nothing(tmp_path: Path) -> None:
    run = a_run(tmp_path / "run", 4)
    LeaseRecord(run).path.mkdir()
    assert training_record(run, run, epochs=5, validate_every=1)["process"] == ""


def test_data_json_tells_what_each_task_was_collected_with() -> None:
    one = {"train": {"provenance": {"version": "1"}}, "val": {"provenance": {"version": "2"}}, "tokenizer": {}}
    assert demonstrations_record(one, ["a"]) == {"a": {"version": "1"}}  # type: ignore[arg-type]
    several = {"train/a": {"provenance": {"version": "1"}}, "train/b": {"checksum": "x"}, "val/b": {}}
    assert demonstrations_record(several, ["a", "b"]) == {"a": {"version": "1"}, "b": {}}  # type: ignore[arg-type]
