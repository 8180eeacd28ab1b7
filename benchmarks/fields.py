"""The fields of the race, as data: who runs, over which cells, and what limits them."""

import dataclasses
import functools
import importlib
import math
import os
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from benchmarks import common, contenders, limits
from benchmarks.common import DTYPES, LAYOUTS, OPERATIONS, Array, Call, Work

OURS = "l2multi"
COPY = "copy"  # how the names of the limits begin


@dataclasses.dataclass
class Cell:
    """One thing to do, and how many seconds a call took (medians)."""

    group: str  # "grid", or "sizes": those of the throughput plot
    operation: str
    kind: str  # the dtype; of a cast "float32 to float16"
    layout: str
    shape: str  # "m x n", or "64MBxn" for vectors of n elements, in as many rows as it takes
    times: dict[str, float] = dataclasses.field(default_factory=dict)

    @property
    def name(self) -> str:
        """What ``--only`` looks at."""
        return "/".join((self.group, self.operation, self.kind, self.layout, self.shape))

    @property
    def dtype(self) -> str:
        """The dtype of the input."""
        return self.kind.partition(" to ")[0]

    def work(self, axis: common.Axis = -1) -> Work:
        """What is to be done."""
        return Work(self.operation, axis, self.kind.partition(" to ")[2])

    @property
    def megabytes(self) -> float:
        """What is read and written."""
        source = common.dtype_of(self.dtype)
        written = 0
        if self.operation != "norm":
            written = common.result_dtype(self.work(), source).itemsize
        size = math.prod(common.sizes(self.shape, self.dtype, self.layout))
        return size * (source.itemsize + written) / 1e6

    @property
    def copies(self) -> list[float]:
        """The times of the copies."""
        return [time for name, time in self.times.items() if name.startswith(COPY)]

    @property
    def best(self) -> str | None:
        """The fastest peer."""
        others = [one for one in self.times if one != OURS and not one.startswith(COPY)]
        return min(others, key=self.times.__getitem__) if others else None

    @property
    def speedup(self) -> float:
        """The fastest peer's time over ours; above 1 we are faster."""
        return self.times[self.best] / self.times[OURS] if self.best else math.nan

    @property
    def share(self) -> float:
        """The fastest copy's time over ours; 1 is as fast as a copy of as many bytes."""
        return min(self.copies) / self.times[OURS] if self.copies else math.nan


class Field(NamedTuple):
    """A race. Every call waits for its result: see `common.waited`."""

    cells: Callable[[], Iterator[Cell]]
    peers: tuple[str, ...]
    ours: contenders.Build = common.ours
    put: Callable[[Array], Any] = lambda x: x  # onto the device
    limit: Callable[[Work, Any, int], dict[str, Call]] = limits.machine_copies
    # The least share of the fastest copy's speed, by operation and layout, in cells of 100 MB.
    bars: dict[tuple[str, str], float] = {}  # noqa: RUF012  (nobody changes it)
    shown: str = "speedup"  # the property of cells that is drawn
    prepare: Callable[[], Any] = common.keep_memory
    budget: float = 1.0  # seconds a cell
    longer: float = 1.0  # how many times longer a turn is than usual


SHAPES = (
    "1x8", "1x128", "1x768", "100x768", "1000x128", "1000x768", "10000x768", "1000000x2",
    "100000x3", "16x100000", "1x1000000",
)  # fmt: skip


def cpu_cells() -> Iterator[Cell]:
    """Shapes of rows by dtype and operation, other layouts, and sizes up to 2 GiB."""
    for operation in OPERATIONS:
        kinds = DTYPES
        if operation == "cast":
            kinds = ("float32 to float16", "float32 to bfloat16")
        yield from (Cell("grid", operation, kind, "rows", s) for kind in kinds for s in SHAPES)
    for operation in ("new", "out", "inplace", "norm"):
        for dtype in ("float32", "float64", "float16"):
            for layout in list(LAYOUTS)[1:]:
                for shape in ("100x768", "4000x768"):
                    yield Cell("grid", operation, dtype, layout, shape)
    for operation in ("out", "inplace"):
        for rows in (*(round(2**power * 1e6 / 3072) for power in range(-4, 12)), 200000):
            yield Cell("sizes", operation, "float32", "rows", f"{rows}x768")


JAX_SHAPES = (
    "1x128", "1x768", "100x128", "100x768", "1000x128", "1000x768", "10000x128", "10000x768",
    "100000x768",
)  # fmt: skip


def jax_cells() -> Iterator[Cell]:
    """Eager calls, calls under `jax.jit`, and gradients."""
    for operation in ("new", "jit", "gradient"):
        yield from (Cell("grid", operation, "float32", "rows", shape) for shape in JAX_SHAPES)


def torch_cells() -> Iterator[Cell]:
    """Tensors on a CPU; the gradient is the backward pass alone."""
    for operation in ("new", "out", "inplace", "gradient"):
        for dtype in ("float32", "bfloat16", "float16"):
            yield from (Cell("grid", operation, dtype, "rows", shape) for shape in SHAPES)


def gpu_cells() -> Iterator[Cell]:
    """Vectors of 2^6 to 2^16 elements, by size of the array."""
    for megabytes in (1, 8, 64, 512, 8192):
        for operation, layout in GPU_BARS:
            for dtype in ("float32", "bfloat16", "float16"):
                for power in range(6, 17):
                    shape = f"{megabytes}MBx{2**power}"
                    yield Cell("grid", operation, dtype, layout, shape)


GPU_BARS = {("new", "rows"): 0.97, ("return_norm", "rows"): 0.9, ("new", "columns"): 0.9}

FIELDS = {
    # NumPy arrays. JAX is asked for 64-bit types, for else it has no float64, when it is imported.
    "cpu": Field(
        cpu_cells,
        (
            "x / np.linalg.norm(x)", "np.einsum", "scikit-learn", "torch", "faiss", "jax.jit",
            "NumKong",
        ),
        prepare=functools.partial(os.environ.setdefault, "JAX_ENABLE_X64", "1"),
    ),
    # JAX arrays on a CPU. After a pause, calls of 10 us take longer for more than 1 ms; so below.
    "jax": Field(
        jax_cells,
        ("jax.jit", "x * rsqrt"),
        ours=contenders.ours_in_jax,
        put=common.CARRY["jax"],
        limit=limits.device_copy,
        budget=3.0,
        longer=4.0,
    ),
    # Tensors on a CPU.
    "torch": Field(
        torch_cells,
        ("F.normalize", "F.normalize, compiled", "largest first"),
        ours=contenders.ours_on_tensors,
        budget=3.0,
        longer=4.0,
    ),
    # JAX arrays on an accelerator, all under `jax.jit`; torch on the same memory.
    "gpu": Field(
        gpu_cells,
        ("jax.jit", "three float32 sums", "one, and three if needed", "torch", "torch.compile"),
        ours=contenders.ours_compiled,
        put=common.CARRY["jax"],
        limit=limits.device_copy,
        bars=GPU_BARS,
        shown="share",
    ),
}  # fmt: skip


def device(field: Field) -> str | None:
    """What kind of device the arrays of a field lie on, if not in plain memory."""
    if field.put is not common.CARRY["jax"]:
        return None
    return str(importlib.import_module("jax").devices()[0].device_kind)
