"""What the public functions do before a backend is at work: names, precedence, refusals."""

import asyncio
import contextvars
import importlib
import inspect
import os
import pickle
import subprocess
import sys
import threading
import tracemalloc
import types
from importlib.util import find_spec

import numpy as np
import pytest

import l2multi as l2
from l2multi import _backends, _contract, _usable
from tests import conftest

X = np.array([3.0, 4.0])
FUNCTIONS = (l2.normalize, l2.norm, l2.is_normalized, l2.explain)


@pytest.fixture(autouse=True)
def clean(monkeypatch):
    """No backend is chosen from outside, and what a test loads is forgotten."""
    monkeypatch.delenv(_backends.ENVIRONMENT, raising=False)
    monkeypatch.setattr(_backends, "_failed", {})
    monkeypatch.setattr(_backends, "fast_paths", {})
    monkeypatch.setattr(_backends, "_loaded", dict(_backends._loaded))


@pytest.fixture
def stand_in(monkeypatch):
    """The preferred NumPy backend, played by the readable one, so that nothing is compiled."""
    sound = _backends.load(_backends.first("numpy"))
    names = (
        "normalize",
        "norm",
        "finite",
        "traced",
        "unsupported",
        "unready",
        "fast_path",
        "check",
    )
    fake = types.SimpleNamespace(**{n: getattr(sound, n) for n in names})
    fake.fast_path = sound.fast_path
    fake.kernel = lambda *_: ("stand-in", 7)
    monkeypatch.setitem(_backends._loaded, _backends.first("numba").module, fake)
    return fake


def used(**keywords):
    """The backend of a call."""
    return l2.explain(X, **keywords).backend


@pytest.mark.parametrize("name", _backends.NAMES)
def test_backends_keep_to_the_protocol(name):
    """The names of the protocol, with its parameters."""
    pytest.importorskip(_backends.first(name).needs)
    found = _backends.load(_backends.first(name))
    for method, wanted in inspect.getmembers(_backends.Backend, inspect.isfunction):
        if not method.startswith("_") and hasattr(found, method):
            have = list(inspect.signature(getattr(found, method)).parameters)
            assert have == list(inspect.signature(wanted).parameters)[1:], method


def test_precedence(stand_in, monkeypatch):
    """Argument, then context manager, then environment at the time of the call, then auto."""
    assert used() == "numba"
    monkeypatch.setenv(_backends.ENVIRONMENT, "numpy")
    assert used() == "numpy"
    with l2.backend("numba"):
        assert used() == "numba"
        with l2.backend("numpy"):
            assert used() == "numpy"
            assert used(backend="numba") == "numba"
        assert used() == "numba"
    assert used() == "numpy"
    monkeypatch.setenv(_backends.ENVIRONMENT, "")
    assert used() == "numba"


def test_the_backend_used_is_the_one_explained(stand_in, monkeypatch):
    """Each public function goes to the backend that `explain` names."""
    calls = []
    for name in ("normalize", "norm"):
        sound = getattr(stand_in, name)
        monkeypatch.setattr(
            stand_in, name, lambda *a, _f=sound, **k: (calls.append(1), _f(*a, **k))[1]
        )
    for function in FUNCTIONS[:3]:
        function(X)
        with l2.backend("numpy"):
            function(X)
    assert len(calls) == 3


def test_context_ends_with_an_exception(stand_in):
    """The context manager gives way on any exit."""
    with pytest.raises(KeyError), l2.backend("numpy"):
        raise KeyError
    assert used() == "numba"


def test_unknown_names(monkeypatch):
    """An unknown name is a ValueError that lists the known ones, from wherever it comes."""
    known = ".*".join(map(repr, _backends.NAMES))
    match = rf"^backend: unknown name 'cupid'; known are .*{known}"
    for function in FUNCTIONS:
        with pytest.raises(ValueError, match=match):
            function(X, backend="cupid")
    with pytest.raises(ValueError, match=match):
        l2.backend("cupid")
    with pytest.raises(ValueError, match="unknown name ''"):
        l2.normalize(X, backend="")
    monkeypatch.setenv(_backends.ENVIRONMENT, "cupid")
    with pytest.raises(ValueError, match=rf"{match}; it came from \$L2MULTI_BACKEND$"):
        l2.normalize(X)
    assert l2.norm(X, backend="numpy") == 5


def test_every_backend_is_in_the_tables():
    missing = set(_backends.NAMES) - set(_usable.INSTALL)
    assert not missing, f"enter {missing} in INSTALL of l2multi/_usable.py"
    missing = set(_backends.NAMES) - {"numpy", *conftest.VARIANTS}
    assert not missing, f"enter a Subject for {missing} in VARIANTS of tests/conftest.py"


@pytest.mark.parametrize(
    "row", [_backends.first(n) for n in _backends.NAMES if n != "numpy"], ids=lambda r: r.name
)
def test_not_installed(monkeypatch, row):
    """A known backend that does not load is an ImportError that says what to install."""
    _backends._loaded.pop(row.module, None)
    monkeypatch.setitem(sys.modules, row.module, None)
    for function in FUNCTIONS:
        with pytest.raises(ImportError, match=f"'{row.name}' cannot be loaded") as info:
            function(X, backend=row.name)
        assert _usable.INSTALL[row.name] in str(info.value)
    assert used() in set(_backends.NAMES) - {row.name}
    assert l2.norm(X) == 5


def python(code, *paths, **environment):
    """What a fresh interpreter prints, with these folders first on its path."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, paths)), **environment}
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        env=environment, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("error", ["ImportError", "RuntimeError", "OSError", "AttributeError"])
def test_broken_numba(tmp_path, error):
    """A Numba that will not import leaves auto on NumPy, and says so when it is named."""
    (tmp_path / "numba.py").write_text(f"raise {error}('this numba is broken')")
    code = """if True:
        import time
        import l2multi as l2
        from l2multi.backends.numba import shipped
        shipped.FOLDER = ""  # kernels that came with the package need no Numba
        print(l2.normalize([3.0, 4.0]).tolist(), l2.norm([3.0, 4.0]))
        l2.normalize([3.0, 4.0]), time.sleep(0.3), l2.normalize([3.0, 4.0])
        print(l2.explain([3.0, 4.0]))
        try:
            l2.normalize([3.0, 4.0], backend="numba")
        except ImportError as error:
            print(error)
        l2.show_versions()
    """
    lines = python(code, tmp_path, L2MULTI_CACHE_DIR="").splitlines()
    assert lines[0] == "[0.6, 0.8] 5.0"
    assert lines[1].startswith("backend 'numpy'")
    assert "this numba is broken" in lines[1]
    assert "this numba is broken" in lines[2]
    assert "pip install numba" in lines[2]
    assert any(line.startswith("backend numba") and "broken" in line for line in lines[3:])


def test_threads(stand_in):
    """A thread does not see the choice of another."""
    seen = {}
    with l2.backend("numpy"):
        thread = threading.Thread(target=lambda: seen.update(thread=used()))
        thread.start()
        thread.join()
        seen["copy"] = contextvars.copy_context().run(used)
        seen["here"] = used()
    assert seen == {"thread": "numba", "copy": "numpy", "here": "numpy"}


def test_asyncio(stand_in):
    """Nor does a task that of its siblings, however they take turns."""

    async def task(name):
        with l2.backend(name):
            seen = [used()]
            for _ in range(3):
                await asyncio.sleep(0)
                seen.append(used())
        await asyncio.sleep(0)
        return [*seen, used()]

    async def both():
        return await asyncio.gather(task("numpy"), task("numba"))

    first, second = asyncio.run(both())
    assert first == ["numpy"] * 4 + ["numba"]
    assert second == ["numba"] * 5


def test_explain(stand_in):
    """It names backend, kernel, threads and reason, and touches no data."""
    told = l2.explain(X)
    assert (told.backend, told.kernel, told.threads) == ("numba", "stand-in", 7)
    assert str(told) == f"backend 'numba', kernel stand-in, 7 threads: {told.why}"
    assert "by name" in l2.explain(X, backend="numpy").why
    vast = np.broadcast_to(np.float32(1), (2**20, 2**20))
    assert l2.explain(vast, eps=1.0, zero="raise", return_norm=True).backend == "numba"
    stand_in.unsupported = lambda x, result: "it is Sunday"
    told = l2.explain(X)
    assert told.backend == "numpy"
    assert "not numba: it is Sunday" in told.why


@pytest.mark.parametrize(
    ("keywords", "error"),
    [
        ({"axis": 1}, np.exceptions.AxisError),
        ({"eps": -1.0}, ValueError),
        ({"zero": "bad"}, ValueError),
        ({"nonfinite": "bad"}, ValueError),
        ({"dtype": "c8"}, TypeError),
        ({"backend": "bad"}, ValueError),
    ],
    ids=str,
)
def test_explain_refuses_what_a_call_refuses(keywords, error):
    """With the same error and message."""
    with pytest.raises(error) as told:
        l2.explain(X, **keywords)
    with pytest.raises(error) as called:
        l2.normalize(X, **keywords)
    assert str(told.value) == str(called.value)


def test_a_named_backend_that_cannot_is_a_type_error(stand_in):
    """Never a silent switch when a name was given."""
    stand_in.unsupported = lambda x, result: "it is Sunday"
    with pytest.raises(TypeError, match=r"backend 'numba' cannot serve this input: it is Sunday"):
        l2.normalize(X, backend="numba")
    assert used() == "numpy"


def test_show_versions(capsys, monkeypatch):
    """It tells versions, which backends are usable and why not, and the environment."""
    monkeypatch.setenv(_backends.ENVIRONMENT, "numpy")
    _backends._loaded.pop(_backends.first("jax").module, None)
    monkeypatch.setitem(sys.modules, "l2multi.backends.jax", None)
    l2.show_versions()
    lines = dict(line.split("  ", 1) for line in capsys.readouterr().out.splitlines())
    lines = {k: v.strip() for k, v in lines.items()}
    assert lines["l2multi"] == l2.__version__
    assert lines["numpy"] == np.__version__
    assert lines["backend numpy"] == "usable"
    assert lines["backend jax"].startswith("not usable: ")
    assert "pip install" in lines["backend jax"]
    assert lines[f"${_backends.ENVIRONMENT}"] == "numpy"
    assert {f"backend {name}" for name in _backends.NAMES} <= lines.keys()


ASKING = """if True:
    import os, subprocess, sys, threading
    import numpy as np
    import l2multi as l2

    def no_process(*_, **__):
        raise AssertionError("a process is started")

    subprocess.Popen.__init__ = no_process
    x = np.ones((2, 4), np.float32)
    large = np.ones((2**11, 2**11), np.float32)
    masked = np.ma.MaskedArray(x, np.eye(2, 4))

    def ask(z, **keywords):
        told = l2.explain(z, **keywords)
        assert not l2.is_normalized(z, **keywords).any()
        return told

    for z in (x, x.T, x.astype("f8"), masked, x.tolist(), x.view(np.recarray), x.astype("f8")):
        assert ask(z).backend == "numba"
        assert l2.explain(z, backend="numba").kernel.startswith("compiled")
    l2.explain(large)
    assert not {"numba", "llvmlite", "jax"} & sys.modules.keys()
    ask(large)
    l2.show_versions()
    if "jax" in sys.modules:
        import jax
        y = jax.numpy.asarray(x)
        for z in (y, jax.numpy.asarray(large), x):
            assert ask(z, backend="jax").kernel == "compiled rows, called by XLA on cpu"
        assert not jax.jit(lambda a: l2.is_normalized(a))(y).any()
        assert l2.explain(y, backend="numba").backend == "numba"
    l2.show_versions()
    assert "l2multi.backends.numba.build" not in sys.modules
    assert threading.enumerate() == [threading.main_thread()]
    assert not os.listdir(os.environ["L2MULTI_CACHE_DIR"])
"""


def test_asking_starts_nothing(tmp_path):
    """No process, no thread, no compilation, and no import of what a call would not need."""
    told = python(ASKING, L2MULTI_CACHE_DIR=str(tmp_path))
    missing = [n for n in _backends.NAMES if not find_spec(_backends.first(n).needs)]
    assert told.count("usable") == 2 * len(_backends.NAMES)
    assert told.count("not usable") == 2 * len(missing)


@pytest.mark.parametrize("name", _backends.NAMES)
def test_explain_copies_nothing(name, monkeypatch):
    """Not to the host and not to a device, whatever the layout and byte order."""
    pytest.importorskip(_backends.first(name).needs)
    _backends.load(_backends.first(name))
    x = np.ones((1000, 1000), np.float32)
    arrays = [x, x.T, x[:, ::2], x.astype(">f4"), x.view(np.recarray)]
    if "jax" in sys.modules:
        jax = sys.modules["jax"]
        arrays.append(jax.numpy.asarray(x))
        monkeypatch.setattr(_backends.load(_backends.first("jax")), "from_numpy", None)
    for array in arrays:
        l2.explain(array, backend=name)
        tracemalloc.start()
        l2.explain(array, backend=name)
        _, most = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert most < 2**16


def test_explain_takes_what_normalize_takes():
    """Masked arrays, lists, numbers and other subclasses, as the array that a call works on."""
    x = np.ones((6, 8, 20), np.float32)
    for view in (x, x[..., ::2], x.T, x[::-1, :, 1:]):
        masked = np.ma.MaskedArray(view, np.zeros(view.shape, bool))
        for axis in (-1, 0, (0, 2)):
            told = l2.explain(masked, axis, out=masked, backend="numba")
            assert told == l2.explain(view.copy("K"), axis, out=view, backend="numba")
    for lists in ([3.0, 4.0], [[3, 4]], (3j, 4)):
        assert l2.explain(lists) == l2.explain(np.asarray(lists))
    assert l2.explain(3, None) == l2.explain(np.asarray(3), None)
    assert l2.is_normalized(1.0, None)
    with pytest.raises(np.exceptions.AxisError):
        l2.explain(3)


@pytest.mark.only("traced")
def test_asking_about_tracers(backend):
    """Under any transformation; `is_normalized` is traced as well."""
    jax, seen = backend.jax, []

    def function(x):
        seen.append(l2.explain(x, nonfinite="raise", return_norm=True))
        return l2.is_normalized(x)

    x = backend.array(np.array([[0.6, 0.8], [3.0, 4.0]], "f4"))
    for ask in (jax.jit(function), jax.vmap(function), jax.jit(jax.vmap(function))):
        assert ask(x).tolist() == [True, False]
    assert all("traced" in told.kernel for told in seen)


@pytest.mark.parametrize("module", [None, types.ModuleType("jax")], ids=["blocked", "half"])
def test_half_imported_library(monkeypatch, module):
    """A library in `sys.modules` that is not all there does not break dispatch."""
    monkeypatch.setitem(sys.modules, "jax", module)
    assert l2.normalize(X, backend="numpy").tolist() == [0.6, 0.8]
    with pytest.raises(TypeError, match=r"^x: type builtins.object .*accepted"):
        l2.normalize(object())


def test_keywords_only():
    """What is not `x` or `axis` goes by its name."""
    for function in FUNCTIONS:
        with pytest.raises(TypeError, match="positional"):
            function(X, -1, 0.0)


NUMPY_BACKENDS = [row.name for row in _backends.ROWS if row.library == "numpy"]


@pytest.mark.only("immutable")
@pytest.mark.only("off_host")
@pytest.mark.parametrize("name", NUMPY_BACKENDS)
def test_jax_arrays_elsewhere_under_numpy_backends(backend, name):
    """An array on another device is not fetched in silence."""
    x = backend.array(X.astype("f4"))
    with pytest.raises(TypeError, match=f"{backend.device.platform}|device|host"):
        l2.normalize(x, backend=name)


@pytest.mark.only("immutable")
@pytest.mark.only("on_host")
@pytest.mark.parametrize("name", NUMPY_BACKENDS)
def test_jax_arrays_under_numpy_backends(backend, name):
    """A concrete CPU array is served and comes back as one; a tracer is a TypeError."""
    _backends.load(_backends.first(name))
    jax = backend.jax
    x = backend.array(X.astype("f4"))
    y, norms = l2.normalize(x, return_norm=True, backend=name)
    for z in (y, norms, l2.norm(x, backend=name), l2.is_normalized(y, backend=name)):
        assert isinstance(z, jax.Array)
        assert z.devices() == x.devices()
    assert y.dtype == norms.dtype == np.float32
    np.testing.assert_allclose(y, [0.6, 0.8], rtol=1e-7)
    with pytest.raises(TypeError, match=f"(?i)'{name}'.*trac|trac.*'{name}'|trac"):
        jax.jit(lambda a: l2.normalize(a, backend=name))(x)


@pytest.mark.only("immutable")
@pytest.mark.only("by_name")
def test_numpy_arrays_under_jax(backend):
    """NumPy arrays come back as such; float64 without x64 is refused, not cut."""
    y, norms = l2.normalize(X.astype("f4"), return_norm=True, backend=backend.name)
    assert type(y) is np.ndarray
    assert type(norms) in (np.ndarray, np.float32)
    for wide in (X, X.astype("c16"), X.tolist()):
        with pytest.raises(TypeError, match=r"(?i)x64"):
            l2.normalize(wide, backend=backend.name)
    with backend.jax.enable_x64(True):
        assert l2.normalize(X, backend=backend.name).dtype == np.float64


KEYWORDS = {
    "axis": (l2.normalize, l2.norm, l2.is_normalized, l2.explain),
    "eps": (l2.normalize, l2.explain),
    "tol": (l2.is_normalized,),
    "keepdims": (l2.norm,),
    "return_norm": (l2.normalize,),
}


@pytest.mark.only("traced")
@pytest.mark.parametrize("keyword", KEYWORDS)
def test_traced_keywords(backend, keyword):
    """A keyword that has to be known under tracing is a TypeError that says how; also as one of
    several axes, and where `x` is a NumPy array, masked or not."""
    jax, host = backend.jax, np.ones((2, 3), "f4")
    masked = np.ma.MaskedArray(host, np.eye(2, 3))
    own = importlib.import_module("l2multi.jax")
    calls = [(f, x) for f in KEYWORDS[keyword] for x in (backend.array(host), host, masked)]
    calls += [(getattr(own, f.__name__), host) for f in KEYWORDS[keyword] if f in FUNCTIONS[:2]]
    if keyword in ("keepdims", "return_norm"):  # a NumPy array's fast path leaves these to JAX
        calls = [(f, x) for f, x in calls if isinstance(x, jax.Array)]
    for function, x in calls:
        for several in (False, True)[: 1 + (keyword == "axis")]:

            def call(v, function=function, x=x, several=several):
                return function(x, **{keyword: (0, v) if several else v})

            with pytest.raises(TypeError, match=f"^{keyword}: .*static_argnames='{keyword}'"):
                jax.jit(call)(1)
    assert l2.norm(host, jax.numpy.int32(0), keepdims=jax.numpy.bool_(1)).shape == (1, 3)


def test_wrong_keywords_that_are_arrays_with_values():
    """They are told as such, not as traced."""
    numpy = pytest.importorskip("jax.numpy", reason="of the extra `jax`")
    for keyword, value in (("axis", numpy.float32(0.5)), ("eps", numpy.ones(2))):
        with pytest.raises(TypeError, match=rf"^{keyword}: expected") as info:
            l2.normalize(np.ones((2, 3)), **{keyword: value})
        assert "static_argnames" not in str(info.value)


@pytest.mark.only("traced")
def test_jax_functions_refuse_what_would_be_lost(backend):
    """JAX has no masks, units, nulls and names; the public functions do."""
    own = importlib.import_module("l2multi.jax")
    x = np.ones(2, "f4")
    arrow = importlib.import_module("pyarrow")
    for held in (
        np.ma.MaskedArray(x, [0, 1]),
        importlib.import_module("pint").Quantity(x, "m"),
        importlib.import_module("xarray").DataArray(x, dims="space"),
        arrow.FixedSizeListArray.from_arrays(arrow.array(x), 2),
    ):
        for function in (own.normalize, own.norm):
            told = rf"^x: .*{type(held).__name__} is more than .*l2multi\.normalize"
            with pytest.raises(TypeError, match=told):
                function(held)


@pytest.mark.only("traced")
@pytest.mark.parametrize(
    "x",
    [
        *(None, "34", b"34", object(), {3: 4}, range(3), 2**70, slice(3)),
        *([2**70], [[1, 2], [3]], [[1, "a"]], [None, 1], [X, X[:1]], np.array(["a"])),
        *(np.array([1, "a"], object), np.array([[3], None], object), np.array(["2020"], "M8[D]")),
        *(memoryview(X), {3, 4}),
    ],
    ids=lambda x: type(x).__name__,
)
def test_jax_functions_refuse_what_normalize_refuses(backend, x):
    """In the same words: not as JAX does, and not by taking what may live elsewhere."""
    own = importlib.import_module("l2multi.jax")
    with pytest.raises((TypeError, ValueError), match=r"^x: ") as info:
        l2.normalize(x)
    for function in (own.normalize, own.norm):
        with pytest.raises(type(info.value)) as told:
            function(x)
        assert str(told.value) == str(info.value)


@pytest.mark.only("traced")
def test_jax_functions_take_lists(backend):
    """Of numbers, as JAX has their dtypes, and of JAX arrays and numbers; tensors are refused."""
    jax, own = backend.jax, importlib.import_module("l2multi.jax")
    three = jax.numpy.float32(3)
    for x in ([3, 4], [3.0, 4], [three, 4.0], [2**63, 0], [3 * 2**40, 2**42], [True, False]):
        assert own.norm([x, x]).shape == (2,)
        y = own.normalize(x)
        assert isinstance(y, jax.Array)
        assert y.dtype == np.float32
        np.testing.assert_allclose(y, l2.normalize(np.array(x, "f4")), rtol=1e-6)
    assert own.norm([3j, 4]) == own.norm(5, None) == 5
    assert own.normalize([np.float16(3), np.float16(4)]).dtype == np.float16
    y = jax.jit(lambda a: own.normalize([[a, 4.0], (a, a)]))(3.0)
    np.testing.assert_allclose(y, l2.normalize([[3, 4], [3, 3]]), rtol=1e-6)
    with pytest.raises(ValueError, match=r"^x: .*ragged: row x\[1\] has length 3, row x\[0\] has"):
        own.norm([jax.numpy.ones(2), jax.numpy.ones(3)])
    with pytest.raises(TypeError, match=r"^x: this list .*'a'"):
        own.norm([three, "a"])
    with pytest.raises(TypeError, match=r"^x: .*float64 needs x64"):
        own.norm(np.float64(3), None)
    tensor = type("Tensor", (), dict.fromkeys(("numpy", "__array__", "__dlpack__")))()
    for x in (tensor, [tensor], [three, tensor]):
        with pytest.raises(TypeError, match=r"^x: .*Tensor.*try .\.numpy\(\)"):
            own.normalize(x)


@pytest.mark.only("traced")
def test_jax_functions_take_sparse_arrays(backend):
    """As `normalize` does; but these cannot be split."""
    own = importlib.import_module("l2multi.jax")
    sparse = importlib.import_module("jax.experimental.sparse")
    for kind in (sparse.BCOO, sparse.BCSR):
        dense = backend.jax.numpy.array([[3.0, 4.0], [0.0, 0.0]])
        x, many = kind.fromdense(dense), kind.fromdense(dense[None], n_batch=1)
        with pytest.raises(TypeError, match=r"^x: .* batch .*\(jax\.vmap takes them off\)"):
            own.norm(many)
        assert backend.jax.vmap(own.norm)(many).tolist() == [[5, 0]]
        assert own.norm(x).tolist() == [5, 0]
        assert type(own.normalize(x)) is kind
        for function in (own.normalize, own.norm):
            with pytest.raises(TypeError, match=r"^axis_name: sparse arrays .* got 'i'"):
                function(x, axis_name="i")


@pytest.mark.only("traced")
def test_a_dtype_that_jax_has_not(backend):
    """It is `dtype` that is refused, not `x`; and what is said works."""
    jax, own = backend.jax, importlib.import_module("l2multi.jax")
    x = jax.numpy.ones(3)
    for function, keywords in ((l2.norm, {}), (l2.normalize, {}), (l2.norm, {"backend": "jax"})):
        told = "^dtype: .* give float64: .*float64 needs x64: JAX_ENABLE_X64=1 .*enable_x64"
        with pytest.raises(TypeError, match=told):
            function(x, dtype="float64", **keywords)
        with pytest.raises(TypeError, match=r"^dtype: .* give longdouble .*JAX has no longdouble"):
            function(x, dtype=np.longdouble, **keywords)
    with pytest.raises(TypeError, match=r"^dtype: "):
        own.norm(x, dtype="float64")
    with jax.enable_x64(True):
        assert l2.norm(x, dtype="float64").dtype == np.float64


def test_a_single_vector_has_no_position():
    """Nor has its error, whose class is the one that users import."""
    with pytest.raises(l2.ZeroVectorError, match=r"^x: zero norm in the only vector$") as info:
        l2.normalize(np.zeros((2, 3)), None, zero="raise")
    assert str(info.type) == "<class 'l2multi.ZeroVectorError'>"
    with pytest.raises(l2.NonFiniteError, match=r"^x: inf or NaN in the only vector$") as info:
        l2.norm([np.nan, 1.0], nonfinite="raise")
    assert str(info.type) == "<class 'l2multi.NonFiniteError'>"
    assert pickle.loads(pickle.dumps(info.value)).args == info.value.args


def test_axis_name():
    """It is for `l2multi.jax`, and that is said."""
    for name in ("normalize", "norm"):
        with pytest.raises(TypeError, match=rf"^axis_name: .*l2multi\.jax\.{name}"):
            getattr(l2, name)(X, axis_name="model")


def test_jax_that_is_not_installed():
    """`import l2multi.jax` says what to install."""
    code = """if True:
        import sys
        sys.modules["jax"] = None
        try:
            import l2multi.jax
        except ImportError as error:
            print(error)
    """
    told = python(code)
    assert "'jax' cannot be loaded" in told
    assert "pip install 'jax>=" in told


def test_names_of_dtypes_of_ml_dtypes():
    """They work before anybody has imported it, and say what to install where that cannot be."""
    code = f"""if True:
        import sys
        import l2multi as l2
        names = {_contract.ML_FLOATS}
        sys.modules["ml_dtypes"] = None
        for name in names:
            for function in (l2.normalize, l2.norm, l2.explain):
                try:
                    function([3.0, 4.0], dtype=name)
                except ImportError as error:
                    assert f"{{name}}' comes from ml_dtypes; try: pip install" in str(error)
                else:
                    raise AssertionError(name)
        del sys.modules["ml_dtypes"]
        for name in names:
            for backend in (None, "numpy"):
                for _ in range(2):
                    assert l2.normalize([3.0, 4.0], dtype=name, backend=backend).dtype == name
                    assert l2.norm([0.6, 0.8], dtype=name, backend=backend).dtype == name
    """
    python(code)


@pytest.mark.only("immutable")
def test_refusals_under_tracing(backend):
    """Policies that need values are refused when the function is traced."""
    x = backend.array(X.astype("f4"))
    for given, other in (("zero", "nonfinite"), ("nonfinite", "zero")):
        with pytest.raises(TypeError, match=f'^{given}="raise".* trac.*: use {given}=') as info:
            backend.jax.jit(lambda a, k=given: l2.normalize(a, **{k: "raise"}))(x)
        assert other not in str(info.value)


def test_policies_look_at_the_norms_that_are_there(monkeypatch):
    """They take no way of their own through what they let pass; where they are to refuse something,
    or an output is to be spared, they do."""
    from l2multi.backends import numpy as plain

    ways = []
    norm = plain.norm
    monkeypatch.setattr(plain, "norm", lambda *a, **k: ways.append(1) or norm(*a, **k))
    x, both = np.ones((3, 4), np.float32), {"zero": "raise", "nonfinite": "raise"}
    l2.normalize(x, backend="numpy", **both)
    assert len(ways) == 0
    l2.norm(x, nonfinite="raise", backend="numpy")
    assert len(ways) == 1
    l2.normalize(x, out=np.empty_like(x), backend="numpy", **both)
    assert len(ways) == 2
    l2.normalize(np.full_like(x, 3e38), backend="numpy", **both)  # of which float32 has no norm
    assert len(ways) == 3
    with pytest.raises(l2.ZeroVectorError):
        l2.normalize(0 * x, backend="numpy", **both)
    assert len(ways) == 4
