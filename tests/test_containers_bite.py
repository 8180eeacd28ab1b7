"""Containers that open or close wrongly must fail the shared suite, by tests that are named here;
and a container that the suite does not run on is found."""

import functools
import importlib
import types

import array_api_strict
import numpy as np
import pytest

from l2multi import _containers, _testing
from l2multi._ragged import Ragged
from tests import held
from tests.conformance import test_accuracy, test_meaning, test_out, test_types
from tests.test_suite_bites import C16, F4, F8, IS_NORM, TABLE, bites, run


def changed(name, change):
    """A container that has the result of one of its functions changed."""

    def broken(opened):
        sound = getattr(opened, name)
        return {name: lambda *args, **keywords: change(sound(*args, **keywords))}

    return broken


closes = functools.partial(changed, "close")
closes_norms = functools.partial(changed, "close_norms")
opens = functools.partial(changed, "values")
target_is_a_copy = changed("target", np.array)


def as_float32(opened):
    """A container that is opened in float32, or in pairs of them."""
    x = opened.array.astype("c8" if opened.array.dtype.kind == "c" else "f4")
    return {"array": x, "values": lambda axes, look: x}


def masked_counts(opened):
    """A masked array that is computed on as it lies."""
    return {"values": lambda axes, look: np.asarray(opened.array)}


def target_keeps_its_mask(opened):
    """A masked `out` that does not get the mask."""
    return {"close_target": lambda out, axes, keepdims=False: out}


def one_more(y):
    """A BCOO matrix with an entry added, a zero."""
    indices = np.concatenate([y.indices, y.indices[:1]])
    data = np.concatenate([y.data, np.zeros(1, y.dtype)])
    return type(y)((data, indices), shape=y.shape)


def one_less(y):
    """A BCSR matrix without its last entry."""
    indptr = np.minimum(y.indptr, y.nse - 1)
    return type(y)((y.data[:-1], y.indices[:-1], indptr), shape=y.shape)


def elsewhere(y):
    """A BCOO matrix whose entries have changed places."""
    return type(y)((y.data, y.indices[::-1]), shape=y.shape)


def counted(y):
    """What pandas holds, with other labels."""
    return y.reset_index(drop=True)


def no_null_row(y):
    """A Series of arrays whose nulls have become something."""
    return y.where(y.notna(), 1)


def on_another_device(y):
    """An array of array-api-strict on another device."""
    return y.to_device(array_api_strict.Device("device2"))


no_mask = np.ma.getdata


def all_shows(y):
    """A masked array without masked entries."""
    return np.ma.MaskedArray(np.ma.getdata(y))


def nothing_shows(y):
    """A masked array with nothing else."""
    return np.ma.MaskedArray(np.ma.getdata(y), True)


def plus_one(values):
    """Numbers that are one too many."""
    return values + values.dtype.type(1)


def no_null(y):
    """An Arrow array whose nulls have become something."""
    if hasattr(y, "values"):
        return type(y).from_arrays(y.values, y.type.list_size)
    return y.fill_null(1)


def upside_down(x):
    """Ragged vectors whose entries are in the reverse order."""
    return Ragged(x.entries[::-1].copy(), x.offsets, x.batch)


def without_zeros(y):
    """A sparse array without the zeros that were stored."""
    y.eliminate_zeros()
    return y


LENGTHS = test_accuracy.test_lengths
CONTAINER_MUTANTS = {
    "mask lost": ("numba:masked entries", closes(all_shows), LENGTHS, F4),
    "masked array lost": ("numpy:masked array", closes(no_mask), TABLE, F4),
    "too much masked": ("numpy:masked array", closes(nothing_shows), TABLE, F8),
    "masked entries count": ("numba:masked entries", masked_counts, LENGTHS, F4),
    "masked entries in norms": ("numba:masked entries", masked_counts, test_meaning.test_axes, F4),
    "masked entries refused": ("numba:masked entries", masked_counts, test_meaning.test_raise, F4),
    "masked norms lost": ("numpy:masked array", closes_norms(no_mask), test_meaning.test_eps, F4),
    "norms masked": ("numba:masked entries", closes_norms(nothing_shows), TABLE, F4),
    "masked vectors' norms": ("numpy", closes_norms(all_shows), test_types.test_masked, F4),
    "mask of out": ("numpy", target_keeps_its_mask, test_out.test_masked_out, None),
    "masked out not written": (
        "numpy:masked array", target_is_a_copy, test_out.test_in_place, F4,
    ),
    "masked norms not written": (
        "numpy:masked array", target_is_a_copy, test_out.test_layouts_of_out, F4,
    ),
    "masked array in float32": ("numpy:masked array", as_float32, test_meaning.test_axes, C16),
    "subclass kept": ("numpy:recarray", closes(lambda y: y.view(np.recarray)), TABLE, F4),
    "map kept": ("numba:memory map", closes(lambda y: y.view(np.memmap)), TABLE, F4),
    "out not written": ("numpy:recarray", target_is_a_copy, test_out.test_in_place, F4),
    "map not written": ("numba:memory map", target_is_a_copy, test_out.test_overlap, F4),
    "list in float32": ("numba:list", as_float32, TABLE, F8),
    "list in float32, within bounds": ("numba:list", as_float32, LENGTHS, F8),
    "list kept": ("numba:list", closes(lambda y: y.tolist()), TABLE, F8),
    "list of norms": ("numba:list", closes_norms(lambda y: y.tolist()), TABLE, F8),
    "list upside down": ("numba:list", opens(lambda x: x[::-1].copy()), LENGTHS, F8),
    "JAX array in float32": ("numpy:JAX array", opens(lambda x: x.astype("f4")), LENGTHS, F8),
    "JAX array lost": ("numpy:JAX array", closes(np.asarray), TABLE, F4),
    "JAX array lost, fast": ("numba:JAX array", closes(np.asarray), TABLE, F8),
    "JAX norms lost": ("numpy:JAX array", closes_norms(np.asarray), IS_NORM, F4),
    "JAX array lost under JAX": ("jax:eager", closes(np.asarray), TABLE, F4),
    "dimensions lost": ("numba:DataArray", closes(np.asarray), TABLE, F4),
    "attributes lost": ("numba:DataArray", closes_norms(lambda y: y.drop_attrs()), TABLE, F4),
    "data of a DataArray": ("numba:DataArray", opens(plus_one), TABLE, F4),
    "unit lost": ("numba:pint", closes_norms(lambda y: y.magnitude), TABLE, F4),
    "unit squared": ("numba:pint", closes_norms(lambda y: y * y.units), TABLE, F4),
    "nulls lost": ("numba:Arrow", closes(no_null), TABLE, F4),
    "null norms lost": ("numba:Arrow", closes_norms(no_null), TABLE, F4),
    "nulls' neighbours": ("numba:Arrow", opens(lambda x: np.roll(x, 1, 0)), TABLE, F4),
    "name lost": ("numpy:Polars", closes(lambda y: y.alias("")), TABLE, F4),
    "Series lost": ("numpy:Polars", closes(lambda y: y.to_arrow()), TABLE, F4),
    "views in the order of memory": ("numba:Arrow views", opens(upside_down), LENGTHS, F4),
    "lists' nulls lost": ("numba:Polars lists", closes(lambda y: y.drop_nulls()), TABLE, F4),
    "chunks joined": ("numba:nanoarrow lists", closes(lambda y: y.combine_chunks()), TABLE, F4),
    "chunk lost": ("numba:nanoarrow lists", closes(lambda y: y.slice(0, 3)), TABLE, F4),
    "index lost": ("numpy:pandas lists", closes(counted), TABLE, F4),
    "norms' index lost": ("numpy:pandas lists", closes_norms(counted), TABLE, F4),
    "rows' nulls lost": ("numba:pandas rows", closes(no_null_row), TABLE, F4),
    "rows' null norms lost": ("numba:pandas rows", closes_norms(no_null_row), TABLE, F4),
    "DataFrame lost": ("numba:DataFrame", closes(np.asarray), TABLE, F4),
    "name of a Series lost": ("numba:Series", closes(lambda y: y.rename(None)), TABLE, F4),
    "columns lost": ("numba:DataFrame", closes(lambda y: y.T.reset_index(drop=True).T), TABLE, F4),
    "DataFrame's numbers": ("numba:DataFrame", opens(plus_one), TABLE, F4),
    "csr entry dropped": ("numba:csr_array", closes(lambda y: y[:, :-1]), TABLE, F4),
    "csr matrix filled": ("numba:csr_array", closes(lambda y: y.toarray()), TABLE, F4),
    "csr class lost": ("numba:csr_array", closes(lambda y: y.tocsc()), TABLE, F4),
    "csr zeros dropped": ("numba:csr_array", closes(without_zeros), test_meaning.test_zero, F4),
    "array API lost": ("array_api:strict", closes(np.from_dlpack), TABLE, F4),
    "device lost": ("array_api:strict", closes(on_another_device), TABLE, F4),
    "device of norms lost": ("array_api:strict", closes_norms(on_another_device), TABLE, F4),
    "array API lost under NumPy": ("numpy:array-api-strict", closes(np.from_dlpack), TABLE, F4),
    "entry added": ("jax:BCOO", closes(one_more), TABLE, F4),
    "entry dropped": ("jax:BCSR", closes(one_less), TABLE, F4),
    "entries elsewhere": ("jax:BCOO", closes(elsewhere), TABLE, F4),
    "sparse matrix filled": ("jax:BCSR", closes(lambda y: y.todense()), TABLE, F4),
    "sparse norms on the host": ("jax:BCOO", closes_norms(np.asarray), TABLE, F4),
}  # fmt: skip


@pytest.mark.parametrize(
    ("variant", "broken", "test", "dtype"), CONTAINER_MUTANTS.values(), ids=CONTAINER_MUTANTS
)
@pytest.mark.where(cases=lambda backend, variant: backend.variant == variant)
def test_mutant_of_a_container(backend, monkeypatch, variant, broken, test, dtype):
    """A row whose module opens or closes wrongly."""
    run(test, backend, dtype)
    with _testing.general_path():
        name = "masked array" if backend.is_reference else backend.container
        row = next(row for row in _containers.ROWS if row.name == name)
        module = types.SimpleNamespace(open=opened_by(row, broken))
        monkeypatch.setitem(_containers._modules, row.module, module)
        bites(test, backend, dtype)


def opened_by(row, broken):
    """The `open` of a container with some of the result's attributes replaced."""
    sound = importlib.import_module(row.module)

    def open_(x, request):
        found = sound.open(x, request)
        vars(found).update(broken(found))
        return found

    return open_


def test_every_container_has_a_subject(monkeypatch):
    """A row of the table without a variant is found."""
    missing = held.without_subject()
    assert not missing, f"enter a subject for {missing} in HELD of tests/held.py"
    row = _containers.ROWS[0]._replace(name="toy")
    monkeypatch.setattr(_containers, "ROWS", (*_containers.ROWS, row))
    assert held.without_subject() == ["toy"]


def test_subjects_hold_what_they_say(backend):
    """Their arrays are opened by the row that they are for."""
    x = np.ones((2, 3), "f4")
    one = x[0] if isinstance(backend, held.VectorSubject) else x
    assert _containers.find(backend.array(one)).name == backend.container
    if backend.holds_layouts and not backend.traced:
        assert np.shares_memory(backend.hold(x), x)
