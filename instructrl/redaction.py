"""Passwords and tokens in texts: found, and replaced before a text is printed or recorded.

Three things make a text confidential: it contains the value of a variable such as WANDB_API_KEY or HF_TOKEN, it assigns
something to such a name, or it has the form of a token or of an address with a password.
"""

import os
import re
from collections.abc import Sequence
from functools import lru_cache

HIDDEN = "***"
SECRET_WORDS = (
    r"(?:(?:api|access|account|private|secret|storage)[_-]?key|secret|token|pass(?:word|wd|phrase)|[_-]pwd|credentials?"
    r"|signature|authorization)"
)
SECRET_NAME = re.compile(rf"{SECRET_WORDS}$", re.IGNORECASE)
MIN_LENGTH, MIN_LENGTH_OF_WORD = 8, 12  # characters of a variable's value; of one of lower-case letters, as in a text
VALUE = r"\"[^\"]*\"|'[^']*'|[^\s,;&'\"()\[\]{}]+"
PATTERNS = [
    # https://user:password@host, also with / or @ in the password, but not https://host:80/a@b
    (re.compile(r"(://)[^\s/@:'\"]*:(?!\d{1,5}(?:[/,;\s]|$))[^\s'\"]*@"), rf"\1{HIDDEN}@"),
    (re.compile(r"\b((?:https?|ftps?|socks\w*)://)[^\s/@'\"]+@"), rf"\1{HIDDEN}@"),  # https://token@host
    # NAME=value, ?name=value, --name value, "name": "value"; $NAME refers to a value elsewhere
    (re.compile(rf"((?:\b|_)[\w.-]*{SECRET_WORDS}=)(?![\"']?[$*])(?:{VALUE})", re.IGNORECASE), rf"\1{HIDDEN}"),
    (re.compile(rf"(--?[\w-]*{SECRET_WORDS}\s+)(?![\"']?[$*-])(?:{VALUE})", re.IGNORECASE), rf"\1{HIDDEN}"),
    (re.compile(rf"([\"'][\w.-]*{SECRET_WORDS}[\"']\s*:\s*)(?![\"']?[$*])(?:{VALUE})", re.IGNORECASE), rf"\1{HIDDEN}"),
    (re.compile(r"((?:^|\s)(?:-u|--user)[\s=]+[^\s:/]+:)(?!\*)\S+"), rf"\1{HIDDEN}"),  # curl -u user:password
    (re.compile(r"(\bsshpass\s+-p\s*|\bwandb\s+login\s+(?:-\S+\s+)*)(?![\"']?[$*-])\S+"), rf"\1{HIDDEN}"),
    (re.compile(r"(authorization:\s*\w+\s+|\bbearer\s+)(?!\*)[\w.~+/=-]{8,}", re.IGNORECASE), rf"\1{HIDDEN}"),
    # tokens of Hugging Face, GitHub, GitLab, Slack, Google and OpenAI, JSON web tokens, and private keys
    (re.compile(r"\b(?:hf_|gh[opsru]_|sk-(?:proj-|ant-)?(?:api\d+-)?)[A-Za-z0-9]{20,}[\w-]*"), HIDDEN),
    (
        re.compile(r"\b(?:github_pat_\w{30,}|glpat-[\w-]{20,}|xox[abp]-\d+-[\w-]+|ya29\.[\w-]{20,}|AIza[\w-]{30,})"),
        HIDDEN,
    ),
    (re.compile(r"\beyJ[\w-]{8,}\.[\w-]{8,}\.[\w-]+"), HIDDEN),
    (re.compile(r"-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(?:-----END [A-Z ]*PRIVATE KEY-----|$)", re.DOTALL), HIDDEN),
]


def secret_values() -> list[str]:
    """Return the values of this process's variables whose names say that they are secret, the longest first."""
    found = {value for name, value in os.environ.items() if is_secret_name(name)}
    return sorted((value for value in found if is_distinctive(value)), key=len, reverse=True)


@lru_cache(maxsize=1024)  # the same names are asked about for every setting
def is_secret_name(name: str) -> bool:
    """Return True if a variable's name says that its value is secret."""
    return SECRET_NAME.search(name) is not None


def is_distinctive(value: str) -> bool:
    """Return True unless a value is a path, as in GOOGLE_APPLICATION_CREDENTIALS, or could be a word of any text."""
    shortest = MIN_LENGTH_OF_WORD if value.isalpha() and value.islower() else MIN_LENGTH
    return len(value) >= shortest and not value.startswith(("/", "~", "./"))


def redact(text: str) -> str:
    """Return a text without passwords and tokens."""
    for value in secret_values():
        text = text.replace(value, HIDDEN)
    for pattern, replacement in PATTERNS:
        text = pattern.sub(replacement, text)
    return text


def is_confidential(text: str) -> bool:
    """Return True if a text contains a password or a token."""
    return redact(text) != text


def redact_words(words: Sequence[str]) -> list[str]:
    """Return the words of a command without the values that contain a password or a token."""
    hidden = [f"{word.partition('=')[0]}={HIDDEN}" if "=" in word else HIDDEN for word in words]
    found = [other if is_confidential(word) else word for word, other in zip(words, hidden, strict=True)]
    for index, word in enumerate(words[:-1]):
        if word.startswith("-") and "=" not in word and SECRET_NAME.search(word):
            found[index + 1] = HIDDEN
    return found
