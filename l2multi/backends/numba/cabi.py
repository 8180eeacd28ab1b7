"""Calls of C functions by compiled code, and data that the process knows by a name."""

from typing import Any

from llvmlite import ir
from numba.core import cgutils, types

from l2multi.backends.numba.compiler import primitive
from l2multi.backends.numba.lanes import I32, I64, Value, intrinsic


def calling(signature: Any) -> Any:
    """A primitive: call the C function at an address, ``(address, *arguments)``."""
    result = ir.VoidType() if signature.return_type == types.void else I64

    @primitive(signature.return_type, types.intp, *signature.args)
    def call(builder: Any, address: Value, *arguments: Value) -> Value:
        kind = ir.FunctionType(result, [a.type for a in arguments])
        value = builder.call(builder.inttoptr(address, kind.as_pointer()), arguments)
        return None if signature.return_type == types.void else value

    return call


# The signatures of what is compiled to C, and calls of such functions.
WORKER = types.void(types.intp, types.intp, types.intp)  # first, last, call
PARALLEL_FOR = types.void(types.intp, types.intp, types.intp)  # worker, count, call
LONG_ROWS = types.void(types.intp, types.intp)  # count, call
ON_ADDRESS = types.intp(types.intp)

call_worker, call_parallel_for, call_long_rows = map(calling, (WORKER, PARALLEL_FOR, LONG_ROWS))


def _symbol(builder: Any, name: str) -> Value:
    found = builder.module.globals.get(name) or ir.GlobalVariable(builder.module, I64, name)
    return builder.ptrtoint(found, I64)


def symbol(name: str) -> Any:
    """A primitive: the address of data that the process knows by a name."""

    @primitive(types.intp)
    def read(builder: Any) -> Value:
        return _symbol(builder, name)

    return read


def text(content: str) -> Any:
    """A primitive: the address of a C string."""

    @primitive(types.intp)
    def read(builder: Any) -> Value:
        found = cgutils.global_constant(  # type: ignore[no-untyped-call]
            builder.module,
            "l2multi_text",
            cgutils.make_bytearray(content.encode() + b"\0"),  # type: ignore[no-untyped-call]
        )
        return builder.ptrtoint(found, I64)

    return read


def external(name: str, result: Any, *arguments: Any) -> Any:
    """A primitive: a C function that the process knows, of int32 and int64 (addresses among
    them); all are int64 here."""

    @primitive(types.intp, *[types.intp] * len(arguments))
    def call(builder: Any, *values: Value) -> Value:
        given = [
            builder.trunc(v, I32) if kind is I32 else v
            for v, kind in zip(values, arguments, strict=True)
        ]
        value = intrinsic(builder, name, result, *given)
        if isinstance(result, ir.VoidType):
            return ir.Constant(I64, 0)
        return builder.sext(value, I64) if result is I32 else value

    return call


# ``(to, from, bytes)``.
copy_bytes = external("memcpy", I64, I64, I64, I64)


@primitive(types.void)
def pause(builder: Any) -> None:
    """Let the other thread of a core work, if the machine knows how."""
    name = builder.module.triple.split("-")[0]
    if name in ("x86_64", "i686"):
        intrinsic(builder, "llvm.x86.sse2.pause", ir.VoidType())
    elif name in ("aarch64", "arm64"):
        intrinsic(builder, "llvm.aarch64.hint", ir.VoidType(), ir.Constant(I32, 1))


@primitive(types.intp, types.intp)
def incref(builder: Any, address: Value) -> Value:
    """The same object, owned once more."""
    intrinsic(builder, "Py_IncRef", ir.VoidType(), address)
    return address


release_gil = external("PyEval_SaveThread", I64)


acquire_gil = external("PyEval_RestoreThread", ir.VoidType(), I64)
