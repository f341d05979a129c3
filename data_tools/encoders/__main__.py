"""Comparison of encoders, frozen, on the same demonstrations.

python -m data_tools.encoders compare task=reach_target
python -m data_tools.encoders compare 'encoders=[m3ae_tiny,dinov2_b14+siglip2_b16]' seeds=[0,1,2] hardware=gpu
python -m data_tools.encoders measure encoder=m3ae_tiny encoder.frozen=true out=FOLDER

compare measures each encoder, caches its features, trains the same policy on them with the same seeds, evaluates the
agents in the same scenes, and writes comparison.html and comparison.json into `out`: success with intervals and paired
differences to the first encoder, linear probes, images a second, memory. Encoders without weights get random ones.
The same command resumes. An encoder that cannot be compared stops none of the others; then the exit code is 1.
measure does the part that needs no training, for one encoder. Further words are settings of all trainings.
"""

import json
import shlex
from collections.abc import Sequence
from pathlib import Path

from data_tools.encoders.settings import (
    PROG,
    CompareConfig,
    MeasureConfig,
    available,
    choices,
    composed,
    parse,
    parse_comparison,
)
from data_tools.exchange.settings import run_command
from instructrl.cli.help import tool_help
from instructrl.errors import InputError, RunError
from instructrl.redaction import redact_words
from instructrl.storage.atomic import write_atomically
from instructrl.storage.writable import check_writable
from instructrl.training.memory_limit import check_memory_limit
from instructrl.training.preflight import check_inputs

OUT_HINT = "choose another out="


def run_compare(argv: Sequence[str]) -> None:
    """Run the command compare.

    Raises:
        InputError: a word is invalid, or no encoder could be compared.
        RunError: some could not.
    """
    config, words = parse_comparison(argv)
    folder = Path(config.out).expanduser()
    config.out = str(folder)
    labels = config.encoders
    if not labels:
        labels, missing = available()
        print(f"encoders: {', '.join(labels)}; left out, since there are no weights: {', '.join(missing)}", flush=True)
    chosen = choices(labels, words, folder)
    check_memory_limit()
    check_writable(folder, hint=OUT_HINT)
    from data_tools.encoders.comparison import compare
    from data_tools.encoders.page import numbers, page, table
    from instructrl.evaluation.compare.__main__ import NUMBERS, PAGE

    found, left_out = compare(config, chosen)
    command = shlex.join([*PROG.split(), "compare", *redact_words(argv)])
    content = json.dumps(numbers(config, found, left_out, command=command), indent=1) + "\n"
    write_atomically(folder / NUMBERS, content, hint=OUT_HINT)
    write_atomically(folder / PAGE, page(config, found, left_out, command=command), hint=OUT_HINT)
    print(f"{table(found, left_out)}\ncomparison: {folder / PAGE}")
    if left_out:
        raise RunError(
            f"{len(left_out)} of {len(chosen)} encoders were not compared: {', '.join(left_out)}; the lines above say "
            "why; mend them or leave them out of encoders, and the same command compares what is missing"
        )


def run_measure(argv: Sequence[str]) -> None:
    """Run the command measure.

    Raises:
        InputError: a word is invalid, or the encoder cannot be used.
    """
    config, words = parse(argv, MeasureConfig)
    training = composed(words)
    if not training.encoder.frozen:
        raise InputError(f"encoder.frozen: found false for {training.encoder.name}; allowed: true")
    check_inputs(training)
    config.out = str(Path(config.out).expanduser())
    check_writable(Path(config.out), hint=OUT_HINT)
    from data_tools.encoders.measurement import measure

    measure(config, training, words)


def usage() -> str:
    """Help text of the command."""
    return tool_help(__doc__, {"compare": CompareConfig, "measure": MeasureConfig})


def main() -> None:
    """Run the command."""
    run_command({"compare": run_compare, "measure": run_measure}, usage=usage, help_hint=f"see {PROG} --help")


if __name__ == "__main__":
    main()
