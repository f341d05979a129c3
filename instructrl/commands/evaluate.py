"""Evaluate a trained agent; the settings of its model, task and simulator come from the run.

python eval.py run=outputs/NAME
python eval.py run=outputs/NAME episodes=1000
python eval.py run=outputs/NAME episodes=1000 jobs=16 launcher=slurm_gpu   # sixteen jobs share the episodes
python eval.py run=outputs/NAME 'conditions=[trained,held_out_instructions]' checkpoint=last protocol.name=last
python eval.py run=outputs/NAME protocol=peract protocol.max_keyframes=10 protocol.name=short
"""

from instructrl.cli.entry import entry_point
from instructrl.cli.progress import stopwatch
from instructrl.config.evaluation import EvalConfig
from instructrl.errors import RunError


@entry_point("eval", EvalConfig, script="eval.py")
def main(config: EvalConfig) -> None:
    """Evaluate the conditions, render some videos, write the results and the report."""
    from instructrl.config.evaluation import effective_protocol
    from instructrl.evaluation.run_checks import check_run, evaluation_folder
    from instructrl.storage.paths import storage_path
    from instructrl.storage.synced_dir import working_dir
    from instructrl.storage.writable import check_writable

    location, protocol = storage_path(config.run), effective_protocol(config)
    with working_dir(location, exclusive=False) as work_dir:
        check_run(work_dir.folder, tasks=config.tasks)  # before jax is imported
        print(f"evaluating {location}, protocol {protocol.name}", flush=True)
        folder = location / evaluation_folder(work_dir.folder, protocol.name).name
        check_writable(folder, hint="give permission to write there")
        with stopwatch("loading jax", said=False):
            from instructrl.evaluation.evaluate import evaluate
            from instructrl.evaluation.results.summary import headline, table
            from instructrl.evaluation.results.tables import tables

        results, report = evaluate(config, work_dir.folder)
    if config.job is not None:
        print(f"job {config.job} of {config.jobs} has run its episodes; the command with jobs=1 writes the results")
        return
    print("\n\n".join(filter(None, [table(results), tables(results), headline(results)])))
    print(f"report: {work_dir.display(report)}")
    if results["problems"]:
        raise RunError(f"{'; '.join(results['problems'])}; the same command resumes")


if __name__ == "__main__":
    main()
