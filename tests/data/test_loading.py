"""Prefetching: order, bounds, errors and the end."""

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from winclip_bench.data import loading, prefetch


@pytest.mark.parametrize("workers", [0, 1, 2, 5])
@pytest.mark.parametrize("ahead", [1, 3, 100])
def test_results_come_in_order(workers: int, ahead: int) -> None:
    assert list(prefetch(range(40), lambda item: item * 3, workers, ahead)) == [item * 3 for item in range(40)]


def test_slow_items_are_not_overtaken() -> None:
    second_is_done = threading.Event()

    def load(item: int) -> int:
        if item == 0:
            assert second_is_done.wait(10)
        elif item == 1:
            second_is_done.set()
        return item

    assert list(prefetch(range(4), load, workers=2, ahead=2)) == [0, 1, 2, 3]


def test_no_items() -> None:
    assert list(prefetch([], str, 2, 2)) == []


def test_look_ahead_is_bounded_and_happens() -> None:
    taken = []

    def items() -> Iterator[int]:
        for item in range(100):
            taken.append(item)
            yield item

    results = prefetch(items(), str, workers=2, ahead=5)
    assert taken == []
    for position in range(10):
        assert next(results) == str(position)
        assert len(taken) == position + 1 + 5
    results.close()


@pytest.mark.parametrize("workers", [0, 2])
def test_exception_surfaces_at_its_item(workers: int) -> None:
    def load(item: int) -> int:
        if item == 3:
            raise ValueError("item 3")
        return item

    results = prefetch(range(10), load, workers, ahead=8)
    assert [next(results) for _ in range(3)] == [0, 1, 2]
    with pytest.raises(ValueError, match="item 3"):
        next(results)
    with pytest.raises(StopIteration):
        next(results)


def test_closing_drops_what_has_not_begun(monkeypatch: pytest.MonkeyPatch) -> None:
    closing = threading.Event()

    class Pool(ThreadPoolExecutor):
        def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
            super().shutdown(wait=False, cancel_futures=cancel_futures)
            closing.set()
            super().shutdown(wait=wait)

    monkeypatch.setattr(loading, "ThreadPoolExecutor", Pool)
    begun = []

    def load(item: int) -> int:
        begun.append(item)
        if item > 0:
            assert closing.wait(10)
        return item

    before = threading.active_count()
    results = prefetch(range(1000), load, workers=1, ahead=50)
    assert next(results) == 0
    results.close()
    assert begun in ([0], [0, 1])
    assert threading.active_count() == before
