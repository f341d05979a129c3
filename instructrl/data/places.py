"""Where a vocabulary is that a setting names: at a path, or fetched before by its published name."""

from pathlib import Path

from instructrl.data.vocabulary import FORMS
from instructrl.errors import InputError

KINDS = "small, a published name such as bert-base-uncased, a tokenizer.json, a vocab.txt, or a folder that holds one"
OWNER = "google-bert"  # of repositories that once had no owner


def find_vocabulary(asked: str, *, weights: Path) -> Path:
    """The file or folder of the vocabulary that `encoder.tokenizer` names.

    A path comes first, then what `data_tools.weights fetch` put into `weights`/tokenizers, then the cache of
    huggingface_hub.

    Raises:
        InputError: it is in none of these places.
    """
    path = local(asked)
    if path is not None:
        return path
    if not is_name(asked):
        raise InputError(f"encoder.tokenizer: found {asked!r}, where there is no file or folder; allowed: {KINDS}")
    names = spellings(asked)
    fetched = [weights / "tokenizers" / name.replace("/", "--") / "tokenizer.json" for name in names]
    try:
        places = [file for file in fetched if file.is_file()] or [*filter(None, map(cached, names))]
    except OSError as error:
        raise InputError(f"encoder.tokenizer: {error.filename}: cannot be read ({error.strerror})") from None
    if places:
        return places[0]
    from huggingface_hub.constants import HF_HUB_CACHE

    raise InputError(
        f"encoder.tokenizer: {asked} is no file or folder, and neither in {weights / 'tokenizers'} nor in the Hugging "
        f"Face cache {HF_HUB_CACHE}; get it with python -m data_tools.weights fetch (see its --help) or "
        f"hf download {asked} tokenizer.json, or give a file, such as encoder.tokenizer=/path/to/vocab.txt"
    )


def local(asked: str) -> Path | None:
    """The file or folder of this path, if there is one."""
    try:
        path = Path(asked).expanduser()
        return path if asked and path.exists() else None
    except (OSError, RuntimeError):  # too long a name, or nobody's home
        return None


def is_name(asked: str) -> bool:
    """Whether something could be published under this name."""
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id

    try:
        validate_repo_id(asked)
    except HFValidationError:
        return False
    return not asked.endswith((".json", ".txt"))


def spellings(name: str) -> tuple[str, ...]:
    """A published name as asked, and as the same repository is called too."""
    owner, _, short = name.rpartition("/")
    if owner in ("", OWNER) and short.startswith("bert-"):
        return name, short if owner else f"{OWNER}/{short}"
    return (name,)


def cached(name: str) -> Path | None:
    """The vocabulary in the cache of huggingface_hub: a file, or the folder of two."""
    from huggingface_hub import try_to_load_from_cache

    for form in FORMS:
        found = [try_to_load_from_cache(name, file) for file in form]
        paths = [Path(file) for file in found if isinstance(file, str)]
        if len(paths) == len(form):
            return paths[0] if len(form) == 1 else paths[0].parent
    return None
