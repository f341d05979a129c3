"""Conversions in worker processes: the same files for any number, and nothing left by an interruption or a crash."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest

from data_tools.convert.__main__ import convert, parse
from data_tools.convert.episode_builder import EpisodeBuilder, Make
from instructrl.errors import RunError
from instructrl.sim.vector.pool import Workers
from tests.fixtures import stored
from tests.paths import ROOT


def words(src: Path, out: Path, *more: str) -> list[str]:
    return ["kind=rlbench", f"src={src}", f"out={out}", "cameras=[front,left_shoulder]", *more]


@contextmanager
def two(builder: Callable[[], Any]) -> Iterator[Workers]:
    with Workers(builder, 2, timeout=30.0) as workers:
        yield workers


class CrashingBuilder(EpisodeBuilder):
    """A builder whose process is killed at an episode, once or again and again."""

    def __init__(self, mark: Path, *, always: bool = False) -> None:
        self._mark, self._always = mark, always

    def build(self, make: Make) -> Any:
        if "episode7" in str(make) and (self._always or not self._mark.exists()):
            self._mark.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return super().build(make)


class Crashing:
    """Picklable factory of such builders."""

    def __init__(self, mark: Path, *, always: bool = False) -> None:
        self.mark, self.always = mark, always

    def __call__(self) -> CrashingBuilder:
        return CrashingBuilder(self.mark, always=self.always)


def source(folder: Path) -> Path:
    """Twelve episodes with copies beside them, and one that is damaged."""
    src = stored.peract(folder / "close_jar")
    (src / "all_variations" / "episodes" / "episode3" / "front_rgb" / "6.png").write_bytes(b"")
    stored.store(src / "variation0" / "episodes" / "episode0", 0)
    stored.dump(src / "variation0" / "variation_descriptions.pkl", ["do it 0"])
    return src


def results(out: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in out.rglob("*") if path.name != ".lock" and path.is_file()}


def test_files_do_not_depend_on_the_number_of_processes_nor_on_one_that_was_killed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    src, printed = source(tmp_path), []
    convert(parse(words(src, tmp_path / "one", "workers=1")))
    printed.append(capsys.readouterr().out.replace(str(tmp_path / "one"), "OUT"))
    for name, builder in (("two", EpisodeBuilder), ("killed", Crashing(tmp_path / "mark"))):
        convert(parse(words(src, tmp_path / name)), start=lambda *_, builder=builder: two(builder))
        printed.append(capsys.readouterr().out.replace(str(tmp_path / name), "OUT"))
        assert results(tmp_path / name) == results(tmp_path / "one")
    assert (tmp_path / "mark").exists()
    assert printed[0] == printed[1] == printed[2] and "2 skipped (1 copies of others, 1 images" in printed[0]
    assert not psutil.Process().children(recursive=True)


def test_an_episode_that_ends_its_process_again_fails_the_task_and_leaves_nothing(tmp_path: Path) -> None:
    src = source(tmp_path)
    with pytest.raises(RunError, match="episode7: its process failed 2 times: it was killed by SIGKILL"):
        convert(parse(words(src, tmp_path / "data")), start=lambda *_: two(Crashing(tmp_path / "mark", always=True)))
    assert not results(tmp_path / "data")
    assert not psutil.Process().children(recursive=True)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 75)])
def test_an_interruption_leaves_nothing_and_no_process(tmp_path: Path, number: signal.Signals, code: int) -> None:
    src = stored.peract(tmp_path / "close_jar", episodes=6)
    endless = src / "all_variations" / "episodes" / "episode3" / "front_rgb" / "6.png"
    endless.unlink()
    os.mkfifo(endless)  # nobody writes to it
    out = tmp_path / "data"
    command = [sys.executable, "-m", "data_tools.convert", *words(src, out, "workers=2")]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    running = psutil.Process(process.pid)
    end = time.monotonic() + 60
    while not list(out.rglob("*.tmp")) and time.monotonic() < end:
        time.sleep(0.02)
    children = running.children(recursive=True)
    process.send_signal(number)
    _, errors = process.communicate(timeout=30)
    assert process.returncode == code and len(errors.splitlines()) == 1 and "the same command resumes" in errors
    assert len(children) == 2 and not psutil.wait_procs(children, timeout=10)[1]
    assert not results(out)
