"""Memory that a training step gives back is there for the next one: the kernel does not clear its pages again."""

import subprocess
import sys

import pytest

from tests.paths import ROOT

COUNTED = """
import resource, sys, threading
from instructrl.training.distributed.allocator import keep_freed_memory

def step():
    bytearray(b"1") * (64 << 20)  # bytes, written; numpy asks for huge pages

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    thread = threading.Thread(target=step)  # as XLA's, which are not the main one
    thread.start()
    thread.join()
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

if "keep" in sys.argv and not keep_freed_memory():
    raise SystemExit("not supported")
print(faults(), faults())
"""


def test_a_second_step_finds_the_pages_of_the_first() -> None:
    def faults(*words: str) -> list[int]:
        command = [sys.executable, "-c", COUNTED, *words]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
        if "not supported" in done.stderr:
            pytest.skip("the C library's allocator has no such settings")
        return [int(count) for count in done.stdout.split()]

    kept, returned = faults("keep"), faults()
    assert min(*returned, kept[0]) > 10 * kept[1], (kept, returned)
