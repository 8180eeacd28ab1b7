"""What else people use: ways to normalize, and whether they do the same work as l2multi."""

import functools
import os
import sys
import warnings
from collections.abc import Callable, Iterable
from importlib import metadata
from typing import Any, NamedTuple

import numpy as np

import l2multi as l2
from benchmarks import common
from benchmarks.common import Array, Axis, Call, Work, dtype_of, norm_dtype, ours, result_dtype

Build = Callable[[Work, Any], Call]
SOME = 50  # elements along each axis at which results are looked at


class Peer(NamedTuple):
    """One way to normalize: `build` gives the call that does the work on an array of NumPy or JAX,
    with all that needs doing only once already done; NotImplementedError where there is none. A
    call need not wait for its result. `host` takes that to NumPy."""

    name: str
    needs: tuple[str, ...]  # distributions
    build: Build
    host: Callable[[Any], Array] = np.asarray


def _divide(work: Work, x: Array, norm: Call, column: Call) -> Call:
    """The division by norms: `norm` gives them without the axis, `column` with it."""
    result = result_dtype(work, x.dtype)

    def both() -> tuple[Array, Array]:
        divisor = column()
        return (x / divisor).astype(result, copy=False), divisor.squeeze(work.axis)

    match work.operation:
        case "norm":
            return norm
        case "return_norm":
            return both
        case "new" if np.result_type(x.dtype, column().dtype) == result:
            return lambda: x / column()
        case "new" | "cast":
            return lambda: (x / column()).astype(result)
    out = common.target(work, x)
    return lambda: np.divide(x, column(), out=out, casting="unsafe")


def _numpy(work: Work, x: Array) -> Call:
    norm: Any = functools.partial(np.linalg.norm, x, axis=work.axis)
    half = x.dtype.itemsize <= 2 and x.dtype.kind not in "iub"
    if half and work.operation in ("norm", "return_norm"):  # which are asked for in float32

        def norm(**keywords: bool) -> Any:
            return np.linalg.norm(x.astype(np.float32), axis=work.axis, **keywords)

    return _divide(work, x, norm, functools.partial(norm, keepdims=True))


_SUMS: dict[Axis, str] = {
    -1: "...i,...i->...",
    0: "i...,i...->...",
    1: "ki...,ki...->k...",
    (0, 2): "ikj,ikj->k",
}


def _einsum(work: Work, x: Array) -> Call:
    axis, norms = work.axis, norm_dtype(x.dtype)
    subscripts = _SUMS[axis]
    # Parts of complex numbers are twice as many numbers, if they lie along the axis.
    if x.dtype.kind == "c" and not (axis == -1 and x.flags.c_contiguous):
        raise NotImplementedError
    parts = x.view(norms) if x.dtype.kind == "c" else x

    def norm() -> Any:
        return np.sqrt(np.einsum(subscripts, parts, parts, dtype=norms))

    def column() -> Any:
        return norm()[..., None] if axis == -1 else np.expand_dims(norm(), axis)

    return _divide(work, x, norm, column)


def _sklearn(work: Work, x: Array) -> Call:
    from sklearn.preprocessing import normalize
    from sklearn.utils.extmath import row_norms

    if x.ndim != 2 or work.operation == "out":
        raise NotImplementedError
    axis = 1 if work.axis == -1 else 0
    match work.operation:
        case "norm" if axis == 1:
            return functools.partial(row_norms, x)
        case "norm":
            raise NotImplementedError
        case "return_norm":
            return functools.partial(normalize, x, axis=axis, return_norm=True)
        case "inplace":
            return functools.partial(normalize, x, axis=axis, copy=False)
        case "cast":
            return lambda: normalize(x, axis=axis).astype(work.cast)
    return functools.partial(normalize, x, axis=axis)


def _faiss(work: Work, x: Array) -> Call:
    import faiss

    if work.axis != -1 or x.ndim != 2 or work.operation not in ("new", "out", "inplace"):
        raise NotImplementedError
    if not x.flags.c_contiguous:
        raise NotImplementedError
    out = common.target(work, x) if work.operation == "out" else x

    def inplace() -> Array:
        faiss.normalize_L2(x)
        return x

    def copied() -> Array:
        y = x.copy()
        faiss.normalize_L2(y)
        return y

    def into() -> Array:
        np.copyto(out, x)
        faiss.normalize_L2(out)
        return out

    return {"new": copied, "out": into, "inplace": inplace}[work.operation]


def _tensor(x: Array) -> Any:
    import torch

    if not isinstance(x, np.ndarray):
        return torch.from_dlpack(x)
    if x.dtype.name == "bfloat16":
        return torch.from_numpy(x.view(np.uint16)).view(torch.bfloat16)
    return torch.from_numpy(x)


def _from_tensor(t: Any) -> Array:
    import torch

    t = t.cpu()
    if t.dtype == torch.bfloat16:
        return t.view(torch.uint16).numpy().view(dtype_of("bfloat16"))  # type: ignore[no-any-return]
    return t.numpy()  # type: ignore[no-any-return]


def _torch(work: Work, x: Array) -> Call:
    import torch
    from torch.nn.functional import normalize

    t, dim = _tensor(x), work.axis
    result = getattr(torch, result_dtype(work, x.dtype).name)
    integer = x.dtype.kind in "iub"
    if integer and work.operation == "inplace":
        raise NotImplementedError

    def floating() -> Any:
        return t.to(torch.float64) if integer else t

    # Norms of halves in float32; complex norms have no dtype= of their own.
    of = {} if x.dtype.kind == "c" else {"dtype": getattr(torch, norm_dtype(x.dtype).name)}

    def both() -> tuple[Any, Any]:
        norm = torch.linalg.vector_norm(floating(), dim=dim, keepdim=True, **of)
        return (t / norm).to(result), norm.squeeze(dim)

    match work.operation:
        case "norm":
            return lambda: torch.linalg.vector_norm(floating(), dim=dim, **of)
        case "return_norm":
            return both
        case "cast":
            return lambda: normalize(floating(), dim=dim).to(result)
        case "out":
            out = _tensor(common.target(work, x))
            return lambda: normalize(floating(), dim=dim, out=out)
        case "inplace":
            return functools.partial(normalize, t, dim=dim, out=t)
    return lambda: normalize(floating(), dim=dim)


def _torch_compiled(work: Work, x: Array) -> Call:
    import torch

    if not _tensor(x).is_cuda:  # on a CPU it asks for a C++ compiler
        raise NotImplementedError
    torch.compiler.reset()  # for it compiles a function only so often, and goes on without
    return torch.compile(_torch(work, x), dynamic=False)  # type: ignore[no-any-return]


def _on_tensors(function: Callable[..., Any], work: Work, x: Array) -> Call:
    """A function of a tensor, and, where the work is so, its backward pass alone."""
    import torch

    t = _tensor(x)
    match work.operation:
        case "new":
            return functools.partial(function, t)
        case "out":
            return functools.partial(function, t, out=_tensor(common.target(work, x)))
        case "inplace":
            return functools.partial(function, t, out=t)
        case "gradient":
            t.requires_grad_()
            weights = t.detach().flip(-1)
            y = function(t)
            return lambda: torch.autograd.grad(y, t, weights, retain_graph=True)[0]
    raise NotImplementedError


def ours_on_tensors(work: Work, x: Array) -> Call:
    """l2multi on a tensor."""
    call = _on_tensors(l2.normalize, work, x)
    return common.waited(call, common.settled(call))


def _normalize(compiled: bool, work: Work, x: Array) -> Call:
    import torch
    from torch.nn.functional import normalize

    function = functools.partial(normalize, dim=-1)
    if not compiled:
        return _on_tensors(function, work, x)
    if work.operation not in ("new", "gradient"):
        raise NotImplementedError
    torch.compiler.reset()  # for it compiles a function only so often, and goes on without
    return _on_tensors(torch.compile(function, dynamic=False), work, x)


def _largest_first(work: Work, x: Array) -> Call:
    """As PhysicsNeMo's `safe_normalize`: over the largest element first, then over the norm."""
    import torch

    def function(t: Any) -> Any:
        largest = t.abs().amax(-1, keepdim=True)
        scaled = t / torch.where(largest > 0, largest, 1)
        return scaled / torch.linalg.vector_norm(scaled, dim=-1, keepdim=True)

    if work.operation not in ("new", "gradient"):
        raise NotImplementedError
    return _on_tensors(function, work, x)


def _jax(work: Work, x: Array) -> Call:
    import jax
    import jax.numpy as jnp

    axis, result, norms = work.axis, result_dtype(work, x.dtype), norm_dtype(x.dtype)
    # Off by default; where JAX_ENABLE_X64 is not set, float64 would become float32.
    if (result.itemsize == 8 or x.dtype.itemsize == 8) and not jax.config.jax_enable_x64:
        raise NotImplementedError

    def unit(x: Any) -> Any:
        return (x / jnp.linalg.norm(x, axis=axis, keepdims=True)).astype(result)

    def norm(x: Any, keepdims: bool = False) -> Any:
        wide = x if x.dtype.kind == "c" else x.astype(norms)
        return jnp.linalg.norm(wide, axis=axis, keepdims=keepdims)

    def both(x: Any) -> tuple[Any, Any]:
        n = norm(x, keepdims=True)
        return (x / n).astype(result), n.squeeze(axis)

    return _program({"norm": norm, "return_norm": both}.get(work.operation, unit), work, x)


def _program(function: Callable[[Any], Any], work: Work, x: Any) -> Call:
    """A function of an array under `jax.jit`; or the gradient of the sum of all elements, each with
    a weight."""
    import jax
    import jax.numpy as jnp

    if work.operation in ("out", "inplace"):
        raise NotImplementedError
    x = jax.device_put(x)
    if work.operation != "gradient":
        return functools.partial(jax.jit(function), x)
    gradient = jax.jit(jax.grad(lambda x, weights: (function(x) * weights).sum()))
    return functools.partial(gradient, x, jnp.flip(x, work.axis))


def ours_compiled(work: Work, x: Any) -> Call:
    """l2multi under `jax.jit`."""
    keywords = {"return_norm": True} if work.operation == "return_norm" else {}
    call = _program(functools.partial(l2.normalize, axis=work.axis, **keywords), work, x)
    return common.waited(call, call())


def ours_in_jax(work: Work, x: Any) -> Call:
    """l2multi on a JAX array: eager but where the operation says otherwise."""
    return (ours_compiled if work.operation in ("jit", "gradient") else ours)(work, x)


def _formula(name: str) -> Build:
    """A way to unit vectors that stands in `formulas`."""

    def build(work: Work, x: Any) -> Call:
        from benchmarks import formulas

        if work.operation not in ("new", "jit", "gradient") or work.axis != -1:
            raise NotImplementedError
        return _program(getattr(formulas, name), work, x)

    return build


def _keras(work: Work, x: Array) -> Call:
    if "keras" not in sys.modules:
        os.environ.setdefault("KERAS_BACKEND", "torch" if version("torch") else "jax")
    import keras

    if work.operation != "new":
        raise NotImplementedError
    return lambda: keras.ops.convert_to_numpy(keras.ops.normalize(x, axis=work.axis, order=2))


def _onnx(work: Work, x: Array) -> Call:
    import onnx
    import onnxruntime

    if work.operation != "new" or not isinstance(work.axis, int):
        raise NotImplementedError
    kind = onnx.helper.np_dtype_to_tensor_dtype(x.dtype)
    value = functools.partial(onnx.helper.make_tensor_value_info, elem_type=kind, shape=x.shape)
    node = onnx.helper.make_node("LpNormalization", ["x"], ["y"], axis=work.axis, p=2)
    graph = onnx.helper.make_graph([node], "g", [value("x")], [value("y")])
    # The newest release of ONNX is often newer than the runtime.
    imports = [onnx.helper.make_opsetid("", 22)]
    model = onnx.helper.make_model(graph, opset_imports=imports, ir_version=10)
    session = onnxruntime.InferenceSession(model.SerializeToString())
    return lambda: session.run(None, {"x": x})[0]


def _numkong(work: Work, x: Array) -> Call:
    import numkong

    if work.operation != "norm":
        raise NotImplementedError
    keywords = {"dtype": "bfloat16"} if x.dtype.name == "bfloat16" else {}
    if x.ndim == 2 and len(x) == 1:  # a number costs it less than an array of one
        return functools.partial(numkong.norm, x, **keywords)
    return functools.partial(numkong.norm, x, axis=work.axis, **keywords)


PEERS = (
    Peer("x / np.linalg.norm(x)", ("numpy",), _numpy),
    Peer("np.einsum", ("numpy",), _einsum),
    Peer("scikit-learn", ("scikit-learn",), _sklearn),
    Peer("torch", ("torch",), _torch, _from_tensor),
    Peer("keras", ("keras",), _keras),
    Peer("faiss", ("faiss-cpu",), _faiss),
    Peer("jax.jit", ("jax",), _jax),
    Peer("ONNX Runtime", ("onnxruntime", "onnx"), _onnx),
    Peer("NumKong", ("numkong",), _numkong),
    Peer("x * rsqrt", ("jax",), _formula("multiplied")),
    Peer("three float32 sums", ("jax",), _formula("three_sums")),
    Peer("one, and three if needed", ("jax",), _formula("rescue")),
    Peer("torch.compile", ("torch",), _torch_compiled, _from_tensor),
    Peer("F.normalize", ("torch",), functools.partial(_normalize, False), _from_tensor),
    Peer("F.normalize, compiled", ("torch",), functools.partial(_normalize, True), _from_tensor),
    Peer("largest first", ("torch",), _largest_first, _from_tensor),
)
OURS = Peer("l2multi", ("l2multi",), ours)


def named(*names: str) -> tuple[Peer, ...]:
    """The peers of these names."""
    return tuple(peer for peer in PEERS if peer.name in names)


def version(distribution: str) -> str | None:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None


def versions(peers: tuple[Peer, ...] = (*PEERS, OURS)) -> dict[str, str]:
    """The distributions that are installed, and their versions."""
    names = dict.fromkeys(name for peer in peers for name in peer.needs)
    return {name: found for name in names if (found := version(name))}


def installed(peers: tuple[Peer, ...] = PEERS) -> tuple[Peer, ...]:
    """Those that can run here; the others are named on stderr."""
    found = []
    for peer in peers:
        missing = [name for name in peer.needs if version(name) is None]
        if missing:
            print(f"{peer.name} is left out; try: pip install {' '.join(missing)}", file=sys.stderr)
        else:
            found.append(peer)
    return tuple(found)


class _Wanted(NamedTuple):
    """One result that is asked for: how it begins, in every vector, and the shape of the whole."""

    first: Array
    shape: tuple[int, ...]
    wider: bool  # whether a wider dtype will do: more bytes to write, not fewer


def _wanted(work: Work, x: Any) -> list[_Wanted]:
    """The results that are asked for, by the backend of plain NumPy."""
    axes = {axis % x.ndim for axis in np.atleast_1d(work.axis)}
    first = np.asarray(x[tuple(slice(None if axis in axes else SOME) for axis in range(x.ndim))])
    keywords: dict[str, Any] = {"return_norm": True, "backend": "numpy"}
    unit, norm = l2.normalize(first, work.axis, dtype=result_dtype(work, x.dtype), **keywords)
    if work.operation == "gradient":
        weights = np.flip(first, work.axis).astype(np.float64)
        along = (unit * weights).sum(work.axis, keepdims=True)
        gradient = (weights - unit * along) / np.expand_dims(norm, work.axis)
        unit = gradient.astype(unit.dtype)
    units = _Wanted(unit, x.shape, False)
    left = tuple(size for axis, size in enumerate(x.shape) if axis not in axes)
    norms = _Wanted(norm, left, True)
    return {"norm": [norms], "return_norm": [units, norms]}.get(work.operation, [units])


def _corner(y: Any) -> Any:
    return y[(slice(SOME),) * len(np.shape(y))] if np.shape(y) else y


def _differs(y: Any, host: Callable[[Any], Array], wanted: _Wanted) -> str:
    """How a result is not the one asked for; "" if it is."""
    found, want = host(_corner(y)), _corner(wanted.first)
    other = wanted.wider and found.dtype.itemsize > want.dtype.itemsize
    shape = tuple(np.shape(y)) or (1,)  # a number is as good as an array of one
    if shape != wanted.shape:
        return f"returns the shape {shape}"
    if found.dtype != want.dtype and not other:
        return f"returns {found.dtype}"
    epsilon = 2.0 ** -{"float16": 10, "bfloat16": 7}.get(want.dtype.name, 20)
    wide = np.complex128 if want.dtype.kind == "c" else np.float64
    close = np.allclose(found.astype(wide), want.astype(wide), rtol=32 * epsilon, atol=epsilon / 8)
    return "" if close else "returns other values"


def contenders(
    work: Work, x: Any, peers: Iterable[Peer], refused: dict[str, str] | None = None
) -> dict[str, Call]:
    """The peers that do the same work on `x`: same shape, dtype and, roughly, values. Each call
    waits for its result.

    Those that try and do not, and why, are noted in `refused`.
    """
    wanted = _wanted(work, x)
    refused = {} if refused is None else refused
    found = {}
    for peer in peers:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                call = peer.build(work, x)
                result = call()
                results = [result] if len(wanted) == 1 else result
                checks = zip(results, wanted, strict=True)
                why = "; ".join(filter(None, (_differs(y, peer.host, w) for y, w in checks)))
        except NotImplementedError:
            continue
        except Exception as error:  # a peer raises what it likes where it cannot
            why = f"{type(error).__name__}: {error}".splitlines()[0][:100]
        if why:
            refused[peer.name] = why
        else:
            found[peer.name] = common.waited(call, result)
    return found
