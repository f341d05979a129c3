"""Metrics, speeds and episodes, one JSON object per line: what is read is what was written, or one line says where not.

A line that a crash cut short is left out, if it is the last one. A refused file stays as it is.
"""

import errno
import json
import os
import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from instructrl.errors import InputError, RunError, report_user_errors
from instructrl.evaluation.diagnosis import Deviation
from instructrl.evaluation.episode_log import EpisodeLog
from instructrl.evaluation.report.page import training_speed
from instructrl.evaluation.rollout import Episode
from instructrl.sim import EpisodeStart, Outcome
from instructrl.storage import json_lines
from instructrl.storage.json_lines import LineFile, read_json_lines
from instructrl.training.monitoring.metric_files import best_value, missing_lines, read_lines
from instructrl.training.monitoring.metric_writer import Metrics

IDENTITY = {"run": "second"}
FILES = ("metrics.jsonl", "speed.jsonl", "episodes.jsonl")
SPLITS = ("step", "train", "val")


def write(folder: Path) -> None:
    """Write one file of each kind."""
    with Metrics(folder, from_step=0) as metrics:
        for epoch in (1, 2, 3, 4):
            for split in SPLITS:
                metrics.write(split, {"loss": 1.5 / epoch, "gripper_accuracy": 0.25}, step=3 * epoch, epoch=epoch)
            speed = {"seconds": 2.5, "steps": 3, "steps_per_second": 1.25, "share_step": 0.5}
            metrics.write_speed(speed, step=3 * epoch, epoch=epoch)
    for identity in ({"run": "first"}, IDENTITY):
        with EpisodeLog(folder / "episodes.jsonl", identity) as log:
            for index, condition in enumerate(("trained", "trained", "oracle", "no_instruction")):
                log.append(condition, index, episode(index))


def episode(index: int) -> Episode:
    outcome = Outcome.SUCCESS if index else Outcome.UNREACHABLE
    deviation = Deviation(1.5, 20.0, gripper_wrong=False, gripper_acts=True, other_cm=None)
    return Episode(EpisodeStart(index, 70 + index), "push it", outcome, np.full((2, 8), 0.5), (deviation,) * 2)


def reopen(path: Path) -> None:
    """Do what the next command does with the file: read it, drop what is to be repeated, and open it for appending."""
    if path.name == "episodes.jsonl":
        with EpisodeLog(path, IDENTITY):
            return
    with Metrics(path.parent, from_step=12):
        pass


def entries(content: bytes) -> list[Any]:
    return [json.loads(line) for line in content.splitlines()]


def refusal(path: Path) -> str:
    """The error of a file, which stays as it is."""
    before = {one.name: one.read_bytes() for one in path.parent.iterdir()}
    with pytest.raises(InputError) as refused:
        reopen(path)
    assert {one.name: one.read_bytes() for one in path.parent.iterdir()} == before
    message = str(refused.value)
    assert message.startswith(f"{path}, line ") and message.isprintable() and len(message) < len(str(path)) + 400
    assert "; restore the file, or " in message
    return message.removeprefix(str(path))


def replace_line(path: Path, number: int, line: bytes) -> None:
    lines = path.read_bytes().split(b"\n")
    lines[number - 1] = line
    path.write_bytes(b"\n".join(lines))


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize(
    ("line", "found"),
    [
        (b'{"step": 3, "spl', 'found {"step": 3, "spl, which is no JSON; allowed: a JSON object'),
        (b"", "found '', which is no JSON"),
        (b"[1, 2]", "found [1, 2]; allowed: a JSON object"),
        (b"null", "found null; allowed: a JSON object"),
        (b"[" * 100_000, "found more than 64 levels"),
        (b'{"step": ' + b"[" * 100 + b"]" * 100 + b"}", "found more than 64 levels"),
        (b'{"step": 1' + b"0" * 5000 + b"}", "found a number of thousands of digits"),
        (b'{"step": "\\ud800"}', "found half a character"),
        (b"\xff\xfe{}", "found bytes that are not UTF-8"),
        (b"{\0\0\0}", "found NUL bytes"),
        (b'{"step": 3, "step": 4}', "found step twice; allowed: once"),
        (b"{}", "found no "),
    ],
)
def test_a_damaged_line_within_a_file_is_refused(tmp_path: Path, name: str, line: bytes, found: str) -> None:
    write(tmp_path)
    path = tmp_path / name
    replace_line(path, 3, line)
    message = refusal(path)
    assert message.startswith(", line 3: ") and found in message


@pytest.mark.parametrize(
    ("name", "change", "found"),
    [
        ("metrics.jsonl", {"step": "3"}, "found step 3; allowed: an integer, at least 0"),
        ("metrics.jsonl", {"step": True}, "found step true; allowed: an integer, at least 0"),
        ("metrics.jsonl", {"step": 99}, "found step 6 after step 99; allowed: steps that do not decrease"),
        ("metrics.jsonl", {"split": "train"}, "found train of step 3 a second time; allowed: once"),
        ("metrics.jsonl", {"split": None}, "found split null; allowed: a text"),
        ("metrics.jsonl", {"epoch": float("nan")}, "found epoch nan; allowed: a finite number"),
        ("metrics.jsonl", {"loss": "low"}, "found loss low; allowed: a number"),
        ("metrics.jsonl", {"loss": 10**400}, "found loss 1000"),
        ("speed.jsonl", {"steps": None}, "found steps null; allowed: a number"),
        ("episodes.jsonl", {"index": -1}, "found index -1; allowed: an integer, at least 0"),
        ("episodes.jsonl", {"index": 0}, "found episode 0 of trained a second time; allowed: once"),
        ("episodes.jsonl", {"condition": "other"}, "found condition other; allowed: trained, held_out_instructions"),
        ("episodes.jsonl", {"outcome": "won"}, "found outcome won; allowed: success, failure"),
        ("episodes.jsonl", {"actions": [[1, 2]]}, "allowed: a list of lists of 8 or 9 numbers"),
        ("episodes.jsonl", {"actions": [["1"] * 8]}, "allowed: a list of lists of 8 or 9 numbers"),
        ("episodes.jsonl", {"deviations": [{}]}, "found no position_cm; allowed: a number"),
        ("episodes.jsonl", {"colour": 3}, "found the unknown key colour"),
        ("episodes.jsonl", {"evaluation": {}}, "found the unknown key condition"),
    ],
)
def test_a_line_of_no_use_is_refused(tmp_path: Path, name: str, change: dict[str, Any], found: str) -> None:
    write(tmp_path)
    path = tmp_path / name
    replace_line(path, 3, json.dumps(entries(path.read_bytes())[2] | change).encode())
    assert found in refusal(path)


def test_episodes_without_an_evaluation_are_refused(tmp_path: Path) -> None:
    write(tmp_path)
    path = tmp_path / "episodes.jsonl"
    path.write_bytes(path.read_bytes().partition(b"\n")[2])
    assert refusal(path).startswith(', line 1: found no evaluation; allowed: {"evaluation": ...} in the first line')


def test_neither_file_of_a_run_is_shortened_if_the_other_is_damaged(tmp_path: Path) -> None:
    write(tmp_path)
    replace_line(tmp_path / "speed.jsonl", 2, b"{")
    before = (tmp_path / "metrics.jsonl").read_bytes()
    with pytest.raises(InputError):
        Metrics(tmp_path, from_step=3)
    assert (tmp_path / "metrics.jsonl").read_bytes() == before


def test_the_lowest_loss_is_that_of_a_validation_with_one(tmp_path: Path) -> None:
    write(tmp_path)
    assert best_value(tmp_path, "val/loss") == 1.5 / 4
    lines = entries((tmp_path / "metrics.jsonl").read_bytes())
    del lines[-1]["loss"]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines) + '{"step": 1')
    assert best_value(tmp_path, "val/loss") == 1.5 / 3


def curve(*splits: tuple[str, Sequence[int]], per_epoch: int = 10) -> list[dict[str, Any]]:
    """Lines of a training, by split and step."""
    return [{"step": step, "epoch": step / per_epoch, "split": split} for split, steps in splits for step in steps]


@pytest.mark.parametrize(
    ("lines", "missing"),
    [
        (curve(("train", range(10, 60, 10)), ("val", range(10, 60, 10)), ("step", range(4, 52, 4))), ""),
        (curve(("train", (10, 20, 40, 50)), ("val", range(10, 60, 10))), "train of epoch 3"),
        (curve(("train", range(20, 60, 10)), ("val", (10, 20, 50))), "train of epoch 1; val of epoch 3, 4"),
        (curve(("train", range(10, 60, 10)), ("val", range(10, 50, 10))), ""),  # the last one is not written yet
        (curve(("step", (4, 8, 12, 20, 24, 28))), "step of step 16"),
        (curve(("step", (4, 8, 12, 24, 28))), "step of step 16, 20"),
        (curve(("step", (4, 8, 12, 20, 30, 40))), ""),  # resumed with another training.log_every
        (curve(("rollout", (10, 20, 40, 60))), ""),
        ([], ""),
    ],
)
def test_lines_that_a_metrics_file_lacks_are_named(lines: list[dict[str, Any]], missing: str) -> None:
    found = missing_lines(lines, validate_every=1)
    assert found.startswith(f"metrics.jsonl lacks lines: {missing}. ") if missing else found == ""


def test_epochs_without_validation_lack_no_lines() -> None:
    lines = curve(("train", range(10, 60, 10)), ("val", (20, 40, 50)))
    assert missing_lines(lines, validate_every=2) == ""
    assert missing_lines(lines, validate_every=1).startswith("metrics.jsonl lacks lines: val of epoch 1, 3. ")


def test_speeds_without_a_unit_count_steps(tmp_path: Path) -> None:
    write(tmp_path)
    speed = training_speed(read_lines(tmp_path / "speed.jsonl"))
    assert speed is not None and speed.facts["Throughput"].startswith("1.25 steps per second")


def cut(content: bytes, numbers: random.Random) -> bytes:
    return content[: numbers.randrange(len(content))]


def flip(content: bytes, numbers: random.Random) -> bytes:
    offset = numbers.randrange(len(content))
    return content[:offset] + bytes([content[offset] ^ 1 << numbers.randrange(8)]) + content[offset + 1 :]


def erase(content: bytes, numbers: random.Random) -> bytes:
    offset, length = numbers.randrange(len(content)), numbers.choice([1, 20, 300])
    return content[:offset] + content[offset + length :]


def zero(content: bytes, numbers: random.Random) -> bytes:
    offset, length = numbers.randrange(len(content)), numbers.choice([1, 20, 10_000])
    return (content[:offset] + bytes(length) + content[offset + length :])[: len(content)]


def insert(content: bytes, numbers: random.Random) -> bytes:
    offset = numbers.randrange(len(content))
    return content[:offset] + numbers.randbytes(numbers.choice([1, 5, 50])) + content[offset:]


def duplicate_line(content: bytes, numbers: random.Random) -> bytes:
    lines = content.splitlines(keepends=True)
    number = numbers.randrange(len(lines))
    return b"".join([*lines[:number], lines[number], *lines[number:]])


def remove_line(content: bytes, numbers: random.Random) -> bytes:
    lines = content.splitlines(keepends=True)
    del lines[numbers.randrange(len(lines))]
    return b"".join(lines)


DAMAGES = (cut, flip, erase, zero, insert, duplicate_line, remove_line)
SEEDS = range(40)  # of each damage of each file


def whole_lines(content: bytes) -> tuple[list[Any], bytes]:
    """The objects of a file's complete lines, and the beginning of another one at its end."""
    *lines, rest = content.split(b"\n")
    if rest.endswith(b"}") and rest.count(b"{") == rest.count(b"}"):
        lines, rest = [*lines, rest], b""
    return [json.loads(line) for line in lines], rest


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("damage", DAMAGES)
def test_no_damage_loses_a_line_in_silence(
    tmp_path: Path, name: str, damage: Callable[[bytes, random.Random], bytes]
) -> None:
    """Every line that is there is accepted or refused; one may have other digits or letters within one of its values.

    That and a whole line that is missing cannot be known without a second copy; a missing episode is run again.
    """
    write(tmp_path)
    path = tmp_path / name
    original, refused = path.read_bytes(), 0
    for seed in SEEDS:
        damaged = damage(original, random.Random(seed))
        path.write_bytes(damaged)
        try:
            reopen(path)
        except InputError:
            path.write_bytes(damaged)
            refusal(path)
            refused += 1
            continue
        expected, rest = whole_lines(damaged)
        assert not rest or damage in (cut, erase), seed
        found = entries(path.read_bytes())
        added = found[len(expected) :]
        assert found == expected + added, seed
        assert not added or (name == "episodes.jsonl" and added == [{"evaluation": IDENTITY}]), seed
        assert len([one for one in expected if one not in entries(original)]) <= 1, seed
    assert refused >= {cut: 0, remove_line: 0, flip: len(SEEDS) // 3}.get(damage, len(SEEDS) // 2)


def full_after(count: int, code: int = errno.ENOSPC) -> Callable[[int, Any], int]:
    """A stand-in of os.write for a file system that has room for this many bytes."""
    write, left = os.write, [count]

    def limited(handle: int, data: Any) -> int:
        if not left[0]:
            raise OSError(code, os.strerror(code))
        written = write(handle, bytes(data[: left[0]]))
        left[0] -= written
        return written

    return limited


@pytest.mark.parametrize("room", [0, 1, 15, 16, 17, 31])
def test_a_line_that_does_not_fit_is_taken_back_and_said_in_one_line(
    room: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "lines"
    with pytest.raises(RunError) as error, LineFile(path, [{"number": 0}]) as file:
        file.append({"number": 1})
        monkeypatch.setattr(json_lines.os, "write", full_after(room))
        for number in range(2, 9):
            file.append({"number": number})
    monkeypatch.undo()
    assert str(error.value) == (
        f"{path}: cannot be written (No space left on device); make room and run the same command again to resume"
    )
    lines = [{"number": number} for number in range(2 + room // len('{"number": 0}\n'))]
    assert path.read_text() == "".join(json.dumps(line) + "\n" for line in lines)
    with LineFile(path, read_json_lines(path, lambda _: None, advice="")) as file:
        file.append({"number": 9})
    assert read_json_lines(path, lambda _: None, advice="") == [*lines, {"number": 9}]


def test_a_file_that_cannot_be_closed_hides_no_other_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(handle: int) -> None:
        raise OSError(errno.EDQUOT, os.strerror(errno.EDQUOT))

    with pytest.raises(RunError, match="Disk quota exceeded"), LineFile(tmp_path / "lines", []):
        monkeypatch.setattr(json_lines.os, "close", fails)
    monkeypatch.undo()
    with pytest.raises(ZeroDivisionError), LineFile(tmp_path / "lines", []):
        monkeypatch.setattr(json_lines.os, "close", fails)
        raise ZeroDivisionError


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO, errno.EMFILE])
def test_what_the_machine_refuses_is_one_line_wherever_it_is_met(code: int, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended, report_user_errors():
        raise OSError(code, os.strerror(code), "/some/file")
    line = capsys.readouterr().err
    assert ended.value.code == 1 and line.count("\n") == 1
    assert line.startswith(f"error: /some/file: {os.strerror(code)}; ")
    assert line.endswith(", and run the same command again\n")
    with pytest.raises(FileNotFoundError), report_user_errors():  # a mistake of ours
        Path("/nowhere/at/all").read_text()
