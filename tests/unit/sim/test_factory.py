"""Classes of simulators are compared with the interface before they are used."""

import pytest

from instructrl.errors import InputError
from instructrl.sim.factory import check_simulator_class
from instructrl.sim.tabletop.env import Tabletop


def test_a_part_that_is_none_is_not_offered() -> None:
    check_simulator_class(type("Dense", (Tabletop,), {"expert_actions": None}))


def test_a_part_that_is_offered_is_checked() -> None:
    with pytest.raises(InputError, match=r"Other: found expert_actions\(goal\); allowed: what can be called as expert"):
        check_simulator_class(type("Other", (Tabletop,), {"expert_actions": lambda self, goal: []}))
