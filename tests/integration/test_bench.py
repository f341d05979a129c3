"""`python -m tests.bench`: which benches run, in which order, and when the page is written; and its rounds."""

import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from tests.bench.__main__ import main
from tests.fixtures.rounds import alternate, processor, ratio, wall

BENCH = '"""{sentence}\n\nMore about it.\n"""\nprint("{printed}")\n'


def bench(folder: Path, name: str, *, more: str = "") -> None:
    """Write a bench that prints a line."""
    text = BENCH.format(sentence=f"Compares {name} with nothing.", printed=f"ratio of {name}: 1.00 (0.90 to 1.10)")
    (folder / f"{name}.py").write_text(text + more)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two benches, and files that are none."""
    folder = tmp_path / "benches"
    folder.mkdir()
    for name in ("walking", "running", "__init__", "__main__"):
        bench(folder, name)
    return folder


def headings(text: str, mark: str) -> list[str]:
    return [line for line in text.splitlines() if line.startswith(mark)]


def test_the_page_has_machine_date_and_a_section_for_each_bench_in_order(folder: Path, tmp_path: Path) -> None:
    page = tmp_path / "speed.md"
    assert main(["--page"], folder=folder, page=page) == 0
    text = page.read_text()
    assert text.startswith("# Speed\n") and headings(text, "## ") == ["## running", "## walking"]
    for part in ("cores", "GiB of memory", "Python 3.", "jax ", "numpy ", "Commit "):
        assert part in text.partition("## ")[0]
    section = text.partition("## walking\n")[2]
    assert section.startswith(
        "\nCompares walking with nothing.\n\n`python -m tests.bench walking`, load average before"
    )
    assert section.endswith("```text\nratio of walking: 1.00 (0.90 to 1.10)\n```\n")


def test_the_chosen_benches_run_in_order_without_a_page(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bench(folder, "swimming")
    page = tmp_path / "speed.md"
    assert main(["walking", "running"], folder=folder, page=page) == 0
    lines = headings(capsys.readouterr().out, "ratio of ")
    assert [line.split()[2] for line in lines] == ["running:", "walking:"] and not page.exists()


def test_after_a_failing_bench_the_others_run_and_the_page_stays(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bench(folder, "falling", more="raise SystemExit(3)\n")
    page = tmp_path / "speed.md"
    page.write_text("as it was")
    assert main(["--page"], folder=folder, page=page) == 1
    printed = capsys.readouterr()
    assert "falling: failed with exit code 3" in printed.out and "ratio of walking" in printed.out
    assert printed.err == "failed: falling; the page was not written\n"
    assert page.read_text() == "as it was" and list(tmp_path.iterdir()) == [folder, page]


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["flying"], "NAME: found flying; allowed: running, walking\n"),
        (["running", "--page"], "--page: found names too; the page is of all benches: leave out the names or --page\n"),
    ],
)
def test_what_cannot_be_run_is_one_line(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], words: list[str], line: str
) -> None:
    assert main(words, folder=folder, page=tmp_path / "speed.md") == 2
    printed = capsys.readouterr()
    assert printed.err == line and not printed.out


@pytest.mark.parametrize("present", [False, True])
def test_the_bench_of_a_gpu_is_left_out_without_one_unless_it_is_named(
    folder: Path, capsys: pytest.CaptureFixture[str], present: bool
) -> None:
    bench(folder, "gpu")
    assert main([], folder=folder, gpu=lambda: present) == 0
    assert ("ratio of gpu" in capsys.readouterr().out) == present
    assert main(["gpu"], folder=folder, gpu=lambda: present) == 0
    assert "ratio of gpu" in capsys.readouterr().out


def test_works_alternate_in_rounds_of_wall_time_after_a_call_that_does_not_count() -> None:
    calls: list[str] = []

    def wait(name: str) -> None:
        time.sleep(0.2 if name not in calls else 0.01)
        calls.append(name)

    found = alternate({name: lambda name=name: wait(name) for name in "ab"}, rounds=3, seconds=0.05)
    turns = [name for number, name in enumerate(calls) if number == 0 or name != calls[number - 1]]
    assert turns == ["a", "b", "a", "b", "a"] and len(calls) > 2 + 6  # the order is reversed in every other round
    assert found["a"].shape == (3, 2) and np.median(wall(found["a"])) < 0.1


def test_the_processor_time_of_child_processes_counts() -> None:
    work = "while __import__('time').process_time() < 0.3: pass"
    found = alternate({"child": lambda: subprocess.run([sys.executable, "-c", work], check=True)}, rounds=1, seconds=0)
    assert processor(found["child"])[0] > 0.25


def test_ratios_have_three_significant_digits() -> None:
    assert ratio(np.array([1.0, 20.0, 300.0]), np.array([8.0, 20.0, 2.0])) == "1.00 (0.125 to 150)"
