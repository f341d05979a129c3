"""The token that a client shows to a policy server: read from a file or from a variable, compared in constant time."""

import hmac
import os
import re
from collections.abc import Sequence
from pathlib import Path

from instructrl.errors import InputError

VARIABLE = "INSTRUCTRL_TOKEN"
HEADER, SCHEME = "Authorization", "Api-Key"  # as openpi's client sends it
SHORTEST = 8
ALLOWED = f"allowed: at least {SHORTEST} letters, digits and signs in one line, without spaces"


def read_token(file: str | None) -> str | None:
    """The token in a file, else in the variable INSTRUCTRL_TOKEN, else None.

    Raises:
        InputError: the file cannot be read, or holds no token; the message does not quote it.
    """
    if file is None:
        place, text = VARIABLE, os.environ.get(VARIABLE)
        if text is None:
            return None
    else:
        place = f"token_file={file}"
        try:
            text = Path(file).expanduser().read_text(encoding="ascii")
        except OSError as error:
            raise InputError(f"{place}: cannot be read ({error.strerror}); name a file with a token") from None
        except UnicodeDecodeError:
            raise InputError(f"{place}: found other characters than ASCII; {ALLOWED}") from None
    token = text.strip()
    if not re.fullmatch(rf"[!-~]{{{SHORTEST},}}", token):
        raise InputError(f"{place}: found {len(token)} characters that are no token; {ALLOWED}")
    return token


def header(token: str) -> dict[str, str]:
    """The header of a client's request."""
    return {HEADER: f"{SCHEME} {token}"}


def admits(token: str | None, given: Sequence[str]) -> bool:
    """Return True if there is no token, or the values of a request's header are just that token."""
    if token is None:
        return True
    expected, found = header(token)[HEADER], given[0] if len(given) == 1 else ""
    return hmac.compare_digest(expected.encode(), found.encode(errors="surrogateescape"))
