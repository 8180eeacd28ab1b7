"""Ctrl-C and want of memory in the midst of a call: nothing is left behind, the next is right."""

import os
import subprocess
import sys
import textwrap

import pytest

NAMES = ["numpy", "numba"]

PREPARE = """
    import gc, os, resource, signal, sys, time, tracemalloc
    import numpy as np
    import l2multi as l2
    name = sys.argv[1]
    rng = np.random.default_rng(6)
    x = rng.standard_normal((int(sys.argv[2]), 1500), np.float32)
    want, lengths = l2.normalize(x, return_norm=True, backend="numpy")
    def check():
        few = l2.normalize(x[:3], backend=name)
        y, norms = l2.normalize(x, return_norm=True, backend=name)
        assert (few == want[:3]).all() and (y == want).all() and (norms == lengths).all()
    check()
    check()
"""

INTERRUPTS = """
    def interrupt(*_):
        if armed:
            raise KeyboardInterrupt
    armed = False
    signal.signal(signal.SIGALRM, interrupt)
    calls = [
        lambda z: l2.normalize(z, backend=name),
        lambda z: l2.normalize(z, out=z, return_norm=True, backend=name),
        lambda z: l2.normalize(z[1:], out=z[:-1], backend=name),
        lambda z: l2.normalize(z, 0, zero="raise", backend=name),
        lambda z: l2.norm(z, backend=name),
    ]
    def threads():
        return len(os.listdir("/proc/self/task")) if os.path.isdir("/proc/self/task") else 1
    for call in calls:
        call(x.copy())
    state, before, interrupted = np.geterr(), threads(), 0
    tracemalloc.start()
    held = tracemalloc.get_traced_memory()[0]
    for k in range(40):
        z = x.copy()
        try:
            armed = True
            signal.setitimer(signal.ITIMER_REAL, rng.uniform(1e-4, 0.02))
            until = time.perf_counter() + 0.03
            while time.perf_counter() < until:
                calls[k % len(calls)](z)
        except KeyboardInterrupt:
            interrupted += 1
        finally:
            armed = False
        assert np.geterr() == state
        check()
    del z
    gc.collect()
    assert interrupted > 30, interrupted
    assert threads() <= before
    assert tracemalloc.get_traced_memory()[0] - held < 2**20
"""

MEMORY = """
    z = x.copy()
    out, lengths_out = np.empty_like(x), np.empty_like(lengths)
    masked = np.ma.MaskedArray(x, np.zeros(x.shape, bool))
    calls = [
        lambda: l2.normalize(x, backend=name),
        lambda: l2.normalize(x, 0, backend=name),
        lambda: l2.normalize(z[1:], out=z[:-1], backend=name),
        lambda: l2.normalize(z, out=z[::-1], zero="raise", return_norm=True, backend=name),
        lambda: l2.normalize(masked, backend=name),
    ]
    with open("/proc/self/statm") as file:
        used = int(file.read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + x.nbytes // 2, resource.RLIM_INFINITY))
    for call in calls:
        try:
            call()
        except MemoryError:
            pass
        else:
            raise AssertionError("there was room")
        assert (z == x).all()
    l2.normalize(x, out=out, backend=name)
    l2.norm(x, out=lengths_out, backend=name)
    assert (out == want).all() and (lengths_out == lengths).all()
    resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    check()
"""


def run(script, name, rows):
    """Run a script after PREPARE in a process of its own, on so many vectors."""
    code = textwrap.dedent(PREPARE) + textwrap.dedent(script)
    command = [sys.executable, "-W", "error", "-c", code, name, str(rows)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr[-2000:]


@pytest.mark.skipif(os.name != "posix", reason="no timers that send signals")
@pytest.mark.parametrize("name", NAMES)
def test_interrupts(name):
    """At forty moments of large calls, in place among them."""
    run(INTERRUPTS, name, 4000)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="no limit that is heeded")
@pytest.mark.parametrize("name", NAMES)
def test_want_of_memory(name):
    """Where a result or a copy finds no room, nothing has been written; what needs none is done."""
    # Of 72 MB: the C library reserves 64 MiB for each thread, from which it may serve others.
    run(MEMORY, name, 12000)
