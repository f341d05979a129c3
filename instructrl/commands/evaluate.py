"""Evaluate a trained agent; the settings of its model, task and simulator come from the run.

python eval.py run=outputs/NAME
python eval.py run=outputs/NAME episodes=1000
python eval.py run=outputs/NAME 'conditions=[trained,held_out_instructions]' checkpoint=last protocol.name=last
python eval.py run=outputs/NAME protocol=peract protocol.max_keyframes=10 protocol.name=short
"""

from instructrl.cli.entry import entry_point
from instructrl.config.evaluation import EvalConfig
from instructrl.errors import RunError


@entry_point("eval", EvalConfig, script="eval.py")
def main(config: EvalConfig) -> None:
    """Evaluate the conditions, render some videos, write the results and the report."""
    from instructrl.evaluation.run_checks import check_run
    from instructrl.storage.paths import storage_path
    from instructrl.storage.synced_dir import working_dir

    with working_dir(storage_path(config.run), exclusive=False) as work_dir:
        check_run(work_dir.folder, tasks=config.tasks)  # before jax is imported
        from instructrl.evaluation.evaluate import evaluate
        from instructrl.evaluation.results.summary import headline, table
        from instructrl.evaluation.results.tables import tables

        results, report = evaluate(config, work_dir.folder)
    print("\n\n".join(filter(None, [table(results), tables(results), headline(results)])))
    print(f"report: {work_dir.display(report)}")
    if results["problems"]:
        raise RunError(f"{'; '.join(results['problems'])}; the same command resumes")


if __name__ == "__main__":
    main()
