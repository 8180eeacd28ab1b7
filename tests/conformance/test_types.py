"""Which dtypes, containers and subclasses go in, and what comes out."""

import array
import collections
import contextlib
import fractions
import pathlib
import re

import ml_dtypes
import numpy as np
import pytest

import l2multi as l2
from tests import cases
from tests.conformance.test_accuracy import check
from tests.held import VectorSubject
from tests.reference import judge, same_bits

F8 = np.dtype("f8")
direct = pytest.mark.only("direct")


@pytest.mark.dtypes(*cases.DTYPES, always=True)
def test_table(backend, dtype):
    """The contract's table of dtypes, for `normalize`, `norm` and the norms returned."""
    x = cases.sample(dtype, (2, 3))
    check(backend, x)
    assert backend.norm(x).dtype == backend.norm_dtype(dtype)
    assert backend.run(l2.is_normalized, x).dtype == bool


@pytest.mark.dtypes(*dict.fromkeys(a for a, _ in cases.CONVERSIONS))
def test_dtype_argument(backend, dtype):
    """``dtype=`` chooses the output; as wide as the wider of the two, and rounded once."""
    x = cases.vectors(dtype, 17, subnormal=False)[[0, 3]]
    norms = backend.norm(x)
    for asked in (b for a, b in cases.CONVERSIONS if a == dtype and not backend.why_not(b)):
        y, same = backend.normalize(x, dtype=asked, return_norm=True)
        assert y.dtype == asked
        assert same_bits(same, norms) or not backend.same_bits
        verdict = judge(x, y, flush=backend.flushes(asked))
        assert verdict.element <= backend.bound(asked, "element"), verdict
        if dtype.kind != "c":
            moderate = cases.sample(dtype, (2, 17))
            lengths = backend.norm(moderate, dtype=asked)
            assert lengths.dtype == asked
            verdict = judge(moderate, None, lengths)
            assert verdict.norm <= backend.bound(asked, "norm"), verdict


@pytest.mark.dtypes(np.dtype("f4"))
def test_an_array_as_out(backend, dtype):
    """Of any kind: it is written to, or refused by its name."""
    x = cases.sample(dtype, (3,) if isinstance(backend, VectorSubject) else (2, 3))
    for function, shape in ((l2.normalize, x.shape), (l2.norm, x.shape[:-1])):
        with backend.scope(dtype), contextlib.ExitStack() as stack:
            held, out = backend.array(x), np.zeros(shape, dtype)
            try:
                function(held, out=out)
            except (TypeError, ValueError):
                stack.enter_context(pytest.raises((TypeError, ValueError), match=r"^out: "))
                function(held, out=out)


@direct
@pytest.mark.parametrize(
    ("x", "asked"),
    [
        (np.ones(3, "c8"), "f4"),
        (np.ones(3, "f4"), "c8"),
        (np.ones(3, "f4"), "i4"),
        (np.ones(3, "f4"), "O"),
        (np.ones(3, "f4"), "nonsense"),
    ],
)
def test_wrong_dtype_argument(backend, x, asked):
    """Complex for real, real for complex, or no floating dtype at all."""
    for function, wrong in ((l2.normalize, asked), (l2.norm, "c8")):
        complex_ = x.dtype.kind == "c" and function is l2.normalize
        told = "a complex .*, as x is" if complex_ else "a real .*, as x or the norm is"
        with backend.scope(), pytest.raises(TypeError, match=rf"^dtype: expected {told}.*, got "):
            function(x, dtype=wrong, backend=backend.name)


@direct
@pytest.mark.parametrize(
    "dtype_",
    [
        *("O", "S3", "U3", "M8[s]", "m8[s]", "f4,f4", "V4", np.dtypes.StringDType()),
        *(ml_dtypes.float4_e2m1fn, ml_dtypes.float6_e2m3fn, ml_dtypes.float6_e3m2fn),
        ml_dtypes.float8_e8m0fnu,
    ],
    ids=str,
)
def test_unsupported_dtypes(backend, dtype_):
    """Objects, strings, dates, structures and floats without a mantissa or with two bits of it are
    a TypeError that names the dtype; as ``dtype=`` too."""
    x = np.zeros(3, dtype_)
    for function in (l2.normalize, l2.norm):
        with backend.scope(), pytest.raises(TypeError, match=r"^dtype: expected") as info:
            function(np.ones(3, "f4"), dtype=x.dtype, backend=backend.name)
        assert str(x.dtype) in str(info.value)
    for function in (l2.normalize, l2.norm, l2.is_normalized, l2.explain):
        with backend.scope(), pytest.raises(TypeError, match=r"^x: dtype .*accepted") as info:
            function(x, backend=backend.name)
        assert str(x.dtype) in str(info.value)
        assert "float8_e4m3fn, " in str(info.value)  # not all there are


@direct
@pytest.mark.parametrize("dtype_", cases.LONGS, ids=str)
def test_longdouble(backend, dtype_):
    """A backend named for longdouble either has it or says that it has not."""
    x = cases.sample(dtype_, (2, 3))
    double = x.astype("c16" if x.dtype.kind == "c" else "f8")
    for keywords in ({"x": x}, {"x": double, "dtype": dtype_}):
        with backend.scope(np.dtype("f8")):
            if backend.why_not(dtype_) is None:
                assert l2.normalize(**keywords, backend=backend.name).dtype == dtype_
                continue
            argument = "x" if keywords["x"] is x else "dtype"
            named = f"^{argument}: .*{backend.name}.*(long|{dtype_})"
            if backend.why_not(double.dtype):
                named = f"^x: .*{backend.name}.*(long|{dtype_}|{double.dtype})"
            with pytest.raises(TypeError, match=named):
                l2.normalize(**keywords, backend=backend.name)
    if dtype_ != double.dtype:
        with pytest.raises(TypeError, match=r"^out: expected dtype .*, got c?longdouble"):
            l2.normalize(double, out=x)


@direct
@pytest.mark.only("takes_usual")
@pytest.mark.parametrize(
    ("x", "expected"),
    [
        ([3, 4], [0.6, 0.8]),
        ((3.0, 4.0), [0.6, 0.8]),
        ([[3, 4], (0, 5)], [[0.6, 0.8], [0, 1]]),
        ([True, False], [1.0, 0.0]),
        ([3j, 4], [0.6j, 0.8]),
        ([], []),
        ([np.float64(3), 4], [0.6, 0.8]),
    ],
    ids=str,
)
def test_sequences(backend, x, expected):
    """Lists and tuples go through `numpy.asarray`, and NumPy arrays come back."""
    with backend.scope(F8):
        y, norms = l2.normalize(x, return_norm=True, backend=backend.name)
    assert type(y) is np.ndarray
    assert y.dtype == np.asarray(expected).dtype
    np.testing.assert_array_almost_equal_nulp(y.view("f8"), np.asarray(expected).view("f8"), 4)
    np.testing.assert_allclose(norms, np.linalg.norm(np.asarray(x, "c16"), axis=-1), rtol=1e-15)


@direct
@pytest.mark.only("takes_usual")
@pytest.mark.parametrize("x", [-3, 2.5, True, 3 + 4j, np.float32(-7), np.int8(3)], ids=repr)
def test_scalars(backend, x):
    """A scalar is a vector under ``axis=None`` or ``()``, and an error under an int axis."""
    for axis in (None, ()):
        with backend.scope(F8):
            y, norm = l2.normalize(x, axis, return_norm=True, backend=backend.name)
        assert y.shape == norm.shape == ()
        np.testing.assert_allclose(y, x / abs(x), rtol=3e-16)
        np.testing.assert_allclose(norm, abs(x), rtol=3e-16)
    with backend.scope(F8), pytest.raises(np.exceptions.AxisError, match="axis"):
        l2.normalize(x, backend=backend.name)


@direct
@pytest.mark.parametrize("x", [None, "34", {3: 4}, {3, 4}, object(), range(3), b"34", iter([3])])
def test_other_types(backend, x):
    """Anything else is a TypeError that names the type and what is accepted."""
    for function in (l2.normalize, l2.norm, l2.is_normalized, l2.explain):
        with pytest.raises(TypeError, match=r"^x: .*accepted.*numpy.ndarray") as info:
            function(x, backend=backend.name)
        assert type(x).__name__ in str(info.value)


def offering(*names, **attributes):
    """An object that has these methods and attributes, for what it is worth."""
    methods = dict.fromkeys(names, lambda *_: pytest.fail("nothing is called"))
    return type("Foreign", (), {**methods, **attributes})()


def tensor(dtype="float32", layout="strided", **attributes):
    """One that says of itself what PyTorch's say."""
    attributes = {"dtype": f"torch.{dtype}", "layout": f"torch.{layout}", **attributes}
    return offering("numpy", "__array__", "resolve_conj", **attributes)


@pytest.mark.parametrize(
    ("x", "cure"),
    [
        (offering("to_numpy", "__array__"), "x.to_numpy()"),
        (offering("numpy", "__array__", device="cpu"), "x.numpy()"),
        (tensor(requires_grad=True, device="cuda:0"), "x.numpy(force=True)"),
        (tensor("bfloat16"), "x.float().numpy(force=True)"),
        (tensor("float8_e5m2", "sparse_coo"), "x.to_dense().float().numpy(force=True)"),
        (tensor("complex32"), "x.cfloat().numpy(force=True)"),
        (tensor("qint8", is_quantized=True), "x.dequantize().numpy(force=True)"),
        (tensor("uint16", "_mkldnn"), "x.to_dense().numpy(force=True)"),
        (offering("toarray"), "x.toarray()"),
        (offering("__array__", magnitude=3, units="m"), "x.magnitude"),
        (offering("__array__", "__jax_array__"), "jax.numpy.asarray(x)"),
        (offering("__array__", "__getitem__"), "np.asarray(x)"),
        (offering("__dlpack__"), "np.from_dlpack(x)"),
        (offering("get_group", "__iter__"), "x.obj"),
        (offering("__float__"), "float(x)"),
        (array.array("d", [3, 4]), "np.asarray(x)"),
        (memoryview(b"ab"), "np.asarray(x)"),
        (collections.deque([3, 4]), "np.asarray(x)"),
        (range(3), "np.asarray(x)"),
        ({"a": [3, 4]}, "list(x.values())"),
        ({3, 4}, "list(x)"),
        (iter([3]), "list(x)"),
        (fractions.Fraction(3), "float(x)"),
        (np.array([[3, 4], None], object)[:1], "x.tolist()"),
        (np.array([[3, 2.5], [3, 2**70]], object), "np.asarray(x, float)"),
        (np.ma.MaskedArray([3, None], [0, 1], object), "x.astype(float)"),
        (np.array([3j, 2**70]), "np.asarray(x, complex)"),
        ([2**70, 1], "np.asarray(x, float)"),
        (((2**70,), (1j,)), "np.asarray(x, complex)"),
        (2**70, "np.asarray(x, float)"),
    ],
    ids=lambda v: v if isinstance(v, str) else type(v).__name__,
)
def test_cures(x, cure):
    """A type that is not supported is told what to do, by what it offers; and that works."""
    for function in (l2.normalize, l2.norm, l2.is_normalized, l2.explain):
        with pytest.raises(TypeError, match=rf"^x: .*; try {re.escape(cure)}(; accepted are |$)"):
            function(x)
    if type(x).__name__ != "Foreign":
        assert l2.norm(eval(cure, {"np": np, "x": x}), None) > 0


@pytest.mark.parametrize("x", ["emb.npy", pathlib.Path("emb.npy")], ids=repr)
def test_names_of_files(x):
    """They are told the function for files."""
    with pytest.raises(TypeError, match=r"^x: .*; try l2multi\.files\.normalize_file\(x, "):
        l2.normalize(x)


def test_a_number_has_no_axes():
    """What is said then works too."""
    told = r"^axis: a number has no axes, try axis=None: axis -1"
    with pytest.raises(np.exceptions.AxisError, match=told):
        l2.norm(-3.0)
    assert l2.norm(-3.0, axis=None) == 3


@pytest.mark.parametrize("x", [None, b"34", object(), tensor(is_meta=True)])
def test_nothing_is_told_that_does_not_help(x):
    with pytest.raises(TypeError, match=r"accepted are [^;]*$"):
        l2.normalize(x)


@pytest.mark.parametrize(
    ("x", "told"),
    [
        ([[1, 2, 3], [1, 2, 3], [1, 2]], "row x[2] has length 2, row x[0] has length 3"),
        (([1.5, 2j], [True]), "row x[1] has length 1, row x[0] has length 2"),
        ([[[1, 2], [3, 4]], [[1, 2], [3]]], "row x[1][1] has length 1, row x[0][0] has length 2"),
        ([[1], 2], "row x[1] is of type int, row x[0] has length 1"),
        ([1, (2, 3)], "row x[1] has length 2, row x[0] is of type int"),
        ([[1], []], "row x[1] has length 0, row x[0] has length 1"),
        ([np.ones(3), np.ones(2)], "row x[1] has length 2, row x[0] has length 3"),
        ([np.ones((2, 2)), np.ones((2, 3))], "row x[1][0] has length 3, row x[0][0] has length 2"),
        ([["a", "b"], ["c"]], "row x[1] has length 1, row x[0] has length 2"),
    ],
    ids=str,
)
def test_ragged(x, told):
    """The first row of another length is named, at any depth."""
    told = f"^x: this {type(x).__name__} is ragged: {re.escape(told)}; for vectors that .* pyarrow"
    with pytest.raises(ValueError, match=told):
        l2.normalize(x)


TEXT = "of numbers in text, try np.asarray(x, float)"


@pytest.mark.parametrize("nest", [lambda x: [x, x], lambda x: ([x], [x])], ids=["flat", "nested"])
@pytest.mark.parametrize(
    ("item", "how"),
    [
        (np.ma.MaskedArray([3.0, 4.0], [0, 1]), "np.ma.stack(v) in place of each list v of them"),
        (offering("__array__", "to_numpy"), "v.to_numpy() in place of each item v"),
        (offering("__array__", magnitude=3, units="m"), "v.magnitude in place of each item v"),
        (tensor("bfloat16"), "v.float().numpy(force=True) in place of each item v"),
        (offering("__jax_array__"), "jax.numpy.asarray(x)"),
        (offering("todense"), "v.todense() in place of each item v"),
        (fractions.Fraction(3), "float(v) in place of each item v"),
        (None, "try np.nan in place of each None, or a numpy.ma.MaskedArray"),
        ("a", f"are no numbers: 'a'; {TEXT}"),
        (b"a", f"are no numbers: b'a'; {TEXT}"),
        (np.str_("a"), f"are no numbers: np.str_('a'); {TEXT}"),
    ],
)
def test_lists_of_arrays_that_are_not_base_arrays(nest, item, how):
    """No mask, unit or device is lost by the way."""
    name, how = re.escape(f"{type(item).__module__}.{type(item).__qualname__}"), re.escape(how)
    with pytest.raises(TypeError, match=f"^x: this .* items of type {name}, which .*{how}$"):
        l2.normalize(nest(item))


def test_what_is_told_of_lists_works():
    """At any depth."""
    half, m = fractions.Fraction(1, 2), np.ma.MaskedArray([3.0, 4.0], [0, 1])
    assert l2.norm([[float(half)], [float(half)]]).tolist() == [0.5, 0.5]
    rows = [np.ma.stack(v) for v in ([m], [m])]
    with pytest.raises(TypeError, match=r"np\.ma\.stack\(v\)"):
        l2.norm(rows)
    assert l2.norm(np.ma.stack(rows)).tolist() == [[3], [3]]


@pytest.mark.parametrize(
    ("x", "told"),
    [
        (np.array(["3", "a"], object), f"it holds .* builtins.str, .*: '3'; {re.escape(TEXT)}"),
        (np.array([3, "a"], object), f"it holds .* builtins.str, .*: 'a'; {re.escape(TEXT)}"),
        (np.array([3, None]), "it holds items of type builtins.NoneType, .* np.nan in place .*"),
        (np.array(None), "it holds items of type builtins.NoneType, .* np.nan in place .*"),
        (
            np.array([3, fractions.Fraction(3)]),
            r"it holds items of type fractions.Fraction, .* float\(v\) in place of each item v",
        ),
    ],
    ids=str,
)
def test_objects_that_are_no_numbers(x, told):
    """An array of them names the first."""
    for function in (l2.normalize, l2.norm, l2.is_normalized, l2.explain):
        with pytest.raises(TypeError, match=f"^x: dtype object is .*accepted are .*; {told}$"):
            function(x)


@pytest.mark.parametrize("dtype_", ["S3", "U3", np.dtypes.StringDType()], ids=str)
def test_arrays_of_text(dtype_):
    """What is told to do works."""
    x = np.array(["3", "4"]).astype(dtype_)
    with pytest.raises(TypeError, match=f"^x: dtype .* is not supported; .*; {re.escape(TEXT)}$"):
        l2.normalize(x)
    assert l2.normalize(np.asarray(x, float)).tolist() == [0.6, 0.8]


@pytest.mark.only("immutable")
def test_lists_of_jax_arrays(backend):
    """They are not moved to the host in silence; nor are traced ones JAX's to refuse."""
    jax, x = backend.jax, backend.array(np.ones(2, "f4"))
    for function in (l2.normalize, jax.jit(l2.normalize)):
        with pytest.raises(TypeError, match=r"^x: this list holds items of type jax"):
            function([x, x])
    assert l2.norm([np.asarray(v) for v in [x, x]]).shape == (2,)
    assert jax.jit(lambda x: l2.norm(jax.numpy.asarray(x)))([x, x]).shape == (2,)


@direct
@pytest.mark.parametrize("x", [[[1, 2], [3]], ["a", "b"], [None, 1], [{}]], ids=repr)
def test_bad_sequences(backend, x):
    """Ragged lists and lists of something else are errors that name `x`."""
    with backend.scope(F8), pytest.raises((TypeError, ValueError), match=r"^x: "):
        l2.normalize(x, backend=backend.name)


@direct
@pytest.mark.dtypes(*(np.dtype(d) for d in ("f2", "f4", "f8", "c8", "i4", "?")))
def test_masked(backend, dtype):
    """Masked entries do not count and stay masked; a norm of nothing but those is masked."""
    data = cases.sample(dtype, (4, 6))
    mask = np.zeros((4, 6), bool)
    mask[0, 1] = mask[1, 2:5] = mask[2] = True
    x = np.ma.MaskedArray(data.copy(), mask.copy())
    if cases.is_float(dtype):
        x.data[mask] = np.nan
    with backend.scope(dtype if cases.is_float(dtype) else F8):
        y, norms = l2.normalize(x, return_norm=True, backend=backend.name)
        alone = l2.norm(x, backend=backend.name)
        hollow = np.where(mask, np.zeros_like(data), data)
        expected = l2.normalize(hollow, return_norm=True, backend=backend.name)
        for zero in ("raise", "nan"):
            again = l2.normalize(x, zero=zero, nonfinite="raise", backend=backend.name)
            assert same_bits(again.data[~mask], y.data[~mask])
        unit = l2.is_normalized(y, tol=1e-2, backend=backend.name)
    for z in (y, norms, alone, unit):
        assert type(z) is np.ma.MaskedArray
    assert np.array_equal(y.mask, mask)
    assert np.array_equal(x.mask, mask)
    assert same_bits(x.data[~mask], data[~mask])
    assert same_bits(y.data[~mask], expected[0][~mask])
    assert norms.mask.tolist() == alone.mask.tolist() == unit.mask.tolist() == [0, 0, 1, 0]
    assert same_bits(norms.compressed(), expected[1][[0, 1, 3]])
    assert same_bits(alone.compressed(), expected[1][[0, 1, 3]])
    assert unit.compressed().tolist() == [True] * 3


@direct
def test_masked_norm_of_one_vector(backend):
    """A single norm is a scalar, or `numpy.ma.masked` if nothing of the vector shows."""
    with backend.scope(F8):
        some = np.ma.MaskedArray([3.0, 7.0, 4.0], [0, 1, 0])
        assert l2.norm(some, backend=backend.name) == 5
        assert l2.norm(np.ma.masked_all(3), backend=backend.name) is np.ma.masked
        kept = l2.norm(np.ma.masked_all(3), keepdims=True, backend=backend.name)
        assert kept.mask.tolist() == [True]
        assert l2.norm(np.ma.masked_all((2, 0)), backend=backend.name).tolist() == [0, 0]


@direct
def test_subclasses(backend):
    """Other subclasses come back as base arrays."""

    class Sub(np.ndarray):
        """A subclass."""

    with backend.scope(F8):
        x = np.ones((2, 3)).view(Sub)
        y, norms = l2.normalize(x, return_norm=True, backend=backend.name)
        assert type(y) is type(norms) is np.ndarray
        assert type(l2.is_normalized(x, backend=backend.name)) is np.ndarray
        assert l2.explain(x, backend=backend.name) == l2.explain(
            np.ones((2, 3)), backend=backend.name
        )


class Wrapped(np.ndarray):
    """As libraries have it that keep their class, and nothing else."""

    def __array_wrap__(self, array, context=None, return_scalar=False):
        return super().__array_wrap__(array, context, return_scalar).view(Wrapped)


@direct
@pytest.mark.parametrize("kind", [np.matrix, np.recarray, np.memmap, Wrapped])
def test_plain_subclasses(backend, kind, tmp_path):
    """Those of NumPy and their like: base arrays come back, and as `out` they are what returns."""
    plain = np.arange(6.0).reshape(2, 3)

    def make():
        if kind is not np.memmap:
            return plain.copy().view(kind)
        mapped = np.memmap(tmp_path / "map", "f8", "w+", shape=plain.shape)
        mapped[...] = plain
        return mapped

    with backend.scope(F8):
        want = l2.normalize(plain, return_norm=True, backend=backend.name)
        y, norms = l2.normalize(make(), return_norm=True, backend=backend.name)
        assert type(y) is type(norms) is np.ndarray
        assert same_bits(y, want[0])
        assert same_bits(norms, want[1])
        for x, out in ((plain, make()), (plain.T, make().T), *[(z, z) for z in [make()]]):
            want = l2.normalize(np.array(x), 0, backend=backend.name)
            assert l2.normalize(x, 0, out=out, backend=backend.name) is out
            assert type(out) is kind
            assert same_bits(np.asarray(out), want)
        out = np.zeros((1, 3)).view(kind) if kind is not np.memmap else make()[:1]
        assert l2.norm(plain, 0, keepdims=True, out=out, backend=backend.name) is out
        assert same_bits(np.asarray(out), l2.norm(plain, 0, keepdims=True, backend=backend.name))


class Counted(np.ndarray):
    """One that means something: it has arithmetic of its own."""

    def __array_ufunc__(self, *arguments, **keywords):
        return NotImplemented


class Dispatched(np.ndarray):
    """Another: it has functions of its own."""

    def __array_function__(self, *arguments, **keywords):
        return NotImplemented


class Metres(np.ndarray):
    """One with a unit, by the older means."""

    unit, value = "m", property(np.asarray)


class MaskedMetres(np.ma.MaskedArray):
    """A masked one."""

    units, magnitude = "m", property(np.asarray)


class Unmasked(Counted):
    """One with a mask of its own."""

    unmasked = property(np.asarray)


@direct
@pytest.mark.parametrize(
    ("kind", "cure"),
    [
        (Counted, "np.asarray(x)"),
        (Dispatched, "np.asarray(x)"),
        (Metres, "x.value"),
        (MaskedMetres, "x.magnitude"),
        (Unmasked, "np.ma.MaskedArray(x.unmasked, x.mask)"),
    ],
)
def test_subclasses_that_mean_something(backend, kind, cure):
    """A unit or a mask is not lost in silence: as `x`, in a list, under a mask and as `out`."""
    x = np.ones((2, 3)).view(kind)
    told = "^{}: type .*" + kind.__name__ + " means more .*; try {}$"
    with backend.scope(F8):
        for function in (l2.normalize, l2.norm, l2.is_normalized, l2.explain):
            with pytest.raises(TypeError, match=told.format("x", re.escape(cure))):
                function(x, backend=backend.name)
        with pytest.raises(TypeError, match=f"^x: this list holds items of type .*{kind.__name__}"):
            l2.normalize([x], backend=backend.name)
        wide = np.ma.MaskedArray(np.ones((2, 3)), np.eye(2, 3))
        masked = np.ma.MaskedArray(x) if kind is not MaskedMetres else x
        if kind is not MaskedMetres:
            with pytest.raises(TypeError, match=r"^x: .*MaskedArray.*np.ma.MaskedArray\(.*mask\)$"):
                l2.norm(masked, backend=backend.name)
            with pytest.raises(TypeError, match=told.format("out", r"np.asarray\(out\)")):
                l2.normalize(np.ones((2, 3)), out=x, backend=backend.name)
        with pytest.raises(TypeError, match=r"^out: .* means more"):
            l2.normalize(wide, out=masked, backend=backend.name)
    assert np.array_equal(np.asarray(x), np.ones((2, 3)))
