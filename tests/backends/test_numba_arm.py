"""The kernels for 64-bit Arm give the bits that those for this machine give.

All object code that ships for aarch64 is linked by Debian's cross compiler and run by QEMU, on the
calls, and the memory, that the backend has just given to the kernels of this machine. Those give
the bits of NumPy, as the shared suite sees to.
"""

import ctypes
import itertools
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np
import pytest

from l2multi._ragged import Ragged
from l2multi.backends import numba as backend
from l2multi.backends.numba import descriptor, loader, plan, ragged, shipped
from l2multi.backends.numba import threads as limits
from l2multi.backends.numba.pairs import own, side
from l2multi.backends.numba.pairs import pair as make_pair
from tests import cases

Array = np.ndarray[Any, Any]

LEVEL = "aarch64"
GCC, OBJCOPY, QEMU = "aarch64-linux-gnu-gcc", "aarch64-linux-gnu-objcopy", "qemu-aarch64-static"
MISSING = [tool for tool in (GCC, OBJCOPY, QEMU) if shutil.which(tool) is None]

# The lowest CPU that the level is for: what goes beyond it ends the program; and one with all.
LOWEST, HIGHEST = "cortex-a53", "max"

# As in the source of the program that runs the kernels there.
SOURCE = Path(__file__).with_name("run_kernels.c")
ARGUMENTS, KERNEL, POOL, WORDS = 4, -1, -2, -3
STREAM = 2**16

NUMBER = {key: k for k, key in enumerate(shipped.KEYS)}

# Floating-point modes, by the bits of FPCR: what is flushed to zero, other halves, one NaN for all,
# and how to round.
MODES = {
    "FZ": 1 << 24,
    "FZ16": 1 << 19,
    "AHP": 1 << 26,
    "DN": 1 << 25,
    "up": 1 << 22,
    "down": 2 << 22,
    "to zero": 3 << 22,
    "all": 1 << 19 | 31 << 22,
}


def compiled_for(level: str, folder: Path) -> Path:
    """Where what ships for a level is: in the package, or made now."""
    if not isinstance(shipped.file_for(level), str):
        return Path(shipped.FOLDER)
    script = "import sys; from l2multi.backends.numba import build, shipped;"
    script += "shipped.FOLDER = sys.argv[1]; build.make(sys.argv[2:])"
    subprocess.run([sys.executable, "-c", script, str(folder), level], check=True, timeout=600)
    return folder


def linked(folder: Path, kernels: Path) -> Path:
    """A program with all kernels that ship, so that no relocation in them is refused."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shipped, "FOLDER", str(kernels))
        shipped.file_for.cache_clear()
        codes = [shipped.read(key, LEVEL) for key in shipped.KEYS]
    shipped.file_for.cache_clear()
    objects, needs = [], set()
    for k, code in enumerate(codes):
        assert code is not None, shipped.KEYS[k]
        objects.append(folder / f"k{k}.o")
        objects[-1].write_bytes(code.code)
        needs |= set(code.needs)
        rename = f"--redefine-sym={code.name}=k{k}"
        subprocess.run([OBJCOPY, rename, objects[-1]], check=True)
    every = range(len(codes))
    lines = [
        "#include <stdint.h>",
        *(f"void k{k}(void);" for k in every),
        f"int64_t kernels[] = {{{', '.join(f'(int64_t)k{k}' for k in every)}}};",
        f"int64_t pool[{descriptor.POOL_SIZE}] __attribute__((aligned(64))) = {{",
        f"  [{descriptor.HELPER}] = (int64_t)k{NUMBER[('helper',)]},",
        f"  [{descriptor.PARALLEL_FOR}] = (int64_t)k{NUMBER[('parallel_for',)]}}};",
        f"int64_t {descriptor.MACHINE}[{descriptor.MACHINE_SIZE}] = {{",
        f"  [{descriptor.ONCE}] = 4096, [{descriptor.STREAM}] = {STREAM}}};",
        f"int64_t {descriptor.XLA_TABLE}[{descriptor.XLA_SIZE}];",
        # Python's, which is not there: what needs it is linked, and not called.
        *(f"void {name}(void) {{}}" for name in sorted(needs) if name.startswith("Py")),
    ]
    (folder / "kernels.c").write_text("\n".join([*lines, ""]))
    program = folder / "run_kernels"
    command = [GCC, "-O1", "-Wall", "-Werror", "-static", "-pthread", "-o", program, SOURCE]
    subprocess.run([*command, folder / "kernels.c", *objects], check=True)
    return program


class Job(NamedTuple):
    """One call of a worker, or of what runs workers."""

    label: str
    keys: tuple[shipped.Key, ...]
    modes: int
    told: bytes
    want: tuple[bytes, ...]


def joined(spans: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
    """The same memory, none of it twice."""
    done: list[tuple[int, int]] = []
    for low, high in sorted(spans):
        if done and low < done[-1][1]:
            done[-1] = done[-1][0], max(high, done[-1][1])
        else:
            done.append((low, high))
    return done


class Calls:
    """Calls of kernels, each done by this machine's and noted."""

    def __init__(self) -> None:
        self.jobs: list[Job] = []
        self.keys = {loader.address(key): key for key in shipped.KEYS}
        assert limits.ready()
        self.label, self.modes = "", 0
        self.arrays: dict[int, Array | None] = {}  # by their slots in a call descriptor

    def backend(
        self,
        x: Array,
        y: Array | None,
        norms: Array | None,
        axes: tuple[int, ...],
        *,
        eps: float = 0.0,
        zero: float = 1.0,
        why: str = "",
        threads: int = 1,
    ) -> None:
        """What the backend does for a call."""
        axes = tuple(a % x.ndim for a in axes)
        pair = own(x.dtype) if y is None else make_pair(x.dtype, y.dtype)
        self.arrays = {descriptor.X: x, descriptor.Y: y, descriptor.NORMS: norms}
        self.label = f"{why} {x.dtype} {x.shape} {axes}"
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(backend, "function", lambda key, _: lambda *told: self.call(key, *told))
            patch.setattr(limits, "threads", lambda *_: threads)
            backend.run(pair, x, y, norms, axes, eps, zero)

    def ragged(self, x: Array, ends: Array, y: Array, norms: Array) -> None:
        """What the backend does for vectors of differing lengths."""
        self.arrays = {
            descriptor.X: x, descriptor.Y: y, descriptor.NORMS: norms, descriptor.BATCH: ends
        }  # fmt: skip
        self.label = f"ragged {x.dtype} {len(ends) - 1}"
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(backend, "function", lambda key, _: lambda *told: self.call(key, *told))
            patch.setattr(limits, "threads", lambda *_: 1)
            rows = Ragged(x, ends, (len(ends) - 1,))
            ragged._run(make_pair(x.dtype, y.dtype), rows, y, norms, 0.0, 1.0)

    def xla(
        self,
        key: shipped.Key,
        arrays: dict[int, Array | None],
        eps: float,
        workers: dict[int, shipped.Key] | None = None,
    ) -> None:
        """What XLA's handler has a worker do for rows, or these workers by two threads."""
        x = arrays[descriptor.X]
        assert x is not None
        self.arrays, self.label = arrays, f"for XLA {x.dtype} {x.shape}"
        record = (ctypes.c_int64 * descriptor.CALL_SIZE)()
        for slot, array in arrays.items():
            record[slot] = 0 if array is None else array.ctypes.data
        norms = arrays.get(descriptor.NORMS)
        record[descriptor.NORM_SIZE] = 8 if norms is None else norms.itemsize
        record[descriptor.N], record[descriptor.PARTS] = x.shape[1], 1
        record[descriptor.TOTAL] = x.size
        numbers = ctypes.cast(record, ctypes.POINTER(ctypes.c_double))
        numbers[descriptor.EPS], numbers[descriptor.ZERO_ROOT] = eps, 1.0
        record[descriptor.THREADS], record[descriptor.TOGETHER] = 1 if workers is None else 2, 1
        steps = [0 if a is None else a.strides[0] for a in arrays.values()]
        batch = (ctypes.c_int64 * 4)(len(x), *[*steps, 0, 0][:3])
        record[descriptor.BATCH], record[descriptor.BATCH_AXES] = ctypes.addressof(batch), 1
        if workers is None:
            self.call(key, 0, len(x), ctypes.addressof(record))
            return
        record[descriptor.POOL] = limits.POOL
        for slot, worker in workers.items():
            record[slot] = loader.address(worker)
        self.call(key, len(x), ctypes.addressof(record))

    def ascending(self, indices: Array, ends: Array, slot: int, to: Array) -> None:
        """Whether the indices of each vector ascend, or a copy of them."""
        record = (ctypes.c_int64 * descriptor.CALL_SIZE)()
        self.arrays = {descriptor.X: indices, descriptor.BATCH: ends, slot: to}
        for slot, array in self.arrays.items():
            record[slot] = 0 if array is None else array.ctypes.data
        self.label = f"ascending {indices.dtype} {len(ends) - 1}"
        self.call(
            ("ascending", *[indices.dtype.name] * 2), 0, len(ends) - 1, ctypes.addressof(record)
        )

    def call(self, key: shipped.Key, *arguments: int) -> None:
        """Call a worker, or what runs workers, and note what another machine needs to do so."""
        record = list((ctypes.c_int64 * descriptor.CALL_SIZE).from_address(arguments[-1]))
        words = [0, *arguments, *[0] * (ARGUMENTS - 1 - len(arguments)), *record]
        patches = [[0, KERNEL, NUMBER[key]], [len(arguments), WORDS, ARGUMENTS]]
        patches.append([ARGUMENTS + descriptor.POOL, POOL, 0])
        keys = [key]
        if key == ("parallel_for",):
            keys.append(self.keys[arguments[0]])
            patches.append([1, KERNEL, NUMBER[keys[-1]]])
        elif key in (("long_rows",), ("jvp_rows",)):
            workers = (descriptor.WORKER, descriptor.PART_SUM, descriptor.PART_SCALE)
            for slot in workers if key == ("jvp_rows",) else workers[1:]:
                keys.append(self.keys[record[slot]])
                patches.append([ARGUMENTS + slot, KERNEL, NUMBER[keys[-1]]])
        places = self.places(record)
        spans = joined(places.values())
        written = [0] * len(spans)
        for slot, (start, _) in places.items():
            region = next(k for k, (low, high) in enumerate(spans) if low <= start < high)
            patches.append([ARGUMENTS + slot, region, record[slot] - spans[region][0]])
            written[region] |= slot in (descriptor.Y, descriptor.NORMS)
            written[region] |= slot == descriptor.SCRATCH and slot in self.arrays
        regions = ([h - low, low % 64, w] for (low, h), w in zip(spans, written, strict=True))
        numbers = [self.modes, len(words), len(spans), len(patches), *words]
        numbers.extend(itertools.chain(*regions, *patches))
        before = [ctypes.string_at(low, high - low) for low, high in spans]
        kinds = [ctypes.c_ssize_t] * len(arguments)
        ctypes.CFUNCTYPE(None, *kinds)(loader.address(key))(*arguments)
        after = [ctypes.string_at(low, high - low) for low, high in spans]
        want = tuple(a for a, w in zip(after, written, strict=True) if w)
        told = np.array(numbers, np.int64).tobytes() + b"".join(before)
        self.jobs.append(Job(self.label, tuple(keys), self.modes, told, want))

    def places(self, record: list[int]) -> dict[int, tuple[int, int]]:
        """By slot of a call descriptor, the memory that the address in it is for."""
        found = {
            slot: np.lib.array_utils.byte_bounds(array)
            for slot, array in self.arrays.items()
            if array is not None
        }
        for slot, axes, width in (
            (descriptor.INNER, descriptor.INNER_AXES, 3),
            (descriptor.BATCH, descriptor.BATCH_AXES, 4),
        ):
            if record[axes]:
                found[slot] = record[slot], record[slot] + 8 * width * record[axes]
        if record[descriptor.SCRATCH] and descriptor.SCRATCH not in self.arrays:
            parts = record[descriptor.N] * record[descriptor.PARTS] // plan.SPLIT + 1
            scratch = record[descriptor.SCRATCH]
            found[descriptor.SCRATCH] = scratch, scratch + 128 * parts
        return found


def dtypes(pair: tuple[str, str]) -> tuple[np.dtype[Any], np.dtype[Any]]:
    """Those of a pair that ships."""
    first, second = (np.dtype(getattr(ml_dtypes, kind, None) or kind) for kind in pair)
    return first, second


PAIRS = [
    *map(dtypes, shipped.PAIRS),
    *((np.dtype(one), np.dtype(one)) for one in ("complex64", "complex128")),
]


def vectors(dtype: np.dtype[Any], n: int, rows: int) -> Array:
    """So many: random, huge, tiny and of mixed magnitudes, beside each other."""
    return np.concatenate([cases.vectors(dtype, n, k) for k in range(-(-rows // 4))])[:rows]


def padded(x: Array, n: int) -> Array:
    """The same vectors with zeros behind."""
    wide = np.zeros((len(x), n), x.dtype)
    wide[:, : x.shape[1]] = x
    return wide


def aligned(shape: tuple[int, ...], dtype: np.dtype[Any], by: int) -> Array:
    """Ones that begin so many bytes after a cache line does."""
    room = np.ones(int(np.prod(shape)) + 256, dtype)
    start = (by - room.ctypes.data) % 64
    return np.ndarray(shape, dtype, room.view("u1").data, start)


class Pair:
    """One pair of dtypes, and the calls for it."""

    def __init__(self, calls: Calls, source: np.dtype[Any], target: np.dtype[Any]) -> None:
        self.calls, self.source, self.target = calls, source, target
        self.norm = own(source).norm
        self.norms: Iterator[np.dtype[Any] | None] = itertools.cycle(
            (self.norm, np.dtype("f8"), None)
        )

    def call(self, why: str, x: Array, *axes: int, y: Array | None = None, **more: Any) -> None:
        """Unit vectors and, mostly, norms, of one kind or the other."""
        y = np.ones_like(x, self.target, subok=False) if y is None else y
        kind = next(self.norms)
        kept = tuple(n for d, n in enumerate(x.shape) if d - x.ndim not in axes)
        norms = None if kind is None else np.ones(kept, kind)
        self.calls.backend(x, y, norms, axes, why=why, **more)

    def all_lengths(self) -> None:
        """And all ways through memory."""
        source, swapped = self.source, self.source.newbyteorder("S")
        for n in (*cases.SHORT[1:], 16384, 40001):
            self.call("rows", vectors(source, n, 4 if n < 2000 else 2), -1)
        for n in range(1, 17):
            self.call("short_rows", vectors(source, n, 37), -1)
            self.call("wide short_rows", vectors(source, 2 * n, 37)[:, :n], -1)
        for n in (*range(1, 20), 127, 128, 129, 255, 1000, 2500):
            self.call("columns", vectors(source, n, 100 if n < 130 else 21).T.copy(), -2)
            self.call("transposed rows", vectors(source, n, 21).T, -2)
            self.call("narrow_columns", vectors(source, n, 1 + n % 16).T.copy(), -2)
            x = vectors(source, n, 15).reshape(3, 5, n).swapaxes(1, 2).copy()
            self.call("narrow_columns", x, -2)
            self.call("backwards", vectors(source, n, 8)[:, ::-1], -1)
            self.call("strided", vectors(source, 3 * n, 4)[:, ::3], -1)
            if swapped != source:
                self.call("byte-swapped", vectors(source, n, 4).astype(swapped), -1)
        for n in (5, 32, 256, 300):
            x = vectors(source, n, 12).reshape(2, 3, 2, n)
            self.call("segmented", x, -3, -1)
            self.call("columns of several axes", x, -4, -2)

    def all_ways_out(self) -> None:
        """Policies, eps, what is wanted, in place, other layouts."""
        x = vectors(self.source, 100, 36)
        x[::5] = 0
        for axes in ((-1,), (-2,), (-1, -2)):
            for zero, eps in itertools.product((1.0, np.nan), (0.0, 1e-3, 20.0)):
                self.call("eps", x, *axes, eps=eps, zero=zero)
            kept = tuple(n for d, n in enumerate(x.shape) if d - 2 not in axes)
            for kind in (self.norm, np.dtype("f8")):
                self.calls.backend(x, None, np.ones(kept, kind), axes, why="norms")
            self.call("threads", x, *axes, threads=2)
            self.call("another layout", x, *axes, y=np.ones(x.shape, self.target, "F"))
            if self.source == self.target:
                same = x.copy()
                self.call("in place", same, *axes, y=same)
        for n in (2 * plan.SPLIT, 100003):
            for one in vectors(self.source, n, 4):
                self.call("long_rows", one[None], -1, threads=2)

    def all_magnitudes(self) -> None:
        """Each with each, NaN and inf among them; and products near the middle of two."""
        for x in cases.grid(self.source):
            self.call("grid", x, -1)
            self.call("grid", x.T.copy(), -2)
            self.call("grid", x[:50].reshape(-1, 10, x.shape[1]).swapaxes(1, 2).copy(), -2)
            self.call("grid", padded(x, 17), -1)
            self.call("grid", padded(x[::5], 130), -1)
            self.call("grid", padded(x[::5], 130).T.copy(), -2)
            self.call("grid", padded(x, 16).reshape(-1, 1, 1, 16)[:, [0, 0]], -3, -1)
            self.call("grid", padded(x[::5], 16)[:, ::-1], -1)
            for one in x[:: len(x) // 10]:
                self.call("grid", padded(one[None], 2 * plan.SPLIT), -1, threads=2)
        x = np.random.default_rng(5).integers(-99, 99, (100, 777)).astype(self.source)
        for axis in (-1, -2):
            self.call("middles", x, axis)
        self.call("middles", x.reshape(1, -1), -1, threads=2)
        if cases.real(self.source) in cases.HALVES:
            every = np.arange(2**16, dtype=np.uint16).view(self.source)
            for width in (1, 2, 64):
                self.call("every half", every.reshape(-1, width), -1)
            self.call("every half", every.reshape(64, -1), -2)

    def past_the_caches(self) -> None:
        """Written by other stores, where what is written to begins with a line and where not."""
        n = 2**20 // side(self.source).size
        shapes: dict[str, tuple[tuple[int, ...], tuple[int, ...]]] = {
            "rows": ((n // 2048, 2048), (-1,)),
            "columns": ((n // 2048, 2048), (-2,)),
            "narrow_columns": ((2, n // 16, 8), (-2,)),
            "segmented": ((2, n // 4096, 2048), (-3, -1)),
        }
        for name, (shape, axes) in shapes.items():
            width = 8 if name == "narrow_columns" else None
            x = np.resize(vectors(self.source, 2048, 8)[:, :width], shape)
            for by in (0, self.target.itemsize):
                self.call(f"streamed {name}", x, *axes, y=aligned(shape, self.target, by))

    def for_xla(self) -> None:
        """With three numbers for a norm; and tangents of unit vectors."""
        size = descriptor.THREE_DOUBLE if self.norm == "f8" else descriptor.THREE_SINGLE
        three = np.dtype(f"V{size}")
        pair = make_pair(self.source, self.target)
        for n in (3, 16, 17, 100, 300):
            for x in (vectors(self.source, n, 36), padded(cases.grid(self.source)[0], n)):
                for y in (np.ones(x.shape, self.target), None):
                    norms = np.zeros(len(x), three)
                    self.calls.backend(x, y, norms, (-1,), why="for XLA")
                    slots = {descriptor.X: x, descriptor.Y: y, descriptor.NORMS: norms}
                    self.calls.xla(pair.key("rows"), slots, 1e-3)
        if pair.key("jvp") not in shipped.KEYS:
            return
        for n, rows in ((1, 9), (17, 36), (100, 36), (2048, 260)):
            x = np.resize(vectors(self.source, n, 36), (rows, n))
            for eps in (0.0, 1e-3, 20.0):
                y = aligned(x.shape, self.source, 0)
                slots = {descriptor.X: x, descriptor.Y: y, descriptor.TANGENT: x[::-1].copy()}
                self.calls.xla(pair.key("jvp"), slots, eps)
        names = ("jvp", "jvp_part_sum", "jvp_part_scale")
        slots_of = (descriptor.WORKER, descriptor.PART_SUM, descriptor.PART_SCALE)
        workers = dict(zip(slots_of, map(pair.key, names), strict=True))
        for rows, n, by in ((36, 300, 0), (2, 6 * plan.SPLIT + 40, self.source.itemsize)):
            x = np.resize(vectors(self.source, 2048, 8), (rows, n))
            slots = {descriptor.X: x, descriptor.TANGENT: x[::-1].copy()}
            slots[descriptor.Y] = aligned(x.shape, self.source, by)
            self.calls.xla(("jvp_rows",), slots, 0.0, workers)

    def all_modes(self) -> None:
        """Each way through memory once more, with the modes changed."""
        for name, self.calls.modes in MODES.items():
            x = vectors(self.source, 300, 36)
            for axes in ((-1,), (-2,)):
                self.call(name, x, *axes)
                self.call(name, x, *axes, threads=2)
            self.call(name, vectors(self.source, 3, 36), -1)
            self.call(name, vectors(self.source, 16, 36), -1)
            self.call(name, x[:9].T.copy(), -2)
            self.call(name, x.reshape(6, 6, -1), -3, -1)
            self.call(name, x[:, ::-1], -1)
            for one in vectors(self.source, 70000, 4):
                self.call(name, one[None], -1, threads=2)
            if (key := ("jvp", *[side(self.source).kind] * 2)) in shipped.KEYS:
                y = np.ones_like(x)
                slots = {descriptor.X: x, descriptor.Y: y, descriptor.TANGENT: x[::-1].copy()}
                self.calls.xla(key, slots, 0.0)
            kinds = side(self.source).kind, side(self.target).kind
            if ("ragged", *kinds) in shipped.KEYS:
                flat = x.reshape(-1)
                ends = np.array([0, 0, 1, 17, 300, 1100, 5000, flat.size], np.int64)
                norms = np.ones(len(ends) - 1, own(x.dtype).norm)
                self.calls.ragged(flat, ends, np.ones_like(flat), norms)
        self.calls.modes = 0


@pytest.mark.skipif(bool(MISSING), reason=f"kernels for Arm are NOT tested: no {MISSING}")
def test_the_bits_of_arm(tmp_path: Path) -> None:
    """Those of this machine, on the lowest CPU of the level; and, on one that has all modes, in
    each of them, which is as it was afterwards."""
    program = linked(tmp_path, compiled_for(LEVEL, tmp_path / "kernels"))
    seen: Counter[shipped.Key] = Counter()
    size = 0
    for source, target in PAIRS:
        calls = Calls()
        pair = Pair(calls, source, target)
        pair.all_lengths()
        pair.all_ways_out()
        if cases.is_float(source):
            pair.all_magnitudes()
        if target.kind != "c":
            pair.past_the_caches()
        if source in map(np.dtype, (*"efd", ml_dtypes.bfloat16)):
            pair.for_xla()
        run(program, LOWEST, calls.jobs)
        modes = Calls()
        Pair(modes, source, target).all_modes()
        run(program, HIGHEST, modes.jobs)
        calls.jobs += modes.jobs
        seen.update(key for job in calls.jobs for key in job.keys)
        size += sum(len(one) for job in calls.jobs for one in job.want)
    for kind in shipped.INDICES:
        calls = Calls()
        ends = np.array([0, 0, 1, 17, 50, 120], np.int64)
        for at in (None, *range(1, 120)):
            indices = np.arange(120, dtype=kind)
            if at is not None:  # fine where a vector begins
                indices[at:] -= at % 2 + 1
            calls.ascending(indices, ends, descriptor.NORMS, np.zeros(1, np.int64))
        assert {job.want for job in calls.jobs} == {(bytes(8),), ((1).to_bytes(8, "little"),)}
        for at in range(20):
            calls.ascending(indices, ends, descriptor.Y, np.zeros(140, kind)[at : at + 120])
            assert calls.jobs[-1].want == (indices.tobytes(),)
        run(program, LOWEST, calls.jobs)
        seen.update(key for job in calls.jobs for key in job.keys)
    not_called = set(shipped.KEYS) - set(seen)
    # Python's, a thread's, and XLA's.
    assert not_called == {("fast_call",), ("tangents_call",), ("helper",), ("xla_ffi",)}
    print(f"{len(seen)} kernels in {seen.total()} calls for {LEVEL}: {size / 1e6:.0f} MB equal")


def run(program: Path, cpu: str, jobs: list[Job]) -> None:
    """Do jobs on a CPU; the bits are as wanted, and the modes afterwards as before."""
    calls, results = program.with_name("calls"), program.with_name("results")
    calls.write_bytes(b"".join(job.told for job in jobs))
    subprocess.run([QEMU, "-cpu", cpu, program, calls, results], check=True, timeout=600)
    found = results.read_bytes()
    at, wrong = 0, []
    for job in jobs:
        had, left = np.frombuffer(found, np.int64, 2, at)
        assert had == job.modes, f"{cpu} has no {job.modes:#x}"
        at += 16
        same = had == left
        for want in job.want:
            same = same and found[at : at + len(want)] == want
            at += len(want)
        if not same:
            wrong.append(f"{job.label.strip()} by {job.keys}, modes {had:#x}, then {left:#x}")
    assert at == len(found)
    assert not wrong, f"{len(wrong)} of {len(jobs)}:\n" + "\n".join(wrong[:20])
