"""Environment variables of commands on hosts. They travel on standard input: no command line or file shows them."""

import base64
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from instructrl.errors import InputError

FILES = ("GOOGLE_APPLICATION_CREDENTIALS", "AWS_SHARED_CREDENTIALS_FILE", "AWS_WEB_IDENTITY_TOKEN_FILE", "NETRC")
FILE_PREFIX = "file:"  # no character of a variable's name
MAX_BYTES = 60_000  # a pipe takes them before the host reads
LOAD = (Path(__file__).parent / "variables.sh").read_text(encoding="utf-8")


def passed_variables(names: Sequence[str]) -> dict[str, str]:
    """Return those variables of this process that are set; of one that names a file, `file:NAME` with its content.

    Raises:
        InputError: a file cannot be read.
    """
    found = {}
    for name in names:
        value = os.environ.get(name)
        if value and name in FILES:
            try:
                found[f"{FILE_PREFIX}{name}"] = Path(value).expanduser().read_text(encoding="utf-8")
            except (OSError, UnicodeDecodeError) as error:
                reason = getattr(error, "strerror", None) or "no text"
                raise InputError(
                    f"{name}: {value} cannot be read ({reason}); correct the variable, or leave it out of environment="
                ) from None
        elif value:
            found[name] = value
    return found


def encode_variables(variables: Mapping[str, str]) -> str:
    """Return the line that `variables.sh` loads.

    Raises:
        InputError: the variables are too large.
    """
    content = "".join(f"{name}={value}\0" for name, value in variables.items()).encode()
    line = base64.b64encode(content).decode()
    if len(line) > MAX_BYTES:
        largest = max(variables, key=lambda name: len(variables[name]))
        raise InputError(
            f"{largest.removeprefix(FILE_PREFIX)}: {len(line) / 1000:.0f} kB of variables, allowed: at most "
            f"{MAX_BYTES / 1000:.0f}; leave it out"
        )
    return line
