"""Output folders that cannot be written are found before the work, and nothing is left in those that can."""

import re
from pathlib import Path

import pytest

from instructrl.errors import InputError
from instructrl.storage.writable import check_outputs, check_writable, check_writable_file


@pytest.mark.parametrize("name", [".", "new", "new/and/deeper"])
def test_a_folder_that_can_be_written_stays_as_it_is(tmp_path: Path, name: str) -> None:
    check_writable(tmp_path / name, hint="choose another output_dir")
    check_outputs([("output_dir", tmp_path / name)])
    check_writable_file(tmp_path / name / "page.html", hint="choose another --out")
    assert not [*tmp_path.iterdir()]


@pytest.mark.parametrize("name", ["file", "file/below", "file/below/deeper"])
def test_a_file_in_place_of_a_folder_is_one_line(tmp_path: Path, name: str) -> None:
    (tmp_path / "file").touch()
    folder = tmp_path / name
    expected = rf"{re.escape(str(folder))}: cannot be written \(.+\); make room or choose another output_dir"
    with pytest.raises(InputError, match=f"^{expected}$"):
        check_outputs([("output_dir", folder)])


@pytest.mark.parametrize("target", ["loop", "away"])
@pytest.mark.parametrize("below", [".", "run", "run/deeper"])
def test_a_link_that_leads_nowhere_is_one_line(tmp_path: Path, target: str, below: str) -> None:
    (tmp_path / "loop").symlink_to(target)
    folder = tmp_path / "loop" / below
    with pytest.raises(
        InputError, match=rf"^{re.escape(str(folder))}: cannot be written \(.+\); make room or choose another"
    ):
        check_outputs([("output_dir", folder)])


def test_a_file_system_that_takes_no_files_is_one_line() -> None:
    with pytest.raises(InputError, match=r"^/proc/none/page.html: cannot be written \(.+\); make room or choose"):
        check_writable_file(Path("/proc/none/page.html"), hint="choose another --out")


def test_a_relative_path_is_looked_for_from_the_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    check_writable(Path("new/folder"), hint="")
    (tmp_path / "new").touch()
    with pytest.raises(InputError, match=r"^new/folder: cannot be written"):
        check_writable(Path("new/folder"), hint="choose another out=")


def test_a_folder_in_place_of_a_file_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"cannot be written \(it is a folder\); choose another --out"):
        check_writable_file(tmp_path, hint="choose another --out")
