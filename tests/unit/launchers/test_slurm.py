"""Texts of SLURM's commands, and recorded exit codes."""

from pathlib import Path

import pytest

from launchers.exit_status import read_exit_code, write_exit_code
from launchers.slurm_commands import command_error


def test_what_sbatch_says_becomes_a_line() -> None:
    submission = "sbatch: error: Batch job submission failed: Invalid partition name specified"
    text = f"Command 'sbatch' failed\nsbatch: error: invalid partition specified: x\n{submission}\n"
    assert command_error("sbatch", text) == "sbatch: invalid partition specified: x"
    assert command_error("sbatch", "") == ""


def test_an_exit_code_that_is_not_completely_written_is_none(tmp_path: Path) -> None:
    (tmp_path / "x.json").write_text('{"exit_code"')
    assert read_exit_code(tmp_path / "x.json") is None and read_exit_code(tmp_path / "y.json") is None


def test_an_exit_code_counts_for_the_job_that_recorded_it(tmp_path: Path) -> None:
    write_exit_code(tmp_path / "new/x.json", 3, "12_0")
    assert read_exit_code(tmp_path / "new/x.json", "12_0") == read_exit_code(tmp_path / "new/x.json") == 3
    assert read_exit_code(tmp_path / "new/x.json", "13") is None
    (tmp_path / "former.json").write_text('{"exit_code": 4}')
    assert read_exit_code(tmp_path / "former.json", "13") == 4


def test_an_outcome_that_cannot_be_written_is_a_line(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    (tmp_path / "outcomes").write_text("")
    write_exit_code(tmp_path / "outcomes/x.json", 0, "12_0")
    assert "outcomes/x.json: cannot be written (File exists); the job ended with code 0" in capsys.readouterr().err
