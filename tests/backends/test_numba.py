"""What the Numba backend alone has: threads, the fast path, and machine code."""

import contextvars
import ctypes
import itertools
import math
import textwrap
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from numpy.lib.stride_tricks import as_strided

import l2multi as l2
from l2multi import _backends, _call
from l2multi._summation import LANES
from l2multi.backends.numba import (
    _plan,
    build,
    descriptor,
    fast_call,
    kernels,
    loader,
    plan,
    tangents,
    threads,
)
from l2multi.backends.numba import (
    run as run_kernels,
)
from l2multi.backends.numba.kernels.jvp import HELD
from l2multi.backends.numba.pairs import Pair, own, pair
from tests import cases, modes
from tests.processes import run

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


@pytest.mark.stress
@pytest.mark.parametrize("layer", ["default", "workqueue", "omp"])
def test_threads(layer: str) -> None:
    """Any number of Python threads, first calls included, in each layer."""
    run(after(THREADS), NUMBA_THREADING_LAYER=layer)


@pytest.mark.stress
def test_threads_share_what_the_first_call_makes() -> None:
    """Two first calls at a time make no two pools or tables, of which the other call knows one."""
    script = """
    import time
    from l2multi.backends.numba import loader
    room = loader.room
    def slow_room(count):
        made = room(count)
        time.sleep(0.2)  # so that each thread would be in here
        return made
    loader.room = slow_room
    """
    run(after(textwrap.dedent(script) + textwrap.dedent(THREADS)))


@pytest.mark.stress
@pytest.mark.parametrize("layer", ["default", "workqueue", "omp"])
def test_fork(layer: str) -> None:
    """A child forked before and after the parent's first threads."""
    run(after(FORK) + "\nchild()\nwork()\nchild()\n", NUMBA_THREADING_LAYER=layer)


@pytest.mark.stress
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


@pytest.mark.stress
@pytest.mark.parametrize("first", ["", "import logging"])
def test_fork_while_an_import_logs(first: str) -> None:
    """A fork holds no lock of logging's while it waits for an import that needs it, whichever of
    the two was imported first."""
    script = """
    import logging, time
    from l2multi import _fork
    held = threading.Event()
    def imports():
        with _fork.loading:
            held.set()
            time.sleep(0.2)
            logging.getLogger("l2multi.test")
    thread = threading.Thread(target=imports)
    thread.start()
    held.wait()
    child()
    thread.join()
    with logging._lock:  # who has it when it forks, has it still
        child()
        assert logging._lock._is_owned()
    """
    run(first + "\n" + after(FORK) + textwrap.dedent(script))


@pytest.mark.stress
def test_fork_from_a_foreign_user_of_openmp() -> None:
    """A child whose parent used Numba's threads before l2multi was imported."""
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


@pytest.mark.stress
def test_process_pool() -> None:
    """Workers of a pool, forked after the parent's first threads."""
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


SETTLED = """
print(l2.explain(x, backend='numba').threads)
"""


def test_large_calls_use_threads() -> None:
    """Whatever layer Numba's own parallel loops use."""
    for layer in ("omp", "workqueue"):
        most = min(threads.paid(400_000), threads._allowed(), threads.cores())
        assert int(run(after(SETTLED), NUMBA_THREADING_LAYER=layer)) == most


@pytest.mark.stress
def test_a_forked_child_works_alone() -> None:
    """Its helpers are its parent's, even where another thread is in the midst of a threads."""
    script = """
    stop = threading.Event()
    def calls():
        while not stop.is_set():
            work()
    thread = threading.Thread(target=calls)
    thread.start()
    for _ in range(20):
        pid = os.fork()
        if pid == 0:
            signal.alarm(60)
            work()
            os._exit(0 if l2.explain(x, backend="numba").threads == 1 else 1)
        assert os.waitpid(pid, 0)[1] == 0
    stop.set()
    thread.join()
    """
    run(after(SETTLED) + "import signal\n" + textwrap.dedent(script))


SEVEN = """
from l2multi.backends.numba import threads
threads.pretend(7)
"""


@pytest.mark.stress
def test_more_threads_than_cores() -> None:
    """Many callers, many helpers: each call is whole when it returns, at all sizes."""
    script = """
    sizes = [(m, n) for m in (3, 40, 400) for n in (90, 1000)] + [(1, 300_000), (50_000, 3)]
    def one(seed):
        rng = np.random.default_rng(seed)
        for k in range(200):
            m, n = sizes[rng.integers(len(sizes))]
            z = xs[m, n]
            y = l2.normalize(z) if k % 2 else l2.normalize(z.copy(order="F"))
            assert y.tobytes() == want[m, n]
    rng = np.random.default_rng(1)
    xs = {size: rng.standard_normal(size).astype(np.float32) for size in sizes}
    want = {size: l2.normalize(z, backend="numpy").tobytes() for size, z in xs.items()}
    for z in xs.values():
        l2.normalize(z, backend="numba")
        l2.normalize(z.copy(order="F"), backend="numba")
    import concurrent.futures
    with concurrent.futures.ThreadPoolExecutor(6) as pool:
        list(pool.map(one, range(6)))
    """
    run(after(SETTLED) + SEVEN + textwrap.dedent(script))


@pytest.mark.stress
def test_signals_are_for_the_program() -> None:
    """A helper, which sleeps in C, takes none that Python waits for."""
    script = """
    import signal, time
    work()
    got = []
    signal.signal(signal.SIGALRM, lambda *_: got.append(time.perf_counter()))
    for _ in range(5):
        start = time.perf_counter()
        signal.setitimer(signal.ITIMER_REAL, 0.01)
        time.sleep(0.4)  # whose end is when the handler would run
        assert got.pop() - start < 0.3
    """
    run(after(SETTLED) + textwrap.dedent(script))


def test_small_stacks() -> None:
    """Threads of 128 KB, as they are by default on Alpine Linux."""
    script = """
    def work():
        for dtype in ("f8", "f2"):
            for shape, axis in (
                ((200_000, 64), 0), ((100_000, 8), 0), ((300, 768), 1), ((100, 7, 130), (0, 2)),
                ((50, 6, 40), 1), ((1000, 3), 1), ((2, 100_000), 1),
            ):
                x = np.random.default_rng(0).standard_normal(shape).astype(dtype)
                want = l2.normalize(x, axis=axis, backend="numpy")
                for _ in range(2):  # by the general path, and by the fast one
                    y = l2.normalize(x, axis=axis, backend="numba")
                    assert y.tobytes() == want.tobytes(), (dtype, shape)
        done.append(True)
    done = []
    threading.stack_size(2**17)
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert done
    """
    run(after(script))


def test_force_in_threads_that_overlap() -> None:
    """When the last has left, the fast path is back."""
    before = _backends.fast_paths
    one, two = threads.force("parallel"), threads.force("parallel")
    one.__enter__()
    context = contextvars.copy_context()
    context.run(two.__enter__)
    one.__exit__(None, None, None)
    assert _backends.fast_paths is not before
    context.run(two.__exit__, None, None, None)
    assert _backends.fast_paths is before


def test_force() -> None:
    """The block decides, and ends."""
    few = np.ones((2, 4), np.float32)
    many = np.ones((2, threads.PARALLEL), np.float32)
    with threads.force("parallel"):
        most = l2.explain(few, backend="numba").threads
        assert most == min(threads.cores(), threads.limit())
    assert l2.explain(many, backend="numba").threads == min(most, 2)
    with threads.force("serial"):
        assert l2.explain(many, backend="numba").threads == 1
    assert l2.explain(few, backend="numba").threads == 1
    with pytest.raises(ValueError, match="'serial' or 'parallel'"), threads.force("no"):
        pass


@pytest.mark.parametrize("name", sorted(set(kernels.WORKERS) - {"ascending"}))  # of integers
def test_wide_registers(name: str) -> None:
    """The machine code computes in the widest registers that LLVM uses on this machine."""
    import llvmlite.binding as llvm

    features = llvm.get_host_cpu_features()
    if not features.get("avx2"):
        pytest.skip("only x86-64 with AVX2 is looked at")
    code = build.assembly((name, "float32", "float32"))
    register = "zmm" if features.get("avx512f") else "ymm"
    assert code.count(register) > 8
    assert "vmulpd" in code or "vfmadd231pd" in code  # or the sums alone


def test_unsupported() -> None:
    """Longdouble has no kernel, and a name that was given is not replaced in silence."""
    with pytest.raises(TypeError, match="Numba has no"):
        l2.normalize(np.ones(3, np.longdouble), backend="numba")
    assert l2.explain(np.ones(3, np.longdouble)).backend == "numpy"


def test_kernels_by_layout() -> None:
    """Each way through memory is taken where it fits."""
    x = np.ones((6, 8, 20), np.float32)
    assert "rows" in l2.explain(x, backend="numba").kernel
    assert "rows" in l2.explain(x[::2], backend="numba").kernel
    assert "columns" in l2.explain(x, 1, backend="numba").kernel
    assert "columns" in l2.explain(np.asfortranarray(x), backend="numba").kernel
    assert "gathered" in l2.explain(x[..., ::2], backend="numba").kernel
    assert "narrow_columns" in l2.explain(x[..., 4:].copy(), 1, backend="numba").kernel
    assert "columns" in l2.explain(x[..., 4:], 1, backend="numba").kernel
    assert "gathered" in l2.explain(x, (0, 2), backend="numba").kernel
    assert "segmented" in l2.explain(x[..., 2:18], (0, 2), backend="numba").kernel
    assert "segmented" in l2.explain(x[..., 4:].astype("c8"), (0, 2), backend="numba").kernel
    assert "gathered" in l2.explain(x[..., 2:18].astype(">f4"), (0, 2), backend="numba").kernel
    assert "segmented" in l2.explain(np.ones((2, 3, 257), "f4"), (0, 2), backend="numba").kernel
    assert "gathered" in l2.explain(x.astype(">f4"), backend="numba").kernel
    assert "short_rows" in l2.explain(x[..., :16], backend="numba").kernel
    assert "rows" in l2.explain(x[0, :, :16], backend="numba").kernel
    # Columns longer than there is room for are no columns.
    for rows, kernel in ((plan.COLUMNS_MOST - 1, "columns"), (plan.COLUMNS_MOST, "gathered")):
        fake = as_strided(x, (rows, 20), (0, 4), writeable=False)
        assert kernel in l2.explain(fake, 0, backend="numba").kernel


@pytest.mark.parametrize("dtype", ["f2", "f4", "f8", "c8", "i1"])
def test_short_rows_have_the_bits_of_rows(dtype: str) -> None:
    """Short vectors, sixteen at a time, special ones among them, as each by itself."""
    rng = np.random.default_rng(5)
    for n, apart, special in itertools.product(range(1, 17), (0, 3), ("none", "zeros", "all")):
        x = (rng.standard_normal((16 * n + 5, n + apart)) * 50).astype(dtype)[:, :n]
        x[np.abs(x).sum(1) == 0] = 1
        if special != "none":
            x[3], x[5] = 0, x[5] * 0 + 1
        if special == "all" and x.dtype.kind in "fc":
            x[7, -1], x[9, 0] = np.nan, np.inf
            info = np.finfo(x.dtype)
            x[11], x[13], x[20] = info.max, info.smallest_subnormal, info.tiny
        for eps, zero in ((0.0, "keep"), (10.0, "keep"), (0.0, "nan"), (10.0, "nan")):
            how = {"eps": eps, "zero": zero}
            unit, norms = l2.normalize(x, return_norm=True, backend="numba", **how)
            assert l2.normalize(x, backend="numba", **how).tobytes() == unit.tobytes()
            assert l2.norm(x, backend="numba").tobytes() == norms.tobytes()
            want, lengths = l2.normalize(x, return_norm=True, backend="numpy", **how)
            assert want.tobytes() == unit.tobytes(), (n, special)
            assert lengths.tobytes() == norms.tobytes(), (n, special)
            for k, row in enumerate(x[:20]):
                one, length = l2.normalize(row, return_norm=True, backend="numpy", **how)
                assert unit[k].tobytes() == one.tobytes(), (n, k)
                assert norms[k].tobytes() == length.tobytes(), (n, k)
        if special != "none":
            with pytest.raises(l2.ZeroVectorError, match="position 3 "):
                l2.normalize(x, zero="raise", backend="numba")
        if special == "all" and x.dtype.kind in "fc":
            with pytest.raises(l2.NonFiniteError, match="position 7 "):
                l2.normalize(x, nonfinite="raise", backend="numba")
        else:
            same = l2.normalize(x, nonfinite="raise", backend="numba")
            assert same.tobytes() == l2.normalize(x, backend="numpy").tobytes()


def _pool() -> Any:
    return (ctypes.c_int64 * descriptor.POOL_SIZE).from_address(threads.POOL)


def _tangents(x: Any, d: Any, eps: float) -> Any:
    y = np.empty_like(x)
    tangents(x.dtype)(x.ctypes.data, d.ctypes.data, y.ctypes.data, len(x), x.shape[1], eps)
    return y


def test_no_tangents_where_python_is_another(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fast_call, "usable", lambda: False)
    assert tangents(np.dtype("f4")) is None


@pytest.mark.parametrize("how", ["serial", "parallel"])
@pytest.mark.parametrize("dtype", ["f2", "bfloat16", "f4"])
def test_tangents(dtype: str, how: str) -> None:
    """Of few elements and of many, special vectors among them: what float64 gives, within a unit,
    and the same bits for each vector alone."""
    kind = np.dtype(ml_dtypes.bfloat16) if dtype == "bfloat16" else np.dtype(dtype)
    unit = {"f2": 2.0**-11, "bfloat16": 2.0**-8, "f4": 2.0**-24}[dtype]
    rng = np.random.default_rng(10)
    shapes = [(45, n) for n in (*range(1, 6), 15, 16, 17, 100, 128, 511, 512, 513, 1024, 1025)]
    shapes += [(2**14, 3), (300, 640), (3, 6 * plan.SPLIT), (2, 6 * plan.SPLIT + 17)]
    for m, n in (*shapes, (1, (HELD + 3) * plan.SPLIT + 5)):
        if how == "parallel" and m == 45:  # enough for threads
            m = -(-2 * threads.PARALLEL // n)
        x, d = (rng.uniform(-2, 2, (m, n)).astype(kind) for _ in "xd")
        if m > 7:
            x[1], x[2, 0], x[3, -1], d[4, 0], d[5, -1] = 0, np.nan, np.inf, np.nan, np.inf
            x[6] *= kind.type(2.0**-10)
        for eps in (0.0,) if m == 1 else (0.0, 0.5):
            v, w = x.astype("f8"), d.astype("f8")
            with np.errstate(all="ignore"):
                length = np.sqrt((v * v).sum(1, keepdims=True))
                want = (w - v * ((v * w).sum(1, keepdims=True) / length**2)) / length
                short = w / eps if eps else 0 * w
                want = np.where(length <= eps, short, want)
                most = np.where(np.isfinite(w), abs(w), 0).max(1, keepdims=True) / np.maximum(
                    length, eps or 1e-300
                )
            with threads.force("serial"):
                serial = _tangents(x, d, eps)
            before = _pool()[descriptor.TICKET]
            with threads.force(how):
                got = _tangents(x, d, eps)
                shared = how == "parallel" and threads.cores() > 1 and m * n >= threads.PARALLEL
                assert (_pool()[descriptor.TICKET] != before) == shared, (m, n)
                some = [*range(min(m, 8)), m - 1]
                alone = np.concatenate([_tangents(x[[k]], d[[k]], eps) for k in some])
            assert serial.tobytes() == got.tobytes(), (m, n, eps)
            assert alone.tobytes() == got[some].tobytes(), (m, n, eps)
            finite = np.isfinite(want)
            assert (np.isfinite(got.astype("f8")) == finite).all(), (m, n, eps)
            off = abs(got.astype("f8")[finite] - want[finite])
            lost = 2.0**-22 if x.dtype.itemsize == 2 else 1e-13  # half types are in float32 at last
            bound = (1.01 * unit * abs(want) + lost * most + 2.0**-25)[finite]
            assert (off <= bound).all(), (m, n, eps)


@pytest.mark.parametrize("dtype", ["f2", "bfloat16", "f4"])
def test_tangents_by_a_tiny_eps(dtype: str) -> None:
    """Whose inverse is beyond float64: zeros stay zeros."""
    kind = np.dtype(ml_dtypes.bfloat16) if dtype == "bfloat16" else np.dtype(dtype)
    for m, n in itertools.product((1, 16, 40), (3, 5, 40)):
        d = np.zeros((m, n), kind)
        d[:, 0], d[:, 1] = 1, -1
        got = _tangents(np.zeros_like(d), d, 1e-310).astype("f8")
        assert (got[:, 0] > 60000).all()
        assert (got[:, 1] < -60000).all()
        assert not got[:, 2:].any()


@pytest.mark.parametrize("dtype", ["f2", "bfloat16"])
def test_half_types_in_doubt(dtype: str) -> None:
    """All of these numbers, normal and not, by divisors of any size: some quotients lie so near to
    the middle of two that a product in float32 does not tell which is nearer."""
    kind = np.dtype(dtype) if dtype == "f2" else np.dtype(ml_dtypes.bfloat16)
    every = np.arange(2**16, dtype=np.uint16).view(kind)
    every = every[np.isfinite(every.astype(np.float32))][::-1].reshape(-1, 16)
    rng = np.random.default_rng(8)
    for power in (-149, -140, -132, *range(-130, 121, 25), 0, 126, 127):
        # The longest element rules the norm: with rows of like size, quotients have any leading
        # bits. Rows of 272 take the way of long vectors, with a tail.
        x = np.resize(every, (len(every) // 16, 272))
        most = 12 if dtype == "f2" else 127
        y = rng.uniform(-1, 1, (99, 272)) * 2.0 ** min(power, most)
        for one in (x, y.astype(kind), y.astype(np.float32)):
            left = l2.normalize(one, dtype=kind, backend="numba")
            right = l2.normalize(one, dtype=kind, backend="numpy")
            assert left.tobytes() == right.tobytes(), power


@pytest.mark.parametrize("dtype", ["i1", "u1"])
def test_bytes_at_the_ends_of_their_range(dtype: str) -> None:
    """Their squares are summed as integers, which must hold them."""
    info = np.iinfo(dtype)
    rng = np.random.default_rng(9)
    for x in (
        np.full((40, 4097), info.min, dtype),
        np.full((40, 4097), info.max, dtype),
        rng.integers(info.min, info.max + 1, (40, 4097), dtype=dtype),
    ):
        for axis in (0, 1):
            exact = np.sqrt((x.astype(np.int64) ** 2).sum(axis))
            assert np.array_equal(l2.norm(x, axis, backend="numba"), exact)


def _as_numpy_has_it(x: Any, axis: Any, **keywords: Any) -> None:
    """Unit vectors and norms, into an output of the same layout, in place, and the norms alone."""
    unit, norms = l2.normalize(x, axis, return_norm=True, backend="numpy", **keywords)
    ways = [(x, None), (x, np.empty_like(unit))]
    if unit.dtype == x.dtype:
        ways.append((same := x.copy(), same))
    for given, out in ways:
        got, lengths = l2.normalize(
            given, axis, out=out, return_norm=True, backend="numba", **keywords
        )
        assert got.tobytes() == unit.tobytes(), (x.shape, x.strides, axis)
        assert lengths.tobytes() == norms.tobytes(), (x.shape, x.strides, axis)
    assert l2.norm(x, axis, backend="numba").tobytes() == norms.tobytes()


def _special(x: Any) -> None:
    """Some vectors along the last axis of `x` that are special."""
    x[0], x[2, 0] = 0, 1
    if x.dtype.kind in "fc":
        info = np.finfo(x.dtype)
        x[1, -1], x[3, 0], x[4, -1] = np.nan, np.inf, info.max
        x[5] = info.smallest_subnormal
        x[6] *= info.max / 2**8


@pytest.mark.filterwarnings("ignore:overflow:RuntimeWarning")
@pytest.mark.parametrize("dtype", [*["f2", "bfloat16", "f4", "f8", "c8"]])
@pytest.mark.parametrize("n", [17, 31, 48, 100, 128, 145, 513, 768, 2048])
def test_rows_have_the_bits_of_numpy(dtype: str, n: int) -> None:
    """Rows that go through together, special ones among them or not, in batches of one axis and
    more, whose last may end before as many rows as would go together."""
    rng = np.random.default_rng(7)
    kind = np.dtype(ml_dtypes.bfloat16) if dtype == "bfloat16" else np.dtype(dtype)
    for batch in ((2,), (61,), (3, 9), (5, 17, 2), (4096 * 80 // n,)):
        for special in (False, True):
            wide = (rng.standard_normal((*batch[:-1], batch[-1] + 1, n + 1)) * 50).astype(kind)
            x = wide[..., :-1, :n]
            if special and len(x) > 6 and x.ndim == 2 and dtype != "bfloat16":
                _special(x)
            elif special:
                last = (-1,) * (x.ndim - 2)
                x[0], x[*last, -1, 5], x[*last, 0, 2] = 0, np.nan, np.inf
            for one in (x, x.copy(), x[::-1]):
                _as_numpy_has_it(one, -1)
            _as_numpy_has_it(x, -1, eps=50.0 * n**0.5)
            _as_numpy_has_it(x, -1, zero="nan")


@pytest.mark.filterwarnings("ignore:overflow:RuntimeWarning")
@pytest.mark.parametrize("dtype", ["f2", "f4", "f8"])
@pytest.mark.parametrize("width", [1, 2, 3, 7, 8, 15, 16, 17])
def test_narrow_columns_have_the_bits_of_numpy(dtype: str, width: int) -> None:
    """Narrow columns with nothing between them, special ones among them."""
    rng = np.random.default_rng(6)
    for n in (1, 16, 17, 128, 145, 1025):
        x = (rng.standard_normal((8, n, width)) * 50).astype(dtype)
        vectors = np.moveaxis(x, 1, -1).reshape(-1, n).copy()
        if len(vectors) > 7:
            _special(vectors)
        x[...] = np.moveaxis(vectors.reshape(8, width, n), -1, 1)
        _as_numpy_has_it(x, 1)
        _as_numpy_has_it(x, 1, eps=30.0)
        _as_numpy_has_it(np.pad(x, ((0, 0), (0, 0), (0, 1)))[..., :width], 1)
        if dtype == "f4":
            _as_numpy_has_it(x, 1, dtype="f2")


@pytest.mark.filterwarnings("ignore:overflow:RuntimeWarning")
@pytest.mark.parametrize("dtype", ["f2", "f4", "f8", "c8"])
@pytest.mark.parametrize("length", [8, 16, 96, 257, 1024])
def test_segmented_have_the_bits_of_numpy(dtype: str, length: int) -> None:
    """Vectors that are cut into segments, which may lie anywhere, special ones among them."""
    rng = np.random.default_rng(7)
    for segments in (2, 9):
        x = (rng.standard_normal((segments, 9, length)) * 50).astype(dtype)
        vectors = x.transpose(1, 0, 2).reshape(9, -1).copy()
        _special(vectors)
        x[...] = vectors.reshape(9, segments, length).transpose(1, 0, 2)
        _as_numpy_has_it(x, (0, 2))
        _as_numpy_has_it(x, (0, 2), eps=30.0)
        _as_numpy_has_it(np.pad(x, ((0, 0), (0, 0), (1, 4)))[..., 1 : length + 1], (0, 2))
        _as_numpy_has_it(x[::-1, ::2], (0, 2))
        if dtype == "f4":
            _as_numpy_has_it(x, (0, 2), dtype="f2")


@pytest.mark.parametrize("dtype", ["f4", "f8"])
@pytest.mark.parametrize(
    ("shape", "axis"), [((600, 1024, 7), 1), ((16, 700, 400), (0, 2)), ((8, 600, 1025), (0, 2))]
)
def test_large_narrow_columns_and_segmented_wherever_the_output_begins(
    dtype: str, shape: tuple[int, ...], axis: Any
) -> None:
    """What is streamed, or prefetched."""
    x = np.random.default_rng(8).standard_normal(shape).astype(dtype)
    want = l2.normalize(x, axis, backend="numpy")
    room = np.zeros(x.size + 64, dtype)
    for start in (0, 3, 8, 15):
        y = room[start : start + x.size].reshape(shape)
        room[:] = 7
        l2.normalize(x, axis, out=y, backend="numba")
        assert y.tobytes() == want.tobytes()
        assert (room[:start] == 7).all()
        assert (room[start + x.size :] == 7).all()


@pytest.mark.parametrize("dtype", ["f2", "f4", "f8"])
def test_large_columns_wherever_the_output_begins(dtype: str) -> None:
    """What is streamed goes by whole lines, the rest of each row by others."""
    kind = np.dtype(dtype)
    rows, columns = 2**23 // (320 * kind.itemsize) + 2, 320
    x = np.random.default_rng(2).standard_normal((rows, columns)).astype(dtype)
    x[5, 70], x[:, 200], x[7, 319] = np.nan, 0, np.inf
    want = l2.normalize(x, 0, backend="numpy")
    room = np.zeros(x.size + 64, dtype)
    for start in (0, 3, 8, 31):
        y = room[start : start + x.size].reshape(x.shape)
        room[:] = 7
        l2.normalize(x, 0, out=y, backend="numba")
        assert y.tobytes() == want.tobytes()
        assert (room[:start] == 7).all()
        assert (room[start + x.size :] == 7).all()
    few = want[:, :9]
    assert l2.normalize(x[:, :9], 0, out=y[:, :9], backend="numba").tobytes() == few.tobytes()


@pytest.mark.parametrize("dtype", ["float8_e4m3fn", "int8", "float16", "float64"])
def test_columns_wherever_a_line_begins(dtype: str) -> None:
    """The first tile takes what comes before the first whole cache line, up to 63 columns of it."""
    kind = np.dtype(getattr(ml_dtypes, dtype, dtype))
    x = (np.random.default_rng(3).standard_normal((1100, 256)) * 9).astype(kind)
    x[:, ::5], x[1:, ::7] = 0, 0
    if kind.kind != "i":
        x[9, ::11], x[8, ::13] = -np.nan, np.inf
    told: dict[str, Any] = {"return_norm": True, "eps": 1.5}
    want, lengths = l2.normalize(x, 0, **told, backend="numpy")
    room = np.zeros(x.size + 64, kind)
    for start in range(0, 64, 7):
        there = room[start : start + x.size].reshape(x.shape)
        there[...] = x
        assert l2.norm(there, 0, backend="numba").tobytes() == lengths.tobytes()
        if want.dtype == kind:
            y, norms = l2.normalize(there, 0, out=there, **told, backend="numba")
            assert (y.tobytes(), norms.tobytes()) == (want.tobytes(), lengths.tobytes())


def test_columns_without_memory() -> None:
    """Where there is no more to be had for tall tiles, columns go by sixteen."""
    script = """
    import numpy as np, l2multi as l2
    from llvmlite import ir
    from numba import types
    from l2multi.backends.numba import cabi, compiler, lanes, shipped
    external, asked = cabi.external, []
    def none_left(name, *kinds):
        if name != "malloc":
            return external(name, *kinds)
        asked.append(name)
        zero = ir.Constant(lanes.I64, 0)
        return compiler.primitive(types.intp, types.intp)(lambda builder, size: zero)
    cabi.external = none_left
    shipped.FOLDER = ""  # so that the kernel is made here
    x = np.random.default_rng(0).standard_normal((9000, 200)).astype("f4")
    want = l2.normalize(x, 0, backend="numpy")
    assert l2.normalize(x, 0, backend="numba").tobytes() == want.tobytes()
    assert asked
    """
    run(script, L2MULTI_CACHE_DIR="")


@pytest.mark.parametrize("dtype", ["f2", "f4", "f8", "c8", "bfloat16", ">f4"])
def test_norms_of_nan_have_one_bit_pattern(dtype: str) -> None:
    """Whatever the sign of a NaN in the input, and the way through memory."""
    x = np.ones((40, 300)).astype(dtype)
    x[::3, 5], x[1::3, 7] = -np.nan, np.nan
    for a, axis in ((x, 1), (x, 0), (x[:, :5], 1), (x[:, 5:6], 0), (x[:, ::2], 1), (x, None)):
        want = l2.norm(a, axis, backend="numpy")
        assert np.asarray(l2.norm(a, axis, backend="numba")).tobytes() == want.tobytes()


def test_columns_in_place_by_one_thread() -> None:
    """Small ones; and what `explain` says of them. Larger ones by several give the same."""
    x = np.random.default_rng(4).standard_normal((4100, 256)).astype("f4")
    assert threads.PARALLEL < x[:1000].size <= threads.IN_PLACE < x.size
    for a in (x[:1000], x):
        want = l2.normalize(a, 0, backend="numpy")
        several = l2.explain(a, 0, backend="numba").threads
        in_place = l2.explain(a, 0, out=a, backend="numba").threads
        assert in_place == (1 if a.size <= threads.IN_PLACE else several)
        for how in ("serial", "parallel"):
            with threads.force(how):
                b = a.copy()
                assert l2.normalize(b, 0, out=b, backend="numba").tobytes() == want.tobytes()
        b = a.copy()
        assert l2.normalize(b, 0, out=b).tobytes() == want.tobytes()


def test_unpickled_arrays_change_nothing() -> None:
    """Their dtype is an object of its own, which the fast path must not take for NumPy's."""
    script = """
    import pickle
    x = pickle.loads(pickle.dumps(np.ones((2, 3), np.float16)))
    from l2multi import _backends
    l2.normalize(x, backend="numba")
    call = _backends.fast_paths[np.dtype("f2")].own[0]
    assert call(np.ones(3, np.float16), np.empty(3, np.float16), None, 0.0, -1, True, False, 1)
    """
    run(after(script))


def ready(x: np.dtype[Any], y: np.dtype[Any] | None = None) -> Any:
    """The fast path, with all kernels of a pair of dtypes linked."""
    one = own(x) if y is None else pair(x, y)
    loader.address(("fast_call",))
    for name in descriptor.WORKERS:
        one.worker(name)
    return one.fast_call


@pytest.mark.parametrize("dtype", ["f2", "f4", "f8", "c8", "i4", "?"])
@pytest.mark.parametrize(
    "shape", [(), (3,), (4, 5), (2, 3, 7), (0, 3), (3, 0), (70, 90), (600, 900), (9000, 600)]
)
def test_the_fast_path(dtype: str, shape: tuple[int, ...]) -> None:
    """What it serves has the bits of NumPy; what it does not serve, it leaves alone."""
    x = np.random.default_rng(1).uniform(-3, 3, shape).astype(dtype)
    call = ready(x.dtype)
    y, norms = np.ones(shape, own(x.dtype).y), np.ones(shape[:-1], own(x.dtype).norm)
    if x.ndim == 0 or x.size == 0:
        assert call(x, y, norms, 0.0, -1, True, False, threads.limit()) is False
        assert (y == 1).all()
        return
    for eps in (0.0, 2.5):
        assert call(x, y, norms, eps, -1, True, False, threads.limit())
        want, lengths = l2.normalize(x, eps=eps, return_norm=True, backend="numpy")
        assert y.tobytes() == want.tobytes()
        assert norms.tobytes() == np.asarray(lengths).tobytes()
    assert call(x, None, norms, 0.0, -1, True, False, threads.limit())
    assert call(x, y, None, 0.0, -1, True, False, threads.limit())


@pytest.mark.parametrize("dtype", ["f2", "f4", "f8", "c8", "i1"])
def test_the_fast_path_plans_as_the_general_one(dtype: str) -> None:
    """Views of any strides, along any axes: the same kernel, the same bits, the same order."""
    rng = np.random.default_rng(3)
    room = (rng.standard_normal((6, 40, 3, 20)) * 40).astype(dtype)
    one = own(room.dtype)
    call = ready(room.dtype)
    addresses = list(one.descriptor[: len(descriptor.WORKERS)])
    for _ in range(200):
        x = room.transpose(rng.permutation(4))
        cuts = [slice(None, None, rng.choice([1, 1, 1, -1, 2])) for _ in range(4)]
        cuts[rng.integers(4)] = rng.choice([slice(2), slice(1), slice(1, None)])
        x = x[tuple(cuts)]
        if rng.random() < 0.2:
            x = np.broadcast_to(x[:1], x.shape)
        axes = tuple(int(d) for d in np.flatnonzero(rng.random(4) < 0.4))
        axis: Any = rng.choice([0, 1, 2, 3, -1, -4]).item() if rng.random() < 0.4 else axes
        y = np.empty_like(x, one.y)
        want, lengths = l2.normalize(x, axis, return_norm=True, backend="numpy")
        norms = np.empty(np.shape(lengths), one.norm)
        # With no worker but the one that the general path would take.
        ascending = axes if axis is axes else (axis % 4,)
        name = _plan(x, y, norms, ascending, one).layout
        for way, address in enumerate(addresses):
            one.descriptor[way] = address if descriptor.WORKERS[way] == name else 0
        try:
            plain = np.empty(x.shape, one.y)
            assert call(x, plain, norms, 0.0, axis, True, False, threads.limit()) is (
                True if y.flags.c_contiguous else None
            )
            assert call(x, y, norms, 0.0, axis, False, False, threads.limit())
        finally:
            one.descriptor[: len(descriptor.WORKERS)] = addresses
        assert y.tobytes() == want.tobytes()
        assert norms.tobytes() == np.asarray(lengths).tobytes()
        y[...] = 7
        assert call(
            x, y, None, 0.0, axis[::-1] if axis is axes else axis, False, False, threads.limit()
        )
        assert y.tobytes() == want.tobytes()


def test_the_fast_path_casts() -> None:
    """A dtype asked for has a fast path of its own."""
    x = np.linspace(-1, 2, 60, dtype=np.float32).reshape(3, 20)
    for asked in (np.float16, np.dtype("f8"), np.float32):
        result = np.dtype(asked)
        call = ready(x.dtype, result)
        for _ in range(2):
            got = l2.normalize(x, dtype=asked, backend="numba")
            assert got.tobytes() == l2.normalize(x, dtype=asked, backend="numpy").tobytes()
        assert _backends.fast_paths[x.dtype].ways[asked][0] is call
    with pytest.raises(TypeError, match="floating"):
        l2.normalize(x, dtype=np.int8, backend="numba")
    with pytest.raises(TypeError, match=r"got \[1\]"):
        l2.normalize(x, dtype=[1], backend="numba")


@pytest.mark.parametrize("dtype", ["f2", "f4", "f8", "c8", "i1"])
def test_the_fast_path_serves_every_keyword(dtype: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Policies that refuse nothing, numbers of any class, lists: none needs the general path."""
    x = (np.random.default_rng(3).uniform(-9, 9, (3, 40)) + 1).astype(dtype)
    zeros = x.copy()
    zeros[1] = 0
    single, double = np.ones((2, 3), np.float32)[1], np.ones(3)
    calls: list[Any] = [
        lambda b: l2.normalize(x, eps=1, backend=b),
        lambda b: l2.normalize(x, eps=np.float32(0.5), backend=b),
        lambda b: l2.normalize(zeros, zero="nan", backend=b),
        lambda b: l2.normalize(x, zero="raise", nonfinite="raise", backend=b),
        lambda b: l2.normalize(zeros, 0, zero="raise", return_norm=True, backend=b)[1],
        lambda b: l2.norm(x, nonfinite="raise", backend=b),
        lambda b: l2.norm(x, 0, keepdims=True, backend=b),
        lambda b: l2.norm(x, dtype="f8", backend=b),
        lambda b: l2.norm(x, dtype=np.float32, backend=b),
        lambda b: l2.norm(x, dtype=np.float32, out=single, backend=b),
        lambda b: l2.norm(zeros, dtype=np.float64, out=double, backend=b),
        lambda b: l2.is_normalized(x, backend=b),
        lambda b: l2.is_normalized(x, None, tol=3, backend=b),
    ]
    if dtype in ("f8", "c16"):
        calls += [lambda b: l2.normalize(x.tolist(), backend=b)]
        calls += [lambda b: l2.norm(tuple(x[0].tolist()), backend=b)]
    wanted = [np.array(call("numpy")) for call in calls]
    ready(x.dtype)
    l2.normalize(x, backend="numba")
    monkeypatch.setattr(_call, "prepare", None)
    for call, want in zip(calls, wanted, strict=True):
        got = call("numba")
        assert type(got) is type(call("numba"))
        assert np.asarray(got).tobytes() == want.tobytes()
        assert np.asarray(got).dtype == want.dtype


def test_the_fast_path_measures_into_what_fits() -> None:
    """Norms go nowhere but into an array of their own; the rest takes the general path, which says
    why not, or gives the same answer."""
    x = np.linspace(1, 2, 32, dtype=np.float32).reshape(4, 8)
    want = l2.norm(x, backend="numpy")
    ready(x.dtype)
    l2.norm(x, backend="numba")
    odd, swapped = np.empty(17, np.uint8)[1:].view(np.float32), np.empty(4, ">f4")
    for out in (np.empty(8, np.float32)[::2], odd, swapped):
        assert l2.norm(x, out=out, backend="numba") is out
        assert np.array_equal(out, want)
    room = x.copy()
    assert l2.norm(room, out=room[0, :4], backend="numba").tobytes() == want.tobytes()
    frozen = np.ones(4, np.float32)
    frozen.flags.writeable = False
    for wrong in (frozen, np.ones(5, np.float32), np.ones(4), np.ones(4, ">f8"), [1.0] * 4):
        with pytest.raises((TypeError, ValueError), match="out"):
            l2.norm(x, out=wrong, backend="numba")
    x[2] = 0
    with pytest.raises(l2.ZeroVectorError, match="position 2"):
        l2.normalize(x, zero="raise", backend="numba")
    x[3, 5] = np.nan
    with pytest.raises(l2.NonFiniteError, match="position 3"):
        l2.norm(x, nonfinite="raise", backend="numba")
    with pytest.raises(ValueError, match="zero"):
        l2.normalize(x, zero="skip", backend="numba")
    with pytest.raises(ValueError, match="nonfinite"):
        l2.norm(x, nonfinite="skip", backend="numba")


@pytest.mark.parametrize("dtype", ["f4", "f8", "c8"])
@pytest.mark.parametrize("shape", [(3, 70_001), (1, 2**19), (20_001, 3), (600, 16), (513, 1)])
def test_the_fast_path_grows(dtype: str, shape: tuple[int, ...]) -> None:
    """Short vectors and long ones are left alone until what serves them is linked."""
    x = np.random.default_rng(1).uniform(-3, 3, shape).astype(dtype)
    if dtype == "f8":
        x[:2] *= 1e200
    y, norms = np.ones_like(x), np.ones(shape[:-1], x.real.dtype)
    one = Pair(x.dtype, x.dtype)
    how = 0.0, -1, True, False, threads.limit()
    assert all(map(loader.address, (("fast_call",), ("parallel_for",), ("helper",))))
    assert not one.fast_call(x, y, norms, *how)
    one.worker("rows")
    parts = shape[1] * one.source.parts
    served = parts > LANES and (
        parts < 2 * plan.SPLIT or min(threads.cores(), threads.limit()) == 1
    )
    assert one.fast_call(x, y, norms, *how) == served
    assert served or (y == 1).all()
    with threads.force("parallel"):
        run_kernels(one, x, np.ones_like(x), None, (1,), 0.0, 1.0)
    assert one.fast_call(x, y, norms, *how)
    want, lengths = l2.normalize(x, return_norm=True, backend="numpy")
    assert y.tobytes() == want.tobytes()
    assert norms.tobytes() == np.asarray(lengths).tobytes()
    if parts >= 2 * plan.SPLIT:
        long = np.ones((1, plan.SPLIT * (plan.PARTS_MOST + 1)), x.dtype)
        alone = min(threads.cores(), threads.limit()) == 1
        assert one.fast_call(long, None, np.ones(1, x.real.dtype), *how) == alone


@pytest.mark.parametrize("keywords", [{}, {"return_norm": True}, {"dtype": "f8"}])
def test_policies_on_the_fast_path(keywords: dict[str, Any]) -> None:
    """Whatever else is asked for; and a vector that only overflows is none with an inf."""
    x = np.linspace(1, 2, 40).reshape(4, 10)
    ready(x.dtype)
    both = {"zero": "raise", "nonfinite": "raise", "backend": "numba"}
    for out in (None, np.empty_like(x)):
        if out is not None:
            keywords = {**keywords, "out": out}
        want = l2.normalize(x, backend="numpy")
        found = l2.normalize(x, **keywords, **both)
        unit = found[0] if "return_norm" in keywords else found
        assert unit.tobytes() == want.tobytes()
        for row, error in ((0, l2.ZeroVectorError), (np.nan, l2.NonFiniteError)):
            bad = x.copy()
            bad[2] = row
            kept = None if out is None else out.copy()
            with pytest.raises(error, match="position 2"):
                l2.normalize(bad, **keywords, **both)
            assert kept is None or kept.tobytes() == out.tobytes()
    far = np.full((3, 8), 1e308)  # whose norm is inf
    assert l2.normalize(far, **both).tobytes() == l2.normalize(far, backend="numpy").tobytes()
    with pytest.raises(l2.NonFiniteError, match="position 1"):
        l2.norm([[1.0, 2.0], [np.inf, 1.0]], nonfinite="raise", backend="numba")
    odd: Any = np.array("raise")  # equal to one of the choices
    with pytest.raises(l2.ZeroVectorError):
        l2.normalize(np.zeros_like(x), zero=odd, backend="numba")


JUDGED = [  # shapes, axes, and which part of the last axis is looked at
    ("rows", (20, 40), 1, 40), ("short_rows", (37, 9), 1, 9), ("columns", (9, 40), 0, 40),
    ("narrow_columns", (6, 8, 16), 1, 16), ("gathered", (9, 40), 1, slice(0, 40, 2)),
    ("segmented", (6, 8, 20), (0, 2), 16), ("rows", (2, 2**18), 1, 2**18), ("rows", (5,), 0, 5),
]  # fmt: skip


@pytest.mark.parametrize("dtype", ["f2", "f4", "f8"])
@pytest.mark.parametrize(("layout", "shape", "axis", "part"), JUDGED)
def test_the_fast_call_judges_norms(
    layout: str, shape: tuple[int, ...], axis: Any, part: Any, dtype: str
) -> None:
    """Wherever a vector is that a policy refuses, the call says so, and else not; unit vectors are
    the same."""
    x = np.random.default_rng(2).uniform(0.5, 1, shape).astype(dtype)
    x = x[..., part if isinstance(part, slice) else slice(part)]
    assert l2.explain(x, axis, backend="numba").kernel == f"compiled {layout}"
    for how in ("serial", "parallel"):
        with threads.force(how):
            l2.normalize(x, axis, backend="numba")
    call, most = own(x.dtype).fast_call, threads.limit()
    axes = axis if isinstance(axis, tuple) else (axis,)
    to_last = list(range(-len(axes), 0))
    vectors = np.moveaxis(x, axes, to_last)
    batch = vectors.shape[: -len(axes)]
    for judged in (1, 2, 3):
        assert call(x, None, judged, 0.0, axis, False, False, most) is True
    last = math.prod(batch) - 1
    for place, (value, refused) in itertools.product(
        {0, last // 2, last}, ((0.0, 1), (np.inf, 2), (np.nan, 2))
    ):
        where = np.unravel_index(place, batch)
        before = vectors[where].copy()
        vectors[where if value == 0.0 else (*where, *[-1] * len(axes))] = value
        want = l2.normalize(x, axis, backend="numpy")
        for judged, y in itertools.product((1, 2, 3), (None, np.empty_like(x))):
            said = call(x, y, judged, 0.0, axis, False, False, most)
            assert said is (float if judged & refused else True)
            assert y is None or y.tobytes() == want.tobytes()
        vectors[where] = before


@pytest.mark.parametrize("dtype", ["f4", "c8", "i1", "bfloat16"])
@pytest.mark.parametrize(("shape", "axis"), [((99_999, 10), 1), ((3000, 300), 1), ((300, 3000), 0)])
def test_threads_judge_norms(shape: tuple[int, int], axis: int, dtype: str) -> None:
    """Whichever thread has the vector; many of them, and under an `eps`."""
    x = np.ones(shape, ml_dtypes.bfloat16 if dtype == "bfloat16" else dtype)
    for how in ("serial", "parallel"):
        with threads.force(how):
            l2.normalize(x, axis, backend="numba")
    call, vectors = own(x.dtype).fast_call, np.moveaxis(x, axis, -1)
    threads.pretend(2)
    try:
        for where in (slice(0), 0, len(vectors) // 2, -1, slice(None)):
            vectors[where] = 0
            refused = not vectors.astype("c8").any(-1).all()
            for judged, eps in itertools.product((1, 2, 3), (0.0, 0.5)):
                said = call(x, None, judged, eps, axis, False, False, 2)
                assert said is (float if refused and judged & 1 else True)
            vectors[...] = 1
    finally:
        threads.pretend(0)


@pytest.mark.parametrize("cores", [1, 2])
def test_the_fast_call_asks_for_threads(cores: int) -> None:
    """Where a call pays for them it returns before anything is written, to be told how many."""
    one = Pair(np.dtype("f4"), np.dtype("f4"))
    one.worker("rows")
    threads.pretend(cores)
    # Else one that comes by itself does not pay for them.
    pool = _pool()
    pool[descriptor.EAGER] = True
    try:
        for size in (threads.PARALLEL - 128, threads.PARALLEL):
            x = np.ones((size // 128, 128), "f4")
            y = np.zeros_like(x)
            asks = cores > 1 and size == threads.PARALLEL
            assert one.fast_call(x, y, None, 0.0, -1, True, False, 0) is (int if asks else True)
            assert (y == (0 if asks else l2.normalize(x, backend="numpy"))).all()
            assert one.fast_call(x, y, None, 0.0, -1, True, False, 1) is True
            assert (y == l2.normalize(x, backend="numpy")).all()
    finally:
        pool[descriptor.EAGER] = False
        threads.pretend(0)


@pytest.mark.skipif(not modes.FLUSH, reason="it is not known how modes are set here")
@pytest.mark.parametrize("dtype", ["f4", "f8"])
@pytest.mark.parametrize("shape", [(3, 40), (2, 9), (60, 100), (700, 100), (1, 2**19), (1, 2**22)])
def test_the_fast_path_in_any_modes(dtype: str, shape: tuple[int, ...]) -> None:
    """Small calls, those that release the GIL, and those of several threads, of a vector's
    parts among them: whether subnormal numbers are flushed, and whichever way it is rounded."""
    x = np.resize(cases.vectors(np.dtype(dtype), 100)[2:], shape)
    ready(x.dtype)
    for axis in (-1, 0):
        l2.normalize(x, axis, backend="numba")
        want, lengths = l2.normalize(x, axis, return_norm=True, backend="numpy")
        for bits in (*modes.FLUSH, sum(modes.FLUSH) | modes.UPWARDS):
            with modes.changed(bits):
                got, norms = l2.normalize(x, axis, return_norm=True, backend="numba")
            assert got.tobytes() == want.tobytes()
            assert norms.tobytes() == lengths.tobytes()


def test_the_fast_path_is_not_that_of_other_libraries() -> None:
    """JAX's integers become float32, NumPy's float64, in any order."""
    jnp = pytest.importorskip("jax.numpy")
    for function in (l2.normalize, l2.norm):
        _backends.fast_paths.pop(np.dtype("i4"), None)
        assert function(jnp.array([[3, 4]], "i4"), backend="numba").dtype == np.float32
        for backend in (None, "numba"):
            assert function(np.array([[3, 4]], "i4"), backend=backend).dtype == np.float64


def test_errors_do_not_depend_on_the_way() -> None:
    """The first thing wrong is named, with norms as without."""
    x = np.ones((2, 3), np.float32)
    ready(x.dtype)
    for _ in range(2):
        with pytest.raises(np.exceptions.AxisError):
            l2.norm(x, 9, dtype="U3")
        for also in (True, False):
            with pytest.raises(ValueError, match="eps"):
                l2.normalize(x, 9, eps=-1.0, return_norm=also)
            with pytest.raises(np.exceptions.AxisError):
                l2.normalize(x, 9, return_norm=also)
            with pytest.raises(TypeError, match="axis"):
                l2.normalize(x, np.array([0, 1]), return_norm=also)
        l2.normalize(x, backend="numba")
    assert l2.norm(x, ()).shape == x.shape


def test_the_fast_path_declines() -> None:
    """Everything but arrays of these dtypes that fit and do not overlap, and what is no axis."""
    x = np.ones((4, 6), np.float32)
    call = ready(x.dtype)
    frozen, odd = x.copy(), np.ones(x.nbytes + 1, np.uint8)[1:].view(np.float32).reshape(x.shape)
    frozen.flags.writeable = False
    room = np.ones(48, np.float32)
    for source, target in (
        (x, frozen),
        (x, np.empty((6, 4), np.float32)),
        (x, np.empty((24,), np.float32)),
        (x, np.empty((4, 6))),
        (x.astype(np.float64), x),
        (x, as_strided(x.copy(), x.shape, (0, 4))),
        (x, as_strided(x.copy(), x.shape, (4, 4))),
        (x, as_strided(x.copy(), x.shape, (20, 4))),
        (x, as_strided(x.copy(), x.shape, (4, 12))),
        (x, as_strided(x.copy(), x.shape, (24, 2))),
        (x, x[::-1]),
        (room[:24].reshape(4, 6), room[4:28].reshape(4, 6)),
    ):
        before = target.copy()
        assert call(source, target, None, 0.0, -1, False, False, threads.limit()) is False
        assert (target == before)[~np.isnan(before)].all()
    y = np.zeros_like(x)
    assert (
        call(x, y, np.ones(3, np.float32), 0.0, -1, False, False, threads.limit()) is False
    )  # norms do not fit
    for axis in (2, -3, 2**70, -(2**70), True, np.int64(1), 1.0, [1], (0, 0), (0, -2), (2,), "1"):
        assert call(x, y, None, 0.0, axis, False, False, threads.limit()) is False
    for eps in (1, -1.0, np.nan, np.float64(1), "0.0"):
        assert call(x, y, None, eps, -1, False, False, threads.limit()) is False
    assert not y.any()
    deep = np.ones((3,) + (1,) * (63 if np.__version__ >= "2" else 31), np.float32)
    assert np.allclose(l2.normalize(deep, None, backend="numba"), 1 / np.sqrt(3))
    assert np.allclose(l2.normalize(deep, 0, backend="numba"), 1 / np.sqrt(3))
    for source, target in (
        (x, x),
        (frozen, x),
        (odd, x),
        (x, odd),
        (x.T, np.empty((6, 4), np.float32)),
        (x, np.empty((6, 4), np.float32).T),
        (x, np.empty((4, 7), np.float32)[:, 1:]),
        (x, np.empty((6, 12), np.float32)[::-1, ::-3].T),
        (x[:, ::2], np.empty((4, 3), np.float32)),
        (room[:24].reshape(4, 6), room[24:].reshape(4, 6)),
    ):
        assert call(source, target, None, 0.0, -1, False, False, threads.limit())
        assert np.allclose(target, 1 / np.sqrt(target.shape[1]))
