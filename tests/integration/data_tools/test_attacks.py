"""Malicious pickles do act when Python reads them, so that it means something that ours do not."""

import contextlib
import pickle

import pytest

from tests.fixtures import malicious
from tests.fixtures.malicious import PIECES
from tests.unit.storage.test_unpickler import mark  # noqa: F401


@pytest.mark.parametrize("name", PIECES)
def test_pythons_own_unpickler_falls_for_it(name, mark):  # noqa: F811
    with contextlib.suppress(Exception):
        pickle.loads(malicious.as_all(PIECES[name](str(mark)), {}))
    assert mark.exists()
