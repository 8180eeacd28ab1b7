"""Jobs in another thread: one at a time, in their order, and what they raise is not lost."""

import threading
import time

import pytest

from l2multi._write_behind import WriteBehind


@pytest.fixture
def behind():
    one = WriteBehind()
    yield one
    one.close()


def test_one_job_at_a_time(behind):
    done = []

    def job(number):
        time.sleep(0.01)
        done.append((number, threading.current_thread()))

    for number in range(5):
        behind.begin(job, number)
        assert len(done) >= number  # all before it
    behind.wait()
    assert [number for number, _ in done] == list(range(5))
    assert {thread for _, thread in done}.isdisjoint({threading.current_thread()})


@pytest.mark.parametrize("after", ["begin", "wait"])
def test_what_a_job_raises(behind, after):
    def fail():
        raise OSError(28, "No space left on device")

    behind.begin(fail)
    with pytest.raises(OSError, match="No space"):
        behind.begin(print) if after == "begin" else behind.wait()
    behind.wait()  # it is told once


def test_closing_waits(behind):
    done = []
    behind.begin(lambda: (time.sleep(0.05), done.append(1)))
    behind.close()
    assert done == [1]
