"""Texts of SLURM's commands, and recorded exit codes."""

from pathlib import Path

from launchers.exit_status import read_exit_code
from launchers.slurm import sbatch_error


def test_what_sbatch_says_becomes_a_line() -> None:
    submission = "sbatch: error: Batch job submission failed: Invalid partition name specified"
    text = f"Command 'sbatch' failed\nsbatch: error: invalid partition specified: x\n{submission}\n"
    assert sbatch_error(text) == "sbatch: invalid partition specified: x"
    assert sbatch_error("") == "sbatch: failed without a message"


def test_an_exit_code_that_is_not_completely_written_is_none(tmp_path: Path) -> None:
    (tmp_path / "x.json").write_text('{"exit_code"')
    assert read_exit_code(tmp_path / "x.json") is None and read_exit_code(tmp_path / "y.json") is None
