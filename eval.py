"""Judge a trained agent; the settings of its model, task and simulator come from the run.

python eval.py run=outputs/NAME
python eval.py run=outputs/NAME episodes=1000 'rows=[trained,held_out]' checkpoint=last
"""

from pathlib import Path

from instructrl.command import command
from instructrl.config import EvalConfig


@command("eval", EvalConfig)
def main(config: EvalConfig) -> None:
    """Play the rows, film some episodes, write the results and the page."""
    from instructrl.evaluation.run import check_run

    check_run(Path(config.run))  # before jax is imported
    from instructrl.evaluation.judge import judge
    from instructrl.evaluation.results import headline, table

    results, report = judge(config)
    print(table(results))
    print(headline(results))
    print(f"report: {report}")


if __name__ == "__main__":
    main()
