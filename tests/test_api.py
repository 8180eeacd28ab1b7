"""What the public functions do before a backend is at work: names, precedence, refusals."""

import asyncio
import contextvars
import inspect
import os
import subprocess
import sys
import threading
import types

import numpy as np
import pytest

import l2multi as l2
from l2multi import _registry

X = np.array([3.0, 4.0])
FUNCTIONS = (l2.normalize, l2.norm, l2.is_normalized, l2.explain)


@pytest.fixture(autouse=True)
def clean(monkeypatch):
    """No backend is chosen from outside, and what a test loads is forgotten."""
    monkeypatch.delenv(_registry.ENVIRONMENT, raising=False)
    monkeypatch.setattr(_registry, "_failed", {})
    monkeypatch.setattr(_registry, "_usual", {})
    monkeypatch.setattr(_registry, "_loaded", dict(_registry._loaded))


@pytest.fixture
def stand_in(monkeypatch):
    """The preferred NumPy backend, played by the readable one, so that nothing is compiled."""
    sound = _registry.load("numpy")
    names = ("normalize", "norm", "finite", "traced", "unsupported", "unready", "short", "check")
    fake = types.SimpleNamespace(**{n: getattr(sound, n) for n in names})
    fake.kernel = lambda *_: ("stand-in", 7)
    monkeypatch.setitem(_registry._loaded, "numba", fake)
    return fake


def used(**keywords):
    """The backend of a call."""
    return l2.explain(X, **keywords).backend


@pytest.mark.parametrize("name", _registry.NAMES)
def test_backends_keep_to_the_protocol(name):
    """The names of the protocol, with its parameters."""
    found = _registry.load(name)
    for method, wanted in inspect.getmembers(_registry.Backend, inspect.isfunction):
        if not method.startswith("_") and hasattr(found, method):
            have = list(inspect.signature(getattr(found, method)).parameters)
            assert have == list(inspect.signature(wanted).parameters)[1:], method


def test_precedence(stand_in, monkeypatch):
    """Argument, then context manager, then environment at the time of the call, then auto."""
    assert used() == "numba"
    monkeypatch.setenv(_registry.ENVIRONMENT, "numpy")
    assert used() == "numpy"
    with l2.backend("numba"):
        assert used() == "numba"
        with l2.backend("numpy"):
            assert used() == "numpy"
            assert used(backend="numba") == "numba"
        assert used() == "numba"
    assert used() == "numpy"
    monkeypatch.setenv(_registry.ENVIRONMENT, "")
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
    known = ".*".join(map(repr, _registry.NAMES))
    match = rf"^backend: unknown name 'cupid'; known are .*{known}"
    for function in FUNCTIONS:
        with pytest.raises(ValueError, match=match):
            function(X, backend="cupid")
    with pytest.raises(ValueError, match=match):
        l2.backend("cupid")
    with pytest.raises(ValueError, match="unknown name ''"):
        l2.normalize(X, backend="")
    monkeypatch.setenv(_registry.ENVIRONMENT, "cupid")
    with pytest.raises(ValueError, match=match):
        l2.normalize(X)
    assert l2.norm(X, backend="numpy") == 5


@pytest.mark.parametrize(
    "row", [r for r in _registry.ROWS if r.name != "numpy"], ids=lambda r: r.name
)
def test_not_installed(monkeypatch, row):
    """A known backend that does not load is an ImportError that says what to install."""
    _registry._loaded.pop(row.name, None)
    monkeypatch.setitem(sys.modules, row.module, None)
    for function in FUNCTIONS:
        with pytest.raises(ImportError, match=f"'{row.name}' cannot be loaded") as info:
            function(X, backend=row.name)
        assert row.install in str(info.value)
    assert used() in set(_registry.NAMES) - {row.name}
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
        print(l2.normalize([3.0, 4.0]).tolist(), l2.norm([3.0, 4.0]))
        while "being prepared" in l2.explain([3.0, 4.0]).why:
            time.sleep(0.01)
        print(l2.explain([3.0, 4.0]))
        try:
            l2.normalize([3.0, 4.0], backend="numba")
        except ImportError as error:
            print(error)
        l2.show_versions()
    """
    lines = python(code, tmp_path, L2MULTI_CACHE_DIR="").splitlines()  # kernels would need no Numba
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
    monkeypatch.setenv(_registry.ENVIRONMENT, "numpy")
    _registry._loaded.pop("jax", None)
    monkeypatch.setitem(sys.modules, "l2multi.backends.jax", None)
    l2.show_versions()
    lines = dict(line.split("  ", 1) for line in capsys.readouterr().out.splitlines())
    lines = {k: v.strip() for k, v in lines.items()}
    assert lines["l2multi"] == l2.__version__
    assert lines["numpy"] == np.__version__
    assert lines["backend numpy"] == "usable"
    assert lines["backend jax"].startswith("not usable: ")
    assert "pip install" in lines["backend jax"]
    assert lines[f"${_registry.ENVIRONMENT}"] == "numpy"
    assert {f"backend {name}" for name in _registry.NAMES} <= lines.keys()


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


NUMPY_BACKENDS = [row.name for row in _registry.ROWS if row.library == "numpy"]


@pytest.mark.only("immutable")
@pytest.mark.parametrize("name", NUMPY_BACKENDS)
def test_jax_arrays_under_numpy_backends(backend, name):
    """A concrete CPU array is served and comes back as one; a tracer is a TypeError."""
    _registry.load(name)
    jax = backend.jax
    x = backend.array(X.astype("f4"))
    if backend.device.platform != "cpu":
        with pytest.raises(TypeError, match=f"{backend.device.platform}|device|host"):
            l2.normalize(x, backend=name)
        return
    y, norms = l2.normalize(x, return_norm=True, backend=name)
    for z in (y, norms, l2.norm(x, backend=name), l2.is_normalized(y, backend=name)):
        assert isinstance(z, jax.Array)
        assert z.devices() == x.devices()
    assert y.dtype == norms.dtype == np.float32
    np.testing.assert_allclose(y, [0.6, 0.8], rtol=1e-7)
    with pytest.raises(TypeError, match=f"(?i)'{name}'.*trac|trac.*'{name}'|trac"):
        jax.jit(lambda a: l2.normalize(a, backend=name))(x)


@pytest.mark.only("immutable")
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


@pytest.mark.only("differentiable")
def test_refusals_under_tracing(backend):
    """Policies that need values are refused when the function is traced."""
    x = backend.array(X.astype("f4"))
    for keywords in ({"zero": "raise"}, {"nonfinite": "raise"}):
        with pytest.raises(TypeError, match="trac"):
            backend.jax.jit(lambda a, k=keywords: l2.normalize(a, **k))(x)
