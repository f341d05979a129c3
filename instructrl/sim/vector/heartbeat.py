"""Hang detection for a worker process through its CPU time, read from outside.

It distinguishes slow work from a hang long before a generous timeout does, and needs no cooperation: a heartbeat thread
in the process would keep beating while CoppeliaSim blocks forever with the GIL released, and would stop during a long
computation that holds it.

Detected: a process that waits forever (for a lock, a lost display, a dead network file system) or was stopped.
Not detected: a busy loop; only the timeout of the call ends that.
"""

import time

import psutil

SILENCE = 60.0  # seconds without CPU use after which a process counts as hung
_BEAT = 0.6  # CPU seconds that count as work; a few idle threads use less in that time


class Heartbeat:
    """Monitors the CPU time of one process."""

    def __init__(self, pid: int):
        try:
            self._process: psutil.Process | None = psutil.Process(pid)
        except psutil.Error:  # it has exited already, which its closed connection reports
            self._process = None
        self.restart()

    def restart(self) -> None:
        """Restart the measurement for a new call."""
        self._last_cpu, self._polled_at, self._silence = self._cpu_seconds(), time.monotonic(), 0.0

    def silence(self) -> float:
        """Seconds since the process last used CPU; 0 if it cannot be read.

        Each polling interval counts for at most a fifth of `SILENCE`, so that a pause of all processes (a suspended
        machine) is not taken for a hang.
        """
        cpu, now = self._cpu_seconds(), time.monotonic()
        self._silence += min(now - self._polled_at, SILENCE / 5)
        self._polled_at = now
        if self._process is None or cpu >= self._last_cpu + _BEAT:
            self._last_cpu, self._silence = cpu, 0.0
        return self._silence

    def _cpu_seconds(self) -> float:
        """CPU seconds used by all threads of the process."""
        if self._process is None:
            return 0.0
        try:
            times = self._process.cpu_times()
            return times.user + times.system
        except psutil.Error:
            self._process = None
            return 0.0
