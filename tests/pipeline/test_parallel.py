"""Threads in order: results as they should be, all threads busy, and never more under way than is bounded."""

import threading
import time

import pytest

from pipeline.parallel import Counters, in_order


def test_results_come_in_the_order_of_the_items_whatever_finishes_first():
    slow_first = lambda number: time.sleep(0.02 * (3 - number % 4)) or number
    assert list(in_order(slow_first, ((n,) for n in range(12)), 4)) == list(range(12))


def test_all_threads_work_at_the_same_time():
    barrier = threading.Barrier(3, timeout=20)  # broken unless three items meet
    assert [r >= 0 for r in in_order(lambda _: barrier.wait(), ((n,) for n in range(6)), 3)] == [True] * 6


def test_no_more_than_one_item_beyond_the_threads_is_taken_before_it_is_asked_for():
    taken = []

    def items():
        for number in range(10):
            taken.append(number)
            yield (number,)

    results = in_order(lambda number: number, items(), 2)
    for number in range(10):
        assert next(results) == number
        assert len(taken) <= number + 3
    assert list(results) == []


def test_an_error_reaches_the_consumer_in_its_place():
    def fail_at_two(number):
        if number == 2:
            raise ValueError("two")
        return number

    results = in_order(fail_at_two, ((n,) for n in range(5)), 2)
    assert [next(results), next(results)] == [0, 1]
    with pytest.raises(ValueError, match="two"):
        next(results)


def test_the_counters_add_up_over_threads():
    counters = Counters()

    def sleep():
        with counters.timer("sleep"):
            time.sleep(0.05)

    threads = [threading.Thread(target=sleep) for _ in range(3)]
    [t.start() for t in threads]
    [t.join() for t in threads]
    assert counters.totals()["sleep_ms"] >= 150
