"""Expected errors, with exit codes; each is reported in one line that says what to do next."""

import errno
import faulthandler
import io
import os
import select
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from instructrl.allocator import share_arena
from instructrl.redaction import redact

MACHINE_ERRORS = {  # no mistake of a program
    errno.ENOSPC: "make room",
    errno.EDQUOT: "make room",
    errno.EROFS: "choose a folder that can be written",
    errno.EIO: "check the disk",
    errno.EMFILE: "raise the limit of open files (ulimit -n)",
    errno.ENFILE: "close other programs",
}
OURS = __name__.partition(".")[0]
_packages: set[str] = set()  # of others, from which something was imported by its name in settings or entry points
REPAIR = "repair, update or uninstall the package"
TRACEBACK = "INSTRUCTRL_TRACEBACK"  # the variable with which authors of packages see whole tracebacks
NO_READER = 128 + 13  # exit code of a command whose output nobody reads any more: 128 and the number of SIGPIPE


class UserError(Exception):
    """An expected error. Its message, which quotes settings, files and other programs, shows no password or token."""

    exit_code: int

    def __init__(self, message: object = "") -> None:
        super().__init__(redact(str(message)))  # gymnasium makes an error of a process anew, of the error itself


class InputError(UserError):
    """Invalid user input (a setting, a file, an action). Exit code 2.

    The message names the key or file, what was found, what is allowed and the next action. `key` is that of the only
    setting at fault, if there is one: whoever knows the file that sets it puts the file in front.
    """

    exit_code = 2

    def __init__(self, message: str, *, key: str = "") -> None:
        super().__init__(message)
        self.key = key


class RunError(UserError):
    """A run with valid input failed (non-finite loss, crashing simulator). Exit code 1."""

    exit_code = 1


class SimulatorError(RunError):
    """A simulator that cannot be started, or keeps crashing."""


class InterruptedRun(BaseException):  # like KeyboardInterrupt, must not be caught by `except Exception`
    """The process was preempted and stopped without losing work. Exit code 75 (EX_TEMPFAIL): the same command resumes.

    The message names the signal, and what was saved.
    """

    exit_code = 75


@contextmanager
def report_user_errors() -> Iterator[None]:
    """Run a command: an expected error is one line on standard error, and the exit code is that of its kind.

    Characters that the terminal or the pipe cannot show are written as escapes. A command whose output is read no
    further, as by `| head`, ends with exit code 141 and without a message. A crash in native code (simulator, driver,
    XLA) prints where each thread was.
    """
    share_arena()  # before signals and progress bars start threads
    if not faulthandler.is_enabled():
        with suppress(ValueError, OSError):  # standard error is no file, or closed
            faulthandler.enable()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    try:
        with _report_errors():
            yield
    except BrokenPipeError:  # also of pipes to other processes, and sockets
        if not discard_unread_output():
            raise
        raise SystemExit(NO_READER) from None
    except SystemExit:
        discard_unread_output()
        raise
    if discard_unread_output():
        raise SystemExit(NO_READER)


def discard_unread_output() -> bool:
    """Write the output so far; if its reader has gone, discard all that follows, and return True."""
    gone = [
        stream for stream in (sys.stdout, sys.stderr) if isinstance(stream, io.TextIOWrapper) and has_no_reader(stream)
    ]
    for stream in gone:
        with Path(os.devnull).open("wb") as nowhere:
            os.dup2(nowhere.fileno(), stream.fileno())  # what is buffered is written when the interpreter ends
    return bool(gone)


def has_no_reader(stream: io.TextIOWrapper) -> bool:
    """Return True if a stream is a pipe that nobody reads any more."""
    try:
        with suppress(BrokenPipeError):
            stream.flush()
        poll = select.poll()
        poll.register(stream.fileno(), select.POLLERR)
        return any(state & select.POLLERR for _, state in poll.poll(0))
    except (OSError, ValueError):  # closed, or no file
        return False


@contextmanager
def _report_errors() -> Iterator[None]:
    """Turn expected errors into lines and exit codes."""
    try:
        check_working_directory()
        with package_errors():
            yield
    except (InputError, RunError) as error:
        print("error: " + " ".join(str(error).split()), file=sys.stderr)
        raise SystemExit(error.exit_code) from None
    except ValueError as error:
        variable = refused_variable(error)
        if variable is None:
            raise
        found = format_value(os.environ[variable])
        print(
            f"error: {variable}: found {found}, which jax refuses; correct this variable or unset it", file=sys.stderr
        )
        raise SystemExit(InputError.exit_code) from None
    except OSError as error:
        if error.errno not in MACHINE_ERRORS:
            raise
        place = f"{os.fsdecode(error.filename)}: " if isinstance(error.filename, str | bytes | os.PathLike) else ""
        print(
            f"error: {place}{error.strerror}; {MACHINE_ERRORS[error.errno]}, and run the same command again",
            file=sys.stderr,
        )
        raise SystemExit(RunError.exit_code) from None
    except InterruptedRun as interruption:
        print(f"interrupted {interruption}: the same command resumes", file=sys.stderr)
        raise SystemExit(interruption.exit_code) from None
    except KeyboardInterrupt:
        print("interrupted: the same command resumes", file=sys.stderr)
        raise SystemExit(130) from None


def refused_variable(error: ValueError) -> str | None:
    """The environment variable whose value jax refuses while it is imported; None if the error is another."""
    *_, (frame, _line) = traceback.walk_tb(error.__traceback__)
    if frame.f_globals.get("__name__") != "jax._src.config":
        return None
    text = str(error).lower()
    variables = {name: value for name, value in os.environ.items() if name.startswith("JAX_")}
    named = [name for name in variables if name.lower() in text]
    quoted = [name for name, value in variables.items() if f"{value!r}".lower() in text]  # of an integer
    return max(named or quoted, key=len, default=None)


def note_package(module: str) -> None:
    """Remember that code of this module's package is imported, so that errors name the place in it."""
    package = module.partition(".")[0]
    if package and package != OURS:
        _packages.add(package)


def place_in_package(error: BaseException) -> str | None:
    """The file and line of an error's last frame in a noted package; None if there is no such frame."""
    places = [
        f"{frame.f_code.co_filename}, line {line}"
        for frame, line in traceback.walk_tb(error.__traceback__)
        if frame.f_globals.get("__name__", "").partition(".")[0] in _packages
        and not frame.f_code.co_filename.startswith("<")  # methods that dataclasses write have no file
    ]
    return places[-1] if places else None


def is_of_package(error: BaseException) -> bool:
    """True if code in a noted package raised an error or let it through, and the machine did not refuse something."""
    refused = isinstance(error, OSError) and error.errno in MACHINE_ERRORS
    return not refused and place_in_package(error) is not None


def summarize(error: BaseException) -> str:
    """The type and text of an error of others and, of code in a noted package, file and line: in one line.

    Whoever writes such code sees the whole traceback before it if the variable INSTRUCTRL_TRACEBACK is set.
    """
    if os.environ.get(TRACEBACK):
        print(redact("".join(traceback.format_exception(error))), file=sys.stderr, end="", flush=True)
    text, place = f"{error}", place_in_package(error)
    if isinstance(error, SyntaxError) and error.filename and not error.filename.startswith("<"):
        text, place = error.msg, f"{error.filename}, line {error.lineno}"
    summary = shorten(" ".join(redact(f"{type(error).__name__}: {text}").split()).removesuffix(":"), 400)
    return f"{summary}, in {place}" if place else summary


@contextmanager
def package_errors() -> Iterator[None]:
    """Turn an exception that code of another package raises, or lets through, into one line; an exit is one, too.

    Raises:
        RunError: the exception, with the last place in the package; refusals of the machine stay as they are.
    """
    try:
        yield
    except (UserError, BrokenPipeError):
        raise
    except (Exception, SystemExit) as error:  # of sys.exit(0) too, which would look like success
        if not is_of_package(error):
            raise
        raise RunError(f"code of another package failed ({summarize(error)}); {REPAIR}") from error


def check_working_directory() -> None:
    """Raise InputError if the folder in which the command was given does not exist: all relative paths refer to it."""
    try:
        Path.cwd()
    except OSError as error:
        shown = os.environ.get("PWD") or "."
        raise InputError(
            f"working directory: found {shown} ({error.strerror}); it was removed or replaced: go to another folder "
            "with cd, or to that one again, and repeat the command"
        ) from None


def warn(message: str) -> None:
    """Print one line on standard error about valid input that may not be what was meant."""
    print(f"warning: {' '.join(message.split())}", file=sys.stderr, flush=True)


def format_value(value: Any) -> str:
    """A value as it would be typed on a command line: on one line, at most 80 characters."""
    if value is None or isinstance(value, bool):
        return "null" if value is None else str(value).lower()
    if isinstance(value, list):
        return shorten(f"[{', '.join(map(format_value, value))}]")
    value = redact(value) if isinstance(value, str) else value  # before it is shortened
    plain = isinstance(value, str) and value.isprintable() and value.strip() == value != ""
    try:
        text = value if plain else repr(value)
    except ValueError:  # Python prints no integers of more than 4300 digits
        return "a number of thousands of digits"
    return shorten(" ".join(text.split()))


def short_message(error: Exception) -> str:
    """The text of an error of a library, or its type if it has none: on one line, at most 200 characters."""
    return shorten(" ".join(redact(str(error)).split()) or type(error).__name__, 200)


def machine_error(error: Exception) -> str | None:
    """The refusal of the machine, such as "No space left on device", if the text of a library's error has it."""
    return next((text for text in map(os.strerror, MACHINE_ERRORS) if text in str(error)), None)


def form(value: Any) -> str:
    """Dtype and shape of an array, else the type of a value."""
    return f"{value.dtype}{value.shape}" if hasattr(value, "dtype") else type(value).__name__


def shorten(text: str, length: int = 80) -> str:
    """A text cut to a maximum length."""
    return text if len(text) <= length else f"{text[: length - 3]}..."
