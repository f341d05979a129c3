"""Progress on a terminal: time left, rates in the unit that is counted, seconds; nothing of that in a pipe."""

import io
import re
import time

import pytest

from instructrl.cli import progress
from instructrl.cli.progress import ProgressBar, format_rate, stopwatch
from tests.fixtures.waiting import until


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def terminal(monkeypatch: pytest.MonkeyPatch) -> Terminal:
    """A terminal in place of standard error, which pytest replaces before each test."""
    screen = Terminal()
    monkeypatch.setattr("sys.stderr", screen)
    monkeypatch.setattr(progress, "SHOWN_AFTER", 0.05)
    return screen


@pytest.mark.parametrize(
    ("rate", "text"),
    [
        (1234.5, "1234 episodes/s"),
        (99.94, "99.9 episodes/s"),
        (1.0, "1 episodes/s"),
        (0.25, "0.25 episodes/s"),
        (0.05, "3 episodes/min"),
    ],
)
def test_a_rate_has_the_unit_in_which_it_can_be_read(rate: float, text: str) -> None:
    assert format_rate(rate, "episodes") == text


def test_a_bar_says_the_time_left_and_counts_in_its_own_unit(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = terminal(monkeypatch)
    with ProgressBar(description="train", total=10, initial=4, unit="sequences", each=16) as bar:
        bar.n, bar.start_t = 8, bar.start_t - 2  # four steps in two seconds
        parts = bar.format_dict
    assert parts["time_left"] == "00:01 left" and parts["speed"].startswith(("32 ", "31.")), parts
    assert "| 4/10 [" in screen.getvalue() and "train: " in screen.getvalue()


def test_a_stopwatch_shows_seconds_and_says_them_at_the_end(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    screen = terminal(monkeypatch)
    with stopwatch("compiling"):
        time.sleep(0.3)
    assert "compiling: 0 s" in screen.getvalue()
    assert re.fullmatch(r"compiling: 0\.\d s\n", capsys.readouterr().out)
    with stopwatch("validation", said=False):
        until(lambda: "validation: 0 s" in screen.getvalue())
    assert capsys.readouterr().out == ""
    left = screen.getvalue().rpartition("validation: 0 s")[2]
    assert left.startswith("\r" + " " * len("validation: 0 s")) and left.endswith("\r"), "the line is free for others"


def test_a_pipe_gets_a_line_for_what_took_long_and_no_bar(capsys: pytest.CaptureFixture[str]) -> None:
    with ProgressBar(range(3), description="x", total=3, unit="steps") as bar:
        assert list(bar) == [0, 1, 2]
    with stopwatch("compiling"):
        pass
    assert capsys.readouterr() == ("", "")
    with pytest.raises(ZeroDivisionError), stopwatch("compiling"):
        raise ZeroDivisionError
