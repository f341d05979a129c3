"""A signal that arrives while settings are composed ends the command, and is not mistaken for a wrong setting."""

import signal

import pytest
from omegaconf import OmegaConf

from instructrl.cli.compose import compose
from instructrl.config.training import TrainConfig
from instructrl.errors import InterruptedRun
from instructrl.preemption import handle_signals


@pytest.mark.parametrize(
    ("number", "error"),
    [(signal.SIGTERM, InterruptedRun), (signal.SIGUSR2, InterruptedRun), (signal.SIGINT, KeyboardInterrupt)],
)
def test_a_signal_within_a_resolver_is_raised_after_it(number: signal.Signals, error: type[BaseException]) -> None:
    numbers = [number]

    def signalled() -> str:
        if numbers:
            signal.raise_signal(numbers.pop())
        return "composed"

    OmegaConf.register_new_resolver("signalled", signalled, replace=True)
    before = signal.getsignal(number)
    try:
        with pytest.raises(error) as raised, handle_signals(working=False):
            compose("train", TrainConfig, ["name=${signalled:}"])
    finally:
        OmegaConf.clear_resolver("signalled")
    assert not [entry for entry in raised.traceback if "omegaconf" in str(entry.path)], "no library was interrupted"
    assert signal.getsignal(number) is before
