"""The limits that calls are measured against: how fast the machine, or a device, copies memory."""

import functools
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from benchmarks.common import Array, Call, Work, cores, waited


@functools.cache
def _streaming_copy() -> Any:
    """A parallel copy by non-temporal stores: ``copy(to, from, lines)``, in lines of 64 bytes, `to`
    aligned to them. None without Numba.

    An ordinary store first reads the line that it overwrites, which makes three transfers of two;
    above the caches' size this is the fastest copy there is. It is written out here, apart from
    the library, so that the limit does not move with what is measured against it.
    """
    try:
        import numba
        from llvmlite import ir
        from numba.core import types
        from numba.extending import intrinsic
    except ImportError:
        return None

    @intrinsic
    def move(context: Any, to: Any, source: Any) -> Any:
        def build(context: Any, builder: Any, signature: Any, values: Any) -> Any:
            line = ir.VectorType(ir.IntType(64), 8).as_pointer()
            to, source = (builder.inttoptr(value, line) for value in values)
            value = builder.load(source)
            value.align = 8
            store = builder.store(value, to)
            store.align = 64
            one = ir.Constant(ir.IntType(32), 1)
            store.set_metadata("nontemporal", builder.module.add_metadata([one]))
            return context.get_dummy_value()

        return types.void(types.intp, types.intp), build

    @intrinsic
    def fence(context: Any) -> Any:
        def build(context: Any, builder: Any, signature: Any, values: Any) -> Any:
            builder.fence("seq_cst")
            return context.get_dummy_value()

        return types.void(), build

    @numba.njit(parallel=True, nogil=True)
    def copy(to, source, lines, parts):  # type: ignore[no-untyped-def]
        for part in numba.prange(parts):
            for line in range(lines * part // parts, lines * (part + 1) // parts):
                move(to + 64 * line, source + 64 * line)
            fence()

    threads = numba.get_num_threads()
    return lambda to, source, lines: copy(to, source, lines, threads)


@functools.cache
def _pool() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(cores())


def machine_copies(work: Work, x: Array, written: int) -> dict[str, Call]:
    """Ways to copy as many bytes as a call reads and writes: `x`, and so many more."""
    size = (x.nbytes + written) // 2
    x = x if x.flags.forc else x.copy()
    out = np.full(size, 1, np.uint8) if work.out is None or work.out.nbytes < size else work.out
    x = np.full(size, 1, np.uint8) if x.nbytes < size else x
    source, to = (a.reshape(-1, order="A").view(np.uint8)[:size] for a in (x, out))
    found: dict[str, Call] = {"copy, one thread": functools.partial(np.copyto, to, source)}
    pool, threads = _pool(), cores()
    if threads > 1 and size >= 1 << 20:
        parts = list(zip(np.array_split(to, threads), np.array_split(source, threads), strict=True))

        def in_threads() -> None:
            waiting = [pool.submit(np.copyto, *part) for part in parts]
            for future in waiting:
                future.result()

        found[f"copy, {threads} threads"] = in_threads
    streaming = _streaming_copy()
    if streaming is not None and size >= 1 << 16:
        skip = -to.ctypes.data % 64  # the ends that are not whole lines, 1 in 500 at most, are left
        arguments = (to.ctypes.data + skip, source.ctypes.data + skip, (size - skip) // 64)
        streaming(*arguments)
        keep = (to, source)  # addresses alone do not keep arrays alive
        found["copy, streaming"] = lambda: (streaming(*arguments), keep)
    return found


def device_copy(work: Work, x: Any, written: int) -> dict[str, Call]:
    """A device's own copy of a JAX array."""
    import jax
    import jax.numpy as jnp

    copy = functools.partial(jax.jit(jnp.copy), x)
    return {"copy on the device": waited(copy, copy())}
