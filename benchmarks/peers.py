"""What else people use, and what it returns on hard input.

Regenerate the README's table: ``python -m benchmarks.peers --write README.md``. A peer that is not
installed keeps out of it (and is named on stderr): the whole table wants
``pip install scikit-learn jax torch keras faiss-cpu onnx onnxruntime``. It is not changed before
all is done.
"""

import argparse
import functools
import os
import sys
import warnings
from collections.abc import Callable, Iterable
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from benchmarks.common import Axis, Call, Work, dtype_of, norm_dtype, ours, result_dtype, target

Array = np.ndarray[Any, Any]
Build = Callable[[Work, Array], Call]


class Peer(NamedTuple):
    """One way to normalize: `build` gives the call that does the work on an array, with all that
    needs doing only once already done; NotImplementedError where there is none."""

    name: str
    needs: tuple[str, ...]  # distributions
    build: Build
    host: Callable[[Any], Array] = np.asarray


def _no(work: Work, x: Array) -> NotImplementedError:
    return NotImplementedError(f"no {work.operation} for {x.dtype} of shape {x.shape}")


def _numpy(work: Work, x: Array) -> Call:
    axis, result = work.axis, result_dtype(work, x.dtype)

    def unit() -> Array:
        return x / np.linalg.norm(x, axis=axis, keepdims=True)  # type: ignore[no-any-return]

    def into(out: Array) -> Array:
        divisor = np.linalg.norm(x, axis=axis, keepdims=True)
        return np.divide(x, divisor, out=out, casting="unsafe")  # type: ignore[no-any-return]

    def both() -> tuple[Array, Array]:
        norm = np.linalg.norm(wide(x), axis=axis, keepdims=True)
        return (x / norm).astype(result, copy=False), norm.squeeze(axis)

    wide = functools.partial(_wide, work=work)
    match work.operation:
        case "new" if (x[:0] / np.linalg.norm(x[:0], axis=-1, keepdims=True)).dtype == result:
            return unit
        case "new" | "cast":
            return lambda: unit().astype(result)
        case "norm":
            return lambda: np.linalg.norm(wide(x), axis=axis)
        case "return_norm":
            return both
    return functools.partial(into, target(work, x))


def _wide(x: Array, work: Work) -> Array:
    """Half types as float32: their norms are asked for in it."""
    return x.astype(np.float32) if x.dtype.itemsize <= 2 and x.dtype.kind not in "iub" else x


_SUMS: dict[Axis, str] = {
    -1: "...i,...i->...",
    0: "i...,i...->...",
    1: "ki...,ki...->k...",
    (0, 2): "ikj,ikj->k",
}


def _einsum(work: Work, x: Array) -> Call:
    axis, result, norms = work.axis, result_dtype(work, x.dtype), norm_dtype(x.dtype)
    subscripts = _SUMS[axis]
    # Parts of complex numbers are twice as many numbers, if they lie along the axis.
    if x.dtype.kind == "c" and not (axis == -1 and x.flags.c_contiguous):
        raise _no(work, x)
    parts = x.view(norms) if x.dtype.kind == "c" else x

    def norm() -> Any:
        return np.sqrt(np.einsum(subscripts, parts, parts, dtype=norms))

    def column() -> Any:
        n = norm()
        return n[..., None] if axis == -1 else np.expand_dims(n, axis)

    def both() -> tuple[Array, Array]:
        n = norm()
        return (x / np.expand_dims(n, axis)).astype(result, copy=False), n

    match work.operation:
        case "new" if np.result_type(x.dtype, norms) == result:
            return lambda: x / column()
        case "new" | "cast":
            return lambda: (x / column()).astype(result)
        case "norm":
            return norm
        case "return_norm":
            return both
    out = target(work, x)
    return lambda: np.divide(x, column(), out=out, casting="unsafe")


def _sklearn(work: Work, x: Array) -> Call:
    from sklearn.preprocessing import normalize
    from sklearn.utils.extmath import row_norms

    if x.ndim != 2 or work.operation == "out":
        raise _no(work, x)
    axis = 1 if work.axis == -1 else 0
    match work.operation:
        case "norm" if axis == 1:
            return functools.partial(row_norms, x)
        case "norm":
            raise _no(work, x)
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
        raise _no(work, x)
    if not x.flags.c_contiguous:
        raise _no(work, x)
    out = target(work, x) if work.operation == "out" else x

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

    if x.dtype.name == "bfloat16":
        return torch.from_numpy(x.view(np.uint16)).view(torch.bfloat16)
    return torch.from_numpy(x)


def _from_tensor(t: Any) -> Array:
    import torch

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
        raise _no(work, x)

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
            out = _tensor(target(work, x))
            return lambda: normalize(floating(), dim=dim, out=out)
        case "inplace":
            return functools.partial(normalize, t, dim=dim, out=t)
    return lambda: normalize(floating(), dim=dim)


def _jax(work: Work, x: Array) -> Call:
    import jax
    import jax.numpy as jnp

    axis, result, norms = work.axis, result_dtype(work, x.dtype), norm_dtype(x.dtype)
    if work.operation in ("out", "inplace"):
        raise _no(work, x)
    # Off by default; where JAX_ENABLE_X64 is not set, float64 would become float32.
    if (result.itemsize == 8 or x.dtype.itemsize == 8) and not jax.config.jax_enable_x64:
        raise _no(work, x)
    value = jax.device_put(x)

    def unit(x: Any) -> Any:
        return (x / jnp.linalg.norm(x, axis=axis, keepdims=True)).astype(result)

    def norm(x: Any, keepdims: bool = False) -> Any:
        wide = x if x.dtype.kind == "c" else x.astype(norms)
        return jnp.linalg.norm(wide, axis=axis, keepdims=keepdims)

    def both(x: Any) -> tuple[Any, Any]:
        n = norm(x, keepdims=True)
        return (x / n).astype(result), n.squeeze(axis)

    function = jax.jit({"norm": norm, "return_norm": both}.get(work.operation, unit))
    if work.operation == "return_norm":
        return lambda: [y.block_until_ready() for y in function(value)]
    return lambda: function(value).block_until_ready()


def _keras(work: Work, x: Array) -> Call:
    if "keras" not in sys.modules:
        os.environ.setdefault("KERAS_BACKEND", "torch" if version("torch") else "jax")
    import keras

    if work.operation != "new":
        raise _no(work, x)
    return lambda: keras.ops.convert_to_numpy(keras.ops.normalize(x, axis=work.axis, order=2))


def _onnx(work: Work, x: Array) -> Call:
    import onnx
    import onnxruntime

    if work.operation != "new" or not isinstance(work.axis, int):
        raise _no(work, x)
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
        raise _no(work, x)
    keywords = {"dtype": "bfloat16"} if x.dtype.name == "bfloat16" else {}
    if x.ndim == 2 and len(x) == 1:  # a number costs it less than an array of one
        return functools.partial(numkong.norm, x, **keywords)
    return functools.partial(numkong.norm, x, axis=work.axis, **keywords)


def _l2multi(work: Work, x: Array) -> Call:
    return ours(work, x)


PEERS = (
    Peer("x / np.linalg.norm(x)", ("numpy",), _numpy),
    Peer("np.einsum", ("numpy",), _einsum),
    Peer("scikit-learn", ("scikit-learn",), _sklearn),
    Peer("torch", ("torch",), _torch, _from_tensor),
    Peer("keras", ("keras",), _keras),
    Peer("faiss", ("faiss-cpu",), _faiss),
    Peer("jax.jit", ("jax",), _jax),
    Peer("ONNX Runtime", ("onnxruntime", "onnx"), _onnx),
    Peer("NumKong", ("numkong",), _numkong, np.atleast_1d),
)
OURS = Peer("l2multi", ("l2multi",), _l2multi)


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


def _sample(y: Array) -> Array:
    """A corner of a large array, as float64 or complex128."""
    corner = y[tuple(slice(50) for _ in y.shape)]
    return corner.astype(np.complex128 if y.dtype.kind == "c" else np.float64)


def _differs(y: Any, expected: Any, work: Work) -> str | None:
    """How a result is not the one asked for; None if it is."""
    if isinstance(expected, tuple):
        units = work._replace(operation="new")
        return _differs(y[0], expected[0], units) or _differs(y[1], expected[1], Work("norm"))
    # A norm may be wider: that is more bytes to write, not fewer.
    wider = work.operation == "norm" and y.dtype.itemsize > expected.dtype.itemsize
    if y.shape != expected.shape or (y.dtype != expected.dtype and not wider):
        return f"returns {y.dtype} of shape {y.shape}"
    epsilon = 2.0 ** -{"float16": 10, "bfloat16": 7}.get(expected.dtype.name, 20)
    if not np.allclose(_sample(y), _sample(expected), rtol=32 * epsilon, atol=epsilon / 8):
        return "returns other values"
    return None


def contenders(
    work: Work, x: Array, peers: Iterable[Peer], refused: dict[str, str] | None = None
) -> dict[str, Call]:
    """The peers that do the same work on `x`: same shape, dtype and, roughly, values.

    Those that do not, and why, are noted in `refused`.
    """
    plain = {"out": "new", "inplace": "new"}.get(work.operation, work.operation)
    expected = ours(work._replace(operation=plain), x)()
    refused = {} if refused is None else refused
    found = {}
    for peer in peers:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                call = peer.build(work, x)
                result = call()
            many = isinstance(expected, tuple)
            y = tuple(map(peer.host, result)) if many else peer.host(result)
            why = _differs(y, expected, work)
        except Exception as error:  # a peer raises what it likes where it cannot
            why = f"{type(error).__name__}: {error}".splitlines()[0][:100]
        if why is None:
            found[peer.name] = call
        else:
            refused[peer.name] = why
    return found


# The rows of the table have one column for each of these, and one right answer: 0.6, 0.8.
HARD: dict[str, tuple[str, list[float]]] = {
    "float64 [3e200, 4e200]": ("float64", [3e200, 4e200]),
    "float64 [3e-200, 4e-200]": ("float64", [3e-200, 4e-200]),
    "float32 [3e30, 4e30]": ("float32", [3e30, 4e30]),
    "float32 [3e-30, 4e-30]": ("float32", [3e-30, 4e-30]),
    "float16 [300, 400]": ("float16", [300, 400]),
    "float16 [0, 0]": ("float16", [0, 0]),
}
TITLES = {
    "jax.jit": "`x / jnp.linalg.norm(x)` in JAX",
    "scikit-learn": "`sklearn.preprocessing.normalize`",
    "torch": "`torch.nn.functional.normalize`",
    "keras": "`keras.ops.normalize`",
    "faiss": "`faiss.normalize_L2`",
    "ONNX Runtime": "ONNX Runtime `LpNormalization`",
    "x / np.linalg.norm(x)": "`x / numpy.linalg.norm(x)`",
    "l2multi": "**`l2multi.normalize`**",
}


def cell(peer: Peer, dtype: str, values: list[float]) -> str:
    """What a peer makes of a vector, in a few characters."""
    x = np.array([values], dtype)
    try:
        y = peer.host(peer.build(Work(), x)())
    except ImportError:
        raise
    except Exception as error:  # what a peer raises is what the table is to show
        return type(error).__name__
    a, b = y.ravel().tolist()
    text = f"{a:.3g}" if np.isnan([a, b]).all() or a == b != 0 else f"{a:.3g}, {b:.3g}"
    return text if y.dtype == x.dtype else f"{text} ({y.dtype})"


def table() -> str:
    """The table in Markdown."""
    peers = [*installed(tuple(p for p in PEERS if p.name in TITLES)), OURS]
    lines = ["| way | " + " | ".join(HARD) + " |", "| --- |" + " --- |" * len(HARD)]
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        for peer in peers:
            cells = [cell(peer, dtype, values) for dtype, values in HARD.values()]
            lines.append(f"| {TITLES[peer.name]} | " + " | ".join(cells) + " |")
    known = ", ".join(f"{name} {version}" for name, version in versions(tuple(peers)).items())
    return "\n".join([*lines, "", f"Made by `python -m benchmarks.peers` with {known}."])


BEGIN, END = "<!-- peers:begin -->", "<!-- peers:end -->"


def around(path: Path) -> tuple[str, str]:
    """What a file has before the table and after it; a ValueError where it has no place for one."""
    before, begin, rest = path.read_text(encoding="utf-8").partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"{path} has no lines {BEGIN} and {END}")
    return before + begin, end + after


def main(arguments: list[str] | None = None) -> None:
    """Print the table, or put it into a file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", type=Path, metavar="README.md", help="the file to put it into")
    options = parser.parse_args(arguments)
    os.environ.setdefault("JAX_ENABLE_X64", "1")  # read when jax is imported, which is later
    if not options.write:
        print(table())
        return
    try:
        before, after = around(options.write)
    except (OSError, ValueError) as error:
        parser.error(f"--write: {error}")
    options.write.write_text(f"{before}\n{table()}\n{after}", encoding="utf-8")


if __name__ == "__main__":
    main()
