"""The token of a policy server: where it comes from, what is none, and whom it admits."""

from pathlib import Path

import pytest

from instructrl.errors import InputError
from instructrl.inference.serving.access_token import admits, header, read_token

TOKEN = "0123-secret_Token~"


def test_it_comes_from_a_file_or_from_a_variable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("INSTRUCTRL_TOKEN", raising=False)
    assert read_token(None) is None
    monkeypatch.setenv("INSTRUCTRL_TOKEN", "of-the-variable")
    assert read_token(None) == "of-the-variable"
    (tmp_path / "token").write_text(f"{TOKEN}\n")
    assert read_token(str(tmp_path / "token")) == TOKEN


@pytest.mark.parametrize(
    "content", [b"", b"short", b"two words here", b"two\nlines-of-it", b"gr\xc3\xbc\xc3\x9fe-alle"]
)
def test_what_is_none_is_one_line_that_does_not_quote_it(content: bytes, tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_bytes(content)
    with pytest.raises(InputError, match="allowed: at least 8 letters") as refused:
        read_token(str(file))
    assert not content or content.decode() not in str(refused.value)
    with pytest.raises(InputError, match=r"token_file=.*none: cannot be read \(No such file or directory\)"):
        read_token(str(tmp_path / "none"))


def test_only_the_token_itself_is_admitted() -> None:
    [shown] = header(TOKEN).values()
    assert shown == f"Api-Key {TOKEN}" and admits(TOKEN, [shown]) and admits(None, []) and admits(None, ["any"])
    for given in ([], [""], [TOKEN], [f"Bearer {TOKEN}"], [shown + " "], [shown[:-1]], [shown, shown], ["\udcff"]):
        assert not admits(TOKEN, given)
