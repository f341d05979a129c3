"""The heartbeat of a worker process: its CPU clock, read from outside.

It tells slow work from a hang long before a generous time-out does, and needs no help from the process: a beat sent
by a thread over there would go on while CoppeliaSim waits for ever with the interpreter free, and would fall silent
while a long calculation holds it.

What it sees: a process that waits for what never comes (a lock, a lost display, a dead network disk), or was stopped.
What it does not see: a process that runs in circles; there only the time-out of the call helps.
"""

import time

import psutil

SILENCE = 60.0  # seconds; a process at work cannot be quiet for so long
_BEAT = 0.6  # seconds of CPU; what a few idle threads use in that time is less


class Heartbeat:
    """Listens to one process from now on."""

    def __init__(self, pid: int):
        try:
            self._process: psutil.Process | None = psutil.Process(pid)
        except psutil.Error:  # it is gone already: its closed connection says so
            self._process = None
        self.restart()

    def restart(self) -> None:
        """A new piece of work begins: what was before does not count."""
        self._heard, self._looked, self._silence = self._spent(), time.monotonic(), 0.0

    def silence(self) -> float:
        """Seconds since the process was last seen to work; 0 if it cannot be heard.

        Only what passes between two looks that follow each other counts in full: when all of us were stopped for an
        hour, that was not its fault.
        """
        spent, now = self._spent(), time.monotonic()
        self._silence += min(now - self._looked, SILENCE / 5)
        self._looked = now
        if self._process is None or spent >= self._heard + _BEAT:
            self._heard, self._silence = spent, 0.0
        return self._silence

    def _spent(self) -> float:
        """Seconds of CPU that all its threads have used."""
        if self._process is None:
            return 0.0
        try:
            times = self._process.cpu_times()
            return times.user + times.system
        except psutil.Error:
            self._process = None
            return 0.0
