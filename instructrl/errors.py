"""What goes wrong because of the world outside: each error is one line that says what to do next."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager


class InputError(Exception):
    """Something the user gave (a setting, a file, an action) cannot be used. Exit code 2.

    The message names the key or file, what was found, what is allowed and the next action.
    """

    exit_code = 2


class RunError(Exception):
    """A run that began in order could not go on (non-finite loss, dying simulator). Exit code 1."""

    exit_code = 1


class SimulatorError(RunError):
    """A simulator that cannot be started, or not be kept alive."""


class InterruptedRun(BaseException):  # like KeyboardInterrupt: no `except Exception` is to hold it up
    """The process was asked to end, and ended with nothing lost. Exit code 75 (EX_TEMPFAIL): the same command goes on.

    The message says by what, and what was saved.
    """

    exit_code = 75


@contextmanager
def one_line_errors() -> Iterator[None]:
    """Print an expected error as one line on standard error and exit with its code."""
    try:
        yield
    except (InputError, RunError) as error:
        print("error: " + " ".join(str(error).split()), file=sys.stderr)
        raise SystemExit(error.exit_code) from None
    except InterruptedRun as interruption:
        print(f"interrupted {interruption}: the same command goes on from here", file=sys.stderr)
        raise SystemExit(interruption.exit_code) from None
    except KeyboardInterrupt:
        print("interrupted: the same command goes on from here", file=sys.stderr)
        raise SystemExit(130) from None
