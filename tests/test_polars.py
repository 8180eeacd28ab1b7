"""Polars: Series and expressions, by way of Arrow."""

import numpy as np
import pytest

import l2multi as l2

pl = pytest.importorskip("polars")
pytest.importorskip("pyarrow")
pytest.importorskip("l2multi.polars")

KIND = pl.Array(pl.Float32, 2)
FRAME = pl.DataFrame(
    {"k": [1, 1, 2, 2, 2], "v": [[3, 4], None, [0, 0], [6, 8], [None, 4]]},
    schema={"k": pl.Int8, "v": KIND},
)
UNIT = [np.float32([0.6, 0.8]).tolist(), None, [0.0, 0.0], np.float32([0.6, 0.8]).tolist(), None]
NORMS = [5.0, None, 0.0, 10.0, None]


def test_series():
    """A Series of the same name and type; also a slice, and one of many chunks."""
    x = FRAME["v"]
    unit, norms = l2.normalize(x, return_norm=True)
    assert unit.name == norms.name == "v"
    assert unit.dtype == KIND
    assert unit.to_list() == UNIT
    assert norms.to_list() == NORMS
    assert l2.is_normalized(unit).to_list() == [True, None, False, True, None]
    assert l2.normalize(x[2:]).to_list() == UNIT[2:]
    assert l2.norm(pl.concat([x, x[:1]], rechunk=False)).to_list() == [*NORMS, 5.0]
    assert l2.normalize(x.clear()).dtype == KIND
    assert l2.explain(x).backend == l2.explain(np.ones((5, 2), "f4")).backend
    with pytest.raises(TypeError, match="x: "):
        l2.normalize(pl.Series([1.0]))


@pytest.mark.parametrize("engine", ["eager", "in-memory", "streaming"])
def test_expressions(engine):
    """The schema is known before, and is what comes."""
    e = pl.col("v").l2
    asked = {
        "unit": e.normalize(), "null": e.normalize(zero="null"),
        "norm": e.norm(), "known": e.is_normalized(),
    }  # fmt: skip
    lazy = FRAME.lazy().select(**asked)
    got = FRAME.select(**asked) if engine == "eager" else lazy.collect(engine=engine)
    assert got.schema == lazy.collect_schema()
    assert got["unit"].to_list() == UNIT
    assert got["null"].to_list() == [UNIT[0], None, None, UNIT[3], None]
    assert got["norm"].to_list() == NORMS
    assert got["known"].to_list() == [False, None, False, False, None]


LISTS = FRAME.select(
    "k", v=pl.Series([[3, 4], None, [], [0, 0], [None, 4]], dtype=pl.List(pl.Float32))
)
LIST_UNIT = [UNIT[0], None, [], [0.0, 0.0], None]
LIST_NORMS = [5.0, None, 0.0, 0.0, None]


def test_series_of_lists():
    """Rows of any lengths; sliced, in chunks, of Arrow's null at every position."""
    x = LISTS["v"]
    unit, norms = l2.normalize(x, return_norm=True)
    assert (unit.name, unit.dtype, norms.dtype) == ("v", x.dtype, pl.Float32)
    assert unit.to_list() == LIST_UNIT
    assert norms.to_list() == LIST_NORMS
    for i in range(6):
        assert l2.normalize(x[i:]).to_list() == LIST_UNIT[i:]
        both = pl.concat([x[i:], x[:i], x[i:3]], rechunk=False)
        assert l2.norm(both).to_list() == [*LIST_NORMS[i:], *LIST_NORMS[:i], *LIST_NORMS[i:3]]
        kept = pl.Series("v", [None if j == i else v for j, v in enumerate(LIST_UNIT)])
        assert l2.is_normalized(kept).is_null().to_list() == kept.is_null().to_list()
    assert l2.normalize(x.clear()).dtype == x.dtype
    with pytest.raises(l2.ZeroVectorError, match="1 of 5 vectors, the first at position 3"):
        l2.normalize(x, zero="raise")


@pytest.mark.parametrize("kind", [pl.Array(pl.Float32, 3), pl.List(pl.Float32)])
def test_each_row_is_as_alone(kind):
    """Null at every position, as a row and as an element; sliced, and in chunks."""
    a = np.random.default_rng(3).standard_normal((9, 3)).astype("f4")
    want, lengths = (y.tolist() for y in l2.normalize(a, return_norm=True))

    def check(x, at, kept):
        for first in range(kept):
            unit, norms = l2.normalize(x[first:], return_norm=True)
            assert unit.to_list() == [None if i == at else v for i, v in enumerate(want)][first:]
            assert (
                norms.to_list() == [None if i == at else n for i, n in enumerate(lengths)][first:]
            )
            assert unit.dtype == kind

    for at in range(9):
        rows = [None if i == at else row for i, row in enumerate(a.tolist())]
        check(pl.Series(rows, dtype=kind), at, 9)
        for place in range(3):
            rows = a.tolist()
            rows[at][place] = None
            x = pl.Series(rows, dtype=kind)
            check(x, at, 3)
            check(pl.concat([x[:at], x[at:6], x[max(at, 6) :]], rechunk=False), at, 3)


@pytest.mark.parametrize("engine", ["eager", "in-memory", "streaming"])
@pytest.mark.parametrize("inner", [pl.Float32, pl.Float64, pl.Float16, pl.Int16, pl.Boolean])
@pytest.mark.parametrize("held", [FRAME, LISTS], ids=["Array", "List"])
def test_expressions_of_all_dtypes(held, inner, engine):
    """With the schema that is known before; by rows, whole and in groups."""

    def kind(inner):
        return pl.List(inner) if held is LISTS else pl.Array(inner, 2)

    numbers = pl.Float64 if inner == pl.Boolean else inner
    frame = held.with_columns(pl.col("v").cast(kind(inner)))
    e = pl.col("v").l2
    asked = {
        "unit": e.normalize(), "null": e.normalize(zero="null"), "over": e.normalize().over("k"),
        "norm": e.norm(), "known": e.is_normalized(),
    }  # fmt: skip
    lazy = frame.lazy().select(**asked)
    got = frame.select(**asked) if engine == "eager" else lazy.collect(engine=engine)
    assert got.schema == lazy.collect_schema()
    rows = [None if v is None or None in v else np.array(v) for v in frame["v"].to_list()]
    dtype = {pl.Float32: "f4", pl.Float16: "f2"}.get(inner, "f8")
    assert got.schema["unit"] == kind(numbers if numbers.is_float() else pl.Float64)
    units = [None if v is None else l2.normalize(v.astype(dtype)).tolist() for v in rows]
    assert got["unit"].to_list() == got["over"].to_list() == units
    assert got["null"].to_list() == [None if u and not any(u) else u for u in units]
    assert got["norm"].to_list() == [None if v is None else l2.norm(v) for v in rows]
    assert got["known"].to_list() == [None if v is None else l2.norm(v) == 1 for v in rows]
    by_group = frame.lazy().group_by("k", maintain_order=True).agg(e.normalize(), n=e.norm())
    engine = "auto" if engine == "eager" else engine
    got = by_group.collect(engine=engine)
    assert got["v"].to_list() == [units[:2], units[2:]]
    assert got.schema == by_group.collect_schema()


def test_groups():
    got = FRAME.group_by("k", maintain_order=True).agg(pl.col("v").l2.norm())
    assert got["v"].to_list() == [[5.0, None], [0.0, 10.0, None]]
    assert FRAME.select(pl.col("v").l2.normalize().over("k"))["v"].to_list() == UNIT


@pytest.mark.parametrize(
    ("inner", "unit", "norm"),
    [
        (pl.Int16, pl.Float64, pl.Float64),
        (pl.Float64, pl.Float64, pl.Float64),
        *([(pl.Float16, pl.Float16, pl.Float32)] if hasattr(pl, "Float16") else []),
    ],
)
def test_dtypes(inner, unit, norm):
    frame = FRAME.select(pl.col("v").cast(pl.Array(inner, 2)))
    got = frame.select(pl.col("v").l2.normalize(), n=pl.col("v").l2.norm())
    assert got.schema == {"v": pl.Array(unit, 2), "n": norm}
    assert got["n"].to_list() == NORMS


def test_empty_vectors():
    """Of width 0, which Polars' own kernels do not serve."""
    for rows in ([], [[]], [[], []]):
        x = pl.Series("v", rows, dtype=pl.Array(pl.Float32, 0))
        assert l2.normalize(x).to_list() == rows
        assert l2.normalize(x).dtype == x.dtype
        assert l2.norm(x).to_list() == [0.0] * len(rows)


def test_no_rows_behind_an_offset():
    """Where Polars has no rows left of an Arrow array, its buffer ends before the offset."""
    pa = pytest.importorskip("pyarrow")
    for kind in (pa.list_(pa.float32(), 2), pa.list_(pa.float32())):
        x = pl.Series("v", pa.array([[1, 2], [3, 4]], kind).slice(2))
        assert l2.normalize(x).dtype == x.dtype
        assert l2.norm(x).to_list() == l2.normalize(x).to_list() == []


def test_refusals():
    nested = pl.Series([[[3, 4]]], dtype=pl.List(pl.Array(pl.Float32, 2)))
    for x in (FRAME["k"], nested, pl.Series([[3]], dtype=pl.List(pl.Int128)), pl.Series([["3"]])):
        with pytest.raises(TypeError, match=r"polars type .* is not supported"):
            l2.norm(x)
        with pytest.raises(TypeError, match=r"polars type .* is not supported"):
            x.to_frame("v").select(pl.col("v").l2.norm())
    with pytest.raises(TypeError, match=r"one vector, try x\.to_numpy\(\)$"):
        l2.norm(pl.Series([3.0, 4.0]))
    with pytest.raises(TypeError, match=r"is a table.* of columns of numbers, x\.to_numpy\(\)$"):
        l2.norm(FRAME)
    with pytest.raises(Exception, match="zero norm"):
        FRAME.select(pl.col("v").l2.normalize(zero="raise"))
