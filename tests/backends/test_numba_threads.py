"""How many threads a call uses, and that helpers depend on nobody who happened to call first."""

import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import l2multi as l2
from l2multi.backends.numba import quota, threads
from tests.processes import run as fresh

linux = pytest.mark.skipif(
    not sys.platform.startswith("linux"),
    reason="threads have no affinity and niceness of their own",
)
two_cores = pytest.mark.skipif(threads.cores() < 2, reason="one core")

PREPARE = """
    import os, sys, threading, time
    import numpy as np
    import l2multi as l2
    from l2multi._testing import general_path
    from l2multi.backends import numba as backend
    from l2multi.backends.numba import descriptor, threads
    pool = threads._pool
    x = np.random.default_rng(0).standard_normal((4000, 100)).astype(np.float32)
    want = l2.normalize(x, backend="numpy").tobytes()
    def told():
        return l2.explain(x, backend="numba").threads
    def work():
        for _ in range(3):  # by the general path, and by the fast one
            assert l2.normalize(x, backend="numba").tobytes() == want
    def limit(most):
        threads.pretend(most)
    def helpers():
        return pool[descriptor.HELPERS]
    def tasks():
        return {int(task) for task in os.listdir("/proc/self/task")}
    def until(all_that, of):
        end = time.monotonic() + 20
        while True:
            try:
                found = set(map(all_that, of()))
                if found == {all_that(os.getpid())}:
                    return
            except ProcessLookupError:  # a thread that is about to end
                found = None
            assert time.monotonic() < end, found
            time.sleep(0.01)
    def niceness(task):
        return os.getpriority(os.PRIO_PROCESS, task)
    def affinity(task):
        return frozenset(os.sched_getaffinity(task))
    def in_thread(function):
        failed = []
        def guarded():
            try:
                function()
            except BaseException as error:
                failed.append(error)
        thread = threading.Thread(target=guarded)
        thread.start()
        thread.join()
        assert not failed, failed
    l2.normalize(x[:10], backend="numba")
"""


def run(script: str, **environment: str) -> str:
    """The output of a script that runs after PREPARE."""
    return fresh(PREPARE, script, **environment)


def processes(folder: Path, groups: str, mounts: list[tuple[str, str, str]], **quotas: str) -> str:
    """A folder as /proc/self is: in these cgroups, with mounts of a root, a kind and options; and
    files of quotas in each mount, `__` in their names for a slash and `_dot_` for a dot."""
    lines = ["22 1 8:1 / / rw - ext4 /dev/root rw"]
    for k, (root, kind, options) in enumerate(mounts):
        lines.append(
            f"{30 + k} 22 0:2{k} {root} {folder}/m{k} rw,relatime shared:9 - {kind} c {options}"
        )
    (folder / "cgroup").write_text(groups)
    (folder / "mountinfo").write_text("\n".join(lines) + "\n")
    for name, content in quotas.items():
        file = folder / name.replace("__", "/").replace("_dot_", ".")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(content)
    return str(folder)


V1 = "9:pids:/job\n4:cpu,cpuacct:/job/own\n1:name=systemd:/job\n"
V1_MOUNTS = [("/", "cgroup", "rw,pids"), ("/", "cgroup", "rw,cpu,cpuacct")]
V2, V2_MOUNTS = "0::/job/own\n", [("/", "cgroup2", "rw,nsdelegate")]


@pytest.mark.parametrize(
    ("groups", "mounts", "quotas", "cpus"),
    [
        (V2, V2_MOUNTS, {"m0__job__own__cpu_dot_max": "250000 100000\n"}, 2),
        (V2, V2_MOUNTS, {"m0__job__own__cpu_dot_max": "max 100000\n"}, None),
        (V2, V2_MOUNTS, {"m0__job__own__cpu_dot_max": "20000 100000\n"}, 1),  # at least one
        (
            V2, V2_MOUNTS,
            {"m0__job__own__cpu_dot_max": "max 1000\n", "m0__job__cpu_dot_max": "3000 1000\n"}, 3,
        ),
        (
            V2, V2_MOUNTS,
            {"m0__job__own__cpu_dot_max": "8000 1000\n", "m0__cpu_dot_max": "4000 1000\n"}, 4,
        ),
        ("0::/\n", V2_MOUNTS, {"m0__cpu_dot_max": "150000 100000\n"}, 1),
        # A container that is told the whole path, and one that is told of none it sees.
        (V2, [("/job/own", "cgroup2", "rw")], {"m0__cpu_dot_max": "700 100\n"}, 7),
        (V2, [("/job", "cgroup2", "rw")], {"m0__own__cpu_dot_max": "600 100\n"}, 6),
        (V2, [("/other", "cgroup2", "rw")], {"m0__cpu_dot_max": "700 100\n"}, 7),
        (
            V1, V1_MOUNTS,
            {
                "m1__job__own__cpu_dot_cfs_quota_us": "600000\n",
                "m1__job__own__cpu_dot_cfs_period_us": "100000\n",
                "m1__job__cpu_dot_cfs_quota_us": "-1\n",
                "m1__job__cpu_dot_cfs_period_us": "100000\n",
                "m0__job__cpu_dot_cfs_quota_us": "100000\n",  # of another hierarchy
                "m0__job__cpu_dot_cfs_period_us": "100000\n",
            },
            6,
        ),
        (
            V1 + V2, [*V1_MOUNTS, ("/", "cgroup2", "rw")],
            {
                "m1__cpu_dot_cfs_quota_us": "500\n", "m1__cpu_dot_cfs_period_us": "100\n",
                "m2__job__cpu_dot_max": "max 100000\n",
            },
            5,
        ),
        # What cannot be told is no limit.
        (V2, V2_MOUNTS, {"m0__job__own__cpu_dot_max": "1000\n"}, None),
        (V2, V2_MOUNTS, {"m0__job__own__cpu_dot_max": "many few\n"}, None),
        (V2, V2_MOUNTS, {"m0__job__own__cpu_dot_max": "1000 0\n"}, None),
        (V2, V2_MOUNTS, {"m0__job__own__cpu_dot_max": "\n"}, None),
        (V2, [], {"m0__job__own__cpu_dot_max": "1000 1000\n"}, None),
        (V2, [("/", "tmpfs", "rw")], {"m0__cpu_dot_max": "1000 1000\n"}, None),
        ("0\n", V2_MOUNTS, {"m0__cpu_dot_max": "1000 1000\n"}, None),
        ("", V2_MOUNTS, {"m0__cpu_dot_max": "1000 1000\n"}, None),
        (V1, V1_MOUNTS, {"m1__job__own__cpu_dot_cfs_quota_us": "600000\n"}, None),
    ],
)  # fmt: skip
def test_quota(
    tmp_path: Path, groups: str, mounts: Any, quotas: dict[str, str], cpus: int | None
) -> None:
    """Of the process's cgroup and of all that it lies in, the smallest."""
    assert quota.cpus(processes(tmp_path, groups, mounts, **quotas)) == cpus


def test_no_quota(tmp_path: Path) -> None:
    """A process of which nothing is known has none."""
    assert quota.cpus(str(tmp_path / "nowhere")) is None
    (tmp_path / "cgroup").write_bytes(b"0::/\xff\n")
    (tmp_path / "mountinfo").write_text("1 2 - \n")
    assert quota.cpus(str(tmp_path)) is None


def test_the_quota_is_a_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    """And it is read once."""
    asked: list[None] = []
    monkeypatch.setattr(quota, "cpus", lambda: asked.append(None) or 1)
    monkeypatch.setattr(os, "cpu_count", lambda: 64)
    threads._allowed.cache_clear()
    try:
        assert threads._allowed() == threads.by_mask() == 1
        assert l2.explain(np.ones((4000, 100), "f4"), backend="numba").threads == 1
        assert len(asked) == 1
    finally:
        threads._allowed.cache_clear()


@pytest.mark.parametrize(
    ("value", "most"),
    [("1", 1), ("6", 6), ("4096", 8), ("0", 8), ("-1", 8), ("many", 8), ("", 8), ("1.5", 8)],
)
def test_environment(monkeypatch: pytest.MonkeyPatch, value: str, most: int) -> None:
    """``NUMBA_NUM_THREADS`` lowers the limit; what is no positive integer counts as unset."""
    monkeypatch.setattr(quota, "cpus", lambda: None)
    monkeypatch.setattr(os, "cpu_count", lambda: 8)
    monkeypatch.setenv("NUMBA_NUM_THREADS", value)
    assert threads._allowed.__wrapped__() == most


def test_one_thread_by_environment() -> None:
    """Nobody creates a helper."""
    assert run("work(); print(told(), helpers())", NUMBA_NUM_THREADS="1") == "1 0\n"


@linux
@two_cores
def test_affinity() -> None:
    """That of the calling thread, at each call."""
    script = """
    every = os.sched_getaffinity(0)
    def pinned():
        os.sched_setaffinity(0, {min(every)})
        work()
        assert (told(), helpers()) == (1, 0)
        os.sched_setaffinity(0, every)
        assert told() > 1
        work()
        assert helpers() > 0
    in_thread(pinned)
    assert told() > 1
    os.sched_setaffinity(0, {min(every)})
    assert told() == 1
    """
    run(script)
    script = """
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    work()
    print(told(), helpers())
    """
    assert run(script) == "1 0\n"


@linux
@two_cores
def test_helpers_may_use_the_cores_of_the_process() -> None:
    """Not those of who called first."""
    script = """
    every = os.sched_getaffinity(0)
    limit(3)  # so that one who may use one core has helpers
    before = tasks()
    def pinned():
        os.sched_setaffinity(0, {min(every)})
        work()
        assert helpers() == 2
    in_thread(pinned)
    # The caller's core is no place for one.
    until(lambda task: affinity(task) in (every, every - {min(every)}), lambda: tasks() - before)
    """
    run(script)


@linux
@two_cores
def test_a_small_call_by_itself_wakes_nobody() -> None:
    """Nor makes helpers; those that follow each other do, and so does a large one."""
    script = """
    small = x[:400]
    def call():
        assert l2.normalize(small, backend="numba").tobytes() == want[:small.nbytes]
    def asleep():
        end = time.monotonic() + 20
        while pool[descriptor.ASLEEP] < helpers():
            time.sleep(0.01)
            assert time.monotonic() < end
    limit(2)
    call()
    for _ in range(5):
        time.sleep(0.01)
        call()
    assert helpers() == 0
    end = time.monotonic() + 20
    while not helpers():
        l2.normalize(small, backend="numba")
        assert time.monotonic() < end
    asleep()
    ticket = pool[descriptor.TICKET]
    for _ in range(5):
        time.sleep(0.01)
        call()
    assert pool[descriptor.TICKET] == ticket  # the pool had no work
    work()
    assert pool[descriptor.TICKET] != ticket
    with threads.force("parallel"):  # which tests rely on
        ticket = pool[descriptor.TICKET]
        call()
        assert pool[descriptor.TICKET] != ticket
    """
    run(script)


@linux
@two_cores
@pytest.mark.parametrize("pause", [0.01, 0])  # in which it goes to sleep, or stays awake
def test_a_helper_leaves_the_core_of_its_caller(pause: float) -> None:
    """It does not wait there for the caller, who waits for it, until the system moves one."""
    script = f"""
    every = os.sched_getaffinity(0)
    limit(2)
    before = tasks()
    work()
    (helper,) = tasks() - before
    here = {{min(every)}}
    def pinned():
        os.sched_setaffinity(0, here)
        os.sched_setaffinity(helper, here)
        end = time.monotonic() + 20
        while affinity(helper) != every - here:
            time.sleep({pause})
            work()
            assert time.monotonic() < end, affinity(helper)
    in_thread(pinned)
    # Where the process has that core alone, it stays.
    os.sched_setaffinity(0, here)
    os.sched_setaffinity(helper, here)
    for _ in range(10):
        time.sleep({pause})
        work()
    assert affinity(helper) == here
    """
    run(script)


@linux
@two_cores
@pytest.mark.parametrize(
    "less", ["os.nice(5)", "os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))"]
)
def test_a_thread_of_less_urgency_creates_no_helper(less: str) -> None:
    """It uses those that exist; and these do not become less urgent by that."""
    script = f"""
    before = tasks()
    def lowered():
        {less}
        work()
        assert (told() > 1, helpers()) == (True, 0)
    in_thread(lowered)
    work()
    assert helpers() > 0
    def lowered():
        {less}
        work()
    in_thread(lowered)
    until(niceness, lambda: tasks() - before)
    until(os.sched_getscheduler, lambda: tasks() - before)
    """
    run(script)


@linux
@two_cores
def test_helpers_are_as_nice_as_the_process() -> None:
    """Though a more urgent thread creates them."""
    script = """
    may, done = threading.Event(), threading.Event()
    def urgent():
        may.wait()
        work()
        done.set()
    thread = threading.Thread(target=urgent)
    thread.start()
    os.nice(3)  # of the main thread alone
    before = tasks()
    may.set()
    done.wait()
    thread.join()
    assert helpers() > 0
    until(niceness, lambda: tasks() - before)
    """
    run(script)


SIZES = [
    (2**15 - 1, 1), (2**15, 2), (100 * 768, 2), (2**17 - 1, 2), (2**17, 2), (3 * 2**16, 3),
    (2**20, 16), (2**22 - 1, 63), (2**22, 64), (2**24, 64),
]  # fmt: skip


@pytest.mark.parametrize("limit", [64, 3])
def test_threads_by_work(limit: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """`explain` says so. Numba's own threads, if another test has started them, are out of it."""
    monkeypatch.delitem(sys.modules, "numba.np.ufunc.parallel", raising=False)
    with threads.force("parallel"):  # until there are threads
        l2.normalize(np.ones((4, 8), np.float32), backend="numba")
    threads.pretend(limit)
    try:
        for size, most in SIZES:
            x = np.ones((1, size), np.float32)
            assert threads.threads_in_xla(size) == min(most, limit)
            assert l2.explain(x, backend="numba").threads == min(most, limit)
    finally:
        threads.pretend(0)


def test_helpers_by_work() -> None:
    """A call creates as many as it needs, by the general path, the fast one, and part by part."""
    script = """
    limit(64)
    for size, most in ((2**15 - 128, 0), (2**15, 1), (768 * 100, 1), (2**18, 3), (2**19, 7)):
        for shape in ((size // 128, 128), (1, size)):
            z = np.ones(shape, np.float32)
            for _ in range(20):
                l2.normalize(z)
            with general_path():
                l2.normalize(z)
            assert helpers() <= most, (shape, helpers())
        assert helpers() == most, (size, helpers())
        assert l2.explain(z).threads == most + 1
    """
    run(script)


def test_helpers_by_columns() -> None:
    """Narrow rows of columns are not split among threads; each of many matrices is."""
    script = """
    limit(4)
    for shape, most in (((9000, 100), 1), ((9000, 176), 1), ((3, 5000, 100), 3), ((300, 1600), 4)):
        z = np.ones(shape, np.float32)
        for _ in range(3):
            l2.normalize(z, -2)
        with general_path():
            l2.normalize(z, -2)
        assert helpers() == most - 1, (shape, helpers())
        assert l2.explain(z, -2).threads == most, shape
    """
    run(script)


def test_mask_in_xla() -> None:
    """Calls by XLA keep to the mask of Numba that was seen last."""
    pytest.importorskip("jax")
    script = """
    import jax.numpy as jnp
    import numba
    from numba.np.ufunc import parallel
    limit(2)
    z = jnp.asarray(x)
    assert backend.for_xla(z.dtype, z.dtype, "rows")
    assert l2.explain(z).threads == 2
    numba.set_num_threads(1)
    work()
    assert (told(), helpers()) == (1, 0)
    assert l2.explain(z).threads == 1
    assert pool[descriptor.LIMIT] == 1
    for _ in range(20):
        l2.normalize(z).block_until_ready()
    assert helpers() == 0
    """
    run(script)
