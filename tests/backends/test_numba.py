"""What the Numba backend alone has: launches that never end the process, and machine code."""

import os
import subprocess
import sys
import textwrap

import numpy as np
import pytest

import l2multi as l2
from l2multi.backends.numba import _pair, entries, launch, simd


def run(script: str, **environment: str) -> str:
    """The output of a script in a fresh process, which must end well."""
    done = subprocess.run(
        [sys.executable, "-W", "error::RuntimeWarning", "-c", textwrap.dedent(script)],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, (done.returncode, done.stderr[-2000:])
    return done.stdout


PREPARE = """
    import os, threading
    import numpy as np
    import l2multi as l2
    x = np.random.default_rng(0).standard_normal((4000, 100)).astype(np.float32)
    want = l2.normalize(x, backend="numpy")
    def work(times=3):
        for _ in range(times):
            assert (l2.normalize(x, backend="numba") == want).all()
"""


def after(script: str) -> str:
    """A script that runs after PREPARE."""
    return textwrap.dedent(PREPARE) + textwrap.dedent(script)


THREADS = """
    import sys
    sys.setswitchinterval(1e-5)
    failed = []
    def guarded():
        try:
            work(20)
        except BaseException as error:
            failed.append(error)
    threads = [threading.Thread(target=guarded) for _ in range(8)]
    [t.start() for t in threads]
    [t.join() for t in threads]
    assert not failed, failed
"""

FORK = """
    import signal
    def child():
        pid = os.fork()
        if pid == 0:
            signal.alarm(60)
            code = 1
            try:
                work()
                code = 0
            finally:
                os._exit(code)
        assert os.waitpid(pid, 0)[1] == 0
"""


@pytest.mark.parametrize("layer", ["default", "workqueue", "omp"])
def test_threads(layer: str) -> None:
    """Any number of Python threads, first calls included, in each layer."""
    run(after(THREADS), NUMBA_THREADING_LAYER=layer)


@pytest.mark.parametrize("layer", ["default", "workqueue", "omp"])
def test_fork(layer: str) -> None:
    """A child forked before and after the parent's first launch."""
    run(after(FORK) + "\nchild()\nwork()\nchild()\n", NUMBA_THREADING_LAYER=layer)


def test_fork_during_first_call() -> None:
    """A child forked while another thread compiles finds no closed lock."""
    script = """
    thread = threading.Thread(target=work)
    thread.start()
    for _ in range(3):
        child()
    thread.join()
    """
    run(after(FORK) + textwrap.dedent(script))


def test_fork_from_a_foreign_user_of_openmp() -> None:
    """A child whose parent launched by way of Numba, before l2multi was imported."""
    script = """
    import os, signal, numba, numpy as np
    @numba.njit(parallel=True)
    def theirs(a):
        for i in numba.prange(a.size):
            a[i] += 1
    theirs(np.zeros(1000))
    pid = os.fork()
    if pid == 0:
        signal.alarm(60)
        import l2multi as l2
        x = np.ones((2000, 100), np.float32)
        l2.normalize(x, backend="numba")
        os._exit(0)
    assert os.waitpid(pid, 0)[1] == 0
    """
    run(script, NUMBA_THREADING_LAYER="omp")


def test_process_pool() -> None:
    """Workers of a pool, forked after the parent's first launch."""
    script = """
    import concurrent.futures, multiprocessing
    work()
    context = multiprocessing.get_context("fork")
    with concurrent.futures.ProcessPoolExecutor(2, mp_context=context) as pool:
        list(pool.map(work, [1, 2, 3, 4]))
    """
    run(after(script))


def test_thread_mask() -> None:
    """Numba's own limit on threads is honoured, and left as it was."""
    script = """
    import numba
    numba.set_num_threads(1)
    work()
    assert l2.explain(x, backend="numba").threads == 1
    assert numba.get_num_threads() == 1
    """
    run(after(script))


def test_workqueue_never_launches() -> None:
    """The layer that aborts on concurrent launches gets none from here."""
    script = "\nprint(l2.explain(x, backend='numba').threads)\n"
    assert run(after(script), NUMBA_THREADING_LAYER="workqueue").strip() == "1"


@pytest.mark.skipif(os.cpu_count() == 1, reason="one core has no second thread")
def test_large_calls_launch() -> None:
    """Where it is safe, large calls are parallel."""
    script = "\nprint(l2.explain(x, backend='numba').threads)\n"
    assert int(run(after(script), NUMBA_THREADING_LAYER="omp")) == os.cpu_count()


def test_force() -> None:
    """The block decides, and ends."""
    x = np.ones((2, 4), np.float32)
    with launch.force("serial"):
        assert not launch.worth(2)
    with launch.force("parallel"):
        assert launch.worth(x.size)
    assert not launch.worth(x.size)
    with pytest.raises(ValueError, match="'serial' or 'parallel'"), launch.force("no"):
        pass


def test_one_launch_at_a_time() -> None:
    """Who comes while another launch runs is served by its own thread."""
    with launch.force("parallel"), launch.team(10) as first, launch.team(10) as second:
        assert second == 1
        assert first == launch.threads()


@pytest.mark.parametrize("name", sorted(entries.WORKERS))
def test_wide_registers(name: str) -> None:
    """The machine code computes in the widest registers that LLVM uses on this machine."""
    import llvmlite.binding as llvm

    features = llvm.get_host_cpu_features()
    if not features.get("avx2"):
        pytest.skip("only x86-64 with AVX2 is looked at")
    kind = simd.KINDS["float32"]
    code = entries.WORKERS[name](kind, kind)._library.get_asm_str()
    register = "zmm" if features.get("avx512f") else "ymm"
    assert code.count(register) > 8
    assert "vmulpd" in code


def test_unsupported() -> None:
    """Longdouble has no kernel, and a name that was given is not replaced in silence."""
    with pytest.raises(TypeError, match="Numba has no"):
        l2.normalize(np.ones(3, np.longdouble), backend="numba")
    assert l2.explain(np.ones(3, np.longdouble)).backend == "numpy"


def test_kernels_by_layout() -> None:
    """Each way through memory is taken where it fits."""
    x = np.ones((6, 8, 10), np.float32)
    assert "rows" in l2.explain(x, backend="numba").kernel
    assert "rows" in l2.explain(x[::2], backend="numba").kernel
    assert "columns" in l2.explain(x, 1, backend="numba").kernel
    assert "columns" in l2.explain(np.asfortranarray(x), backend="numba").kernel
    assert "packed" in l2.explain(x[..., ::2], backend="numba").kernel
    assert "packed" in l2.explain(x.astype(">f4"), backend="numba").kernel


def test_compiled_once() -> None:
    """The same dtypes share one compiled worker."""
    dtype = np.dtype(np.float32)
    assert _pair(dtype, dtype) is _pair(np.dtype("f4"), np.dtype("f4"))
    assert _pair(dtype, dtype).worker("rows") == _pair(dtype, dtype).worker("rows")
