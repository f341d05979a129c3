"""Judge a trained agent; the settings of its model, task and simulator come from the run.

python eval.py run=outputs/NAME
python eval.py run=outputs/NAME episodes=1000 'rows=[trained,held_out]' checkpoint=last
python eval.py run=outputs/NAME protocol=peract protocol.keyframes=10
"""

from instructrl.command import command
from instructrl.config import EvalConfig
from instructrl.errors import RunError


@command("eval", EvalConfig)
def main(config: EvalConfig) -> None:
    """Play the rows, film some episodes, write the results and the page."""
    from instructrl.data.mirror import workshop
    from instructrl.data.storage import place
    from instructrl.evaluation.run import check_run

    with workshop(place(config.run), alone=False) as shop:
        check_run(shop.folder, tasks=config.tasks)  # before jax is imported
        from instructrl.evaluation.judge import judge
        from instructrl.evaluation.results import headline, table

        results, report = judge(config, shop.folder)
    print(table(results))
    print(headline(results))
    print(f"report: {shop.shown(report)}")
    if results["problems"]:
        raise RunError(f"{'; '.join(results['problems'])}; the same command goes on from here")


if __name__ == "__main__":
    main()
