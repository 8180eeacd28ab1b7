"""`--backends`, and the fixtures `backend` and `dtype` of the shared suite.

A subject is a backend or a container in one variant; those of containers are in `tests.held`.
"""

import collections
import contextlib
import functools
import importlib
import inspect
import os
import shutil
import tempfile
import zlib

import ml_dtypes  # bfloat16 and float8 exist for l2multi once this is imported
import numpy as np
import pytest
from hypothesis import settings

import l2multi as l2
from l2multi import _backends
from tests import cases

settings.register_profile("l2multi", derandomize=True, deadline=None, max_examples=40)
# For more environments than one: a quarter of the time, and the first examples are the simplest.
settings.register_profile("few", settings.get_profile("l2multi"), max_examples=10)
settings.load_profile("l2multi")


class Subject:
    """A backend in one variant, as the shared suite sees it: here one that works on NumPy arrays.

    Other libraries override what differs. The variant "auto" names no backend, as most users do.
    """

    container = "NumPy array"  # the row of `_containers.ROWS` that its arrays are of
    reference = "numpy"  # the backend whose bits count
    plain = True  # its arrays are those that a backend computes on: what is slow is for these
    keeps_axes = True  # there are norms with ``keepdims=True``
    names_axes = False  # an axis can be a name
    any_axis = True  # vectors along any axes of an array of any shape
    zeros = ("keep", "nan")  # what `zero` may be, but for "raise"
    refuses = True  # "raise" may be asked for
    same_bits = True  # the summation is the specified one
    on_host, off_host = True, False  # where its arrays lie
    traced = False  # calls are made under tracing: no values, so no policy "raise"
    differentiable = False
    immutable = False
    few = None  # where a dtype costs a compilation: those that most tests go through
    all_dtypes = True  # where a test asks for it, all of them
    compiles_shapes = False  # a new shape costs one too

    def __init__(self, variant, row):
        self.variant, self.group = variant, row.name
        self.auto = variant.endswith(":auto")
        self.name = None if self.auto else row.name  # what calls name

    def __repr__(self):
        return self.variant

    @property
    def can_raise(self):
        """Whether policies of "raise" are heeded."""
        return self.refuses and not self.traced

    @property
    def by_name(self):
        """Whether calls name the backend."""
        return self.name is not None

    @property
    def direct(self):
        """Whether a test on NumPy arrays, which no variant traces, has something to add."""
        return self.plain and not self.traced

    @property
    def holds_layouts(self):
        """Whether it takes NumPy arrays as they lie in memory, in a class of its own or not; such
        can be `out` as well."""
        return self.direct

    @property
    def keeps_layouts(self):
        """Whether its arrays can lie in memory as NumPy's do."""
        return self.plain or self.holds_layouts

    @property
    def is_reference(self):
        """Whether this is the backend whose bits count."""
        return self.variant == self.reference

    @property
    def compared(self):
        """Whether the bits are compared with those of the reference."""
        return self.same_bits and not self.is_reference

    def scope(self, *dtypes):
        """The context in which to call: of this variant, and fit for these dtypes."""
        return contextlib.nullcontext()

    def why_not(self, dtype):
        """Why the contract excuses this backend from an input of `dtype`, or None."""
        return

    @property
    def takes_usual(self):
        """Whether it takes what tests have that go through no dtypes: float32, integers and the
        like."""
        return all(self.why_not(np.dtype(one)) is None for one in ("f4", "f8", "i8", "?", "c16"))

    def flushes(self, dtype):
        """Whether the contract lets this backend take subnormal numbers of `dtype` for zero."""
        return False

    def bound(self, dtype, quantity):
        """The contract's bound in ulp, of an "element" of this dtype or of its "norm"."""
        if cases.real(dtype) in (np.float64, np.longdouble):
            return 4 if quantity == "element" else 2.5
        return 0.51

    def default_float(self, x64):
        """What integers become."""
        return np.dtype(np.float64)

    def expected(self, x, axis, **keywords):
        """Unit vectors and norms with the bits that count."""
        return l2.normalize(x, axis, return_norm=True, backend=self.reference, **keywords)

    def unit_dtype(self, dtype, x64=False):
        """The dtype of the unit vectors, by the contract's table."""
        return dtype if cases.is_float(dtype) else self.default_float(x64)

    def norm_dtype(self, dtype, x64=False):
        """The dtype of the norms, by the contract's table."""
        if not cases.is_float(dtype):
            return self.default_float(x64)
        return np.dtype(np.float32) if dtype in cases.HALVES else cases.real(dtype)

    def holds(self, shape, axis):
        """Whether there are arrays of this shape, with vectors over these axes."""
        return True

    def hold(self, a):
        """A NumPy array as this kind holds it, in the same memory."""
        return a

    def array(self, a):
        """A NumPy array in the backend's own library."""
        return a

    def numpy(self, y):
        """A result as a NumPy array."""
        return np.asarray(y)

    def owns(self, y, like):
        """Whether `y` is of the library and on the device of `like`."""
        return type(y) is np.ndarray or (isinstance(y, np.generic) and y.ndim == 0)

    def call(self, function, x, axis=-1, **keywords):
        """A public function on an array of the backend's library."""
        with self.scope(x.dtype, keywords.get("dtype")):
            return function(x, axis, backend=self.name, **keywords)

    def run(self, function, a, axis=-1, **keywords):
        """A public function on a NumPy array: moved there, checked for its library, moved back."""
        with self.scope(a.dtype, keywords.get("dtype")):
            x = self.array(a)
            results = self.call(function, x, axis, **keywords)
            for y in results if isinstance(results, tuple) else (results,):
                assert self.owns(y, x), f"{type(y)} from {type(x)}"
            if isinstance(results, tuple):
                return tuple(self.numpy(y) for y in results)
            return self.numpy(results)

    def normalize(self, a, axis=-1, **keywords):
        """`l2multi.normalize` by way of `run`."""
        return self.run(l2.normalize, a, axis, **keywords)

    def norm(self, a, axis=-1, **keywords):
        """`l2multi.norm` by way of `run`."""
        return self.run(l2.norm, a, axis, **keywords)


class NumbaSubject(Subject):
    """Numba, forced to work serially or by threads; or what serves NumPy arrays by itself,
    with fast paths and as many threads as it takes."""

    @property
    def few(self):
        """What the serial variant has compiled is tested in all dtypes already."""
        return None if self.variant.endswith(":serial") else cases.FEW

    def scope(self, *dtypes):
        if self.auto:
            return contextlib.nullcontext()
        threads = importlib.import_module("l2multi.backends.numba.threads")
        return threads.force(self.variant.split(":")[1])

    def why_not(self, dtype):
        if self.auto or dtype not in cases.LONGS:
            return None
        return "the contract has longdouble on NumPy only"


class JaxSubject(Subject):
    """JAX on one kind of device: eager, on a CPU by the kernels; or under jit, by XLA alone; or
    what serves JAX arrays by itself."""

    container = "JAX array"
    same_bits = False
    differentiable = True
    immutable = True
    few = cases.FEW
    compiles_shapes = True

    def __init__(self, variant, row):
        super().__init__(variant, row)
        self.jax = importlib.import_module("jax")
        self.primitives = importlib.import_module("l2multi.backends.jax.cpu_primitives")
        self.traced = variant.endswith(":jit")
        if self.traced or self.auto:  # what is computed is what the eager variant computes
            self.few = [np.dtype("f4"), np.dtype("c16"), np.dtype(ml_dtypes.bfloat16)]
        self.device = self.jax.devices("gpu" if variant.endswith(":gpu") else "cpu")[0]
        self.jitted = functools.lru_cache(None, typed=True)(self._jitted)

    @property
    def direct(self):
        """Where no backend is named, NumPy arrays are not JAX's."""
        return super().direct and self.by_name

    @property
    def on_host(self):
        """Whether its device's memory is that of NumPy."""
        return self.device.platform == "cpu"

    @property
    def off_host(self):
        """Whether it is not."""
        return not self.on_host

    @contextlib.contextmanager
    def scope(self, *dtypes):
        with contextlib.ExitStack() as stack:
            if not self.auto:
                stack.enter_context(self.jax.default_device(self.device))
            if self.traced:  # elsewhere the kernels serve, unless the environment forbids them
                stack.enter_context(self.primitives.use(False))
            if any(d is not None and self.x64(np.dtype(d)) for d in dtypes):
                stack.enter_context(self.jax.enable_x64(True))
            yield

    def x64(self, dtype):
        """Whether arrays of `dtype` need x64; the others are tried without."""
        return dtype.kind in "iufc" and cases.real(dtype).itemsize == 8

    def why_not(self, dtype):
        return "JAX has no longdouble" if dtype in cases.LONGS else None

    def flushes(self, dtype):
        # Converted to float32, where float16 and float8 are normal, bfloat16 stays subnormal.
        return dtype not in cases.HALVES or dtype.name == "bfloat16"

    def bound(self, dtype, quantity):
        return 0.51 if dtype in cases.HALVES and quantity == "element" else 4

    def default_float(self, x64):
        return np.dtype(np.float64 if x64 else np.float32)

    def unit_dtype(self, dtype, x64=False):
        return super().unit_dtype(dtype, x64 or self.x64(dtype))

    def norm_dtype(self, dtype, x64=False):
        return super().norm_dtype(dtype, x64 or self.x64(dtype))

    def array(self, a):
        return self.jax.device_put(a, self.device)

    def numpy(self, y):
        return np.array(y)

    def owns(self, y, like):
        return isinstance(y, self.jax.Array) and y.devices() == like.devices()

    def _jitted(self, function, axis, told, **keywords):  # `told`: (0, 1) equals (0, True)
        return self.jax.jit(lambda x: function(x, axis, **keywords))

    def call(self, function, x, axis=-1, **keywords):
        if not self.traced:
            return super().call(function, x, axis, **keywords)
        with self.scope(x.dtype, keywords.get("dtype")):
            return self.jitted(function, axis, repr(axis), backend=self.name, **keywords)(x)

    def gradient(self, function, a):
        """The gradient of a scalar function of one JAX array, at a NumPy array."""
        with self.scope(a.dtype):
            gradient = self.jax.grad(function)
            return np.asarray((self.jax.jit(gradient) if self.traced else gradient)(self.array(a)))


class TorchSubject(Subject):
    """Torch's own operations, on tensors in the memory of the CPU or a GPU."""

    container = "PyTorch tensor"
    same_bits = False
    differentiable = True

    def __init__(self, variant, row):
        super().__init__(variant, row)
        self.torch = importlib.import_module("torch")
        self.operations = importlib.import_module(row.module)
        self.device = "cuda" if variant.endswith(":gpu") else "cpu"

    def bound(self, dtype, quantity):
        return 4 if cases.real(dtype) == np.float64 else super().bound(dtype, quantity)

    def why_not(self, dtype):
        return None if dtype.name in self.operations.BY_NAME else "torch has no such dtype"

    def default_float(self, x64):
        return np.dtype(np.float32)

    def array(self, a):
        return self.operations.from_numpy(a).to(self.device)

    def numpy(self, y):
        return self.operations.to_numpy(y, copy=True)

    def owns(self, y, like):
        return type(y) is self.torch.Tensor and y.device == like.device

    def gradient(self, function, a):
        """The gradient of a scalar function of one tensor, at a NumPy array."""
        x = self.array(a).requires_grad_()
        function(x).backward()
        return self.numpy(x.grad)


class TensorSubject(TorchSubject):
    """Tensors in the memory of the CPU, served by Numba's kernels."""

    same_bits = True
    direct = False  # NumPy arrays are tested without
    few = cases.FEW

    def __init__(self, variant, row):
        super().__init__(variant, row)
        self.name = "numba"

    def bound(self, dtype, quantity):
        return Subject.bound(self, dtype, quantity)

    def expected(self, x, axis, **keywords):
        if cases.is_float(x.dtype.newbyteorder("=")):
            return super().expected(x, axis, **keywords)
        y, norms = super().expected(x, axis, **{"dtype": self.default_float(False), **keywords})
        return y, norms.astype(self.default_float(False))


class ArrayApiSubject(Subject):
    """Arrays of array-api-strict, which has the array API's functions and no others, on devices
    with and without float64."""

    container = "array API"
    same_bits = False

    def __init__(self, variant, row):
        super().__init__(variant, row)
        self.library = importlib.import_module("array_api_strict")
        self.operations = importlib.import_module(row.module)
        self.double = variant.endswith("strict")
        self.device = self.library.Device("device1" if self.double else "no_float64")
        self.few = None if self.double else [np.dtype(t) for t in ("f4", "c8", "i4")]
        self.like = self.operations.like(self.library.empty(0, device=self.device))

    @property
    def direct(self):
        """NumPy arrays have float64 in any variant."""
        return super().direct and self.double

    def why_not(self, dtype):
        return None if self.like.own(dtype) else "array-api-strict has no such dtype"

    def bound(self, dtype, quantity):
        return 0.51 if self.double and cases.real(dtype) == np.float32 else 4

    def default_float(self, x64):
        return self.like.default_float()

    def array(self, a):
        return self.operations.from_numpy(a, self.like)

    def numpy(self, y):
        return self.operations.to_numpy(y, copy=True)

    def owns(self, y, like):
        return type(y) is type(like) and y.device == self.device


def _has_cuda():
    return importlib.import_module("torch").cuda.is_available()


def _has_gpu():
    try:
        return bool(importlib.import_module("jax").devices("gpu"))
    except RuntimeError:
        return False


# The only place of the suite that knows backends by name: their variants. Others have one.
VARIANTS = {
    "numba": (NumbaSubject, {"numba:serial": None, "numba:parallel": None, "numba:auto": None}),
    "jax": (
        JaxSubject,
        {"jax:eager": None, "jax:jit": None, "jax:auto": None, "jax:gpu": _has_gpu},
    ),
    "torch": (TorchSubject, {"torch:cpu": None, "torch:gpu": _has_cuda}),
    "array_api": (ArrayApiSubject, {"array_api:strict": None, "array_api:no_float64": None}),
}


def _subjects(row):
    """The variants of one backend that this machine can run, and of containers that it serves."""
    _backends.load(_backends.first(row.name))
    found = [VARIANTS.get(row.name, (Subject, {row.name: None}))]
    found += importlib.import_module("tests.held").served_by(row.name)
    return [
        kind(v, row)
        for kind, variants in found
        for v, possible in variants.items()
        if possible is None or possible()
    ]


def pytest_addoption(parser):
    """Add ``--backends``, ``--one-in``, ``--every`` and ``--stress``."""
    parser.addoption(
        "--backends",
        help="backends or variants to test, by commas (numpy,numba:serial); default: all that "
        "load. One named here that cannot run is an error.",
    )

    parser.addoption(
        "--one-in",
        type=int,
        default=1,
        metavar="N",
        help="of each test the first case on each backend, and one in N of the others",
    )
    parser.addoption(
        "--every",
        action="store_true",
        help="every dtype in every test, also on backends that compile for each (minutes)",
    )
    parser.addoption(
        "--stress",
        type=int,
        default=1,
        metavar="N",
        help="run tests of threads, forks and caches, which have the mark `stress`, N times",
    )


def pytest_configure(config):
    """Choose the subjects. What Numba compiles is kept for the length of a run."""
    if not hasattr(config, "workerinput"):
        cache = tempfile.mkdtemp(prefix="l2multi-")
        config.add_cleanup(lambda: shutil.rmtree(cache, ignore_errors=True))
        os.environ["L2MULTI_CACHE_DIR"] = cache
    config.addinivalue_line(
        "markers",
        "dtypes(*dtypes, every=False, always=False): what `dtype` goes through; with `every` it is "
        "all of them also on a backend that compiles for each, with `always` on any subject",
    )
    config.addinivalue_line("markers", "stress: what ``--stress`` repeats")
    config.addinivalue_line("markers", "quick: a minute of tests; see `_mark_quick`")
    config.addinivalue_line("markers", "only(attribute): for subjects that have it true")
    config.addinivalue_line(
        "markers", "where(cases=predicate): for parameters of which it is true, by their names"
    )
    asked = config.getoption("--backends")
    found, missing = {}, {}
    for row in _backends.ROWS:
        if asked is None or row.name in {one.split(":")[0] for one in asked.split(",")}:
            try:
                found[row.name] = _subjects(row)
            except ImportError as error:
                missing[row.name] = str(error)
    subjects = [s for group in found.values() for s in group]
    if asked is not None:
        for one in asked.split(","):
            if not any(one in (s.group, s.variant) for s in subjects):
                reason = missing.get(one.split(":")[0], "unknown, or this machine has none")
                raise pytest.UsageError(f"--backends: {one!r} cannot run: {reason}")
        subjects = [s for s in subjects if {s.group, s.variant} & set(asked.split(","))]
    config.stash[SUBJECTS], config.stash[MISSING] = subjects, missing


SUBJECTS = pytest.StashKey[list]()
MISSING = pytest.StashKey[dict]()


def pytest_report_header(config):
    """Say what is tested, and what is not and why."""
    lines = [f"l2multi subjects: {', '.join(map(repr, config.stash[SUBJECTS]))}"]
    return lines + [f"NOT tested: {name}: {why}" for name, why in config.stash[MISSING].items()]


# Tests of one backend alone; those that run the examples and the benchmarks; and those that compile
# kernels, fill memory or wait.
SLOW = (
    "tests/backends/",
    "tests/test_examples.py",
    "tests/test_benchmarks.py",
    "tests/test_api.py::test_jax_functions_take_sparse_arrays",
    "tests/test_api.py::test_names_of_dtypes_of_ml_dtypes",
    "tests/test_cli.py::test_warm",
    "tests/test_cluster.py",
    "tests/test_docs.py::test_site",
    *(
        f"tests/test_{name}.py::test_memory_is_bounded"
        for name in ("files", "formats", "hdf5", "npz", "parquet", "word_vectors")
    ),
    "tests/conformance/test_files.py::test_kill_at_any_moment",
    "tests/test_formats.py::test_pages_of_a_window",
    "tests/conformance/test_interrupts.py",
)


def _mark_quick(items):
    """Mark what `-m quick` selects: of each test outside SLOW the first case on each backend, and
    of every third the first case on each other kind of array."""
    seen, others = set(), collections.Counter()
    for item in items:
        test = item.nodeid.partition("[")[0]
        subject = getattr(item, "callspec", None) and item.callspec.params.get("backend")
        variant, group = getattr(subject, "variant", None), getattr(subject, "group", None)
        if item.nodeid.startswith(SLOW) or (test, variant) in seen:
            continue
        if (test, group) in seen:
            others[variant] += 1
        if (test, group) not in seen or others[variant] % 3 == 1:
            item.add_marker("quick")
        seen |= {(test, variant), (test, group)}


@pytest.hookimpl(tryfirst=True)  # before pytest selects by mark
def pytest_collection_modifyitems(config, items):
    """Leave out tests for subjects that this run has not, and what is no case, no skips; mark tests
    as quick."""
    share = config.getoption("one_in")
    cases = [item for item in items if _is_case(item)]
    out = {*items} - {*(_share_of(cases, share) if share > 1 else cases)}
    config.hook.pytest_deselected(items=[item for item in items if item in out])
    items[:] = [item for item in items if item not in out]
    _mark_quick(items)


def _is_case(item):
    """Whether there is a subject for a test, and its parameters are those that its marks `where`
    have it for."""
    if "NOTSET" in item.name and item.get_closest_marker("skip"):
        return False
    for mark in item.iter_markers("where"):
        names = inspect.signature(mark.kwargs["cases"]).parameters
        if not mark.kwargs["cases"](**{name: item.callspec.params[name] for name in names}):
            return False
    return True


def _share_of(items, share):
    """A share of the cases, of each test at least one on each backend and kind of array."""
    seen = set()
    for item in items:
        subject = getattr(item, "callspec", None) and item.callspec.params.get("backend")
        test = item.nodeid.partition("[")[0], getattr(subject, "group", subject)
        if test not in seen or zlib.crc32(item.nodeid.encode()) % share == 0:
            yield item
        seen.add(test)


@pytest.fixture
def round_of_stress():
    """Which of the ``--stress`` rounds this is."""


def pytest_generate_tests(metafunc):
    """Run a test for each subject, and each dtype that the contract asks of the subject; and those
    of threads, forks and caches as often as ``--stress`` says."""
    rounds = metafunc.config.getoption("--stress")
    if rounds > 1 and metafunc.definition.get_closest_marker("stress"):
        metafunc.fixturenames.append("round_of_stress")
        metafunc.parametrize("round_of_stress", range(rounds))
    if "backend" not in metafunc.fixturenames:
        return
    dtypes = metafunc.definition.get_closest_marker("dtypes")
    subjects = metafunc.config.stash[SUBJECTS]
    for mark in metafunc.definition.iter_markers("only"):
        subjects = [s for s in subjects if getattr(s, mark.args[0])]
    if dtypes is None:
        metafunc.parametrize("backend", subjects, ids=repr)
        return
    pairs = [(s, d) for s in subjects for d in _dtypes_for(s, dtypes, metafunc.config)]
    metafunc.parametrize(("backend", "dtype"), pairs, ids=[f"{s}-{d}" for s, d in pairs])


def _dtypes_for(subject, mark, config):
    """The dtypes of a test for one subject: those it has, or the few of them that it can pay."""
    all_ = [d for d in mark.args if subject.why_not(d) is None]
    every = mark.kwargs.get("every") and subject.plain and subject.by_name and not subject.traced
    always = mark.kwargs.get("always") and subject.all_dtypes
    if subject.few is None or every or always or config.getoption("--every"):
        return all_
    return [d for d in all_ if d in subject.few] or all_
