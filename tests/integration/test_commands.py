"""Commands in processes of their own: they answer at once, import no jax for it, and leave no files.

What their surroundings lack (memory, a working directory, characters) is one line, or does no harm.
"""

import os
import re
import resource
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from instructrl.errors import report_user_errors
from tests.fixtures.demonstrations import demonstration, write
from tests.fixtures.waiting import until
from tests.paths import ROOT

SEVERAL = """
import runpy, sys
import_path, name, *lines = sys.argv[1:]
sys.path.insert(0, import_path)
for line in lines:
    sys.argv = [name, *line.split()]
    try:
        runpy.run_module(name, run_name="__main__")
        print("exit 0:", line, file=sys.stderr)
    except SystemExit as exit_:
        print(f"exit {exit_.code or 0}:", line, file=sys.stderr)
found = {"jax", "jaxlib", "flax", "mujoco", "wandb"} & set(sys.modules)
print("imported:", *sorted(found), file=sys.stderr)
"""


@pytest.mark.parametrize(
    ("name", "lines"),
    [
        (
            "train",
            {"policy=abc": 2, "-m seed=0,x": 2, "--foo": 2, "policy.depth=abc experiment=quickstart": 2, "--help": 0,
             "--cfg job policy=vit_base": 0},
        ),
        ("eval", {"run=nowhere": 2, "--help": 0}),
        ("data_tools.collect", {"task=unknown": 2, "-h": 0}),
    ],
)  # fmt: skip
def test_a_command_imports_no_jax_to_say_what_is_wrong_and_leaves_nothing(
    name: str, lines: dict[str, int], tmp_path: Path
) -> None:
    program = [sys.executable, "-c", SEVERAL, str(ROOT), name, *lines]
    ran = subprocess.run(program, cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False)
    *found, imported = ran.stderr.splitlines()
    expected = []
    for line, code in lines.items():
        expected += ["error: "] * (code != 0) + [f"exit {code}: {line}"]
    assert len(found) == len(expected), ran.stderr
    assert all(one.startswith(start) for one, start in zip(found, expected, strict=True)), ran.stderr
    assert imported == "imported:" and ("Settings: key=" in ran.stdout) == (0 in lines.values())
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("words", "code"), [(["train.py", "policy=abc"], 2), (["-m", "data_tools.collect", "-h"], 0)])
def test_the_real_command_answers_at_once(words: list[str], code: int, tmp_path: Path) -> None:
    """In CPU seconds, since other work slows a machine; the bound is for a slow one."""
    entry = [str(ROOT / word) if word.endswith(".py") else word for word in words]
    before = cpu_seconds_of_children()
    ran = subprocess.run(
        [sys.executable, *entry], cwd=tmp_path, capture_output=True, text=True, timeout=60,
        env={"PYTHONPATH": str(ROOT)}, check=False,
    )  # fmt: skip
    seconds = cpu_seconds_of_children() - before
    assert ran.returncode == code, ran.stderr
    assert ran.stderr.startswith("error: policy: found abc") if code else ran.stdout
    assert list(tmp_path.iterdir()) == []
    assert seconds < 4, f"{seconds} s: the goal is 2 s, on a machine with nothing else to do"


def cpu_seconds_of_children() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def test_a_signal_ends_a_command_that_still_composes_its_jobs(tmp_path: Path) -> None:
    words = ["train.py", "experiment=quickstart", "seed=range(0,1000)", "--multirun"]
    running = subprocess.Popen(
        [sys.executable, str(ROOT / words[0]), *words[1:]], cwd=tmp_path, stderr=subprocess.PIPE, text=True
    )
    try:
        status = Path(f"/proc/{running.pid}/status")
        caught = 1 << (signal.SIGTERM - 1)
        until(lambda: int(status.read_text().partition("SigCgt:")[2].split()[0], 16) & caught)
        with pytest.raises(subprocess.TimeoutExpired):
            running.wait(1)
        running.terminate()
        err = running.communicate(timeout=20)[1]
    finally:
        running.kill()
    assert running.returncode == 75 and err == "interrupted by SIGTERM: the same command resumes\n"
    assert not [*tmp_path.iterdir()]


REMOVED = """
import os, runpy, sys
os.rmdir(os.getcwd())
sys.path.remove("")  # which is not there if Python starts in such a folder
for name in sys.argv[1].split():
    sys.argv = [name, "x=y"]
    try:
        runpy.run_path(name, run_name="__main__") if name.endswith(".py") else runpy.run_module(name, None, "__main__")
    except SystemExit as ended:
        print(name, ended.code, flush=True, file=sys.stderr)
"""


def test_a_working_directory_that_was_removed_is_one_line(tmp_path: Path) -> None:
    files = [path for path in (ROOT / "data_tools").rglob("*.py") if '\nif __name__ == "__main__"' in path.read_text()]
    tools = [file.parent if file.stem == "__main__" else file.with_suffix("") for file in files]
    names = [".".join(tool.relative_to(ROOT).parts) for tool in tools]
    names += [
        "launchers.jobs",
        "launchers.tpu",
        "instructrl.evaluation.compare",
        str(ROOT / "train.py"),
        str(ROOT / "eval.py"),
    ]
    folder = tmp_path / "removed"
    folder.mkdir()
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PWD": str(folder)}
    line = [sys.executable, "-c", REMOVED, " ".join(names)]
    ran = subprocess.run(line, cwd=folder, env=environment, capture_output=True, text=True, timeout=300)
    expected = f"error: working directory: found {folder} (No such file or directory); it was removed or replaced"
    lines = ran.stderr.splitlines()
    assert lines[1::2] == [f"{name} 2" for name in names], ran.stderr
    assert all(line.startswith(expected) for line in lines[::2]) and len(names) >= 14


def test_a_limit_of_address_space_that_is_too_small_is_one_line_before_jax_aborts(tmp_path: Path) -> None:
    words = ["experiment=quickstart", f"data.dir={tmp_path}", f"output_dir={tmp_path}", "sim.workers=1"]
    program = f"ulimit -v 1000000; exec {sys.executable} {ROOT / 'train.py'} {' '.join(words)}"
    ran = subprocess.run(
        ["bash", "-c", program], cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False
    )
    assert ran.returncode == 2
    start = (
        r"error: memory limit: found 1\.0 GB of address space \(ulimit -v, RLIMIT_AS\); allowed: at least \d+\.\d GB"
    )
    assert re.match(start, ran.stderr) and ran.stderr.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


SHOW = f"""
import sys
from data_tools.inspect import main as inspect
from data_tools.stats.__main__ import main as stats
for main in (stats, inspect):
    sys.argv = ["command", "train.hdf5"]
    main()
sys.path.insert(0, {str(ROOT)!r})
import train
sys.argv = ["train.py", "name=a/红"]
train.main()
"""


@pytest.mark.parametrize("variable", ["PYTHONIOENCODING=ascii", "LC_ALL=C"])
def test_words_that_the_terminal_cannot_show_are_written_as_escapes(variable: str, tmp_path: Path) -> None:
    write(tmp_path / "train.hdf5", [demonstration(seed, sentences=("reach the 红 ball",)) for seed in (1, 2)])
    (tmp_path / "program.py").write_text(SHOW, encoding="utf-8")
    name, value = variable.split("=")
    env = {"PYTHONPATH": str(ROOT), "PATH": os.environ["PATH"], "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    ran = subprocess.run(
        [sys.executable, "program.py"], cwd=tmp_path, capture_output=True, env=env | {name: value}, check=False
    )
    assert ran.returncode == 2 and ran.stdout.decode("ascii").count(r"reach the \u7ea2 ball") == 2, ran.stderr
    assert ran.stderr.decode("ascii").splitlines()[-1].startswith(r"error: name=a/\u7ea2: cannot be read as key=value")
    assert "reach the 红 ball" in (tmp_path / "stats.html").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    "words",
    [["train.py", "--help"], ["train.py", "-m", "seed=0,1", "--dry-run"], ["-m", "data_tools.rlds", "--help"]],
    ids=lambda words: words[-1],
)
def test_a_command_whose_output_is_read_no_further_ends_quietly(words: list[str], tmp_path: Path) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    entry = [str(ROOT / word) if word.endswith(".py") else word for word in words]
    with os.fdopen(writer, "wb") as closed:
        ran = subprocess.run(
            [sys.executable, *entry], cwd=tmp_path, stdout=closed, stderr=subprocess.PIPE, text=True, timeout=120,
            env={**os.environ, "PYTHONPATH": str(ROOT)}, check=False,
        )  # fmt: skip
    assert (ran.returncode, ran.stderr) == (141, "")


def test_an_error_is_said_where_the_output_is_read_no_further(tmp_path: Path) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "wb") as closed:
        ran = subprocess.run(
            [sys.executable, ROOT / "train.py", "policy=abc"], cwd=tmp_path, stdout=closed, stderr=subprocess.PIPE,
            text=True, timeout=120, check=False,
        )  # fmt: skip
    assert ran.returncode == 2 and ran.stderr.startswith("error: policy: found abc")


def test_a_broken_pipe_to_something_else_is_no_quiet_end() -> None:
    with pytest.raises(BrokenPipeError), report_user_errors():
        raise BrokenPipeError


def test_a_crash_in_native_code_says_where_each_thread_was(tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text(
        "import os, signal\nfrom instructrl.errors import report_user_errors\n"
        "def simulate():\n    os.kill(os.getpid(), signal.SIGSEGV)\n"
        "with report_user_errors():\n    simulate()\n"
    )
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONFAULTHANDLER"}
    environment |= {"PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, program], env=environment, capture_output=True, text=True, timeout=60)
    assert done.returncode == -signal.SIGSEGV
    assert "Segmentation fault" in done.stderr and f'File "{program}", line 4 in simulate' in done.stderr


@pytest.mark.parametrize(
    ("variable", "found"),
    [
        ("JAX_ENABLE_X64", "banana"),
        ("JAX_DEFAULT_MATMUL_PRECISION", "foo"),
        ("JAX_COMPILER_DETAILED_LOGGING_MIN_OPS", "z"),
    ],
)
def test_a_variable_that_jax_refuses_is_one_line(variable: str, found: str) -> None:
    program = "from instructrl.errors import report_user_errors\nwith report_user_errors():\n    import jax"
    environment = os.environ | {"PYTHONPATH": str(ROOT), "JAX_ENABLE": "banana", variable: found}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, timeout=60)
    line = f"error: {variable}: found {found}, which jax refuses; correct this variable or unset it\n"
    assert (done.returncode, done.stderr) == (2, line)
