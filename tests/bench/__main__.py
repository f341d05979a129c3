"""Run the benches one after the other, each in a process of its own, and write docs/benchmarks/speed.md.

python -m tests.bench                 all of them
python -m tests.bench acting step     some
python -m tests.bench --page          all of them, and the page (`make bench`)

`gpu` is left out where there is no GPU, unless it is named.
"""

import argparse
import ast
import importlib.metadata
import os
import platform
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from instructrl.storage.atomic import write_atomically
from tests.paths import ROOT

FOLDER, PAGE = Path(__file__).parent, ROOT / "docs/benchmarks/speed.md"
INTRODUCTION = """# Speed

`make bench` writes this page: it runs every benchmark in `tests/bench/`, one after the other. Each alternates what it
compares in rounds of at least a second, and prints the median of the rounds' ratios, with the smallest and the largest
in brackets. Ratios carry over to other machines, seconds do not. What was measured on GPUs is in
[Training](../training.md#on-a-gpu).
"""


class Result(NamedTuple):
    """Output of a bench, its exit code, and the load average of a minute before it."""

    output: str
    code: int
    load: float


def find_benches(folder: Path) -> dict[str, Path]:
    """The benches in a folder by name, in alphabetical order."""
    return {path.stem: path for path in sorted(folder.glob("*.py")) if not path.stem.startswith("_")}


def has_gpu() -> bool:
    """Return True if an NVIDIA GPU is installed; jax is not asked, because it would reserve the GPU's memory."""
    return Path("/proc/driver/nvidia/version").exists()


def sentence(path: Path) -> str:
    """The first line of a bench's docstring, which says what is compared."""
    return (ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or "").partition("\n")[0]


def run(path: Path) -> Result:
    """Run a bench; its output is shown as it comes."""
    load, lines = os.getloadavg()[0], []
    command = [sys.executable, "-u", str(path)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, errors="replace") as process:
        assert process.stdout is not None
        for line in process.stdout:
            print(line, end="", flush=True)
            lines.append(line)
    return Result("".join(lines), process.returncode, load)


def describe_machine() -> str:
    """CPU, cores, memory and the versions of Python, jax and numpy."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8", errors="replace").splitlines() if info.exists() else []
    named = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    versions = ", ".join(f"{package} {importlib.metadata.version(package)}" for package in ("jax", "numpy"))
    cores = len(os.sched_getaffinity(0))
    cpu = next(named, platform.processor() or platform.machine())
    return f"{cpu}, {cores} cores, {memory:.0f} GiB of memory; Python {platform.python_version()}, {versions}"


def describe_commit() -> str:
    """The commit that is measured, with its date, and whether files differ from it; without git, that it is unknown."""
    try:
        commit = git("log", "-1", "--format=%h of %cs")
        return f"Commit {commit}{', with changes' if git('status', '--porcelain', '--untracked-files=no') else ''}"
    except (OSError, subprocess.CalledProcessError):
        return "Commit unknown"


def git(*words: str) -> str:
    """Output of git."""
    return subprocess.run(["git", *words], cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip()


def write_page(page: Path, benches: Mapping[str, Path], results: Mapping[str, Result], *, about: str) -> None:
    """Write the page with a section for each result; `about` says on what machine and of what commit they are."""
    parts = [INTRODUCTION, about]
    for name, result in results.items():
        parts.append(
            f"## {name}\n\n{sentence(benches[name])}\n\n"
            f"`python -m tests.bench {name}`, load average before it: {result.load:.1f}\n\n"
            f"```text\n{result.output.rstrip()}\n```\n"
        )
    write_atomically(page, "\n".join(parts), hint="allow writing")


def main(words: Sequence[str], *, folder: Path = FOLDER, page: Path = PAGE, gpu: Callable[[], bool] = has_gpu) -> int:
    """Run benches, and return the exit code: 1 if one failed, 2 if the arguments are wrong.

    Args:
        words: names of benches, and options.
        folder: contains the benches.
        page: what `--page` writes, if no bench failed.
        gpu: says whether there is a GPU.
    """
    parser = argparse.ArgumentParser("python -m tests.bench", description="Run benches.", allow_abbrev=False)
    parser.add_argument("names", nargs="*", metavar="NAME", help="benches to run; all by default")
    parser.add_argument("--page", action="store_true", help=f"write {PAGE.relative_to(ROOT)}, of all benches")
    given, benches = parser.parse_args(words), find_benches(folder)
    unknown = [name for name in given.names if name not in benches]
    if unknown:
        print(f"NAME: found {unknown[0]}; allowed: {', '.join(benches)}", file=sys.stderr)
        return 2
    if given.page and given.names:
        print("--page: found names too; the page is of all benches: leave out the names or --page", file=sys.stderr)
        return 2
    chosen = given.names or [name for name in benches if name != "gpu" or gpu()]
    results, about = {}, f"Machine: {describe_machine()}.\n\n{describe_commit()}.\n"
    for name in sorted(set(chosen)):
        print(f"== {name}: {sentence(benches[name])}", flush=True)
        results[name] = run(benches[name])
        if results[name].code:
            print(f"{name}: failed with exit code {results[name].code}", flush=True)
    failed = [name for name, result in results.items() if result.code]
    if failed:
        print(f"failed: {', '.join(failed)}" + ("; the page was not written" if given.page else ""), file=sys.stderr)
        return 1
    if given.page:
        write_page(page, benches, results, about=about)
        print(f"written: {page}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
