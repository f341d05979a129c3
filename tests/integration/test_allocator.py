"""Memory that a training step gives back is there for the next one: the kernel does not clear its pages again."""

import subprocess
import sys

import pytest

from tests.paths import ROOT

COUNTED = """
import resource, sys, threading
from instructrl.allocator import keep_freed_memory

def step():
    bytearray(b"1") * (65 << 20)  # bytes, written; numpy asks for huge pages. More than an arena of a thread can hold

def faults(start, join):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    start()
    join()
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

def counted():
    thread = threading.Thread(target=lambda: [print(faults(step, int)) for _ in range(2)])  # as XLA's, not the main one
    thread.start()
    thread.join()
"""

STEP = f"""{COUNTED}
if "keep" in sys.argv and not keep_freed_memory():
    raise SystemExit("not supported")
counted()
"""

COMMAND = f"""{COUNTED}
from instructrl.cli.entry import entry_point
from instructrl.config.training import TrainConfig

@entry_point("train", TrainConfig)
def main(config):
    from instructrl.training.distributed.platform import select_platform
    select_platform(config.hardware)
    for _ in range(8):  # threads, which get the arenas in turn
        counted()

sys.argv = ["train.py", "task=reach_target", "hardware=cpu"]
main()
"""


def faults(program: str, *words: str) -> list[int]:
    """Page faults of the steps of a program."""
    done = subprocess.run(
        [sys.executable, "-c", program, *words], cwd=ROOT, capture_output=True, text=True, check=False
    )
    if "not supported" in done.stderr:
        pytest.skip("the C library's allocator has no such settings")
    assert done.returncode == 0, done.stderr
    return [int(count) for count in done.stdout.split()]


def test_a_second_step_finds_the_pages_of_the_first() -> None:
    kept, returned = faults(STEP, "keep"), faults(STEP)
    assert min(*returned, kept[0]) > 10 * kept[1], (kept, returned)


def test_in_a_command_every_thread_finds_them_however_many_were_started_before() -> None:
    faults(STEP, "keep")  # skips where there are no such settings
    first, *later = faults(COMMAND)
    assert first > 10 * max(later), (first, later)
