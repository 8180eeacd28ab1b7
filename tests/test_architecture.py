"""What docs/architecture.md says can be done is done here as it says."""

import array
import functools
import re
import sys
import types
from pathlib import Path

import numpy as np
import pytest

import l2multi as l2
from l2multi import _backends, _containers, _formats, _usable
from l2multi.files import normalize_file

PAGE = (Path(__file__).parents[1] / "docs/architecture.md").read_text(encoding="utf-8")


def added(monkeypatch, file, table):
    """The module of a page's block, imported, and the row of the block after it."""
    code, row = (
        re.search(rf"^```python\n# {re.escape(start)}.*?\n(.*?)^```", PAGE, re.M | re.S)[1]
        for start in (file, f"a row of {table.__name__.partition('.')[2]}.ROWS")
    )
    module = types.ModuleType(file.removesuffix(".py").replace("/", "."))
    exec(compile(code, file, "exec"), module.__dict__)
    monkeypatch.setitem(sys.modules, module.__name__, module)
    made = eval(row, {"Row": table.Row})
    assert made.module == module.__name__
    return made


def test_a_container(monkeypatch):
    """An `array.array` comes back as one, and messages know of it."""
    row = added(monkeypatch, "l2multi/containers/array_array.py", _containers)
    monkeypatch.setattr(_containers, "ROWS", (*_containers.ROWS, row))
    for code in "fd":
        unit, norm = l2.normalize(array.array(code, [3 * 2.0**100, 4 * 2.0**100]), return_norm=True)
        assert unit == array.array(code, [0.6, 0.8])
        assert norm == np.dtype(code).type(5 * 2.0**100)
    assert l2.normalize(array.array("i", [3, 4])) == array.array("d", [0.6, 0.8])
    assert l2.norm(array.array("d", [3, 4]), backend="numpy") == 5
    with pytest.raises(TypeError, match=r"^dtype: array\.array has no float16"):
        l2.normalize(array.array("d", [3, 4]), dtype="float16")
    assert l2.is_normalized(array.array("d", [0.6, 0.8]))
    assert l2.explain(array.array("d", [3, 4])).backend in _backends.NAMES
    with pytest.raises(TypeError, match=r"array\.array"):
        l2.normalize(object())
    assert "array.array" in _containers.table()
    monkeypatch.undo()
    with pytest.raises(TypeError, match=r"try np\.asarray\(x\)|not supported"):
        l2.normalize(array.array("d", [3, 4]))


def test_a_backend(monkeypatch):
    """It serves by name, and by itself where it comes first."""
    row = added(monkeypatch, "l2multi/backends/hypot.py", _backends)
    monkeypatch.setattr(_backends, "ROWS", (row, *_backends.ROWS))
    monkeypatch.setattr(_backends, "rows", functools.cache(_backends.rows.__wrapped__))
    monkeypatch.setattr(_backends, "NAMES", (row.name, *_backends.NAMES))
    monkeypatch.setattr(_backends, "_FIRST", {**_backends._FIRST, row.name: row})
    monkeypatch.setattr(_backends, "fast_paths", {})
    monkeypatch.setitem(_usable.INSTALL, row.name, "nothing")
    x = np.array([[3e200, 4e200], [0.0, 0.0], [5.0, 12.0]])
    want, lengths = l2.normalize(x, return_norm=True, backend="numpy")
    for name in (None, row.name):
        got, norms = l2.normalize(x, return_norm=True, backend=name)
        np.testing.assert_allclose(got, want)
        np.testing.assert_allclose(norms, lengths)
        assert l2.norm(x, axis=0, keepdims=True, backend=name).shape == (1, 2)
        assert l2.explain(x, backend=name).kernel == "math.hypot"
    with pytest.raises(TypeError, match=r"math\.hypot has no float32"):
        l2.norm(x[1:].astype(np.float32), backend=row.name)
    assert l2.explain(x[1:].astype(np.float32)).backend != row.name


def test_a_file_format(monkeypatch, tmp_path, capsys):
    """It is streamed, and refused where it is cut."""
    row = added(monkeypatch, "l2multi/formats/points.py", _formats)
    monkeypatch.setattr(_formats, "ROWS", (*_formats.ROWS, row))
    source, target = tmp_path / "x.points", tmp_path / "y.points"

    def write(x):
        source.write_bytes(np.array(x.shape[1], "<i4").tobytes() + x.tobytes())

    for x in (np.array([[3, 4, 0], [0, 0, 0]], np.float32), np.empty((0, 3), np.float32)):
        for dims in (None, 2):
            write(x)
            want = l2.normalize(x[:, :dims])
            assert normalize_file(source, target, dims=dims).shape == want.shape
            write(want)
            assert target.read_bytes() == source.read_bytes()
    for wrong in (b"", bytes(4), np.array([3, 1], "<i4").tobytes(), np.array(-1, "<i4").tobytes()):
        source.write_bytes(wrong)
        with pytest.raises(ValueError, match=r"source: .* complete .points file, .*x.points"):
            normalize_file(source, target)
    write(x)
    with pytest.raises(ValueError, match=r"target: .* ends in \.points"):
        normalize_file(source, tmp_path / "y.npy")
    with pytest.raises(ValueError, match=r"tensor: expected none, .* points of float32"):
        normalize_file(source, target, tensor="x")
    assert ".points" in _formats.known()
    assert "| `.points` | points of float32 |  |" in _formats.table()
