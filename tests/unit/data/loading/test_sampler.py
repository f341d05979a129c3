"""Sampler: every episode once per epoch, or each file its share, as a function of (seed, epoch) alone."""

import pickle
from collections import Counter
from fractions import Fraction

import numpy as np
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from instructrl.data.loading.sampler import Sampler, apportion

counts = st.lists(st.integers(1, 30), min_size=1, max_size=6)
seeds = st.integers(0, 2**31 - 1)
weight = st.floats(1e-3, 1e6, allow_subnormal=False)


def files_of(numbers: np.ndarray, sizes: list[int]) -> list[int]:
    return np.searchsorted(np.cumsum(sizes), numbers, side="right").tolist()


@settings(max_examples=100)
@given(sizes=counts, seed=seeds, epoch=st.integers(0, 99_999))
def test_without_weights_every_episode_once_in_an_epoch(sizes: list[int], seed: int, epoch: int) -> None:
    order = Sampler(sizes, seed=seed)
    shown, draws = order.epoch(epoch)
    assert sorted(shown.tolist()) == list(range(sum(sizes))) and order.shares == sizes
    assert draws.dtype == np.uint64 and len(set(draws.tolist())) == len(shown)


@settings(max_examples=100)
@given(total=st.integers(1, 10**6), weights=st.lists(weight, min_size=1, max_size=20))
def test_parts_are_in_proportion_to_within_one(total: int, weights: list[float]) -> None:
    parts = apportion(total, weights)
    assert sum(parts) == total
    for part, one in zip(parts, weights, strict=True):
        assert abs(part - Fraction(one) * total / sum(map(Fraction, weights))) < 1


@settings(max_examples=100)
@given(data=st.data(), sizes=counts, seed=seeds)
def test_with_weights_each_file_has_its_share_and_no_episode_comes_again_before_all_were_shown(
    data: st.DataObject, sizes: list[int], seed: int
) -> None:
    weights = data.draw(st.lists(st.floats(0.1, 10), min_size=len(sizes), max_size=len(sizes)))
    order = Sampler(sizes, seed=seed, weights=weights)
    firsts = np.cumsum(sizes) - sizes
    shown: list[Counter[int]] = [Counter() for _ in sizes]
    for epoch in range(8):
        numbers, _ = order.epoch(epoch)
        files = files_of(numbers, sizes)
        assert len(numbers) == sum(sizes)
        assert [files.count(file) for file in range(len(sizes))] == order.shares
        for number, file in zip(numbers.tolist(), files, strict=True):
            shown[file][number - firsts[file]] += 1
        for file, times in enumerate(shown):  # at the end of any epoch, none is more than one cycle ahead
            each = [times[episode] for episode in range(sizes[file])]
            assert max(each) - min(each) <= 1
            assert sum(each) == (epoch + 1) * order.shares[file]


@settings(max_examples=60)
@given(sizes=counts, seed=seeds, epoch=st.integers(0, 60), weighted=st.booleans(), shuffle=st.booleans())
def test_an_epoch_is_the_same_whatever_was_asked_before(
    sizes: list[int], seed: int, epoch: int, weighted: bool, shuffle: bool
) -> None:
    weights = [1.0 + place for place in range(len(sizes))] if weighted else None
    fresh, used = (Sampler(sizes, seed=seed, shuffle=shuffle, weights=weights) for _ in range(2))
    for earlier in (epoch + 1, 0, epoch // 2):
        used.epoch(earlier)
    copied = pickle.loads(pickle.dumps(used))
    for other in (used, copied):
        for one, two in zip(fresh.epoch(epoch), other.epoch(epoch), strict=True):
            assert np.array_equal(one, two)
    if not shuffle:
        assert all(np.array_equal(one, two) for one, two in zip(fresh.epoch(epoch), fresh.epoch(0), strict=True))


@settings(max_examples=40)
@given(sizes=counts, seed=seeds)
def test_weights_as_the_files_are_large_show_every_episode_once(sizes: list[int], seed: int) -> None:
    order = Sampler(sizes, seed=seed, weights=[float(size) for size in sizes])
    for epoch in range(3):
        assert sorted(order.epoch(epoch)[0].tolist()) == list(range(sum(sizes)))


@settings(max_examples=40)
@given(size=st.integers(16, 30), seed=seeds)  # of 8 episodes one order in some thousands comes twice by chance
def test_cycles_epochs_files_and_seeds_have_orders_of_their_own(size: int, seed: int) -> None:
    assume(seed < 2**31 - 1)
    orders = []
    for chosen in (seed, seed + 1):
        for epoch in range(2):
            numbers, _ = Sampler([size, size], seed=chosen, weights=[1, 1]).epoch(epoch)
            orders += [tuple(number % size for number in numbers.tolist() if number // size == file) for file in (0, 1)]
            orders.append(tuple(files_of(numbers, [size, size])))
    assert len(set(orders)) == len(orders)


def test_a_weighted_epoch_is_mixed_and_not_file_after_file() -> None:
    order = Sampler([50, 50], seed=0, weights=[3, 1])
    files = [files_of(order.epoch(epoch)[0], [50, 50]) for epoch in range(50)]
    assert {one.count(1) for one in files} == {25}
    assert 11.5 < np.mean([one[:50].count(1) for one in files]) < 13.5
