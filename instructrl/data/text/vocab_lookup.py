"""Lookup of the vocabulary that a setting names: a path, or a published name that was downloaded before."""

from pathlib import Path

from instructrl.data.text.vocab_files import FORMS
from instructrl.errors import InputError

KINDS = (
    "small, a published name such as bert-base-uncased, a tokenizer.json, a vocab.txt, a .model of SentencePiece, or a "
    "folder that holds one"
)
OWNER = "google-bert"  # of repositories that formerly had no owner


def find_vocabulary(name: str, *, weights: Path) -> Path:
    """Return the file or folder of the vocabulary that `encoder.tokenizer` names.

    A path takes precedence, then `weights`/tokenizers, where `data_tools.weights fetch` saves it, then the cache of
    huggingface_hub.

    Raises:
        InputError: it is in none of these locations.
    """
    path = existing_path(name)
    if path is not None:
        return path
    if not is_repo_id(name):
        raise InputError(f"encoder.tokenizer: found {name!r}, which is not a file or folder; allowed: {KINDS}")
    aliases = repo_aliases(name)
    fetched = [weights / "tokenizers" / alias.replace("/", "--") / "tokenizer.json" for alias in aliases]
    try:
        found = [file for file in fetched if file.is_file()] or [*filter(None, map(find_in_hub_cache, aliases))]
    except OSError as error:
        raise InputError(f"encoder.tokenizer: {error.filename}: cannot be read ({error.strerror})") from None
    if found:
        return found[0]
    from huggingface_hub.constants import HF_HUB_CACHE

    raise InputError(
        f"encoder.tokenizer: {name} is not a file or folder, and neither in {weights / 'tokenizers'} nor in the "
        f"Hugging Face cache {HF_HUB_CACHE}; get it with python -m data_tools.weights fetch (see its --help) or "
        f"hf download {name} tokenizer.json, or give a file, such as encoder.tokenizer=/path/to/vocab.txt"
    )


def existing_path(name: str) -> Path | None:
    """Return the file or folder of this path, if it exists."""
    try:
        path = Path(name).expanduser()
        return path if name and path.exists() else None
    except (OSError, RuntimeError):  # name too long, or unknown home directory
        return None


def is_repo_id(name: str) -> bool:
    """Return True if this is a valid repository name on the Hugging Face hub."""
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id

    try:
        validate_repo_id(name)
    except HFValidationError:
        return False
    return not name.endswith((".json", ".txt", ".model"))


def repo_aliases(name: str) -> tuple[str, ...]:
    """Return a published name and other names of the same repository."""
    owner, _, short = name.rpartition("/")
    if owner in ("", OWNER) and short.startswith("bert-"):
        return name, short if owner else f"{OWNER}/{short}"
    return (name,)


def find_in_hub_cache(name: str) -> Path | None:
    """Return the vocabulary in the cache of huggingface_hub: a file, or the folder of two files."""
    from huggingface_hub import try_to_load_from_cache

    for form in FORMS:
        found = [try_to_load_from_cache(name, file) for file in form]
        paths = [Path(file) for file in found if isinstance(file, str)]
        if len(paths) == len(form):
            return paths[0] if len(form) == 1 else paths[0].parent
    return None
