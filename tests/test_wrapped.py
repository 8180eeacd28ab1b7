"""Containers that hold another: xarray, pint, astropy."""

import numpy as np
import pytest

import l2multi as l2

X = np.array([[3.0, 4.0], [0.0, 0.0], [5e200, 12e200]])
UNIT, NORMS = l2.normalize(X, return_norm=True)


@pytest.fixture(params=[np.asarray, np.ma.masked_invalid, "jax", "dask"])
def array(request):
    """What xarray holds."""
    if request.param == "dask":
        return pytest.importorskip("dask.array").from_array(X, (2, 2))
    if request.param != "jax":
        return request.param(X)
    return pytest.importorskip("jax.numpy").asarray(X.clip(max=1e30), np.float32)


def data_array(data):
    xarray = pytest.importorskip("xarray")
    return xarray.DataArray(
        data,
        dims=("time", "space"),
        coords={
            "time": [1, 2, 3],
            "space": ["x", "y"],
            "label": ("time", list("abc")),
            "of": ("space", [1.5, 2.5]),
            "version": 7,
        },
        attrs={"from": "a test"},
        name="position",
    )


@pytest.mark.parametrize("how", [{}, {"axis": 1}, {"axis": "space"}, {"dim": "space"}])
def test_names(array, how):
    """Dimensions, coordinates, attributes, name and the kind of data are kept."""
    x = data_array(array)
    unit, norms = l2.normalize(x, return_norm=True, **how)
    assert type(unit.data) is type(x.data)
    assert unit.dims == x.dims
    assert unit.coords.identical(x.coords) or unit.coords.keys() == x.coords.keys()
    assert unit.attrs == norms.attrs == x.attrs
    assert unit.name == norms.name == "position"
    np.testing.assert_array_equal(np.asarray(unit.data), np.asarray(l2.normalize(array)))
    assert norms.dims == ("time",)
    assert set(norms.coords) == {"time", "label", "version"}
    np.testing.assert_array_equal(np.asarray(norms.data), np.asarray(l2.norm(array)))
    np.testing.assert_array_equal(np.asarray(l2.norm(x, **how).data), np.asarray(norms.data))


def test_more_names():
    x = data_array(X)
    assert l2.norm(x, dim=("space", "time")).item() == l2.norm(X, axis=None)
    assert l2.norm(x, axis=None).dims == ()
    kept = l2.norm(x, dim="time", keepdims=True)
    assert kept.dims == x.dims
    assert kept.shape == (1, 2)
    assert set(kept.coords) == {"space", "of", "version"}
    assert l2.is_normalized(l2.normalize(x), axis="space").values.tolist() == [True, False, True]
    assert l2.explain(x, "space").backend == l2.explain(X).backend
    for wrong in ({"dim": "height"}, {"axis": ("space", "height")}):
        with pytest.raises(ValueError, match="dim: expected some of"):
            l2.normalize(x, **wrong)
    with pytest.raises(TypeError, match="dim: x has no dimensions with names"):
        l2.normalize(X, dim="space")
    with pytest.raises(l2.ZeroVectorError):
        l2.normalize(x, zero="raise")


def test_pint():
    """movement#243, pint#1250: the norm has the unit, and the unit vector has none."""
    pint = pytest.importorskip("pint")
    metre = pint.UnitRegistry().metre
    x = X * metre
    unit, norms = l2.normalize(x, return_norm=True)
    assert type(unit) is np.ndarray
    assert unit.tobytes() == UNIT.tobytes()
    assert norms.units == l2.norm(x, keepdims=True).units == metre
    assert norms.magnitude.tobytes() == NORMS.tobytes()
    assert l2.norm([3, 4] * metre) == 5 * metre
    assert not l2.is_normalized(x).any()
    assert (l2.normalize(x, eps=10.0)[0] == [0.3, 0.4]).all()


@pytest.mark.skipif(np.__version__ == "2.0.0", reason="astropy cannot be imported with it")
def test_astropy():
    units = pytest.importorskip("astropy.units")
    x = X * units.m
    unit, norms = l2.normalize(x, return_norm=True)
    assert type(unit) is np.ndarray
    assert unit.tobytes() == UNIT.tobytes()
    assert norms.unit == units.m
    assert norms.value.tobytes() == NORMS.tobytes()
    assert l2.norm([3, 4] * units.km) == 5000 * units.m
    assert not l2.is_normalized(x).any()
    assert l2.explain(x).backend == l2.explain(X).backend


def test_both():
    pint, _ = pytest.importorskip("pint"), pytest.importorskip("xarray")
    x = data_array(X * pint.UnitRegistry().metre)
    assert l2.norm(x).data.units == x.data.units
    assert (l2.normalize(x).data == UNIT).all()


def test_lazy_ones():
    """Nothing of a Dask array is computed by whoever says what its numbers mean."""
    dask = pytest.importorskip("dask")
    lazy = pytest.importorskip("dask.array").from_array(X, (2, 1))
    pint, _ = pytest.importorskip("pint"), pytest.importorskip("xarray")
    metres = pint.UnitRegistry().Quantity(lazy, "metre")

    def early(*_, **__):
        pytest.fail("it was computed")

    with dask.config.set(scheduler=early):
        x = data_array(lazy)
        for named in ({"axis": "space"}, {"dim": "time"}, {"axis": None}):
            for backend in (None, "numpy"):
                unit, norms = l2.normalize(x, return_norm=True, backend=backend, **named)
                for y in (unit.data, norms.data, l2.norm(x, keepdims=True, **named).data):
                    assert type(y) is type(lazy)
        assert unit.data.chunks == lazy.chunks
        marks = l2.is_normalized(l2.normalize(x), "space")
        unit, norms = l2.normalize(metres, return_norm=True)
        assert type(unit) is type(norms.magnitude) is type(lazy)
        raises = l2.normalize(x, dim="space", zero="raise")
        with pytest.raises(TypeError, match="out: Dask arrays are lazy"):
            l2.normalize(x, out=x)
    assert marks.compute(scheduler="sync").values.tolist() == [True, False, True]
    np.testing.assert_allclose(unit.compute(scheduler="sync"), UNIT, rtol=1e-15)
    with pytest.raises(l2.ZeroVectorError):
        raises.compute(scheduler="sync")


@pytest.mark.parametrize("unit", ["degC", "dB", "dBm"])
def test_units_in_which_numbers_have_no_length(unit):
    """One with an offset, and logarithms; differences of the former have a length."""
    pint = pytest.importorskip("pint")
    for automatic in (False, True):
        units = pint.UnitRegistry(autoconvert_offset_to_baseunit=automatic)
        with pytest.raises(TypeError, match=r"have no length; try x.to_base_units\(\)"):
            l2.norm(units.Quantity(X, unit))
        found = l2.norm(units.Quantity(np.array([3.0, 4.0]), "delta_degC"))
        assert (found.magnitude, str(found.units)) == (5.0, "delta_degree_Celsius")


def test_a_dimension_beside_an_axis():
    """Neither is ignored."""
    x = data_array(X)
    with pytest.raises(TypeError, match="dim: expected no axis= beside it, got 0"):
        l2.normalize(x, 0, dim=x.dims[0])
